"""Many views of an image: through one encoder, and telling one from another.

Caron et al. 2020, section 3.3, https://arxiv.org/abs/2006.09882.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Views = Sequence[Float[Tensor, "batch 3 _ _"]]
Distributions = Float[Tensor, "batch dim"]


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


def cross_entropy_between_views(
    targets: Sequence[Distributions], log_probabilities: Sequence[Distributions]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of predicting each view's target from every other view.

    The mean over samples, over the targets' views, and over the other views.

    Args:
        targets: of the first views.
        log_probabilities: predictions from all views, in the same order.
    """
    # Pair by pair: one product of all would first copy both sides, and take twice the time.
    agreements = [
        (target * prediction).sum()
        for i, target in enumerate(targets)
        for j, prediction in enumerate(log_probabilities)
        if i != j
    ]
    return -torch.stack(agreements).sum() / (len(agreements) * len(targets[0]))
