"""The context of a run's work: folders, device, settings, logging and progress."""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from ssl_transfer.system import distributed
from ssl_transfer.system.files import Unreadable, read_json, replace_atomically, write_json

Item = TypeVar("Item")

log = logging.getLogger(__name__)

_RUN, _INPUTS, _SECONDS, _ATTEMPTS = "run_id", "inputs", "duration_s", "attempts"
"""Keys of ``progress.json`` in addition to those of ``once``."""

SHOWN = {
    "loss": "loss",
    "lr": "lr",
    "knn_top1": "knn",
    "probe_top1": "probe",
    "images_per_s": "img/s",
    "gpu_memory_gib": "GiB",
    "rankme": "rankme",
    "batch_spread": "spread",
    "batch_correlation": "corr",
    "momentum": "momentum",
}
"""Logged values that a progress bar shows, in this order, with their labels."""


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclasses.dataclass
class Context:
    """The surroundings of one run's work.

    Args:
        folder: the run's own folder; everything in it survives an interruption.
        features: folder of the feature store, shared between runs.
        device: where tensors live.
        seed: of the evaluation (or of pre-training).
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast), or ``fp64``.
        workers: DataLoader processes; never changes a result.
        batch_size_eval: images per forward pass where nothing is trained.
        checkpoint_every_steps: optimizer steps between checkpoints (``None``: by time only).
        checkpoint_every_minutes: minutes between checkpoints.
        accumulate: micro-batches per optimizer step.
        max_steps: stop every training after so many steps (``debug=true``).
        progress_bar: whether to draw one.
        compile: whether learners are compiled.
        channels_last: whether trainings lay out images and filters with channels last (``auto``:
            see ``training.memory_layout``).
        monitor: what to monitor during pre-training (keys of ``Monitoring``; ``None``: nothing).
        run_id: owner of checkpoints and progress; those of another run are ignored.
        inputs: identifies the data and the weights that the run starts from (``None``: unknown);
            checkpoints that belong to other inputs are ignored.
        doubt: whether to verify the contents of stored features although their stamps are
            unchanged.
        required: what the evaluations that the run requires have left, by role (values:
            ``protocols.required.Evaluated``).
        began: start of the work of this process, by ``time.monotonic``.
        attempts: number of processes, one after another, that have worked on the run.
    """

    folder: Path
    features: Path
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    precision: str = "fp32"
    workers: int = 0
    batch_size_eval: int = 256
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float = 5.0
    accumulate: int = 1
    max_steps: int | None = None
    progress_bar: bool = True
    monitor: dict[str, Any] | None = None
    compile: bool = False
    channels_last: bool | Literal["auto"] = False
    run_id: str = ""
    inputs: str | None = None
    doubt: bool = False
    required: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    logger: Any = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    began: float = dataclasses.field(default_factory=lambda: time.monotonic())
    attempts: int = 1
    _seconds_before: float = 0.0
    _bar: "tqdm[Any] | None" = None
    _shown: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Restore the resumptions and the time that earlier attempts of the run stored."""
        self.facts.setdefault("features", [])
        progress = self._progress()
        if resumed := progress.get("resumed_at"):
            self.note(resumed_at=resumed)
        self.attempts = progress.get(_ATTEMPTS, 0) + 1
        self._seconds_before = progress.get(_SECONDS, 0.0)

    def note(self, **facts: Any) -> None:
        """Add facts to the run's record."""
        self.facts.update(facts)

    def note_features(self, use: Mapping[str, Any]) -> None:
        """Add to the record that the run uses stored features, and what they cost.

        Args:
            use: see ``features.store.Use``; several uses of an array become one.
        """
        uses: dict[str, dict[str, Any]] = {one["key"]: one for one in self.facts["features"]}
        if (before := uses.get(use["key"])) is not None:
            spent = round(before["spent"] + use["spent"], 3)
            use = {**use, "spent": spent, "reused": use["reused"] and before["reused"]}
        uses[use["key"]] = dict(use)
        self.note(features=list(uses.values()))

    def note_resumption(self, training: str, step: int) -> None:
        """Add a resumption to the record; the list survives further interruptions."""
        self.note(resumed_at=[*self.facts.get("resumed_at", []), [training, step]])
        self._keep_progress(resumed_at=self.facts["resumed_at"])

    def seconds(self) -> float:
        """Return the time of the run's work over all attempts.

        A process that was killed adds the time until it last stored something.
        """
        return self._seconds_before + time.monotonic() - self.began

    def keep_time(self) -> None:
        """Store the time of the run's work, so that it survives an interruption."""
        self._keep_progress()

    @contextlib.contextmanager
    def timed(self, began: float) -> Iterator[None]:
        """Count the time since ``began`` (``time.monotonic``); an error or a signal stores it."""
        self.began = began
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # the error itself is reported
                self.keep_time()
            raise

    def progress(self, iterable: Iterable[Item], *, total: int, label: str) -> Iterator[Item]:
        """Iterate with a progress bar that shows the remaining time (on the first process)."""
        hidden = not (self.progress_bar and distributed.is_main())
        # `delay`: short loops show no bar.
        bar = tqdm(
            iterable,
            total=total,
            desc=label,
            disable=hidden,
            leave=False,
            delay=2.0,
            # A log file gets one line per minute, a terminal a moving bar.
            mininterval=0.5 if sys.stderr.isatty() else 60.0,
        )
        outer, self._bar, self._shown = self._bar, bar, {}
        try:
            yield from bar
        finally:
            self._bar = outer

    def log(self, **values: Any) -> None:
        """Append a line to ``metrics.jsonl`` and show some values beside the bar."""
        if self._bar is not None:
            self._shown |= {key: _short(values[key]) for key in SHOWN if key in values}
            shown = {name: self._shown[key] for key, name in SHOWN.items() if key in self._shown}
            self._bar.set_postfix(shown, refresh=False)
        if self.logger is not None and distributed.is_main():
            self.logger.log(values)

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``, or what it returned before the run was interrupted.

        The value must be plain JSON. All processes get the first one's value.
        """
        done = distributed.broadcast_object(self._progress())
        if key not in done:
            done[key] = distributed.broadcast_object(compute())
            self._keep_progress(**{key: done[key]})
        return done[key]

    def _progress(self) -> dict[str, Any]:
        """Return the stored results of ``once``, resumptions and time; {} if there are none."""
        path = self.folder / "progress.json"
        try:
            progress = read_json(path, sealed=True)
            if progress is not None and progress.pop(_RUN, self.run_id) != self.run_id:
                raise Unreadable(f"`{path}` belongs to another run")
            if progress is not None and progress.pop(_INPUTS, self.inputs) != self.inputs:
                raise Unreadable(f"`{path}` belongs to data or weights that changed since")
        except Unreadable as error:
            log.warning("%s; its contents are computed again.", error)
            return {}
        return progress or {}

    def _keep_progress(self, **values: Any) -> None:
        if distributed.is_main():
            own = {_RUN: self.run_id, _INPUTS: self.inputs}
            time_spent = {_SECONDS: round(self.seconds(), 3), _ATTEMPTS: self.attempts}
            progress = {**own, **self._progress(), **time_spent, **values}
            write_json(self.folder / "progress.json", progress)

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Save named arrays, compressed, in ``<name>.npz`` beside the record."""
        write: Callable[..., None] = np.savez_compressed  # numpy's stubs refuse named arrays
        if distributed.is_main():
            replace_atomically(self.folder / f"{name}.npz", lambda file: write(file, **arrays))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and inputs; autocast lowers the precision where that is safe."""
        return torch.float64 if self.precision == "fp64" else torch.float32
