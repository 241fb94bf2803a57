"""The loss of classification protocols, and the scores of the test split."""

import logging
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer import metrics
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.metrics.calibration import ece_by_folds, fit_temperature
from ssl_transfer.protocols.base import Score
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)

Calibration = Literal["val", "test_folds"]
"""Data for fitting temperatures: validation predictions, or fifths of the test split."""


def classification_loss(
    logits: Float[Tensor, "*heads batch classes"],
    targets: Int64[Tensor, " batch"] | Int64[Tensor, "batch classes"],
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, "*heads"]:
    """Return each head's loss: a mean over images, so that parts of a batch can be averaged.

    The mean of the processes' gradients is then the gradient of the global batch. For this reason
    the loss is divided by the number of images, not by the sum of the weights or of the valid
    entries in the batch (torch's ``weight`` does that). Scale the weights to an average of 1 over
    the training images instead.

    Args:
        logits: see ``image_losses``.
        targets: see ``image_losses``.
        class_weights: see ``image_losses``.
    """
    return image_losses(logits, targets, class_weights).mean(-1)


def image_losses(
    logits: Float[Tensor, "*heads batch classes"],
    targets: Int64[Tensor, " batch"] | Int64[Tensor, "batch classes"],
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, "*heads batch"]:
    """Return each head's loss of every image.

    Args:
        logits: class scores.
        targets: class numbers: cross-entropy; or rows of 1, 0 and -1: binary cross-entropy,
            averaged over the image's entries that are not -1 (an image without one gives 0).
        class_weights: factor of each class's loss (``None``: 1).
    """
    if targets.ndim == 1:
        labels = targets.expand(logits.shape[:-1])[..., None]
        each = -logits.log_softmax(-1).gather(-1, labels)[..., 0]
        return each if class_weights is None else each * class_weights[targets]
    counts = (targets >= 0).to(logits.dtype)
    shown = targets.clamp(min=0).to(logits.dtype).expand_as(logits)
    entries = F.binary_cross_entropy_with_logits(logits, shown, reduction="none") * counts
    if class_weights is not None:
        entries = entries * class_weights
    return entries.sum(-1) / counts.sum(-1).clamp(min=1)


def scored_by(dataset: Dataset) -> list[str]:
    """Return the names of the metrics of the test split, with the primary metric first."""
    standard = metrics.standard(dataset.target, len(dataset.classes))
    return [dataset.metric, *sorted({*dataset.extra_metrics, *standard} - {dataset.metric})]


def require_metrics(dataset: Dataset, *, selects_on: str | None = None) -> None:
    """Refuse a dataset whose metrics do not fit its targets, before any work.

    Args:
        dataset: the dataset.
        selects_on: split on which its metric selects classifiers (``None``: no selection).

    Raises:
        ValueError: if a metric does not fit.
    """
    try:
        for name in scored_by(dataset):
            metrics.check(name, dataset.target, len(dataset.classes))
            metrics.check_targets(name, torch.from_numpy(dataset["test"].targets), "test")
        if selects_on is not None:
            targets = torch.from_numpy(dataset[selects_on].targets)
            metrics.check_targets(dataset.metric, targets, selects_on)
    except ValueError as error:
        raise ValueError(f"`{dataset.name}` cannot be scored: {error}") from error


def scores_on_test(
    logits: Float[Tensor, "samples classes"],
    dataset: Dataset,
    context: Context,
    *,
    calibration: Calibration | None = None,
    val_logits: Float[Tensor, "val classes"] | None = None,
) -> Iterator[Score]:
    """Yield the dataset's primary metric and further metrics; save the class scores by image.

    Args:
        logits: class scores of the test split.
        dataset: the dataset with its metrics; ``metrics.standard`` are added for every dataset.
        context: the run's context.
        calibration: also yield the expected calibration error before (``ece``) and after
            temperature scaling (``ece_scaled``); nothing for several classes per image.
        val_logits: validation scores of a classifier that was not trained on that split; their
            temperature is used for the final classifier. ``calibration="val"`` without them only
            yields ``ece``.
    """
    single_label = dataset.target == "class"
    test = dataset["test"]
    context.save_arrays(
        "test_predictions",
        files=np.asarray(test.names, dtype=np.str_),
        targets=test.targets,
        scores=logits.float().cpu().numpy(),
        classes=np.asarray(dataset.classes, dtype=np.str_),
        **({} if test.groups is None else {"groups": test.groups}),
    )
    labels = torch.from_numpy(test.targets)
    names = scored_by(dataset)
    if single_label and calibration is not None:
        names += [] if "ece" in names else ["ece"]
    elif calibration is not None and distributed.is_main():
        log.warning("calibration is not measured: `%s` has several classes per image", dataset.name)
    for name in names:
        yield Score(
            metric=name,
            value=metrics.CLASSIFICATION[name](logits, labels),
            higher_is_better=name not in metrics.LOWER_IS_BETTER,
            primary=name == dataset.metric,
        )
    if single_label and calibration is not None:
        yield from _scaled(logits, dataset, context, calibration, val_logits)


def _scaled(
    logits: Float[Tensor, "samples classes"],
    dataset: Dataset,
    context: Context,
    calibration: Calibration,
    val_logits: Float[Tensor, "val classes"] | None,
) -> Iterator[Score]:
    """Yield the calibration error after temperature scaling."""
    labels = torch.from_numpy(dataset["test"].targets)
    temperature = None
    if calibration == "test_folds":
        value = ece_by_folds(logits, labels)
    elif val_logits is None:
        if distributed.is_main():
            log.warning(
                "`ece_scaled` is not measured: every classifier of this run was trained on the "
                "validation split, so that no temperature can be fitted to it; give the grid "
                "several points."
            )
        return
    else:
        temperature = fit_temperature(val_logits, torch.from_numpy(dataset["val"].targets))
        value = metrics.ece(logits / temperature, labels)
    context.note(calibration={"fitted_on": calibration, "temperature": temperature})
    yield Score(metric="ece_scaled", value=value, higher_is_better=False)
