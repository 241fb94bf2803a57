"""The state of a training, and the checkpoints that save and restore it."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from ssl_transfer.context import Context
from ssl_transfer.system import signals
from ssl_transfer.training import checkpoint
from ssl_transfer.training.learner import Learner, Observer

log = logging.getLogger(__name__)

LONG_TRAINING_SECONDS = 60.0
"""Time since the last checkpoint after which the end of a training is saved, too."""


@dataclasses.dataclass
class TrainingState:
    """Everything that changes in a training except the step (see ``checkpoint``).

    A training that continues keeps the memory layout in which it began (``channels_last``), so
    that it computes what it would have computed without the interruption.
    """

    learner: Learner
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    observer: Observer | None
    steps_per_epoch: float
    channels_last: bool = False

    def restore(self, context: Context, header: checkpoint.Header) -> int:
        """Restore the saved state, if there is one; return the step to continue with."""
        saved = checkpoint.load(context.folder / "checkpoint.pt", header)
        if saved is None:
            return 0
        misfit = self._misfit(saved["learner"])
        if misfit is None and self.observer is not None:
            misfit = self.observer.misfit(saved["step"] / self.steps_per_epoch)
        if misfit is not None:
            log.warning("the checkpoint does not fit (%s); `%s` starts anew.", misfit,
                        header.training)  # fmt: skip
            return 0
        self.learner.load_state_dict({**self.learner.state_dict(), **saved["learner"]})
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved.get("scaler", {}))
        if self.observer is not None and saved.get("observer"):
            self.observer.load_state_dict(saved["observer"])
        # Checkpoints of older code lack the key; there only `true` selected channels last.
        before = saved.get("channels_last", context.channels_last is True)
        self._keep_layout(before, context, header)
        context.note_resumption(header.training, saved["step"])
        return int(saved["step"])

    def _keep_layout(self, before: bool, context: Context, header: checkpoint.Header) -> None:
        """Adopt the memory layout of the checkpoint; log a warning if another one is configured."""
        if context.channels_last in (True, False) and before != context.channels_last:
            log.warning(
                "`%s` continues with `trainer.channels_last=%s`, as it began; the configured value "
                "%s holds for trainings that start anew.",
                header.training, str(before).lower(), str(context.channels_last).lower(),
            )  # fmt: skip
        self.channels_last = before

    def _misfit(self, saved: Mapping[str, Any]) -> str | None:
        """Return a difference between a saved learner and this one (``None``: no difference).

        The names or shapes of tensors differ if the code has changed.
        """
        state = self.learner.state_dict()
        keys = state.keys() - self.learner.constant()
        if saved.keys() != keys:
            return f"it has {min(saved.keys() ^ keys)} or lacks it"
        for key, value in saved.items():
            if isinstance(value, Tensor) and value.shape != state[key].shape:
                return f"{key} has the shape {tuple(value.shape)}, not {tuple(state[key].shape)}"
        return None

    def state(self) -> dict[str, Any]:
        """Return the state for ``restore``."""
        constant = self.learner.constant()
        return {
            "learner": {k: v for k, v in self.learner.state_dict().items() if k not in constant},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "channels_last": self.channels_last,
            "observer": None if self.observer is None else self.observer.state_dict(),
        }


class Checkpointer:
    """Saves the state of a training at intervals, and before a signal ends it."""

    def __init__(self, state: TrainingState, context: Context, header: checkpoint.Header) -> None:
        self.state, self.context, self.header = state, context, header
        self.saved_at = time.monotonic()

    def after(self, step: int, steps: int, *, stopping: bool) -> None:
        """Save if it is time; save and end the run if a signal was received.

        Raises:
            Interrupted: or KeyboardInterrupt, if ``stopping``.
        """
        now, last = time.monotonic(), step + 1 == steps
        every = self.context.checkpoint_every_steps
        due = now - self.saved_at > 60 * self.context.checkpoint_every_minutes
        due = due or (every is not None and (step + 1) % every == 0)
        # The work after a long training may be interrupted, too.
        due = due if not last else now - self.saved_at > LONG_TRAINING_SECONDS
        if stopping:
            self.stop_after(step + 1)
        if due:
            self.save(step + 1)

    def stop_after(self, step: int) -> NoReturn:
        """Save a checkpoint that continues with ``step``, and end the run.

        Raises:
            Interrupted: or KeyboardInterrupt, always.
        """
        self.save(step)
        signals.end()

    def save(self, step: int) -> None:
        """Write a checkpoint that continues with ``step``."""
        checkpoint.save(
            self.context.folder / "checkpoint.pt",
            {"step": step, **self.state.state()},
            self.header,
        )
        self.context.keep_time()
        self.saved_at = time.monotonic()
