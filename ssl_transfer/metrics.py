"""Scores of predictions: pure functions, bounded ones as fractions in ``[0, 1]``."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Metric = Callable[[Float[Tensor, "samples classes"], Int[Tensor, " samples"]], float]


def top1(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> float:
    """Return the share of samples whose largest logit is their label's.

    Args:
        logits: class scores, on any device; of equal scores the first class wins.
        labels: true classes in ``[0, classes)``, on any device.

    Raises:
        ValueError: if there are no samples, a label is out of range, or a score is NaN.
    """
    return float(_right(logits, labels).double().mean())


def mean_per_class(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
) -> float:
    """Return the recall averaged over classes: each weighs the same, however rare it is.

    The usual score of Aircraft, Caltech-101, Flowers and Pets (Kornblith et al. 2019, table 1,
    https://arxiv.org/abs/1805.08974). Classes absent from ``labels`` are left out; the code of
    Ericsson et al. 2021 gets NaN when such a class is predicted.

    Args:
        logits: class scores, on any device; of equal scores the first class wins.
        labels: true classes in ``[0, classes)``, on any device.

    Raises:
        ValueError: if there are no samples, a label is out of range, or a score is NaN.
    """
    right = _right(logits, labels)
    labels = labels.to(right.device)
    totals = torch.bincount(labels)
    hits = torch.bincount(labels[right], minlength=len(totals))
    present = totals > 0
    return float((hits[present].double() / totals[present]).mean())


CLASSIFICATION: dict[str, Metric] = {"top1": top1, "mean_per_class": mean_per_class}
"""Metrics of one class per sample, by the name that datasets and tables use."""


def _right(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
) -> Bool[Tensor, " samples"]:
    if len(labels) == 0:
        raise ValueError("a score needs at least one sample, but there is none.")
    labels, classes = labels.to(logits.device), logits.shape[1]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in [0, {classes}), but reach from {low} to {high}.")
    if bool(logits.isnan().any()):
        raise ValueError("class scores must be numbers, but some are NaN; did training diverge?")
    return logits.argmax(1) == labels
