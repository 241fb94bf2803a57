"""Several encoders as one: their features side by side, summed or averaged."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.encoder import Encoder

Fuse = Literal["concatenate", "add", "mean"]


class Fusion(nn.Module):
    """The backbones of several encoders, applied to the same images.

    Args:
        backbones: modules from images to features.
        fuse: how their features become one.
    """

    fuse_number: Tensor

    def __init__(self, backbones: Sequence[nn.Module], fuse: Fuse) -> None:
        super().__init__()
        self.members = nn.ModuleList(backbones)
        self.fuse = fuse
        # The same members fused in another way are another encoder: a buffer is part of the hash.
        self.register_buffer("fuse_number", torch.tensor(get_args(Fuse).index(fuse)))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Return the fused features of images that fit all members."""
        features = [member(images) for member in self.members]
        if self.fuse == "concatenate":
            return torch.cat(features, dim=1)
        total = torch.stack(features).sum(0)
        return total / len(features) if self.fuse == "mean" else total


class FusedEncoder(Encoder):
    """Several encoders as one, each of which sees images with its own preprocessing.

    Features are neither normalised nor scaled before they are fused, as in Ericsson et al. 2021
    (https://arxiv.org/abs/2111.11398, ``model_utils.py``): a member with larger features dominates
    a regularised classifier.

    Args:
        encoders: the members.
        fuse: ``concatenate``, or ``add`` or ``mean`` of features of one width.

    Raises:
        ValueError: if there are no members, or features of different widths are added.
    """

    def __init__(self, encoders: Sequence[Encoder], fuse: Fuse) -> None:
        if not encoders:
            raise ValueError("`method.members` must name at least one encoder, but is empty.")
        dims = [encoder.feature_dim for encoder in encoders]
        if fuse != "concatenate" and len(set(dims)) > 1:
            raise ValueError(
                f"`method.fuse={fuse}` must be given members with equally many features, but they "
                f"have {dims}; use `method.fuse=concatenate`."
            )
        super().__init__(
            Fusion([encoder.backbone for encoder in encoders], fuse),
            sum(dims) if fuse == "concatenate" else dims[0],
            encoders[0].preprocessing,
            "+".join(encoder.name for encoder in encoders),
        )
        # Not a ModuleList: the backbones are registered once, inside of the fusion.
        self.encoders = tuple(encoders)
        self.fuse = fuse

    @property
    def shares_preprocessing(self) -> bool:
        """Whether all members see images with the same preprocessing."""
        return len({encoder.preprocessing for encoder in self.encoders}) == 1

    def preprocessing_identity(self) -> dict[str, Any]:
        """Return the members' preprocessing as plain values."""
        if self.shares_preprocessing:
            return super().preprocessing_identity()
        return {"members": [encoder.preprocessing_identity() for encoder in self.encoders]}

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Return the fused features of images that all members see in the same way.

        Raises:
            NotApplicable: if the members' preprocessing differs.
        """
        if not self.shares_preprocessing:
            raise NotApplicable(
                f"the members of `{self.name}` must share one preprocessing for a protocol that "
                "passes images through them, but theirs differ; set `model.preprocessing` of the "
                "members, or use a protocol on stored features, such as logistic_regression."
            )
        return super().forward(images)


def fused(
    features: Sequence[Float[np.ndarray, "samples _"]], fuse: Fuse
) -> Float[np.ndarray, "samples dim"]:
    """Return the features of several encoders as one array.

    Args:
        features: one array per encoder, with the same samples.
        fuse: see ``FusedEncoder``.
    """
    if fuse == "concatenate":
        return np.concatenate(features, axis=1)
    total: Float[np.ndarray, "samples dim"] = np.sum(features, axis=0)
    return total / total.dtype.type(len(features)) if fuse == "mean" else total
