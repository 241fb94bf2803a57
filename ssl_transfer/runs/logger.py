"""Logging of a run's numbers to ``metrics.jsonl``, and to a service if one is chosen."""

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
from ssl_transfer.runs import logging_services as services
from ssl_transfer.runs.run import Run
from ssl_transfer.system import distributed
from ssl_transfer.system.files import set_aside

log = logging.getLogger(__name__)


class RunLogger:
    """Appends one JSON object per line to the run's ``metrics.jsonl``, and mirrors it to a service.

    The service is no part of the run: if it does not start or fails, the run goes on without it,
    and says so once.
    """

    def __init__(self, run: Run, context: Context) -> None:
        self.run, self.folder = run, context.folder
        self.file: io.TextIOWrapper | None = None
        self.service: services.Service | None = None

    def __enter__(self) -> "RunLogger":
        if distributed.is_main():
            try:
                self.service = services.start(self.run, self.folder)
            except services.LoggerRefused:
                raise
            except Exception as error:  # not installed, no login, no server, the run was deleted
                _say_switched_off(self.run, self.run.resolved["logger"]["name"], error)
            # Opened last, so that no file stays open if the service does not start.
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
        self._mirror(lambda service: service.close(failed=kind is not None))

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line; the service receives the numbers as ``training/name``."""
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
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._mirror(lambda service: service.log(values.get("training", "run"), numbers))

    def finish(self, scores: Sequence[Score]) -> None:
        """Write the run's scores."""
        for score in scores:
            self.log({"training": "score", score.metric: score.value, "split": score.split})
        summary = {f"{s.split}/{s.metric}": s.value for s in scores}
        self._mirror(lambda service: service.summarise(summary))

    def _mirror(self, call: Callable[[services.Service], object]) -> None:
        """Call a function on the service; if it fails, go on without the service."""
        if self.service is None:
            return
        try:
            call(self.service)
        except Exception as error:  # the errors of services have no common base class
            self.service = None
            _say_switched_off(self.run, self.run.resolved["logger"]["name"], error)


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


def _say_switched_off(run: Run, name: str, error: Exception) -> None:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    log.warning(
        "%s is switched off for %s (%s); its numbers are in metrics.jsonl all the same. %s",
        name, run.describe(), reason, services.REMEDIES[name],
    )  # fmt: skip
