"""Where a run's numbers go while it works: ``metrics.jsonl``, and wandb if chosen."""

import json
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any

from ssl_transfer import distributed
from ssl_transfer.context import Context
from ssl_transfer.protocols.base import Score
from ssl_transfer.runs import Run


class RunLogger:
    """Appends one JSON object per line to the run's ``metrics.jsonl`` and mirrors it to wandb."""

    def __init__(self, run: Run, context: Context) -> None:
        self.run, self.folder = run, context.folder
        self.file: IO[str] | None = None
        self.wandb: Any = None

    def __enter__(self) -> "RunLogger":
        if distributed.is_main():
            options = self.run.resolved["logger"]
            if options["name"] == "wandb":
                self.wandb = _start_wandb(self.run, options)
            # Opened last: where wandb does not start, nothing is left open.
            self.file = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.file is not None:
            self.file.close()
        if self.wandb is not None:
            self.wandb.finish(exit_code=0 if kind is None else 1)

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line; wandb sees the numbers under ``training/name``."""
        if self.file is None:
            return
        self.file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
        self.file.flush()
        if self.wandb is not None:
            training = values.get("training", "run")
            numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
            self.wandb.log({f"{training}/{key}": value for key, value in numbers.items()})

    def finish(self, scores: Sequence[Score]) -> None:
        """Write the run's scores."""
        for score in scores:
            self.log({"training": "score", score.metric: score.value, "split": score.split})
        if self.wandb is not None:
            self.wandb.summary.update({f"{s.split}/{s.metric}": s.value for s in scores})


def _start_wandb(run: Run, options: Mapping[str, Any]) -> Any:
    import wandb

    names = {**run.names, "seed": run.seed, "label": run.label, "run_id": run.id}
    return wandb.init(
        id=run.id,
        resume="allow",
        project=options["project"],
        entity=options["entity"],
        group=_fill(options["group"], names),
        name=_fill(options["run_name"], names),
        tags=list(options["tags"]),
        mode=options["mode"],
        dir=str(run.folder),
        config=run.resolved,
    )


def _fill(template: str | None, names: Mapping[str, Any]) -> str | None:
    """Fill a name template.

    Raises:
        ValueError: if it asks for a name that does not exist; the known ones are listed.
    """
    if template is None:
        return None
    try:
        return template.format(**names)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"`logger` templates must use names among {sorted(names)}, but ask for {error}."
        ) from error
