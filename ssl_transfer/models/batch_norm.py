"""The BatchNorm layers that BN-tuning trains, and their share of the encoder's parameters."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.fusion import FusedEncoder

Scope = Literal["all", "published"]


def batch_norm_layers(encoder: nn.Module, scope: Scope = "all") -> dict[str, nn.Module]:
    """Return the encoder's BatchNorm layers by name, in the network's order.

    Args:
        encoder: an ``Encoder`` (names are then those of its backbone) or a bare backbone.
        scope: ``all``: every BatchNorm layer. ``published``: the layers that the code of Sirotkin
            et al. 2024 (https://doi.org/10.1007/s10489-024-05758-7) trains in a ResNet: the stem's
            and those of the blocks, except ``bn1`` and the shortcuts'. (Its filter was meant to
            exclude the stem's ``bn1`` but also matches every block's.) In a ResNet-50 these are 33
            of 53 layers with 37,888 parameters, 0.1612 % of the encoder; ``all`` has 53,120
            parameters, 0.2260 %.

    Raises:
        NotApplicable: if the encoder has no BatchNorm.
        ValueError: if the scope is unknown, or is ``published`` and the network is not a ResNet.
    """
    if scope not in ("all", "published"):
        raise ValueError(f"`bn_scope` must be 'all' or 'published', but is {scope!r}.")
    if isinstance(encoder, FusedEncoder) and scope == "published":
        return {
            f"members.{number}.{path}": layer
            for number, member in enumerate(encoder.encoders)
            for path, layer in batch_norm_layers(member, scope).items()
        }
    name = encoder.name if isinstance(encoder, Encoder) else type(encoder).__name__
    backbone = encoder.backbone if isinstance(encoder, Encoder) else encoder
    # The base class of the 1d, 2d, 3d and synchronised layers, and of timm's BatchNormAct2d.
    layers: dict[str, nn.Module] = {
        path: layer for path, layer in backbone.named_modules() if isinstance(layer, _BatchNorm)
    }
    if not layers:
        raise NotApplicable(
            f"BN-tuning is not applicable to `{name}`, which has no BatchNorm; norm_tune, which "
            "trains layers of every kind of normalisation, is."
        )
    if scope == "all":
        return layers
    prefix = _resnet_prefix(backbone, layers)
    if prefix is None:
        raise ValueError(
            f"`bn_scope=published` is defined for ResNets only (stem `conv1`, `bn1`; stages "
            f"`layer1`, …), but `{name}` is not a ResNet; use `bn_scope=all`."
        )
    return {path: layer for path, layer in layers.items() if _is_published(path, prefix)}


_STAGE = re.compile(r"layer\d+\.\d+\.")


def _resnet_prefix(backbone: nn.Module, layers: Iterable[str]) -> str | None:
    """Return the prefix of the ResNet's layers; None if the backbone is not a ResNet."""
    for path, module in backbone.named_modules():
        children = dict(module.named_children())
        if not {"conv1", "bn1", "layer1", "layer2"} <= children.keys():
            continue
        prefix = f"{path}." if path else ""
        inside = [name.removeprefix(prefix) for name in layers if name.startswith(prefix)]
        # Some networks (HRNet, ...) only share a ResNet's stem and have BatchNorm elsewhere.
        if len(inside) == len(list(layers)) and all(
            name.split(".")[0] in ("conv1", "bn1") or _STAGE.match(name) for name in inside
        ):
            return prefix
    return None


def _is_published(path: str, prefix: str) -> bool:
    stage = _STAGE.match(path.removeprefix(prefix))
    if stage is None:
        return True  # the stem
    return path.removeprefix(prefix)[stage.end() :].split(".")[0] not in ("bn1", "downsample")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of trained and of all parameters of an encoder.

    Args:
        trainable: number of trained parameters of the encoder.
        total: number of all parameters of the encoder, without a head.
    """

    trainable: int
    total: int

    @property
    def share(self) -> float:
        """The trained fraction, in ``[0, 1]``."""
        return self.trainable / self.total


def counts(encoder: nn.Module, layers: Iterable[nn.Module]) -> Counts:
    """Count the parameters of the trained ``layers`` and of the whole encoder, each once."""
    trained = {id(p): p.numel() for layer in layers for p in layer.parameters()}
    return Counts(sum(trained.values()), sum(p.numel() for p in encoder.parameters()))
