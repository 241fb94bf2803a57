"""Classification by a vote of the nearest neighbours, without training."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["cosine", "euclidean"]
Weighting = Literal["exp", "uniform"]

CHUNK_ELEMENTS = 2**25  # similarities in memory at once: 128 MiB


def vote(
    queries: Float[Tensor, "queries dim"],
    bank: Float[Tensor, "bank dim"],
    labels: Int64[Tensor, " bank"] | Int64[Tensor, "bank classes"],
    *,
    k: int,
    temperature: float,
    classes: int,
    metric: Metric = "cosine",
    weighting: Weighting = "exp",
) -> Float[Tensor, "queries classes"]:
    """Return each class's share of the votes of the ``k`` nearest neighbours.

    Args:
        queries: features to classify.
        bank: features with known labels.
        labels: classes of the bank; or rows of 1 (shown), 0 (not shown) and -1 (does not vote on
            that class).
        k: number of voters, in ``[1, bank]``.
        temperature: a vote weighs ``exp(similarity / temperature)``; positive.
        classes: number of classes.
        metric: the similarity is the cosine, or (``euclidean``) minus the distance of the features
            as they are.
        weighting: ``uniform`` gives all votes equal weight and ignores the temperature.

    Returns:
        Rows that sum to 1; with several classes per image each share is of that class's own votes
        (0 where no neighbour votes).
    """
    if metric == "cosine":
        queries, bank = F.normalize(queries), F.normalize(bank)
    chunks = torch.split(queries, max(1, CHUNK_ELEMENTS // len(bank)))
    shares = []
    for chunk in chunks:
        every = chunk @ bank.T if metric == "cosine" else -torch.cdist(chunk, bank)
        similarity, neighbours = every.topk(k, dim=1)
        if weighting == "uniform":
            similarity = torch.zeros_like(similarity)
        # Weigh the votes by a softmax: the same weights up to a factor per query, without overflow.
        weights = (similarity / temperature).softmax(dim=1)
        if labels.ndim == 1:
            empty = weights.new_zeros(len(chunk), classes)
            shares.append(empty.scatter_add_(1, labels[neighbours], weights))
        else:
            by_image = weights.new_zeros(len(chunk), len(bank)).scatter_(1, neighbours, weights)
            shares.append(_shown_share(by_image, labels))
    return torch.cat(shares)


def _shown_share(
    weights: Float[Tensor, "queries bank"], labels: Int64[Tensor, "bank classes"]
) -> Float[Tensor, "queries classes"]:
    """Return the share of each class's votes that are positive."""
    shown, absent = (weights @ (labels == kind).to(weights) for kind in (1, 0))
    return shown / (shown + absent).clamp(min=torch.finfo(weights.dtype).tiny)
