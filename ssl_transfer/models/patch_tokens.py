"""What a head stands on: an encoder's features, or its patch tokens for attentive heads."""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer import randomness
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.encoder import Encoder, evaluating
from ssl_transfer.models.heads import TOKEN_KINDS, HeadKind
from ssl_transfer.models.tokens import has_tokens, tokens_of


def patch_tokens(
    network: nn.Module, images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch tokens dim"] | None:
    """Return an image's patch tokens, or the positions of its last feature map; None of others.

    Vision transformers of timm and transformers give their patch tokens after the final norm,
    without class and register tokens. Other networks of timm, and ``small_resnet``, give what
    ``forward_features`` returns. Convolutional networks of torchvision give what their last pooling
    reads.

    Args:
        network: a backbone.
        images: normalised images.
    """
    if has_tokens(network):
        return tokens_of(network, images).patches
    forward_features: Any = getattr(network, "forward_features", None)
    if forward_features is None and not _is_torchvision(network):
        return None
    found: Tensor = (forward_features or functools.partial(_before_pooling, network))(images)
    if found.ndim != 4:
        return None
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return found.flatten(1, 2)
    return found.flatten(2).transpose(1, 2)


def _is_torchvision(network: nn.Module) -> bool:
    """Return whether a network's class is one of torchvision, or derived from one."""
    return any(kind.__module__.startswith("torchvision.models.") for kind in type(network).__mro__)


def _before_pooling(network: nn.Module, images: Tensor) -> Tensor:
    """Return what a network of torchvision, whose children are a sequence, passes to its pooling.

    MobileNet v2 pools in its ``forward``, behind ``features``.
    """
    found = images
    for name, child in network.named_children():
        if name in ("avgpool", "classifier"):
            break
        found = child(found)
    return found


class PatchTokens(nn.Module):
    """The network below an attentive head.

    Args:
        backbone: a backbone that gives patch tokens or a feature map.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens of normalised images."""
        found = patch_tokens(self.backbone, images)
        assert found is not None
        return found


def network_below(encoder: Encoder, kind: HeadKind) -> nn.Module:
    """Return the module from images to the inputs of a head of this kind."""
    return PatchTokens(encoder.backbone) if kind in TOKEN_KINDS else encoder


def input_dim(encoder: Encoder, kind: HeadKind) -> int:
    """Return the number of features that a head of this kind reads: an image's, or a token's.

    Raises:
        NotApplicable: if the head reads tokens and the encoder gives none.
    """
    if kind not in TOKEN_KINDS:
        return encoder.feature_dim
    weight = next(p for p in encoder.parameters() if p.is_floating_point())
    size = encoder.preprocessing.size
    images = torch.zeros(2, 3, size, size, device=weight.device, dtype=weight.dtype)
    with evaluating(encoder), torch.no_grad(), randomness.preserved():
        found = patch_tokens(encoder.backbone, images)
    if found is None:
        raise NotApplicable(
            "`attentive_probe` needs patch tokens or a feature map, but those of "
            f"`{encoder.name}` are unknown: it is a {type(encoder.backbone).__name__}; use "
            "linear_probe, or an encoder of timm or transformers."
        )
    return int(found.shape[2])
