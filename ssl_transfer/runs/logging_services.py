"""Services that a run's numbers are sent to beside ``metrics.jsonl``: wandb and TensorBoard."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.runs.run import Run

EVENTS = "tensorboard"
"""Folder of a run's event files."""
REMEDIES = {
    "wandb": "`wandb login` logs in, `logger.mode=offline` needs no server.",
    "tensorboard": "Free some space, or leave out `logger=tensorboard`.",
}
"""What to do if a service fails."""


class LoggerRefused(ValueError):
    """An option of the logger is wrong; the run itself may be correct."""


class Wandb:
    """A run of Weights & Biases; a resumed run goes on in its own one, whose id is the run id.

    Args:
        run: the run.
        options: the group ``logger``.

    Raises:
        LoggerRefused: if a template contains an unknown name.
        Exception: any other one, if wandb does not start.
    """

    def __init__(self, run: Run, options: Mapping[str, Any]) -> None:
        names = {**run.names, "seed": run.seed, "label": run.label, "run_id": run.id}
        labels = {key: _fill(options[key], names) for key in ("group", "run_name")}
        import wandb

        self._run = wandb.init(
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

    def log(self, training: str, numbers: Mapping[str, float]) -> None:
        """Receive the numbers of one line, as ``training/name``."""
        self._run.log({f"{training}/{key}": value for key, value in numbers.items()})

    def summarise(self, scores: Mapping[str, float | None]) -> None:
        """Receive the run's scores, as ``split/metric``."""
        self._run.summary.update(dict(scores))

    def close(self, *, failed: bool) -> None:
        """Write what is not written yet."""
        self._run.finish(exit_code=int(failed))


class TensorBoard:
    """Event files of TensorBoard, at the steps of the numbers.

    A killed process logs steps after its last checkpoint, which the resumed run computes again:
    those that ``metrics.jsonl`` holds already are left out, so that each step has one point.

    Args:
        folder: the folder that the run works in.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        events = folder / EVENTS
        self._before = _last_steps(folder / "metrics.jsonl") if any(events.glob("events.*")) else {}
        self._writer: Any = SummaryWriter(str(events))

    def log(self, training: str, numbers: Mapping[str, float]) -> None:
        """Receive the numbers of one line, as ``training/name``."""
        step = int(numbers.get("step", 0))
        if step and step <= self._before.get(training, 0):
            return
        for key, value in numbers.items():
            self._writer.add_scalar(f"{training}/{key}", value, step)
        self._writer.flush()

    def summarise(self, scores: Mapping[str, float | None]) -> None:
        """Receive the run's scores, as ``split/metric``."""
        for name, value in scores.items():
            if value is not None:
                self._writer.add_scalar(name, value, 0)

    def close(self, *, failed: bool) -> None:
        """Write what is not written yet."""
        self._writer.close()


Service = Wandb | TensorBoard
"""What receives a run's numbers; its methods may raise any error."""


def missing_package(options: Mapping[str, Any]) -> str | None:
    """Return which package a logger lacks, in one sentence for the user, or None."""
    if options["name"] != "tensorboard" or importlib.util.find_spec("tensorboard") is not None:
        return None
    return (
        "`logger=tensorboard` needs the package tensorboard, which is not installed; install it "
        "with `pip install 'ssl_transfer[tensorboard]'`, or leave out `logger=tensorboard`."
    )


def start(run: Run, folder: Path) -> Service | None:
    """Return the service that a run's options name, or None.

    Args:
        run: the run.
        folder: the folder that it works in.

    Raises:
        LoggerRefused: if an option is wrong, or a package is missing.
        Exception: any other one, if the service does not start.
    """
    options = run.resolved["logger"]
    if reason := missing_package(options):
        raise LoggerRefused(reason)
    if options["name"] == "wandb":
        return Wandb(run, options)
    return TensorBoard(folder) if options["name"] == "tensorboard" else None


def _last_steps(path: Path) -> dict[str, int]:
    """Return the last step of each training in a file of lines; {} if there is none."""
    last: dict[str, int] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return last
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # the last line of a killed process
            continue
        if isinstance(values, dict) and isinstance(step := values.get("step"), int):
            training = str(values.get("training", "run"))
            last[training] = max(step, last.get(training, 0))
    return last


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
