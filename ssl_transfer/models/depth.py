"""The depth of a network: its residual stages or transformer blocks, and what lies behind them."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.fusion import FusedEncoder

_CONTAINERS = ("blocks", "stages", "layers")
"""Names of timm's sequences of transformer blocks or stages."""


class Depth(NamedTuple):
    """A network cut into parts, by the names of its modules; all others lie before the blocks.

    Args:
        blocks: names of each residual stage or transformer block, first to last.
        behind: names of what follows the last block, such as the final norm.
    """

    blocks: tuple[tuple[str, ...], ...]
    behind: tuple[str, ...]

    def layer(self, parameter: str) -> int:
        """Return the number of a parameter's layer, which is 0 before the blocks."""
        for number, names in enumerate((*self.blocks, self.behind), start=1):
            if any(parameter.startswith(f"{name}.") for name in names):
                return number
        return 0


def depth_of(network: nn.Module) -> Depth | None:
    """Return the depth of a backbone; None for an unknown architecture.

    * ResNets (torchvision, timm, ``small_resnet``): the stages ``layer1``, ``layer2``, …
    * Vision transformers of timm (ViT, DeiT, BEiT, EVA, …): every transformer block in ``blocks``;
      behind them the final norm.
    * ConvNeXt (``stages``), Swin (``layers``), EfficientNet and MobileNet (``blocks``) of timm:
      every stage; behind them the final norm, or the last convolution with its norm.
    * Vision transformers of torchvision: every block in ``encoder.layers``; behind them
      ``encoder.ln``.
    * ConvNeXt, Swin, EfficientNet and MobileNet of torchvision: in ``features``, every part with
      residual blocks, together with the downsampling before it; behind them the last convolution or
      the final norm.

    Modules are registered in the order in which they are used, on which "behind" relies.

    Args:
        network: a backbone, without the class ``Encoder`` around it.
    """
    children = dict(network.named_children())
    stages = tuple(name for name in children if name.startswith("layer") and name[5:].isdigit())
    if len(stages) > 1:
        return Depth(tuple((name,) for name in stages), _after(children, stages[-1]))
    for name in _CONTAINERS:
        if _is_sequence(children.get(name)):
            return Depth(_members(name, children[name]), _after(children, name))
    encoder = children.get("encoder")
    layers = getattr(encoder, "layers", None)
    if isinstance(encoder, nn.Module) and isinstance(layers, nn.Module) and _is_sequence(layers):
        inside = _after(dict(encoder.named_children()), "layers")
        behind = (*(f"encoder.{name}" for name in inside), *_after(children, "encoder"))
        return Depth(_members("encoder.layers", layers), behind)
    features = children.get("features")
    if features is not None and (blocks := _residual_parts(features)):
        last = blocks[-1][-1].removeprefix("features.")
        inside = _after(dict(features.named_children()), last)
        behind = (*(f"features.{name}" for name in inside), *_after(children, "features"))
        return Depth(blocks, behind)
    return None


def depths_of(encoder: Encoder) -> dict[str, Depth | None]:
    """Return the depth of each network of an encoder, by the prefix of its names in the backbone.

    Args:
        encoder: one network has the prefix "", the members of several ``members.0.``, …
    """
    if not isinstance(encoder, FusedEncoder):
        return {"": depth_of(encoder.backbone)}
    return {
        f"members.{number}.": depth_of(member.backbone)
        for number, member in enumerate(encoder.encoders)
    }


def _is_sequence(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList) and len(module) > 0


def _members(name: str, sequence: nn.Module) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{name}.{child}",) for child, _ in sequence.named_children())


def _after(children: dict[str, nn.Module], last: str) -> tuple[str, ...]:
    """Return the children behind one of them that have tensors."""
    names = list(children)
    following = names[names.index(last) + 1 :]
    return tuple(name for name in following if children[name].state_dict())


def _residual_parts(features: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the parts of torchvision's ``features`` with residual blocks, without the stem."""
    parts: list[tuple[str, ...]] = []
    between: list[str] = []
    for name, child in features.named_children():
        if _has_residual_blocks(child.modules()):
            parts.append((*(between if parts else ()), f"features.{name}"))
            between = []
        else:
            between.append(f"features.{name}")
    return tuple(parts)


def _has_residual_blocks(modules: Iterable[nn.Module]) -> bool:
    """Return whether there is a residual block of torchvision, which has one of two attributes."""
    marks = ("stochastic_depth", "use_res_connect")
    return any(hasattr(module, mark) for module in modules for mark in marks)
