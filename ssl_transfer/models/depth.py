"""The depth of a network: its residual stages or transformer blocks, and what lies behind them."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.fusion import FusedEncoder

_CONTAINERS = ("blocks", "stages", "layers", "encoder.layers")
"""Names of the sequences of transformer blocks or stages of timm, and of torchvision's ViT."""


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
    * Vision transformers of timm (ViT, DeiT, BEiT, EVA, …) and of transformers: every transformer
      block; behind them the final norm, and the pooling if it has weights.
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
        return Depth(tuple((name,) for name in stages), _behind(network, stages[-1]))
    if "features" in children and (parts := _residual_parts(children["features"])):
        return Depth(parts, _behind(network, parts[-1][-1]))
    if (path := _sequence_of_blocks(network)) is None:
        return None
    names = (name for name, _ in network.get_submodule(path).named_children())
    return Depth(tuple((f"{path}.{name}",) for name in names), _behind(network, path))


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


def layer_factors(encoder: Encoder, decay: float) -> dict[str, float]:
    """Return the factor of each parameter's learning rate with layer-wise decay.

    A parameter of layer i of n has ``decay ** (n - i)``: the stem or the embeddings are layer 0,
    the blocks 1 to n - 1; what lies behind the blocks shares layer n, with factor 1, with the head.
    This is ``param_groups_lrd`` of MAE (He et al. 2022, https://arxiv.org/abs/2111.06377,
    ``util/lr_decay.py``), as in BEiT (Bao et al. 2022, https://arxiv.org/abs/2106.08254). The
    blocks of a ResNet and of other networks in stages are its stages (see ``depth_of``).

    Args:
        encoder: the encoder.
        decay: factor from one layer to the one before it.

    Returns:
        Factors by the parameters' names in the backbone.

    Raises:
        ValueError: if the architecture is unknown.
    """
    factors = {}
    for prefix, depth in depths_of(encoder).items():
        if depth is None:
            raise ValueError(
                "`layer_decay` must be null for a network whose blocks are unknown, but is "
                f"{decay:g} for `{encoder.name}`, a {type(encoder.backbone).__name__}."
            )
        layers = len(depth.blocks) + 1
        for name, _ in encoder.backbone.named_parameters():
            if name.startswith(prefix):
                factors[name] = decay ** (layers - depth.layer(name.removeprefix(prefix)))
    return factors


def _sequence_of_blocks(network: nn.Module) -> str | None:
    """Return the name of the sequence of a network's transformer blocks or stages."""
    own = getattr(network, "blocks", None)  # of a network inside a wrapper, under timm's name
    for path, module in network.named_modules():
        is_sequence = isinstance(module, nn.Sequential | nn.ModuleList) and len(module) > 0
        if is_sequence and (path in _CONTAINERS or module is own):
            return str(path)
    return None


def _behind(network: nn.Module, path: str) -> tuple[str, ...]:
    """Return the modules with tensors that are registered behind one, from the inside out."""
    behind: list[str] = []
    while path:
        parent, _, last = path.rpartition(".")
        siblings = dict(network.get_submodule(parent).named_children())
        names = list(siblings)
        behind += [
            f"{parent}.{name}".lstrip(".")
            for name in names[names.index(last) + 1 :]
            if siblings[name].state_dict()
        ]
        path = parent
    return tuple(behind)


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
