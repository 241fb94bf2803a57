"""Distances between images: their agreement with labels (PARC), and leave-one-out neighbours."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import Count
from ssl_transfer.estimators.blocks import BLOCK_ELEMENTS, Features
from ssl_transfer.estimators.neighbours import Metric
from ssl_transfer.estimators.transferability.moments import (
    Labels,
    NotDefined,
    groups_of,
    require_variation,
)
from ssl_transfer.randomness import permutation

Rows = Int64[Tensor, " samples"] | Int64[Tensor, "samples classes"]
DECIMALS = 12  # of correlations that are equal in spite of rounding


def random_subset(samples: int, size: int, seed: int) -> Int64[np.ndarray, " picked"]:
    """Return the ascending places of at most ``size`` random samples."""
    return np.sort(permutation(seed, "transferability", 0, samples)[:size])


def balanced_subset(labels: Labels, size: int, seed: int) -> Int64[np.ndarray, " picked"]:
    """Return the ascending places of random samples, as many of every class as there are.

    Args:
        labels: class numbers.
        size: maximum number of samples.
        seed: of the choice.
    """
    order = permutation(seed, "transferability", 0, len(labels))
    shown = labels.cpu().numpy()[order]
    by_class = np.argsort(shown, kind="stable")
    counts = np.unique(shown, return_counts=True)[1]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    turn = np.empty(len(order), dtype=np.int64)  # how many of its class come before a sample
    turn[by_class] = np.arange(len(order)) - starts
    return np.sort(order[np.argsort(turn, kind="stable")[:size]])


def parc(features: Features, labels: Rows, *, max_samples: Count = 5000, seed: int = 0) -> float:
    """Return PARC, the rank correlation of distances of features and labels; larger is better.

    Bolya et al. 2021 (https://arxiv.org/abs/2111.06977): Spearman's correlation over all
    pairs of images. A distance is 1 minus Pearson's correlation of two rows: of the features, each
    dimension standardised, and of the labels as zeros and ones. The features are not reduced.

    Args:
        features: one row per image.
        labels: class numbers; or rows of 1, 0 and -1, in which images are left out that have an
            unknown entry or the same entry for all classes.
        max_samples: of more images, a random subset is used, balanced over classes if an image has
            one class; memory grows with its square.
        seed: of the subset.

    Returns:
        A correlation in [-1, 1].

    Raises:
        NotDefined: if the features are constant or have one dimension, or if all pairs of labels
            are equally distant.
    """
    if labels.ndim == 1:
        groups_of(labels)
        picked = balanced_subset(labels, max_samples, seed)
    else:
        usable = torch.nonzero(_usable(labels)).flatten().cpu().numpy()
        picked = usable[random_subset(len(usable), max_samples, seed)]
    places = torch.from_numpy(picked).to(features.device)
    chosen, shown = features[places].double(), labels[places]
    require_variation(chosen)
    upper = torch.ones(len(chosen), len(chosen), dtype=torch.bool, device=features.device).triu(1)
    standard = chosen - chosen.mean(dim=0)
    deviation = standard.square().mean(dim=0).sqrt()
    standard /= deviation.where(deviation > 0, 1.0)
    similarities = _correlations(standard)[upper].cpu().numpy()
    if np.ptp(similarities) <= 10.0**-DECIMALS:
        raise NotDefined("the features of all pairs of images are equally distant")
    if labels.ndim == 1:
        return _correlation_with_groups(
            similarities, (shown[:, None] == shown)[upper].cpu().numpy()
        )
    alike = _correlations(shown.double())[upper].cpu().numpy()
    ranks = [rankdata(values) for values in (similarities, alike.round(DECIMALS))]
    if np.ptp(ranks[1]) == 0:
        raise NotDefined("the labels of all pairs of images are equally distant")
    return float(np.corrcoef(*ranks)[0, 1])


def _correlation_with_groups(
    values: Float64[np.ndarray, " pairs"], inside: Bool[np.ndarray, " pairs"]
) -> float:
    """Return Spearman's correlation of values and membership in a group.

    A correlation with two values depends only on the sum of the ranks of one group. The ranks of
    its values follow from their places among all sorted values; equal values share a mean rank.

    Args:
        values: any numbers, not all equal.
        inside: whether each is in the group.

    Raises:
        NotDefined: if all values are inside, or none.
    """
    count = int(inside.sum())
    if count in (0, len(inside)):
        raise NotDefined("the labels of all pairs of images are equally distant")
    ordered = np.sort(values)
    members = np.sort(values[inside])
    ends = [np.searchsorted(ordered, members, side=side) for side in ("left", "right")]
    ranks = (ends[0] + ends[1] + 1) / 2
    total = float(len(values))
    starts = np.flatnonzero(np.diff(ordered, prepend=-np.inf))
    ties = np.diff(np.append(starts, len(ordered))).astype(np.float64)
    variance = (total**2 - 1 - (ties**3 - ties).sum() / total) / 12
    share = count / total
    covariance = share * (float(ranks.mean()) - (total + 1) / 2)
    return covariance / float(np.sqrt(variance * share * (1 - share)))


def _usable(labels: Int64[Tensor, "samples classes"]) -> Bool[Tensor, " samples"]:
    return (labels >= 0).all(dim=1) & (labels.amax(dim=1) > labels.amin(dim=1))


def _correlations(rows: Float64[Tensor, "samples dim"]) -> Float64[Tensor, "samples samples"]:
    """Return Pearson's correlation of each pair of rows.

    Raises:
        NotDefined: if a row is constant.
    """
    deviations = rows - rows.mean(dim=1, keepdim=True)
    lengths = deviations.norm(dim=1, keepdim=True)
    if bool((lengths <= 1e-12 * rows.norm(dim=1, keepdim=True)).any()):
        raise NotDefined("an image has the same value in every dimension, so it has no correlation")
    unit = deviations / lengths
    correlations: Tensor = unit @ unit.T
    return correlations


def knn_loo(
    features: Features, labels: Labels, *, k: Count = 5, metric: Metric = "cosine"
) -> float:
    """Return the leave-one-out accuracy of the nearest neighbours' majority; larger is better.

    The strongest cheap score in a comparison of 23 (https://arxiv.org/abs/2503.18528). If votes are
    equal, the class with the lower number wins.

    Args:
        features: one row per image.
        labels: class numbers.
        k: number of voters, at least 1; limited to the other images.
        metric: the similarity is the cosine, or (``euclidean``) minus the distance.

    Returns:
        A fraction in [0, 1].

    Raises:
        NotDefined: if the features are constant, or if fewer than two classes occur.
    """
    require_variation(features)
    groups = groups_of(labels)
    k = min(k, len(features) - 1)
    step = max(1, min(BLOCK_ELEMENTS // features.shape[1], 2048))
    right = 0
    for start in range(0, len(features), step):
        nearest = _neighbours(features, slice(start, start + step), k, metric, step)
        votes = groups.numbers[nearest]
        tally = torch.zeros(len(votes), len(groups.counts), device=features.device)
        tally.scatter_add_(1, votes, torch.ones_like(votes, dtype=tally.dtype))
        right += int((tally.argmax(dim=1) == groups.numbers[start : start + step]).sum())
    return right / len(features)


def _neighbours(
    features: Features, queries: slice, k: int, metric: Metric, step: int
) -> Int64[Tensor, "queries k"]:
    """Return the places of the nearest other rows, with one block of the bank in memory."""
    rows = _prepared(features[queries], metric)
    own = torch.arange(queries.start, queries.start + len(rows), device=features.device)
    best = torch.empty(len(rows), 0, dtype=torch.float64, device=features.device)
    places = torch.empty(len(rows), 0, dtype=torch.int64, device=features.device)
    for start in range(0, len(features), step):
        bank = _prepared(features[start : start + step], metric)
        similarity = rows @ bank.T
        if metric == "euclidean":  # minus half the squared distance, up to a number per query
            similarity -= bank.square().sum(dim=1) / 2
        inside = (own >= start) & (own < start + len(bank))
        similarity[inside, own[inside] - start] = -torch.inf
        nearest, numbers = similarity.topk(min(k, len(bank)), dim=1)
        best = torch.cat([best, nearest], dim=1)
        places = torch.cat([places, numbers + start], dim=1)
        best, kept = best.topk(min(k, best.shape[1]), dim=1)
        places = places.gather(1, kept)
    return places


def _prepared(rows: Float[Tensor, "rows dim"], metric: Metric) -> Float64[Tensor, "rows dim"]:
    return F.normalize(rows.double()) if metric == "cosine" else rows.double()
