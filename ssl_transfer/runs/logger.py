"""Logging of a run's numbers to ``metrics.jsonl``, and to wandb if chosen."""

import contextlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ssl_transfer.context import Context
from ssl_transfer.protocols.base import Score
from ssl_transfer.runs.run import Run
from ssl_transfer.system import distributed
from ssl_transfer.system.files import set_aside

log = logging.getLogger(__name__)


class LoggerRefused(ValueError):
    """An option of the logger is wrong; the run itself may be correct."""


class RunLogger:
    """Appends one JSON object per line to the run's ``metrics.jsonl`` and mirrors it to wandb."""

    def __init__(self, run: Run, context: Context) -> None:
        self.run, self.folder = run, context.folder
        self.file: io.TextIOWrapper | None = None
        self.wandb: Any = None

    def __enter__(self) -> "RunLogger":
        if distributed.is_main():
            options = self.run.resolved["logger"]
            if options["name"] == "wandb":
                self.wandb = _start_wandb(self.run, options)
            # Opened last, so that no file stays open if wandb does not start.
            self.file = _open_lines(self.folder / "metrics.jsonl")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.file is not None:
            self.file.close()
        self._mirror(lambda run: run.finish(exit_code=0 if kind is None else 1))

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line; wandb receives the numbers as ``training/name``."""
        if self.file is None:
            return
        try:
            self.file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
            self.file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing tries to write the rest
                self.file.close()
            path, self.file = self.folder / "metrics.jsonl", None
            raise OSError(
                f"`{path}` must be writable with space left on its disk, but {error.strerror}; "
                "free some space and start again: what was saved before is unharmed."
            ) from error
        training = values.get("training", "run")
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._mirror(
            lambda run: run.log({f"{training}/{key}": value for key, value in numbers.items()})
        )

    def finish(self, scores: Sequence[Score]) -> None:
        """Write the run's scores."""
        for score in scores:
            self.log({"training": "score", score.metric: score.value, "split": score.split})
        summary = {f"{s.split}/{s.metric}": s.value for s in scores}
        self._mirror(lambda run: run.summary.update(summary))

    def _mirror(self, call: Callable[[Any], object]) -> None:
        """Call a function on the wandb run; if it fails, switch wandb off and go on without it."""
        if self.wandb is None:
            return
        try:
            call(self.wandb)
        except Exception as error:  # wandb's errors have no common base class
            self.wandb = None
            _say_switched_off(self.run, error)


def _open_lines(path: Path) -> io.TextIOWrapper:
    """Open a file of lines for appending; end an incomplete last line of a killed process."""
    path.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed in the meantime
    try:
        file = path.open("a+b")
    except OSError:
        if not os.path.lexists(path):
            raise
        set_aside(path)
        file = path.open("a+b")
    if file.tell() and file.seekable():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return io.TextIOWrapper(file, encoding="utf-8")


def _start_wandb(run: Run, options: Mapping[str, Any]) -> Any:
    """Return wandb's run; None if it cannot be started, which is logged in one sentence.

    Raises:
        LoggerRefused: if a template contains an unknown name.
    """
    names = {**run.names, "seed": run.seed, "label": run.label, "run_id": run.id}
    labels = {key: _fill(options[key], names) for key in ("group", "run_name")}
    try:
        import wandb

        return wandb.init(
            id=run.id,
            resume="allow",
            project=options["project"],
            entity=options["entity"],
            group=labels["group"],
            name=labels["run_name"],
            tags=list(options["tags"]),
            mode=options["mode"],
            dir=str(run.folder),
            config=run.resolved,
            # No user may be present to answer a prompt, and a run must not wait long for a server.
            settings=wandb.Settings(login_timeout=20, init_timeout=60),
        )
    except Exception as error:  # not installed, no login, no server, the run was deleted there
        _say_switched_off(run, error)
        return None


def _say_switched_off(run: Run, error: Exception) -> None:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    log.warning(
        "wandb is switched off for %s (%s); its numbers are in metrics.jsonl all the same. "
        "`wandb login` logs in, `logger.mode=offline` needs no server.",
        run.describe(), reason,
    )  # fmt: skip


def _fill(template: str | None, names: Mapping[str, Any]) -> str | None:
    """Fill a name template.

    Raises:
        LoggerRefused: if it contains an unknown name; the message lists the known ones.
    """
    if template is None:
        return None
    try:
        return template.format(**names)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise LoggerRefused(
            f"`logger` templates must use names among {sorted(names)}, but ask for {error}."
        ) from error
