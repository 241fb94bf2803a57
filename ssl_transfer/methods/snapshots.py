"""Snapshots: the encoder after chosen epochs of a pre-training, kept beside the final encoder."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from ssl_transfer.config.ranges import Count, Epochs, Range, checked
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.system import distributed
from ssl_transfer.training.learner import Observer

Epoch = Annotated[int, Range(1, cap=10**6)]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class SnapshotKeys:
    """The keys of a method's node that say which snapshots are kept and used.

    Args:
        epochs: see ``TrainingKeys``.
        steps: likewise.
        snapshots: epochs after which the pre-training leaves its encoder, too.
        snapshot: epoch whose encoder a run uses (``None``: the final encoder).

    Raises:
        ValueError: if an epoch lies behind the end of the training.
    """

    epochs: Epochs
    steps: Count | None = None
    snapshots: Sequence[Epoch] | None = None
    snapshot: Epoch | None = None

    @classmethod
    def of(cls, method: Mapping[str, Any]) -> "SnapshotKeys":
        """Return the keys in a method's node."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: method[name] for name in names if name in method})

    def __post_init__(self) -> None:
        if self.steps is None:
            self.check(self.epochs)

    def check(self, epochs: float) -> None:
        """Refuse a snapshot after the end of a training of so many epochs."""
        kept = {"snapshots": self.snapshots or (), "snapshot": [self.snapshot or 0]}
        for key, numbers in kept.items():
            if late := [number for number in numbers if number > epochs]:
                raise ValueError(
                    f"`{key}` must lie in the {round(epochs, 2):g} epochs of the pre-training, "
                    f"which keeps no later encoder, but names {late[0]}; lower it, or raise "
                    "`epochs`."
                )


@dataclasses.dataclass(frozen=True)
class SnapshotStore:
    """The place of a pre-training's snapshots.

    Args:
        epochs: epochs after which the encoder is kept, each at least 1.
        save: saves the encoder as that of an epoch; all processes call it.
        has: whether the encoder of an epoch is saved.
    """

    epochs: Sequence[int]
    save: Callable[[int], None]
    has: Callable[[int], bool]


class Snapshots:
    """An observer of a training that saves snapshots and passes everything on to another observer.

    A snapshot is saved before any checkpoint of a later step. A training that continues from a
    checkpoint therefore has the snapshots of all earlier epochs, unless they were not wanted then.

    Args:
        store: see ``SnapshotStore``.
        observer: the other observer (``None``: no other).
        shortened: whether the training ends before its last epoch (``debug=true``); the snapshots
            of epochs that it does not reach are those of its end.
    """

    def __init__(
        self, store: SnapshotStore, observer: Observer | None, *, shortened: bool = False
    ) -> None:
        self.store, self.observer, self.shortened = store, observer, shortened

    def after_step(self, step: int, progress: float, batch: Batch) -> None:
        """Pass the call on."""
        if self.observer is not None:
            self.observer.after_step(step, progress, batch)

    def after_epoch(self, step: int, passes: float, *, last: bool) -> None:
        """Save the encoder if it is wanted after this epoch, and pass the call on."""
        for epoch in self.store.epochs:
            if passes == epoch or (last and self.shortened and epoch > passes):
                self.store.save(epoch)
        if self.observer is not None:
            self.observer.after_epoch(step, passes, last=last)

    def misfit(self, passes: float) -> str | None:
        """Return which snapshot a training that continues after so many passes would lack."""
        lacking = [e for e in self.store.epochs if e <= passes and not self.store.has(e)]
        # One process looks, so that all continue or start anew.
        if lacking := distributed.broadcast_object(lacking):
            return f"the encoder after epoch {lacking[0]} is wanted and was not kept"
        return None if self.observer is None else self.observer.misfit(passes)

    def state_dict(self) -> dict[str, Any]:
        """Return the other observer's state; snapshots are files."""
        return {} if self.observer is None else self.observer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the other observer's state."""
        if self.observer is not None:
            self.observer.load_state_dict(state)
