"""The one training loop: pre-training, linear probe, BN-tuning and fine-tuning go through ``fit``.

They differ in what is trainable, which layers are in train mode, and the loss; all of that is the
learner's. The loop knows steps, processes, precision, checkpoints and stopping.
"""

import contextlib
import dataclasses
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_transfer import randomness
from ssl_transfer.context import Context
from ssl_transfer.datasets.loading import Items, TrainingData, load
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.system import distributed, signals
from ssl_transfer.training import checkpoint, optim
from ssl_transfer.training.batch_rules import share_problem
from ssl_transfer.training.batch_statistics import check_groups, convert
from ssl_transfer.training.options import Recipe, Stream

log = logging.getLogger(__name__)

Parts = dict[str, Tensor]

log = logging.getLogger(__name__)


LONG_TRAINING_SECONDS = 60.0
"""Time since the last checkpoint above which the end of a training is saved like its middle."""


HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLoss(ValueError):
    """The loss became infinite or not a number."""


class Learner(nn.Module):
    """What ``fit`` trains: ``forward`` returns the loss and named parts of it."""

    separable: bool = True
    """Whether the loss is a mean over samples, so that gradient accumulation is exact."""

    minimum_batch: int = 1

    maximum_batch: int | None = None
    """What a queue has room for in one step (``None``: any batch)."""

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


@runtime_checkable
class Observer(Protocol):
    """Looks on while ``fit`` trains, and changes nothing; what it keeps is saved with the rest."""

    def after_step(self, step: int, progress: float, batch: Batch) -> None:
        """Look at this process's share of the ``step``-th batch, counted from 1."""
        ...

    def after_epoch(self, step: int, passes: float, *, last: bool) -> None:
        """Look after the learner's own ``after_epoch``; the train mode stays on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        ...


@randomness.preserved()
def fit(
    learner: Learner,
    data: TrainingData,
    recipe: Recipe,
    context: Context,
    *,
    name: str,
    groups: Sequence[Mapping[str, Any]] | None = None,
    observer: Observer | None = None,
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
        observer: is told of every step and epoch.

    Raises:
        ValueError: if the batch does not fit the data, the learner or the processes.
        NonFiniteLoss: with step and value.
        Interrupted: after a checkpoint, if SIGTERM or SIGUSR2 asked for it.
        KeyboardInterrupt: likewise after Ctrl-C.
    """
    check(learner, len(data), recipe, context.accumulate)
    if recipe.batch_size > len(data) and distributed.is_main():
        log.warning(
            "`%s`: a batch of %d is larger than the %d training images, so that each step shows "
            "every image %.3g times", name, recipe.batch_size, len(data),
            recipe.batch_size / len(data),
        )  # fmt: skip
    # 1. Everything that changes: learner, optimizer, step (see checkpoint.py).
    stream = Stream(len(data), recipe.batch_size, recipe.drop_last, context.seed)
    steps = recipe.length(stream)
    if context.max_steps is not None:
        steps = min(steps, context.max_steps)
    if _has_batch_statistics(learner):
        convert(learner, recipe.bn_groups, micro_batches=context.accumulate)
    optimizer = optim.build(recipe.optimizer, groups or learner.parameter_groups())
    # Without fp16 it does nothing.
    scaler = torch.amp.GradScaler(context.device.type, enabled=context.precision == "fp16")
    state = Changing(learner, optimizer, scaler, observer)
    header = checkpoint.Header(context.run_id, name, steps, context.inputs)
    start = state.restore(context, header)
    if context.channels_last:
        learner.to(memory_format=torch.channels_last)
    model = _parallel(learner, context)
    batches = load(data, _share(stream, range(start, steps)), context)
    watch = Watch(state, context, header, stream.batch_size)

    # 2. The loop.
    learner.train()
    with signals.deferred() as stop:
        bar = context.progress(batches, total=steps - start, label=name)
        for step, batch in zip(range(start, steps), bar, strict=True):
            optim.scale_learning_rate(optimizer, recipe.factor(step, steps, stream))
            seed = randomness.derive(context.seed, name, step, distributed.rank())
            randomness.seed_torch(seed, context.device)
            parts = watch.check(step, _backward(model, batch, context, scaler), stop)
            scaler.unscale_(optimizer)
            learner.before_step(step / steps)
            if recipe.clip_grad_norm is not None:
                for parameters in learner.clip_groups():
                    nn.utils.clip_grad_norm_(parameters, recipe.clip_grad_norm)
            scaler.step(optimizer)  # not at all where a gradient overflowed
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            learner.after_step((step + 1) / steps)
            if observer is not None:
                observer.after_step(step + 1, (step + 1) / steps, batch)
            if stream.epoch(step + 1) > stream.epoch(step) or step + 1 == steps:
                passes = (step + 1) / stream.steps_per_epoch
                learner.after_epoch(passes)
                if observer is not None:
                    observer.after_epoch(step + 1, passes, last=step + 1 == steps)
            watch.after(step, steps, parts)
        if distributed.any_true(stop()):  # too late for the last step to know
            watch.stop_after(steps)
    if context.channels_last:
        learner.to(memory_format=torch.contiguous_format)


