"""Scores of predictions as pure functions; bounded scores are fractions in ``[0, 1]``."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Logits = Float[Tensor, "samples classes"]
Targets = Int[Tensor, " samples"] | Int[Tensor, "samples classes"]
"""One class number per sample; or rows of 1 (shown), 0 (not shown) and -1 (not scored)."""
Metric = Callable[[Logits, Targets], float]
Name = Literal[
    "top1", "top5", "mean_per_class", "auc", "f1", "ece", "map_11_point", "map_11_point_sklearn"
]
"""Names of ``CLASSIFICATION``."""

ECE_BINS = 15
FIVE = 5


def top1(logits: Logits, labels: Targets) -> float:
    """Return the share of samples whose largest logit is their label's.

    Args:
        logits: class scores, on any device; of equal scores the first class wins.
        labels: true classes in ``[0, classes)``, on any device.

    Raises:
        ValueError: if there are no samples, a label is out of range, a score is NaN, or samples
            have several classes.
    """
    return float(_right(logits, labels, "top1").double().mean())


def top5(logits: Logits, labels: Targets) -> float:
    """Return the share of samples whose label is among the classes of the five largest logits.

    Among equal scores, classes with lower numbers come first, as in ``top1``. In a vote of nearest
    neighbours many classes have the score 0: if fewer than five classes have a vote, the classes
    with the lowest numbers complete the five.

    Args:
        logits: scores of more than five classes, on any device.
        labels: true classes in ``[0, classes)``, on any device.

    Raises:
        ValueError: if there are five classes or fewer, no samples, a label is out of range, a score
            is NaN, or samples have several classes.
    """
    labels = _class_numbers(logits, labels, "top5")[:, None]
    own = logits.gather(1, labels)
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels
    ahead = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return float((ahead < FIVE).double().mean())


def mean_per_class(logits: Logits, labels: Targets) -> float:
    """Return the recall averaged over classes with equal weights.

    The score is also known as balanced accuracy. It is the usual score of Aircraft, Caltech-101,
    Flowers and Pets (Kornblith et al. 2019, table 1, https://arxiv.org/abs/1805.08974). Classes
    absent from ``labels`` are left out; the code of Ericsson et al. 2021 returns NaN if such a
    class is predicted.

    Args:
        logits: class scores, on any device; of equal scores the first class wins.
        labels: true classes in ``[0, classes)``, on any device.

    Raises:
        ValueError: if there are no samples, a label is out of range, a score is NaN, or samples
            have several classes.
    """
    right = _right(logits, labels, "mean_per_class")
    labels = labels.to(right.device)
    totals = torch.bincount(labels)
    hits = torch.bincount(labels[right], minlength=len(totals))
    present = totals > 0
    return float((hits[present].double() / totals[present]).mean())


def auc(logits: Logits, labels: Targets) -> float:
    """Return the area under the ROC curve of the second of two classes.

    It is the probability that a sample of the second class has a larger score than one of the
    first; a tie counts half.

    Args:
        logits: scores of two classes; samples are ranked by the second's minus the first's.
        labels: 0 or 1.

    Raises:
        ValueError: if there are not two classes, samples of only one of them, or a score is NaN,
            or both scores of a sample are infinite.
    """
    labels = _class_numbers(logits, labels, "auc")
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        raise ValueError("`auc` needs samples of both classes, but there are only some of one.")
    margins = logits[:, 1].double() - logits[:, 0].double()
    if bool(margins.isnan().any()):
        raise ValueError(_NAN)
    _, group, sizes = torch.unique(margins, return_inverse=True, return_counts=True)
    # Compute ranks from 1; equal scores get their mean rank.
    ranks = sizes.cumsum(0).double() - (sizes.double() - 1) / 2
    above = ranks[group][labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def f1(logits: Logits, labels: Targets) -> float:
    """Return the harmonic mean of precision and recall of the second of two classes.

    Args:
        logits: scores of two classes; of equal scores the first class wins.
        labels: 0 or 1.

    Returns:
        The score; 0 if the second class is neither shown nor predicted.

    Raises:
        ValueError: if there are not two classes, no samples, or a score is NaN.
    """
    labels = _class_numbers(logits, labels, "f1")
    predicted = logits.argmax(1)
    hits = int((predicted & labels).sum())
    return 2 * hits / max(1, int(predicted.sum() + labels.sum()))


def ece(logits: Logits, labels: Targets) -> float:
    """Return the expected calibration error: the difference between confidence and accuracy.

    It is the mean over 15 bins of equal width, which include their upper limit, weighted by their
    numbers of samples (Guo et al. 2017, eq. 3, https://arxiv.org/abs/1706.04599); confidence is the
    largest softmax probability.

    Args:
        logits: class scores before the softmax; minus infinity for a class that was never seen.
        labels: true classes in ``[0, classes)``.

    Raises:
        ValueError: if there are no samples, a label is out of range, a score is NaN or infinite, or
            samples have several classes.
    """
    right = _right(logits, labels, "ece")
    confidence = logits.double().softmax(1).amax(1)
    if bool(confidence.isnan().any()):
        raise ValueError(_NAN)
    edges = torch.arange(1, ECE_BINS, device=logits.device, dtype=torch.float64) / ECE_BINS
    bins = torch.bucketize(confidence, edges)
    gaps = torch.bincount(bins, weights=confidence - right.double(), minlength=ECE_BINS)
    return float(gaps.abs().sum() / len(right))


def map_11_point(scores: Logits, targets: Targets) -> float:
    """Return the mean over classes of the 11-point interpolated average precision.

    The score of Pascal VOC 2007 (Everingham et al. 2010, section 4.2,
    https://doi.org/10.1007/s11263-009-0275-4): the mean over t = 0, 0.1, ..., 1 of the best
    precision at a recall of t or more. Samples with equal scores form one point of the curve.

    Args:
        scores: scores of each class, comparable within a class.
        targets: rows of 1 (shown), 0 (not shown) and -1 (not scored).

    Returns:
        The mean over the classes with at least one positive sample.

    Raises:
        ValueError: if samples have one class each, no class is shown, or a score is NaN.
    """
    return _mean_average_precision(scores, targets, "map_11_point", sklearn=False)


def map_11_point_sklearn(scores: Logits, targets: Targets) -> float:
    """Return 11-point mAP on scikit-learn's curve, as Ericsson et al. 2021 compute it.

    There are two differences from ``map_11_point``. First, that curve starts at recall 0 with
    precision 1, a point that the challenge's program does not have, so that a class whose
    highest-ranked image is wrong gets a higher score. Second, the levels of recall are
    ``np.linspace(0, 1, 11)``, whose 0.3, 0.6 and 0.7 exceed these fractions by a rounding error: a
    recall of exactly 3 in 10 does not reach the level 0.3.

    Args:
        scores: as in ``map_11_point``.
        targets: likewise.

    Raises:
        ValueError: likewise.
    """
    return _mean_average_precision(scores, targets, "map_11_point_sklearn", sklearn=True)


def _mean_average_precision(scores: Logits, targets: Targets, name: str, *, sklearn: bool) -> float:
    check(name, "classes" if targets.ndim == 2 else "class", scores.shape[1])
    if bool(scores.isnan().any()):
        raise ValueError(_NAN)
    scores, targets = scores.double(), targets.to(scores.device)
    shown = [number for number, column in enumerate(targets.T) if bool((column == 1).any())]
    if not shown:
        raise ValueError(f"`{name}` needs a class that some sample shows, but there is none.")
    counted = targets >= 0
    precisions = [
        _average_precision(scores[counted[:, c], c], targets[counted[:, c], c], sklearn=sklearn)
        for c in shown
    ]
    return sum(precisions) / len(precisions)


CLASSIFICATION: dict[str, Metric] = {
    "top1": top1,
    "top5": top5,
    "mean_per_class": mean_per_class,
    "map_11_point": map_11_point,
    "map_11_point_sklearn": map_11_point_sklearn,
    "auc": auc,
    "f1": f1,
    "ece": ece,
}
"""Metrics by the name that datasets and tables use."""

LOWER_IS_BETTER = frozenset({"ece"})
SEVERAL_CLASSES = frozenset({"map_11_point", "map_11_point_sklearn"})
"""Metrics for samples with several classes; the others require one class per sample."""
TWO_CLASSES = frozenset({"auc", "f1"})
"""Metrics for datasets with two classes."""
MANY_CLASSES = frozenset({"top5"})
"""Metrics for datasets with more than five classes."""

_NAN = "class scores must be numbers, but some are NaN or infinite; did training diverge?"


def standard(target: str, classes: int) -> set[str]:
    """Return the metrics that are recorded for every dataset with this kind of target."""
    if target != "class":
        return set()
    return {"top1", "mean_per_class"} | (MANY_CLASSES if classes > FIVE else set())


def fits(name: str, target: str, classes: int) -> bool:
    """Return whether a known metric can score a kind of target with a number of classes."""
    if (name in SEVERAL_CLASSES) != (target == "classes"):
        return False
    return not (
        (name in TWO_CLASSES and classes != 2) or (name in MANY_CLASSES and classes <= FIVE)
    )


def check(name: str, target: str, classes: int) -> None:
    """Refuse a metric that cannot score a dataset.

    Args:
        name: name of the metric.
        target: kind of target, ``class`` or ``classes``.
        classes: number of classes.

    Raises:
        ValueError: if the metric is unknown, or for another kind of target or number of classes;
            the message lists the metrics that fit.
    """
    if name not in CLASSIFICATION:
        raise ValueError(f"a metric must be one of {sorted(CLASSIFICATION)}, but is {name!r}.")
    if fits(name, target, classes):
        return
    several = name in SEVERAL_CLASSES
    if several != (target == "classes"):
        requirement = f"scores {'several classes' if several else 'one class'} per sample"
        reason = f"the targets have {'one' if several else 'several'}"
    else:
        requirement = f"is defined for {'two' if name in TWO_CLASSES else 'more than five'} classes"
        reason = f"there are {classes}"
    fitting = sorted(name for name in CLASSIFICATION if fits(name, target, classes))
    raise ValueError(f"`{name}` {requirement}, but {reason}; use one of {fitting}.")


def check_targets(name: str, targets: Targets, split: str) -> None:
    """Refuse a split for which a metric is not defined, although the metric fits the dataset.

    Raises:
        ValueError: if there is no sample, if one of the two classes of ``auc`` has no sample, or if
            no sample shows any class.
    """
    if len(targets) == 0:
        raise ValueError(f"`{name}` needs at least one sample, but {split} has none; add images.")
    if name == "auc" and int(targets.min()) == int(targets.max()):
        raise ValueError(
            f"`auc` needs samples of both classes, but {split} has only some of one; choose "
            "another metric or split."
        )
    if name in SEVERAL_CLASSES and not bool((targets == 1).any()):
        raise ValueError(
            f"`{name}` needs a class that some sample shows, but {split} shows none; add images."
        )


def goodness(name: str, logits: Logits, targets: Targets) -> float:
    """Return the score that selection maximises: larger is better for every metric."""
    value = CLASSIFICATION[name](logits, targets)
    return -value if name in LOWER_IS_BETTER else value


def _class_numbers(logits: Logits, labels: Targets, name: str) -> Int[Tensor, " samples"]:
    """Check logits and labels, and return the labels on the logits' device."""
    check(name, "class" if labels.ndim == 1 else "classes", logits.shape[1])
    if len(labels) == 0:
        raise ValueError("a score needs at least one sample, but there is none.")
    labels, classes = labels.to(logits.device), logits.shape[1]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in [0, {classes}), but reach from {low} to {high}.")
    if bool(logits.isnan().any()):
        raise ValueError(_NAN)
    return labels


def _right(logits: Logits, labels: Targets, name: str) -> Bool[Tensor, " samples"]:
    return logits.argmax(1) == _class_numbers(logits, labels, name)


def _average_precision(
    scores: Float[Tensor, " n"], shown: Int[Tensor, " n"], *, sklearn: bool
) -> float:
    """Return one class's 11-point interpolated average precision."""
    scores, order = scores.sort(descending=True)
    hits = shown[order].cumsum(0).double()
    last = torch.ones_like(scores, dtype=torch.bool)  # whether a sample is the last of its score
    last[:-1] = scores[1:] != scores[:-1]
    hits, retrieved = hits[last], torch.arange(1, len(scores) + 1, device=scores.device)[last]
    precision, recall = hits / retrieved, hits / hits[-1]
    # Equal fractions give equal quotients: a recall of 3 in 10 equals the level 3 / 10.
    levels = torch.arange(11, device=scores.device, dtype=torch.float64) / 10
    if sklearn:
        precision = torch.cat([precision.new_ones(1), precision])
        recall = torch.cat([recall.new_zeros(1), recall])
        levels = torch.from_numpy(np.linspace(0, 1, 11)).to(scores.device)  # 0.30000000000000004
    reached = recall >= levels[:, None]
    return float(torch.where(reached, precision, 0.0).amax(1).mean())
