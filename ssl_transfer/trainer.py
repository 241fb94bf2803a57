"""The one training loop: pre-training, linear probe, BN-tuning and fine-tuning go through ``fit``.

They differ in what is trainable, which layers are in train mode, and the loss; all of that is the
learner's. The loop knows steps, processes, precision, checkpoints and stopping.
"""

import contextlib
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_transfer import checkpoint, distributed, optim, randomness, stopping
from ssl_transfer.batch_statistics import convert
from ssl_transfer.context import Context
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.loading import Items, TrainingData, load

Parts = dict[str, Tensor]


LONG_TRAINING_SECONDS = 60.0
"""Time since the last checkpoint above which the end of a training is saved like its middle."""


class NonFiniteLoss(ValueError):
    """The loss became infinite or not a number."""


class Learner(nn.Module):
    """What ``fit`` trains: ``forward`` returns the loss and named parts of it."""

    separable: bool = True
    """Whether the loss is a mean over samples, so that gradient accumulation is exact."""

    minimum_batch: int = 1

    def forward(self, views: tuple[Tensor, ...], targets: Tensor) -> Parts:
        """Return ``{"loss": …}`` and other scalars worth logging."""
        raise TypeError(f"{type(self).__name__} must define `forward`.")

    def before_step(self, progress: float) -> None:
        """Change or drop gradients that the optimizer is about to use; ``progress`` in [0, 1)."""

    def after_step(self, progress: float) -> None:
        """Update what gradients do not: momentum encoders, queues. ``progress`` is in (0, 1]."""

    def after_epoch(self, passes: float) -> None:
        """Do what is due after the step that completes an epoch, and after the last step.

        What it keeps for later belongs in ``state_dict``; it must leave the train mode on.

        Args:
            passes: how often the samples were seen by then.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: ``params``, and what each sets differently."""
        return [{"params": list(self.parameters())}]

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Return the sets of parameters whose gradient norms are clipped separately."""
        return [[parameter for parameter in self.parameters() if parameter.requires_grad]]

    def constant(self) -> frozenset[str]:
        """Return the names in ``state_dict`` that training never changes."""
        return frozenset()


@dataclasses.dataclass(frozen=True)
class Stream:
    """The endless order of samples: one shuffled epoch after another, cut into global batches.

    Position p of the stream is a pure function of (seed, p), so a training resumes in mid-epoch
    by asking for a later step, and every process takes its own slice of each batch.
    """

    samples: int
    batch_size: int
    drop_last: bool
    seed: int

    @property
    def usable(self) -> int:
        """Samples of an epoch that take part."""
        return self.samples - self.samples % self.batch_size if self.drop_last else self.samples

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps that an epoch takes."""
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