def check(learner: Learner, samples: int, recipe: Recipe, accumulate: int) -> None:
    """Refuse a training that cannot be carried out.

    Args:
        learner: what would be trained.
        samples: number of training samples.
        recipe: budget and optimisation.
        accumulate: micro-batches per step.

    Raises:
        ValueError: in one sentence, if the batch does not fit the data, the learner or the
            processes.
    """
    processes = distributed.world_size()
    if problem := share_problem(recipe.batch_size, processes, accumulate):
        raise ValueError(problem)
    if recipe.batch_size < learner.minimum_batch:
        raise ValueError(
            f"`batch_size` must be at least {learner.minimum_batch} for "
            f"{type(learner).__name__}, but is {recipe.batch_size}."
        )
    if learner.maximum_batch is not None and recipe.batch_size > learner.maximum_batch:
        raise ValueError(
            f"`batch_size` must be at most {learner.maximum_batch} for {type(learner).__name__}, "
            f"whose `queue_size` has no room for more in one step, but is {recipe.batch_size}; "
            "change either."
        )
    vectors = any(isinstance(layer, nn.BatchNorm1d) for layer in learner.modules())
    if vectors and recipe.batch_size < 2 * recipe.bn_groups:
        raise ValueError(
            "`batch_size` must be at least 2 per group of `bn_groups`, since one image has no "
            f"deviation to standardise its features by, but is {recipe.batch_size} for "
            f"{recipe.bn_groups} group(s); change either."
        )
    recipe.check_samples(samples)
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
    if _has_batch_statistics(learner):
        check_groups(recipe.bn_groups, accumulate)


