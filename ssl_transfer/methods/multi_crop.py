"""Many views of an image: through one encoder, pair by pair, and telling one from another.

Caron et al. 2020, section 3.3, https://arxiv.org/abs/2006.09882.
"""

import itertools
from collections.abc import Callable, Sequence

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
    for _, neighbours in itertools.groupby(views, key=lambda view: view.shape[2:]):
        group = list(neighbours)
        # Nothing is copied where there is nothing to mix.
        images = torch.stack(group, dim=1) if len(group) > 1 else group[0].unsqueeze(1)
        features.append(encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
    return torch.cat(features, dim=1)


def mean_over_pairs(
    loss: Callable[..., Float[Tensor, ""]], *networks: Sequence[Float[Tensor, "batch dim"]]
) -> Float[Tensor, ""]:
    """Return the mean of a loss of two views over the ``d (d - 1) / 2`` pairs of d views.

    As with ``num_samples`` above 2 in htdt/self-supervised (``methods/contrastive.py``,
    ``byol.py``).

    Args:
        loss: of what each network makes of the first and of the second view of a pair, in turn.
        networks: what each makes of all views.
    """
    pairs = itertools.combinations(range(len(networks[0])), 2)
    losses = [loss(*(views[i] for views in networks for i in pair)) for pair in pairs]
    return torch.stack(losses).mean()


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
