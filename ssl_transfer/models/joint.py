"""Several networks of one architecture as one: trained jointly, with one head on their features.

Zhang and Bottou 2023 (https://arxiv.org/abs/2212.07346) train ``2resnet50`` and ``4resnet50`` as a
baseline of equal architecture for the concatenation of networks that are trained separately.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer.config.ranges import Range, checked
from ssl_transfer.models.backbones import (
    timm_backbone,
    torchvision_backbone,
    torchvision_resnet,
)
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.models.widened_resnet import is_resnet
from ssl_transfer.preprocessing import Preprocessing


class Joint(nn.Module):
    """Parallel networks that see the same images; their features stand side by side.

    Args:
        networks: modules from images to features.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Return the concatenated features, in the order of the networks."""
        return torch.cat([network(images) for network in self.networks], dim=1)


@checked("model.")
def joint(
    arch: str,
    networks: Annotated[int, Range(1, cap=1000)] = 2,
    options: Mapping[str, Any] | None = None,
) -> Joint:
    """Return several networks as one, each with random weights of its own.

    The networks draw their weights one after another from torch's generator, so that one seed
    determines all of them, and the first is the single network of this seed.

    Args:
        arch: ``small_resnet``, a ResNet of torchvision (widened ones included), or another model of
            torchvision or timm.
        networks: number of networks.
        options: keyword arguments of the network's builder, e.g. ``{width: 32}`` of
            ``small_resnet`` or ``{stem: cifar}`` of a ResNet.

    Raises:
        ValueError: for an unknown name or option.
    """
    members = [_network(arch, options or {}) for _ in range(networks)]
    whole = Joint(members)
    whole.preprocessing = members[0].preprocessing
    return whole


def _network(arch: str, options: Mapping[str, Any]) -> nn.Module:
    """Return one network by name; see ``joint``."""
    from torchvision import models

    if arch != "small_resnet" and not is_resnet(arch):
        library = torchvision_backbone if arch in models.list_models(models) else timm_backbone
        return library(arch, options=options)
    network: nn.Module
    try:
        if arch == "small_resnet":
            network, prepared = small_resnet(**options), Preprocessing(32, None)
        else:
            network, prepared = torchvision_resnet(arch, **options), Preprocessing()
    except TypeError as error:
        raise ValueError(
            f"`model.options` must be keyword arguments of the builder of `{arch}`, but are "
            f"{dict(options)} ({error})."
        ) from error
    network.preprocessing = prepared  # type: ignore[assignment]
    return network
