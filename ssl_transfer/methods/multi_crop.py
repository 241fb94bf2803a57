"""Several views of an image: encoding, losses over pairs, and predictions between views.

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
    """Return the features of all views; consecutive views of one size form one batch.

    In that batch the views of a sample are adjacent. Batch statistics are joint over these views,
    as in published code, and a BatchNorm group holds whole samples.

    Args:
        encoder: module from images to features.
        views: views of the same images; views of one size are consecutive.
    """
    features = []
    for _, neighbours in itertools.groupby(views, key=lambda view: view.shape[2:]):
        group = list(neighbours)
        # A single view needs no interleaving, and no copy.
        images = torch.stack(group, dim=1) if len(group) > 1 else group[0].unsqueeze(1)
        features.append(encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
    return torch.cat(features, dim=1)


def mean_over_pairs(
    loss: Callable[..., Float[Tensor, ""]], *networks: Sequence[Float[Tensor, "batch dim"]]
) -> Float[Tensor, ""]:
    """Return the mean of a loss of two views over the ``d (d - 1) / 2`` pairs of d views.

    This is the loss of htdt/self-supervised with ``num_samples`` above 2
    (``methods/contrastive.py``, ``byol.py``).

    Args:
        loss: function of each network's outputs for the first and the second view of a pair, in
            the order network 0 (both views), network 1 (both views), ….
        networks: each network's outputs for all views.
    """
    pairs = itertools.combinations(range(len(networks[0])), 2)
    losses = [loss(*(views[i] for views in networks for i in pair)) for pair in pairs]
    return torch.stack(losses).mean()


def cross_entropy_between_views(
    targets: Sequence[Distributions], log_probabilities: Sequence[Distributions]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of predicting each view's target from every other view.

    The mean runs over samples, over the targets' views, and over the other views.

    Args:
        targets: target distributions of the first views.
        log_probabilities: predictions from all views, in the same order.
    """
    # Loop over the pairs: one product of all would copy both sides and take twice the time.
    agreements = [
        (target * prediction).sum()
        for i, target in enumerate(targets)
        for j, prediction in enumerate(log_probabilities)
        if i != j
    ]
    return -torch.stack(agreements).sum() / (len(agreements) * len(targets[0]))
