"""Monitors of a pre-training: nearest neighbours, an online linear probe, measures of collapse.

Monitors do not change weights or random numbers of the training, and do not read the test split.
All values are those of the global batch or of whole splits, so they do not depend on the number of
processes. The monitors' state is saved and restored with the training.
"""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import randomness
from ssl_transfer.config.ranges import Count, Positive, PositiveRate, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.splitting import hold_out
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.estimators.neighbours import Metric, Weighting, vote
from ssl_transfer.features import extract
from ssl_transfer.methods import Method
from ssl_transfer.metrics.collapse import rankme, spread
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)

Features = Float[Tensor, "samples dim"]


def correlation(features: Features) -> Float[Tensor, ""]:
    """Return the mean absolute correlation of different features over the samples.

    It is 0 if the features are uncorrelated and 1 if all are equivalent; a constant feature counts
    as uncorrelated.

    Args:
        features: features with at least two dimensions.
    """
    centred = features - features.mean(dim=0)
    unit = F.normalize(centred, dim=0)
    matrix = (unit.T @ unit).abs()
    dim = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()) / (dim * (dim - 1))


def collapse(features: Features) -> dict[str, float]:
    """Return three measures of the dimensions in use, which detect different kinds of collapse.

    Args:
        features: the same on all processes.

    Returns:
        ``rankme``; ``spread``, the deviation of the features' directions (see ``spread``), 0 after
        complete collapse; and ``correlation``.
    """
    return {
        "rankme": float(rankme(features)),
        "spread": float(spread(features)),
        "correlation": float(correlation(features)),
    }


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Monitoring:
    """The node ``trainer.monitor``: what to measure, and how often.

    Args:
        every_steps: steps between measurements on the features of a batch (``None``: never).
        every_epochs: epochs between measurements on whole splits; the last follows the last step,
            except in a debug run (``None``: never).
        samples: maximum number of images to use per split; always the same images.
        dataset: a node of ``conf/dataset`` whose training split is the bank of the nearest
            neighbours and whose validation split has the queries (``None``: the pre-training set);
            see ``bank_and_queries``.
        k: see ``vote``; a smaller bank votes as a whole.
        temperature: see ``vote``.
        metric: see ``vote``.
        weighting: see ``vote``.
        probe_lr: learning rate of the online linear probe (``None``: no probe).

    Raises:
        ValueError: if a value is out of its range.
    """

    every_steps: Count | None = 100
    every_epochs: Positive | None = 20.0
    samples: Count = 10_000
    dataset: dict[str, Any] | None = None
    k: Count = 200
    temperature: Positive = 0.07
    metric: Metric = "cosine"
    weighting: Weighting = "exp"
    probe_lr: PositiveRate | None = 0.1


def bank_and_queries(dataset: Dataset) -> tuple[Split, Split]:
    """Return the bank and the queries of the nearest neighbours.

    The bank has the labelled training images, the queries are the validation split. If that has no
    images (some published recipes), or only such of other classes (few-shot sets), a tenth of the
    training images become queries and leave the bank. The encoder has trained on these images, but
    the vote does not use their labels.

    Returns:
        both; no queries if there are no classes to tell apart, and then all training images.
    """
    train, val = dataset["train"], dataset["val"]
    if not _has_classes(dataset):
        return train, val.subset([])
    labelled = train.subset(np.flatnonzero(train.targets >= 0))
    if _validates(dataset):
        return labelled, val
    voting, asking = hold_out(labelled.targets, 0.1, 0, "monitor", labelled.groups)
    return labelled.subset(voting), labelled.subset(asking)


def _validates(dataset: Dataset) -> bool:
    """Return whether there are validation images of the training images' classes."""
    return bool(np.isin(dataset["val"].targets, dataset["train"].targets).any())