@functools.lru_cache(maxsize=2)  # a batch touches two epochs at most
def _order(seed: int, epoch: int, samples: int) -> Int64[np.ndarray, " samples"]:
    return randomness.permutation(seed, "order", epoch, samples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The budget and the optimisation of one training.

    Args:
        epochs: passes over the training samples; a fraction is allowed.
        batch_size: images per step over all processes.
        optimizer: keys of an option of ``conf/optimizer``.
        steps: optimizer steps instead of ``epochs``.
        schedule: of the learning rate.
        schedule_per: whether the learning rate changes with every step, or is for all steps that
            begin in an epoch what the schedule gives for the epoch's number.
        milestones: epochs at which the schedule ``step`` multiplies by ``step_factor``
            (``None``: after 60 % and 80 % of the training).
        step_factor: of the schedule ``step``.
        warmup_epochs: linear warm-up.
        clip_grad_norm: largest gradient norm (``None``: no clipping).
        bn_groups: groups of the global batch that share batch statistics (1: all of it).
        drop_last: whether an epoch's last samples that fill no batch are left out. Otherwise
            the next epoch follows in the same batch, so that every batch is full.

    Raises:
        ValueError: if a value is out of its range, or belongs to another schedule.
    """

    epochs: float
    batch_size: int
    optimizer: Mapping[str, Any]
    steps: int | None = None
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    schedule_per: Literal["step", "epoch"] = "step"
    milestones: Sequence[float] | None = None
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    clip_grad_norm: float | None = None
    bn_groups: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, or null, but is {self.steps}.")
        if self.schedule != "step" and (self.milestones is not None or self.step_factor != 0.1):
            raise ValueError(
                "`milestones` and `step_factor` must be left alone unless `schedule` is step, but "
                f"`schedule` is {self.schedule}; set `schedule=step`, or remove them."
            )
        if list(self.milestones or ()) != sorted(m for m in self.milestones or () if m > 0):
            raise ValueError(
                f"`milestones` must be positive and in ascending order, but are {self.milestones}."
            )
        if not 0 < self.step_factor <= 1:
            raise ValueError(f"`step_factor` must lie in (0, 1], but is {self.step_factor}.")

    @classmethod
    def of(cls, keys: Mapping[str, Any], **own: Any) -> "Recipe":
        """Return the recipe that stands in ``keys``, among others; ``own`` replaces its values."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{**{key: value for key, value in keys.items() if key in known}, **own})

    def length(self, stream: Stream) -> int:
        """Return the number of optimizer steps of a training on a stream."""
        if self.steps is not None:
            return self.steps
        return math.ceil(self.epochs * stream.steps_per_epoch)

    def factor(self, step: int, steps: int, stream: Stream) -> float:
        """Return what the learning rates are multiplied by in a step.

        Args:
            step: from 0.
            steps: length of the training.
            stream: says where epochs begin.
        """
        rate = functools.partial(
            optim.learning_rate, schedule=self.schedule, step_factor=self.step_factor
        )
        if self.schedule_per == "step":
            warmup = round(self.warmup_epochs * stream.steps_per_epoch)
            # Multiplied first, so that a whole number of steps is one exactly.
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


def fit(
    learner: Learner,
    data: TrainingData,
    recipe: Recipe,
    context: Context,
    *,
    name: str,
    groups: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Train ``learner`` in place, from where the run was interrupted if it was.

    Args:
        learner: on the context's device and of its type; its BatchNorm layers are converted.
        data: the training samples and their views.
        recipe: budget and optimisation.
        context: the run's surroundings.
        name: of this training within the run; its checkpoint is found by it.
        groups: parameter groups with their own ``lr`` or ``weight_decay``
            (``None``: the learner's).

    Raises:
        ValueError: if the batch does not fit the data, the learner or the processes.
        NonFiniteLoss: with step and value.
        Interrupted: after a checkpoint, if SIGTERM or SIGUSR2 asked for it.
    """
    _check(learner, len(data), recipe, context)
    # 1. Everything that changes: learner, optimizer, step (see checkpoint.py).
    stream = Stream(len(data), recipe.batch_size, recipe.drop_last, context.seed)
    steps = recipe.length(stream)
    if context.max_steps is not None:
        steps = min(steps, context.max_steps)
    if _has_batch_statistics(learner):
        convert(learner, recipe.bn_groups, micro_batches=context.accumulate)
    optimizer = optim.build(recipe.optimizer, groups or learner.parameter_groups())
    start = _restore(learner, optimizer, context, name)
    model = _parallel(learner, context)
    batches = load(data, _share(stream, range(start, steps)), context)
    watch = Watch(learner, optimizer, context, name)

    # 2. The loop.
    learner.train()
    with stopping.deferred() as stop:
        bar = context.progress(batches, total=steps - start, label=name)
        for step, batch in zip(range(start, steps), bar, strict=True):
            optim.scale_learning_rate(optimizer, recipe.factor(step, steps, stream))
            torch.manual_seed(randomness.derive(context.seed, name, step, distributed.rank()))
            parts = watch.check(step, _backward(model, batch, context), stop)
            learner.before_step(step / steps)
            if recipe.clip_grad_norm is not None:
                for parameters in learner.clip_groups():
                    nn.utils.clip_grad_norm_(parameters, recipe.clip_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            learner.after_step((step + 1) / steps)
            if stream.epoch(step + 1) > stream.epoch(step) or step + 1 == steps:
                learner.after_epoch((step + 1) / stream.steps_per_epoch)
            watch.after(step, steps, parts)
        if distributed.any_true(stop()):  # too late for the last step to know
            watch.stop_after(steps)


def _check(learner: Learner, samples: int, recipe: Recipe, context: Context) -> None:
    processes, accumulate = distributed.world_size(), context.accumulate
    if recipe.batch_size % (processes * accumulate):
        raise ValueError(
            f"`batch_size` must be a multiple of processes × trainer.accumulate ({processes} × "
            f"{accumulate}), but is {recipe.batch_size}."
        )
    if recipe.batch_size < learner.minimum_batch:
        raise ValueError(
            f"`batch_size` must be at least {learner.minimum_batch} for "
            f"{type(learner).__name__}, but is {recipe.batch_size}."
        )
    if samples == 0 or (recipe.drop_last and samples < recipe.batch_size):
        raise ValueError(
            f"there must be at least one whole batch of {recipe.batch_size} training images, but "
            f"there are {samples}; lower `batch_size`."
        )
    if accumulate > 1 and not learner.separable:
        raise ValueError(
            f"`trainer.accumulate` must be 1 for {type(learner).__name__}, whose loss compares "
            f"all images of a batch, but is {accumulate}."
        )


def _has_batch_statistics(learner: nn.Module) -> bool:
    """Return whether any BatchNorm layer uses the batch's statistics while training."""
    learner.train()
    layers = (m for m in learner.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(layer.training for layer in layers)


def _restore(
    learner: Learner, optimizer: torch.optim.Optimizer, context: Context, name: str
) -> int:
    """Bring learner and optimizer to the saved state and return the step to go on with."""
    state = checkpoint.load(context.folder / "checkpoint.pt", name)
    if state is None:
        return 0
    learner.load_state_dict({**learner.state_dict(), **state["learner"]})
    optimizer.load_state_dict(state["optimizer"])
    context.note_resumption(name, state["step"])
    return int(state["step"])


def _parallel(learner: Learner, context: Context) -> nn.Module:
    model: nn.Module = learner
    if context.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    if distributed.world_size() == 1:
        return model
    with warnings.catch_warnings():
        # The name that the newest torch would like is unknown to older ones.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        # Buffers need no broadcast: batch statistics are reduced over all processes already.
        return DistributedDataParallel(model, broadcast_buffers=False)


def _share(stream: Stream, steps: range) -> Iterator[Items]:
    """Yield this process's share of the batches of some steps."""
    share = stream.batch_size // distributed.world_size()
    first = distributed.rank() * share
    return (stream.batch(step)[first : first + share] for step in steps)


def _backward(model: nn.Module, batch: Batch, context: Context) -> Parts:
    """Accumulate the gradient of one global batch and return its detached parts."""
    totals: Parts = {}
    count = context.accumulate
    for micro in range(count):
        views = tuple(view.chunk(count)[micro] for view in batch.views)
        views = tuple(view.to(context.device, context.dtype, non_blocking=True) for view in views)
        targets = batch.targets.chunk(count)[micro].to(context.device, non_blocking=True)
        with _reducing(model, last=micro == count - 1):
            with autocast(context):
                parts = model(views, targets)
            (parts["loss"] / count).backward()
        for key, value in parts.items():
            totals[key] = totals.get(key, 0.0) + value.detach() / count
    return totals


def _reducing(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a backward pass; processes exchange gradients in the last only."""
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def autocast(context: Context) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the forward pass runs."""
    if context.precision != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(context.device.type, dtype=torch.bfloat16)


class Watch:
    """What happens around a step: agreement on stopping, logging, checkpoints."""

    def __init__(
        self, learner: Learner, optimizer: torch.optim.Optimizer, context: Context, name: str
    ) -> None:
        self.learner, self.optimizer = learner, optimizer
        self.context, self.name = context, name
        self.saved_at = self.logged_at = time.monotonic()
        self.stopping = False

    def check(self, step: int, parts: Parts, stop: Callable[[], bool]) -> Parts:
        """Return the mean over processes of the parts, having agreed on whether to go on.

        One small reduction per step tells all processes the global loss and whether any of them
        got a signal, so that they stop at the same step.
        """
        mine = torch.stack(
            [
                *(part.double() for part in parts.values()),
                parts["loss"].new_tensor(float(stop()), dtype=torch.float64),
            ]
        )
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(mine)
            mine /= distributed.world_size()
        *values, stops = mine.unbind()
        means = dict(zip(parts, values, strict=True))
        self.stopping = bool(stops > 0)
        if not torch.isfinite(means["loss"]):
            raise NonFiniteLoss(
                f"the loss must stay finite, but is {float(means['loss'])} at step {step} of "
                f"`{self.name}`; lower the learning rate, or set `clip_grad_norm`."
            )
        return means

    def after(self, step: int, steps: int, parts: Parts) -> None:
        """Log and save when it is time; stop after saving if a signal asked for it."""
        now, last = time.monotonic(), step + 1 == steps
        if last or now - self.logged_at > 1.0:
            self.logged_at = now
            values = {key: float(value) for key, value in parts.items()}
            lr = max(group["lr"] for group in self.optimizer.param_groups)
            self.context.log(training=self.name, step=step + 1, steps=steps, lr=lr, **values)
        every = self.context.checkpoint_every_steps
        due = now - self.saved_at > 60 * self.context.checkpoint_every_minutes
        due = due or (every is not None and (step + 1) % every == 0)
        # What follows a long training may be interrupted, too.
        due = due if not last else now - self.saved_at > LONG_TRAINING_SECONDS
        if self.stopping:
            self.stop_after(step + 1)
        if due:
            self.save(step + 1)

    def stop_after(self, step: int) -> None:
        """Save, and end the run where ``step`` would begin.

        Raises:
            Interrupted: always.
        """
        self.save(step)
        raise stopping.Interrupted

    def save(self, step: int) -> None:
        """Write the checkpoint with which ``step`` would begin."""
        constant = self.learner.constant()
        state = {k: v for k, v in self.learner.state_dict().items() if k not in constant}
        checkpoint.save(
            self.context.folder / "checkpoint.pt",
            {
                "name": self.name,
                "step": step,
                "learner": state,
                "optimizer": self.optimizer.state_dict(),
            },
        )
        self.saved_at = time.monotonic()
