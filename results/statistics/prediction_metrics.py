"""Metrics of class scores as functions of weights of the test images.

They restate the metrics of runs, so that a score can be computed on many resamples at once: a
weight says how often an image counts. With equal weights each gives the score of the record.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from results.statistics.bootstrap import Floats, Statistic, Weights

Ints = NDArray[np.int64]
_FIVE = 5
_ECE_BINS = 15


def top1(scores: Floats, targets: Ints) -> Statistic:
    """Return the share of images whose highest class score is that of their class.

    Args:
        scores: class scores ``[N, C]``; of equal scores the first class is predicted.
        targets: class numbers ``[N]``.
    """
    return _share(scores.argmax(axis=1) == targets)


def top5(scores: Floats, targets: Ints) -> Statistic:
    """Return the share of images whose class is among the five with the highest scores.

    Args:
        scores: class scores ``[N, C]``; of equal scores the first classes come first.
        targets: class numbers ``[N]``.
    """
    own = scores[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(scores.shape[1]) < targets[:, None]
    ahead = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return _share(ahead < _FIVE)


def _share(right: NDArray[np.bool_]) -> Statistic:
    def statistic(weights: Weights) -> Floats:
        return np.asarray(right.astype(weights.dtype) @ weights / weights.sum(axis=0))

    return statistic


def mean_per_class(scores: Floats, targets: Ints) -> Statistic:
    """Return the mean of the recalls of the classes that have an image with a weight.

    Args:
        scores: class scores ``[N, C]``.
        targets: class numbers ``[N]``.
    """
    order = np.argsort(targets, kind="stable")
    starts = np.unique(targets[order], return_index=True)[1]
    right = (scores.argmax(axis=1) == targets)[order]

    def statistic(weights: Weights) -> Floats:
        ordered = weights[order]
        totals = np.add.reduceat(ordered, starts)
        hits = np.add.reduceat(ordered * right[:, None], starts)
        present = totals > 0
        recalls = np.divide(hits, totals, out=np.zeros_like(totals), where=present)
        return np.asarray(recalls.sum(axis=0, dtype=np.float64) / present.sum(axis=0))

    return statistic


def auc(scores: Floats, targets: Ints) -> Statistic:
    """Return the area under the ROC curve of the second of two classes; a tie counts half.

    Args:
        scores: class scores ``[N, 2]``; images are ordered by the second's minus the first's.
        targets: 0 or 1 ``[N]``.
    """
    margins = scores[:, 1] - scores[:, 0]
    order = np.argsort(margins, kind="stable")
    positive = targets[order] == 1
    starts = np.unique(margins[order], return_index=True)[1]

    def statistic(weights: Weights) -> Floats:
        ordered = weights[order].astype(np.float64)
        positives = np.add.reduceat(ordered * positive[:, None], starts)
        negatives = np.add.reduceat(ordered * ~positive[:, None], starts)
        below = negatives.cumsum(axis=0) - negatives / 2
        with np.errstate(invalid="ignore"):  # a resample may hold images of one class only
            return np.asarray(
                (positives * below).sum(axis=0) / (positives.sum(axis=0) * negatives.sum(axis=0))
            )

    return statistic


def f1(scores: Floats, targets: Ints) -> Statistic:
    """Return the harmonic mean of precision and recall of the second of two classes.

    It is 0 if the class is neither shown nor predicted.

    Args:
        scores: class scores ``[N, 2]``.
        targets: 0 or 1 ``[N]``.
    """
    predicted = scores.argmax(axis=1)
    hits, chosen = predicted & targets, predicted + targets

    def statistic(weights: Weights) -> Floats:
        twice, total = 2 * (hits @ weights), chosen @ weights
        return np.asarray(np.divide(twice, total, out=np.zeros_like(twice), where=total > 0))

    return statistic


def ece(scores: Floats, targets: Ints) -> Statistic:
    """Return the expected calibration error over 15 bins of equal width.

    Args:
        scores: class scores before the softmax ``[N, C]``; minus infinity for an unknown class.
        targets: class numbers ``[N]``.
    """
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    confidence = 1 / powers.sum(axis=1)  # the largest probability
    bins = np.searchsorted(np.arange(1, _ECE_BINS) / _ECE_BINS, confidence)
    gaps = np.zeros((_ECE_BINS, len(targets)))
    gaps[bins, np.arange(len(targets))] = confidence - (scores.argmax(axis=1) == targets)

    def statistic(weights: Weights) -> Floats:
        return np.asarray(np.abs(gaps @ weights).sum(axis=0) / weights.sum(axis=0))

    return statistic


def map_11_point(scores: Floats, targets: Ints) -> Statistic:
    """Return the mean over classes of the 11-point interpolated average precision.

    Args:
        scores: class scores ``[N, C]``; images with equal scores are one point of the curve.
        targets: rows ``[N, C]`` of 1 (shown), 0 (not shown) and -1 (not scored).
    """
    return _mean_average_precision(scores, targets, np.arange(11) / 10, precision_at_0=False)


def map_11_point_sklearn(scores: Floats, targets: Ints) -> Statistic:
    """Return 11-point mAP on scikit-learn's curve, as Ericsson et al. 2021 compute it.

    The curve starts with precision 1 at recall 0, and the levels are ``np.linspace(0, 1, 11)``.

    Args:
        scores: as in ``map_11_point``.
        targets: likewise.
    """
    return _mean_average_precision(scores, targets, np.linspace(0, 1, 11), precision_at_0=True)


def _mean_average_precision(
    scores: Floats, targets: Ints, levels: Floats, *, precision_at_0: bool
) -> Statistic:
    curves = [
        _average_precision(scores[:, c], targets[:, c], levels, precision_at_0=precision_at_0)
        for c in np.flatnonzero((targets == 1).any(axis=0))
    ]

    def statistic(weights: Weights) -> Floats:
        values = np.stack([curve(weights) for curve in curves])
        defined = ~np.isnan(values)
        with np.errstate(invalid="ignore"):  # a resample may show no class
            return np.asarray(np.nansum(values, axis=0) / defined.sum(axis=0))

    return statistic


def _average_precision(
    scores: Floats, shown: Ints, levels: Floats, *, precision_at_0: bool
) -> Statistic:
    """Return one class's interpolated average precision; NaN where no image shows the class."""
    scored = np.flatnonzero(shown >= 0)
    order = scored[np.argsort(-scores[scored], kind="stable")]
    positive, ordered = shown[order] == 1, scores[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    # The best precision at a level of recall lies at a score that an image of the class has: sums
    # over the images from each such score to the next one, and over those of the class.
    holds = np.add.reduceat(positive, starts, dtype=np.int64) > 0
    ends = np.append(starts[1:], len(order))[holds]
    segments = np.append(0, ends[:-1])
    own = order[: ends[-1]]
    own_shown = order[positive]
    shown_segments = np.searchsorted(np.flatnonzero(positive), segments)

    def statistic(weights: Weights) -> Floats:
        retrieved = np.add.reduceat(weights[own], segments).cumsum(axis=0)
        hits = np.add.reduceat(weights[own_shown], shown_segments).cumsum(axis=0)
        precision = np.divide(hits, retrieved, out=np.zeros_like(hits), where=retrieved > 0)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        total = np.zeros(weights.shape[1])
        recall = hits.astype(np.float64)
        with np.errstate(invalid="ignore"):  # a resample may lack the class
            recall /= recall[-1]
        every = np.arange(weights.shape[1])
        for level in levels:
            reached = (recall < level).sum(axis=0)
            inside = reached < len(best)
            total += np.where(inside, best[np.minimum(reached, len(best) - 1), every], 0.0)
        if precision_at_0:  # the curve's first point has recall 0 and precision 1
            total += 1 - best[0]
        return np.where(hits[-1] > 0, total / len(levels), np.nan)

    return statistic


METRICS: Mapping[str, Callable[[Floats, Ints], Statistic]] = {
    "top1": top1,
    "top5": top5,
    "mean_per_class": mean_per_class,
    "auc": auc,
    "f1": f1,
    "ece": ece,
    "map_11_point": map_11_point,
    "map_11_point_sklearn": map_11_point_sklearn,
}
"""Metrics by the name that records use."""
SEVERAL_CLASSES = frozenset({"map_11_point", "map_11_point_sklearn"})
"""Metrics of images that may show several classes."""
TWO_CLASSES = frozenset({"auc", "f1"})
"""Metrics of data sets with two classes."""
