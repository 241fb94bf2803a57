"""Options of a training: its length, the order of samples, and the learning rate's schedule."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int64

from ssl_transfer import randomness
from ssl_transfer.config.ranges import (
    Batch,
    Count,
    Epochs,
    Fraction,
    NotNegative,
    Positive,
    Range,
    checked,
)
from ssl_transfer.training import optim


@dataclasses.dataclass(frozen=True)
class SampleOrder:
    """The endless order of samples: one shuffled epoch after another, cut into global batches.

    Position p of the stream is a pure function of (seed, p). A training can therefore resume within
    an epoch, and every process takes its own slice of each batch.
    """

    samples: int
    batch_size: int
    drop_last: bool
    seed: int

    @property
    def usable(self) -> int:
        """Number of samples that an epoch uses."""
        return self.samples - self.samples % self.batch_size if self.drop_last else self.samples

    @property
    def steps_per_epoch(self) -> float:
        """Number of optimizer steps per epoch."""
        return self.usable / self.batch_size

    def epoch(self, step: int) -> int:
        """Return the epoch in which a step begins: that of its first sample."""
        return step * self.batch_size // self.usable

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return the (epoch, index) pairs of a global batch."""
        first = step * self.batch_size
        positions = range(first, first + self.batch_size)
        places = [divmod(position, self.usable) for position in positions]
        return [(epoch, int(self._order(epoch)[place])) for epoch, place in places]

    def _order(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        return _order(self.seed, epoch, self.samples)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DomainOrder(SampleOrder):
    """The endless order of batches of several domains, with equal shares.

    Each step draws distinct domains, all of them equally likely, and then images of each, without
    replacement; the batch holds one domain's images after another's. A domain with fewer images
    than its share is repeated within the batch. An epoch is as many images as there are: this is
    the ``GroupSampler`` of https://github.com/p-lambda/wilds (``wilds/common/data_loaders.py``),
    with batches that are pure functions of (seed, step).

    Args:
        domains: domain of every sample.
        domains_per_batch: number of domains in a batch; it divides the batch.
    """

    domains: Int64[np.ndarray, " samples"]
    domains_per_batch: int

    @functools.cached_property
    def members(self) -> list[Int64[np.ndarray, " _"]]:
        """The positions of each domain's samples."""
        return [np.flatnonzero(self.domains == number) for number in np.unique(self.domains)]

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return the (step, index) pairs of a global batch: each step has views of its own."""
        drawn = randomness.sample(
            self.seed, "domains", step, len(self.members), self.domains_per_batch
        )
        share = self.batch_size // self.domains_per_batch
        return [(step, index) for number in drawn for index in self._of(int(number), step, share)]

    def _of(self, number: int, step: int, share: int) -> list[int]:
        """Return the images of one domain in a step."""
        members = self.members[number]
        count = min(share, len(members))
        picked = randomness.sample(
            self.seed, f"images of domain {number}", step, len(members), count
        )
        repeated: list[int] = np.resize(members[picked], share).tolist()
        return repeated


MOST_PASSES_PER_BATCH = 100
"""Maximum number of times that a batch may show each image; more is certainly a mistake."""


@functools.lru_cache(maxsize=2)  # a batch touches two epochs at most
def _order(seed: int, epoch: int, samples: int) -> Int64[np.ndarray, " samples"]:
    return randomness.permutation(seed, "order", epoch, samples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingKeys:
    """The keys of one training that users set: its budget and its optimisation.

    Args:
        epochs: passes over the training samples, above 0; a fraction is allowed.
        batch_size: images per step over all processes, at least 1.
        optimizer: keys of an option of ``conf/optimizer``.
        steps: optimizer steps instead of ``epochs``.
        schedule: schedule of the learning rate.
        schedule_per: whether the schedule is a function of the ``step``, or of the ``epoch`` in
            which a step begins.
        milestones: epochs at which the schedule ``step`` multiplies by ``step_factor``
            (``None``: after 60 % and 80 % of the training).
        step_factor: factor of the schedule ``step``.
        final_factor: share of the learning rate that ``cosine``, ``exponential`` and each cycle of
            ``cyclic`` end at.
        cycles: number of cycles of the schedule ``cyclic``, each a cosine from the full learning
            rate (``None`` for other schedules).
        warmup_epochs: length of the linear warm-up in epochs.
        clip_grad_norm: largest gradient norm, above 0 (``None``: no clipping).
        bn_groups: number of groups of the global batch with separate batch statistics.
    """

    epochs: Epochs
    batch_size: Batch
    optimizer: Mapping[str, Any]
    steps: Count | None = None
    schedule: Literal["cosine", "constant", "step", "exponential", "cyclic"] = "cosine"
    schedule_per: Literal["step", "epoch"] = "step"
    milestones: Sequence[Positive] | None = None
    step_factor: Annotated[float, Range(0, 1, open_low=True)] = 0.1
    final_factor: Fraction = 0.0
    cycles: Annotated[int, Range(1, cap=10**4)] | None = None
    warmup_epochs: NotNegative = 0.0
    clip_grad_norm: Positive | None = None
    bn_groups: Batch = 1


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(TrainingKeys):
    """The budget and the optimisation of one training.

    Args:
        drop_last: whether to drop an epoch's last samples if they do not fill a batch. Otherwise
            samples of the next epoch complete the batch.

    Raises:
        ValueError: if a value is out of its range, or belongs to another schedule.
    """

    drop_last: bool = False

    def __post_init__(self) -> None:
        if wrong := optim.value_problems(self.optimizer):
            raise ValueError(" ".join(wrong))
        if self.steps is None and self.warmup_epochs > self.epochs:
            raise ValueError(
                f"`warmup_epochs` must be at most `epochs` ({self.epochs:g}), without which the "
                f"learning rate never reaches `optimizer.lr`, but is {self.warmup_epochs:g}; lower "
                "it, or raise `epochs`."
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.schedule != "step" and (self.milestones is not None or self.step_factor != 0.1):
            raise ValueError(
                "`milestones` and `step_factor` must be left alone unless `schedule` is step, but "
                f"`schedule` is {self.schedule}; set `schedule=step`, or remove them."
            )
        if self.final_factor and self.schedule not in ("cosine", "exponential", "cyclic"):
            raise ValueError(
                "`final_factor` must be left alone unless `schedule` is cosine, exponential or "
                f"cyclic, but `schedule` is {self.schedule}; set another schedule, or remove it."
            )
        if (self.cycles is None) == (self.schedule == "cyclic"):
            raise ValueError(
                "`cycles` must be a number for `schedule=cyclic` and null for other schedules, but "
                f"is {'null' if self.cycles is None else self.cycles} for {self.schedule}."
            )
        if self.schedule == "exponential" and self.final_factor == 0:
            raise ValueError("`final_factor` must be above 0 for `schedule=exponential`, but is 0.")
        if list(self.milestones or ()) != sorted(self.milestones or ()):
            raise ValueError(f"`milestones` must be in ascending order, but are {self.milestones}.")

    @classmethod
    def of(cls, keys: Mapping[str, Any], **own: Any) -> "TrainingOptions":
        """Return the options in ``keys``, which may have other keys; ``own`` replaces values."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{**{key: value for key, value in keys.items() if key in known}, **own})

    def check_samples(self, samples: int) -> None:
        """Refuse a batch, or a warm-up of a training in steps, that does not fit the samples.

        Raises:
            ValueError: if the batch or the warm-up does not fit.
        """
        if samples and self.batch_size > MOST_PASSES_PER_BATCH * samples:
            raise ValueError(
                f"`batch_size` must be at most {MOST_PASSES_PER_BATCH} times the training images "
                f"({samples}), but is {self.batch_size}; lower it."
            )
        if self.steps is not None and self.warmup_epochs * samples > self.steps * self.batch_size:
            epochs = self.steps * self.batch_size / samples
            raise ValueError(
                f"`warmup_epochs` must be at most the {epochs:g} epochs that `steps` "
                f"({self.steps}) make, but is {self.warmup_epochs:g}; lower it, or raise `steps`."
            )

    def length(self, stream: SampleOrder) -> int:
        """Return the number of optimizer steps of a training on a stream."""
        if self.steps is not None:
            return self.steps
        return math.ceil(self.epochs * stream.steps_per_epoch)

    def factor(self, step: int, steps: int, stream: SampleOrder) -> float:
        """Return the factor of the learning rates in a step.

        Args:
            step: step, counted from 0.
            steps: length of the training.
            stream: order of the samples, which defines where epochs begin.
        """
        rate = functools.partial(
            optim.learning_rate,
            schedule=self.schedule,
            step_factor=self.step_factor,
            final=self.final_factor,
            cycles=self.cycles or 1,
        )
        if self.schedule_per == "step":
            warmup = round(self.warmup_epochs * stream.steps_per_epoch)
            # Multiply first, so that a whole number of steps is exact.
            borders = self.milestones and [
                epoch * stream.usable / stream.batch_size for epoch in self.milestones
            ]
            return rate(step, steps=steps, warmup_steps=warmup, milestones=borders)
        epochs = steps / stream.steps_per_epoch
        if self.steps is None:
            epochs = min(epochs, self.epochs)  # the last step may reach into another epoch
        return rate(
            stream.epoch(step),
            steps=epochs,
            warmup_steps=self.warmup_epochs,
            milestones=self.milestones,
        )
