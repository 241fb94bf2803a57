"""The training loop ``fit`` of pre-training, linear probe, BN-tuning and fine-tuning.

These differ in the trainable parameters, the layers in train mode, and the loss, which the learner
defines. The loop handles steps, processes, precision, checkpoints and stopping.
"""

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssl_transfer import randomness
from ssl_transfer.context import Context
from ssl_transfer.datasets.loading import Items, TrainingData, load
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.system import distributed, memory, signals
from ssl_transfer.training import checkpoint, optim
from ssl_transfer.training.batch_rules import share_problem
from ssl_transfer.training.batch_statistics import check_groups, convert
from ssl_transfer.training.learner import Learner, Observer, Parts
from ssl_transfer.training.memory_layout import channels_last, is_faster_last
from ssl_transfer.training.options import SampleOrder, TrainingOptions
from ssl_transfer.training.state import Checkpointer, TrainingState
from ssl_transfer.training.step_outcome import StepOutcome

log = logging.getLogger(__name__)


HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLoss(ValueError):
    """The loss became infinite or not a number."""


@randomness.preserved()
@memory.kept()
def fit(
    learner: Learner,
    data: TrainingData,
    options: TrainingOptions,
    context: Context,
    *,
    name: str,
    groups: Sequence[Mapping[str, Any]] | None = None,
    observer: Observer | None = None,
    order: SampleOrder | None = None,
) -> None:
    """Train ``learner`` in place; an interrupted run continues from its checkpoint.

    Args:
        learner: the learner, on the context's device and of its type; its BatchNorm layers are
            converted.
        data: the training samples and their views.
        options: budget and optimisation.
        context: the run's context.
        name: name of this training within the run, which identifies its checkpoint.
        groups: parameter groups with their own ``lr`` or ``weight_decay``
            (``None``: the learner's).
        observer: called after every step and epoch.
        order: order of the samples (``None``: shuffled epochs).

    Raises:
        ValueError: if the batch does not fit the data, the learner or the processes.
        NonFiniteLoss: if the loss is not finite; the message has step and value.
        Interrupted: after saving a checkpoint on SIGTERM or SIGUSR2.
        KeyboardInterrupt: likewise after Ctrl-C.
    """
    check(learner, len(data), options, context.accumulate)
    if options.batch_size > len(data) and distributed.is_main():
        log.warning(
            "`%s`: a batch of %d is larger than the %d training images, so that each step shows "
            "every image %.3g times", name, options.batch_size, len(data),
            options.batch_size / len(data),
        )  # fmt: skip
    # 1. Everything that changes: learner, optimizer, step (see state.py).
    stream = order or SampleOrder(len(data), options.batch_size, options.drop_last, context.seed)
    steps = options.length(stream)
    if context.max_steps is not None:
        steps = min(steps, context.max_steps)
    if _has_batch_statistics(learner):
        convert(learner, options.bn_groups, micro_batches=context.accumulate)
    optimizer = optim.build(options.optimizer, groups or learner.parameter_groups())
    # The scaler does nothing unless the precision is fp16.
    scaler = torch.amp.GradScaler(context.device.type, enabled=context.precision == "fp16")
    last = context.channels_last
    if last == "auto":
        last = is_faster_last(learner, context.device.type, context.precision)
    state = TrainingState(learner, optimizer, scaler, observer, stream.steps_per_epoch, last)
    header = checkpoint.Header(context.run_id, name, steps, context.inputs)
    start = state.restore(context, header)
    if state.channels_last:
        learner.to(memory_format=torch.channels_last)
        context.note(channels_last=True)
    model = _parallel(learner, context)
    batches = load(data, _share(stream, range(start, steps)), context)
    logger = StepLogger(context, name, stream.batch_size)
    checkpointer = Checkpointer(state, context, header)

    # 2. The loop.
    learner.train()
    with signals.deferred() as stop:
        bar = context.progress(batches, total=steps - start, label=name)
        for step, batch in zip(range(start, steps), bar, strict=True):
            optim.scale_learning_rate(optimizer, options.factor(step, steps, stream))
            if learner.starts_anew(step):
                optimizer.state.clear()
            seed = randomness.derive(context.seed, name, step, distributed.rank())
            randomness.seed_torch(seed, context.device)
            values, stopping = _backward(model, batch, context, state, stop).read()
            _require_finite(values["loss"], step, name)
            learner.after_loss(values)
            scaler.unscale_(optimizer)
            learner.before_step(step / steps)
            if options.clip_grad_norm is not None:
                for parameters in learner.clip_groups():
                    nn.utils.clip_grad_norm_(parameters, options.clip_grad_norm)
            scaler.step(optimizer)  # skips the step if a gradient overflowed
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
            logger.after(step, steps, values, optimizer)
            checkpointer.after(step, steps, stopping=stopping)
        if distributed.any_true(stop()):  # a signal during the last step
            checkpointer.stop_after(steps)
    if state.channels_last:
        learner.to(memory_format=torch.contiguous_format)