class OnlineProbe:
    """A linear classifier of detached features, trained together with the encoder.

    The probe is softmax regression by SGD with momentum 0.9. It starts from zero weights, so that
    it draws no random numbers. Its gradient is computed explicitly, without autograd, so that it
    cannot affect the encoder's. Each feature vector is standardised first, so that one learning
    rate fits all encoders.

    Args:
        dim: number of features.
        classes: number of classes.
        lr: learning rate.
        device: device of the features.
    """

    momentum = 0.9

    def __init__(self, dim: int, classes: int, lr: float, device: torch.device) -> None:
        self.lr = lr
        # One row per class, with the bias in the last column. In float64 the sums hardly depend on
        # the order of summation.
        self.weight = torch.zeros(classes, dim + 1, dtype=torch.float64, device=device)
        self.velocity = torch.zeros_like(self.weight)
        # Sums of loss, correct predictions and samples since the last report.
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def logits(self, features: Features) -> Float[Tensor, "samples classes"]:
        """Return the scores of the classes."""
        inputs = self._inputs(features)
        return inputs @ self.weight.T

    def _inputs(self, features: Features) -> Float[Tensor, "samples inputs"]:
        standardised = F.layer_norm(features.double(), features.shape[1:])
        return F.pad(standardised, (0, 1), value=1.0)

    def learn(self, features: Features, targets: Int64[Tensor, " samples"]) -> None:
        """Take one SGD step on this process's share of a global batch; target -1 is no class."""
        # Multiply by zero instead of selecting rows: the number of rows would have to be known on
        # the host, which would wait for the device.
        known = targets >= 0
        features = torch.where(known[:, None], features, 0.0)  # they may not be finite
        inputs = self._inputs(features)
        log_probabilities = (inputs @ self.weight.T).log_softmax(dim=1)
        loss = F.nll_loss(log_probabilities, targets, reduction="sum", ignore_index=-1)
        hits = (log_probabilities.argmax(dim=1) == targets).sum()
        error = log_probabilities.exp() - F.one_hot(targets.clamp_min(0), len(self.weight))
        error = error * known[:, None]
        sums = torch.stack([loss, hits.double(), known.sum().double()])
        # Sum the gradient, the loss, the correct predictions and the samples over all processes in
        # one reduction.
        totals = distributed.all_reduce_sum(torch.cat([(error.T @ inputs).flatten(), sums]))
        gradient = totals[:-3].view_as(self.weight) / totals[-1].clamp_min(1.0)
        self.velocity.mul_(self.momentum).add_(gradient)
        self.weight.sub_(self.lr * self.velocity)
        self.sums += totals[-3:]

    def report(self) -> dict[str, float]:
        """Return mean loss and accuracy, before each step, since the last report."""
        loss, hits, count = self.sums.tolist()
        self.sums.zero_()
        return {"probe_loss": loss / count, "probe_top1": hits / count} if count else {}