def _has_batch_statistics(learner: nn.Module) -> bool:
    """Return whether any BatchNorm layer uses the batch's statistics while training."""
    learner.train()
    layers = (m for m in learner.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(layer.training for layer in layers)


@dataclasses.dataclass(frozen=True)
class Changing:
    """Everything that changes in a training but the step (see checkpoint.py)."""

    learner: Learner
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    observer: Observer | None

    def restore(self, context: Context, header: checkpoint.Header) -> int:
        """Bring all of it to the saved state, if there is one; return the step to go on with."""
        saved = checkpoint.load(context.folder / "checkpoint.pt", header)
        if saved is None:
            return 0
        if (misfit := self._misfit(saved["learner"])) is not None:
            log.warning("the checkpoint does not fit (%s); `%s` starts anew.", misfit,
                        header.training)  # fmt: skip
            return 0
        self.learner.load_state_dict({**self.learner.state_dict(), **saved["learner"]})
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved.get("scaler", {}))
        if self.observer is not None and saved.get("observer") is not None:
            self.observer.load_state_dict(saved["observer"])
        context.note_resumption(header.training, saved["step"])
        return int(saved["step"])

    def _misfit(self, saved: Mapping[str, Any]) -> str | None:
        """Return what of a saved learner this one has no place for, as after a change of code."""
        mine = self.learner.state_dict()
        wanted = mine.keys() - self.learner.constant()
        if saved.keys() != wanted:
            return f"it has {min(saved.keys() ^ wanted)} or lacks it"
        for key, value in saved.items():
            if isinstance(value, Tensor) and value.shape != mine[key].shape:
                return f"{key} has the shape {tuple(value.shape)}, not {tuple(mine[key].shape)}"
        return None

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs."""
        constant = self.learner.constant()
        return {
            "learner": {k: v for k, v in self.learner.state_dict().items() if k not in constant},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "observer": None if self.observer is None else self.observer.state_dict(),
        }


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


def _backward(
    model: nn.Module, batch: Batch, context: Context, scaler: torch.amp.GradScaler
) -> Parts:
    """Accumulate the gradient of one global batch and return its detached parts."""
    totals: Parts = {}
    count = context.accumulate
    for micro in range(count):
        views = tuple(view.chunk(count)[micro] for view in batch.views)
        views = tuple(view.to(context.device, context.dtype, non_blocking=True) for view in views)
        if context.channels_last and views[0].ndim == 4:  # not where views are features
            views = tuple(view.contiguous(memory_format=torch.channels_last) for view in views)
        targets = batch.targets.chunk(count)[micro].to(context.device, non_blocking=True)
        with _reducing(model, last=micro == count - 1):
            with autocast(context):
                parts = model(views, targets)
            scaler.scale(parts["loss"] / count).backward()
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
    if context.precision not in HALF:
        return contextlib.nullcontext()
    return torch.autocast(context.device.type, dtype=HALF[context.precision])


class Watch:
    """What happens around a step: agreement on stopping, logging, checkpoints."""

    def __init__(
        self, changing: Changing, context: Context, header: checkpoint.Header, batch_size: int
    ) -> None:
        self.changing, self.context = changing, context
        self.header, self.name, self.batch_size = header, header.training, batch_size
        self.saved_at = self.logged_at = time.monotonic()
        self.steps_since = 0  # the last line of the log
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
            remedy = "lower the learning rate, or set `clip_grad_norm`"
            if step == 0:  # nothing has been learnt yet
                remedy = "its cause are the initial weights, the images or `precision`"
            raise NonFiniteLoss(
                f"the loss must stay finite, but is {float(means['loss'])} at step {step} of "
                f"`{self.name}`; {remedy}."
            )
        return means

    def after(self, step: int, steps: int, parts: Parts) -> None:
        """Log and save when it is time; stop after saving if a signal asked for it."""
        now, last = time.monotonic(), step + 1 == steps
        self.steps_since += 1
        if last or now - self.logged_at > 1.0:
            values = {key: float(value) for key, value in parts.items()}
            values |= self._load(now - self.logged_at)
            self.logged_at, self.steps_since = now, 0
            lr = max(group["lr"] for group in self.changing.optimizer.param_groups)
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

    def _load(self, seconds: float) -> dict[str, float]:
        """Return what the training makes of its computer since the last line of the log."""
        values = {"images_per_s": round(self.steps_since * self.batch_size / seconds, 1)}
        if self.context.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.context.device)
            values["gpu_memory_gib"] = round(peak / 2**30, 3)
        return values

    def stop_after(self, step: int) -> NoReturn:
        """Save, and end the run where ``step`` would begin.

        Raises:
            Interrupted: or KeyboardInterrupt, always.
        """
        self.save(step)
        signals.end()

    def save(self, step: int) -> None:
        """Write the checkpoint with which ``step`` would begin."""
        checkpoint.save(
            self.context.folder / "checkpoint.pt",
            {"step": step, **self.changing.state()},
            self.header,
        )
        self.saved_at = time.monotonic()
