"""Views of several sizes through one encoder (Caron et al. 2020, section 3.3, arXiv 2006.09882)."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Views = Sequence[Float[Tensor, "batch 3 _ _"]]


def encode(encoder: nn.Module, views: Views) -> Float[Tensor, "batch views dim"]:
    """Return the features of all views; neighbours of one size pass the encoder together.

    They pass sample by sample side by side, so that batch statistics are joint, as in published
    code, and a group of the batch holds whole samples.

    Args:
        encoder: from images to features.
        views: of the same images, those of one size side by side.
    """
    features = []
    for _, group in itertools.groupby(views, key=lambda view: view.shape[2:]):
        images = torch.stack(list(group), dim=1)
        features.append(encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
    return torch.cat(features, dim=1)