class Monitor:
    """The observer of ``fit`` that measures the encoder's features and logs the values.

    In a step it uses the features that the encoder computed for the first view, in train mode (see
    ``Method``). On whole splits it extracts features in eval mode, as the protocols do.

    Args:
        options: what to measure, and how often.
        method: the method that is trained.
        dataset: the pre-training set; its classes are the online probe's.
        judged: dataset whose training split is the bank and whose validation split has the queries.
        context: the run's context.
    """

    def __init__(
        self,
        options: Monitoring,
        method: Method,
        dataset: Dataset,
        judged: Dataset,
        context: Context,
    ) -> None:
        self.options, self.method, self.context = options, method, context
        self.encoder: Encoder = method.encoder
        self.judged = judged
        self.bank, self.queries = (
            _some(split, options.samples) for split in bank_and_queries(judged)
        )
        self.looks = 0  # number of measurements on whole splits
        self.seen: list[Features] = []
        self.warned = False
        self.probe: OnlineProbe | None = None
        if options.probe_lr is not None and _has_classes(dataset):
            self.probe = OnlineProbe(
                self.encoder.feature_dim, len(dataset.classes), options.probe_lr, context.device
            )
        self.probe_is_judged = judged is dataset and _validates(dataset)
        self._log_limits()

    def _log_limits(self) -> None:
        """Log the measurements that are not possible, or possible only with a substitute."""
        if self.options.every_epochs is None or not distributed.is_main():
            return
        remedy = "+dataset@trainer.monitor.dataset=NAME selects another set"
        if not len(self.queries):
            log.info("monitor: no nearest neighbours, since `%s` has no classes; %s",
                     self.judged.name, remedy)  # fmt: skip
        elif not len(self.judged["val"]):
            log.info("monitor: `%s` has no validation split, so a tenth of its training images "
                     "serves as queries; %s", self.judged.name, remedy)  # fmt: skip

    @contextmanager
    def attached(self) -> Iterator["Monitor"]:
        """Record the encoder's outputs inside of the context."""
        handle = self.encoder.register_forward_hook(self._see)
        try:
            yield self
        finally:
            handle.remove()

    def _see(self, encoder: nn.Module, _: tuple[Any, ...], features: Tensor) -> None:
        if encoder.training:
            self.seen.append(features.detach())

    @torch.no_grad()
    def after_step(self, step: int, progress: float, batch: Batch) -> None:
        """Train the probe, and log if it is time.

        Args:
            step: number of steps so far.
            progress: completed share of the training.
            batch: this process's share of the step's batch.
        """
        features = self._first_views(len(batch.targets))
        if features is None:
            return
        if self.probe is not None:
            self.probe.learn(features, batch.targets.to(features.device))
        if self.options.every_steps is None or step % self.options.every_steps:
            return
        values = self.method.scheduled(progress)
        if self.probe is not None:
            values |= self.probe.report()
        every = distributed.gather(features)
        if bool(every.isfinite().all()):
            values |= {f"batch_{name}": value for name, value in collapse(every).items()}
        self.context.log(training="monitor", step=step, **values)

    def _first_views(self, samples: int) -> Features | None:
        """Return the features of each sample's first view; None if their rows are not known."""
        count = self.context.accumulate
        first = self.seen[:: max(1, len(self.seen) // count)]
        self.seen = []
        share = samples // count
        if len(first) != count or any(len(part) % share for part in first):
            if not self.warned:
                log.warning("%s is not monitored: see `Method` for the order in which the encoder "
                            "must see views", type(self.method).__name__)  # fmt: skip
            self.warned = True
            return None
        rows = [part.view(share, -1, part.shape[1])[:, 0] for part in first]
        return torch.cat(rows).to(self.context.dtype)

    @torch.no_grad()
    def after_epoch(self, step: int, passes: float, *, last: bool) -> None:
        """Measure on whole splits if it is time.

        Args:
            step: number of steps so far.
            passes: completed passes over the samples.
            last: whether the training is over.
        """
        every = self.options.every_epochs
        if every is None:
            return
        over = last and self.context.max_steps is None
        if passes // every <= self.looks and not over:
            return
        self.looks = int(passes // every)
        values = self.look()
        self.seen = []
        self.context.note(monitored={"step": step, **values})  # the last one stays in the record
        self.context.log(training="monitor", step=step, epoch=round(passes, 3), **values)

    def look(self) -> dict[str, float]:
        """Return the measurements of the encoder's features on the splits."""
        bank, queries = self.bank, self.queries
        features = self._extract(bank)
        if not bool(features.isfinite().all()):
            log.warning("monitor: features are NaN or infinite, so that nothing is measured")
            return {}
        values = collapse(features)
        if values["spread"] == 0 and len(features) > 1:
            log.warning("monitor: the features are the same for every image (collapse)")
        if not len(queries):
            return values
        asking = self._extract(queries)
        votes = vote(
            asking,
            features,
            torch.from_numpy(bank.targets).to(features.device),
            k=min(self.options.k, len(bank)),
            temperature=self.options.temperature,
            classes=len(self.judged.classes),
            metric=self.options.metric,
            weighting=self.options.weighting,
        )
        values["knn_top1"] = _accuracy(votes, queries)
        if self.probe is not None and self.probe_is_judged:
            values["probe_val_top1"] = _accuracy(self.probe.logits(asking), queries)
        return values

    def _extract(self, split: Split) -> Features:
        rows = extract(
            self.encoder, split, self.encoder.preprocessing, self.context, label="monitor"
        )
        return torch.from_numpy(rows).to(self.context.device)

    def misfit(self, passes: float) -> str | None:
        """Return None: a training can continue from any step."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes."""
        state: dict[str, Any] = {"looks": self.looks}
        if self.probe is not None:
            state |= {name: getattr(self.probe, name) for name in ("weight", "velocity", "sums")}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``, as far as the same values are measured."""
        self.looks = state["looks"]
        if self.probe is not None and "weight" in state:
            for name in ("weight", "velocity", "sums"):
                getattr(self.probe, name).copy_(state[name])


def _has_classes(dataset: Dataset) -> bool:
    """Return whether there are labelled training images of several classes."""
    targets = dataset["train"].targets
    return targets.ndim == 1 and len(dataset.classes) > 1 and bool((targets >= 0).any())


def _some(split: Split, samples: int) -> Split:
    """Return the split, or a fixed choice of ``samples`` samples if it is larger."""
    if len(split) <= samples:
        return split
    return split.subset(np.sort(randomness.permutation(0, "monitor", 0, len(split))[:samples]))


def _accuracy(scores: Float[Tensor, "samples classes"], split: Split) -> float:
    targets = torch.from_numpy(split.targets).to(scores.device)
    return float((scores.argmax(dim=1) == targets).double().mean())