def check(learner: Learner, samples: int, options: TrainingOptions, accumulate: int) -> None:
    """Refuse a training that cannot be carried out.

    Args:
        learner: the learner.
        samples: number of training samples.
        options: budget and optimisation.
        accumulate: micro-batches per step.

    Raises:
        ValueError: if the batch does not fit the data, the learner or the
            processes.
    """
    processes = distributed.world_size()
    if problem := share_problem(options.batch_size, processes, accumulate):
        raise ValueError(problem)
    if options.batch_size < learner.minimum_batch:
        raise ValueError(
            f"`batch_size` must be at least {learner.minimum_batch} for "
            f"{type(learner).__name__}, but is {options.batch_size}."
        )
    if learner.maximum_batch is not None and options.batch_size > learner.maximum_batch:
        raise ValueError(
            f"`batch_size` must be at most {learner.maximum_batch} for {type(learner).__name__}, "
            f"whose `queue_size` has no room for more in one step, but is {options.batch_size}; "
            "change either."
        )
    vectors = any(isinstance(layer, nn.BatchNorm1d) for layer in learner.modules())
    if vectors and options.batch_size < 2 * options.bn_groups:
        raise ValueError(
            "`batch_size` must be at least 2 per group of `bn_groups`, since one image is not "
            f"enough to compute a standard deviation, but is {options.batch_size} for "
            f"{options.bn_groups} group(s); change either."
        )
    options.check_samples(samples)
    if samples == 0 or (options.drop_last and samples < options.batch_size):
        raise ValueError(
            f"there must be at least one whole batch of {options.batch_size} training images, but "
            f"there are {samples}; lower `batch_size`."
        )
    if accumulate > 1 and not learner.separable:
        raise ValueError(
            f"`trainer.accumulate` must be 1 for {type(learner).__name__}, whose loss compares "
            f"all images of a batch, but is {accumulate}."
        )
    if _has_batch_statistics(learner):
        check_groups(options.bn_groups, accumulate)


def _has_batch_statistics(learner: nn.Module) -> bool:
    """Return whether any BatchNorm layer uses the batch's statistics while training."""
    learner.train()
    layers = (m for m in learner.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(layer.training for layer in layers)


def _parallel(learner: Learner, context: Context) -> nn.Module:
    model: nn.Module = learner
    if context.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    if distributed.world_size() == 1:
        return model
    with warnings.catch_warnings():
        # Older versions of torch do not have the new name of this option.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        # Buffers need no broadcast: batch statistics are already equal on all processes.
        return DistributedDataParallel(model, broadcast_buffers=False)


def _share(stream: SampleOrder, steps: range) -> Iterator[Items]:
    """Yield this process's share of the batches of some steps."""
    share = stream.batch_size // distributed.world_size()
    first = distributed.rank() * share
    return (stream.batch(step)[first : first + share] for step in steps)


def _backward(
    model: nn.Module,
    batch: Batch,
    context: Context,
    state: TrainingState,
    stop: Callable[[], bool],
) -> StepOutcome:
    """Accumulate the gradient of one global batch, and return its loss and parts."""
    totals: Parts = {}
    count = context.accumulate
    for micro in range(count):
        views = tuple(view.chunk(count)[micro] for view in batch.views)
        views = tuple(view.to(context.device, context.dtype, non_blocking=True) for view in views)
        if state.channels_last:
            views = tuple(channels_last(view) for view in views)
        targets = batch.targets.chunk(count)[micro].to(context.device, non_blocking=True)
        state.learner.before_pass(len(targets))
        with _reducing(model, last=micro == count - 1):
            with autocast(context):
                parts = model(views, targets)
            for key, value in parts.items():
                totals[key] = totals.get(key, 0.0) + value.detach() / count
            if micro == count - 1:
                outcome = StepOutcome(totals, stopping=stop())
            state.scaler.scale(parts["loss"] / count).backward()
    return outcome


def _reducing(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a backward pass; processes exchange gradients only in the last one."""
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def autocast(context: Context) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the forward pass runs."""
    if context.precision not in HALF:
        return contextlib.nullcontext()
    return torch.autocast(context.device.type, dtype=HALF[context.precision])


def _require_finite(loss: float, step: int, name: str) -> None:
    """Raise NonFiniteLoss unless the loss of a step is finite."""
    if math.isfinite(loss):
        return
    remedy = "lower the learning rate, or set `clip_grad_norm`"
    if step == 0:  # nothing has been learnt yet
        remedy = "check the initial weights, the images and `precision`"
    raise NonFiniteLoss(
        f"the loss must stay finite, but is {loss} at step {step} of `{name}`; {remedy}."
    )


class StepLogger:
    """Logs a training about once a second: loss and its parts, learning rate, speed, memory."""

    def __init__(self, context: Context, name: str, batch_size: int) -> None:
        self.context, self.name, self.batch_size = context, name, batch_size
        self.logged_at = time.monotonic()
        self.steps_since = 0  # steps since the last line of the log

    def after(
        self, step: int, steps: int, parts: Mapping[str, float], optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the step if it is time or if it is the last step."""
        now = time.monotonic()
        self.steps_since += 1
        if step + 1 < steps and now - self.logged_at <= 1.0:
            return
        values = {**parts, **self._load(now - self.logged_at)}
        self.logged_at, self.steps_since = now, 0
        lr = max(group["lr"] for group in optimizer.param_groups)
        self.context.log(training=self.name, step=step + 1, steps=steps, lr=lr, **values)

    def _load(self, seconds: float) -> dict[str, float]:
        """Return speed and memory use since the last line of the log."""
        values = {"images_per_s": round(self.steps_since * self.batch_size / seconds, 1)}
        if self.context.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.context.device)
            values["gpu_memory_gib"] = round(peak / 2**30, 3)
        return values
