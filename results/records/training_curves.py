"""The course of a run's trainings, from its ``metrics.jsonl``."""

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

_BLOCKS = "▁▂▃▄▅▆▇█"
_NO_TRAININGS = ("score", "monitor")


@dataclasses.dataclass
class Training:
    """The logged lines of one training, in the order of its steps.

    Args:
        name: what is trained, such as ``pretrain``, ``grid 0`` or ``refit``.
        lines: one object per logged step.
    """

    name: str
    lines: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a number was logged, and its finite values."""
        pairs = [(line["step"], line.get(key)) for line in self.lines]
        kept = [(step, float(value)) for step, value in pairs if is_finite(value)]
        return [step for step, _ in kept], [value for _, value in kept]

    def add(self, line: dict[str, Any]) -> None:
        """Append a line.

        A run that starts again, or goes on from a checkpoint, repeats steps: the lines of its
        former attempt from this step on are dropped.
        """
        while self.lines and self.lines[-1]["step"] > line["step"]:
            self.lines.pop()
        if self.lines and self.lines[-1]["step"] == line["step"]:
            line = {**self.lines.pop(), **line}
        self.lines.append(line)


@dataclasses.dataclass
class Curves:
    """What a run logged.

    Args:
        trainings: its trainings, in the order of their first lines.
        monitor: measurements of a pre-training between its steps.
        damaged: number of lines that could not be read.
    """

    trainings: list[Training]
    monitor: Training
    damaged: int = 0


def read_curves(folder: Path) -> Curves:
    """Return what a run logged; nothing if the folder holds no ``metrics.jsonl``."""
    by_name: dict[str, Training] = {"monitor": Training("monitor")}
    damaged = 0
    path = folder / "metrics.jsonl"
    if path.is_file():
        with path.open("rb") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    damaged += 1
                    continue
                name = line.get("training") if isinstance(line, dict) else None
                if not isinstance(name, str) or (
                    name != "score" and not is_finite(line.get("step"))
                ):
                    damaged += 1
                elif name != "score":
                    by_name.setdefault(name, Training(name)).add(line)
    trainings = [one for name, one in by_name.items() if name not in _NO_TRAININGS]
    return Curves(trainings, by_name["monitor"], damaged)


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether a value of a JSON file is a number that is neither NaN nor infinite."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < sys.float_info.max


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Return finite numbers as a line of blocks, whose heights are means over equal parts."""
    width = min(width, len(values))
    edges = [len(values) * part // width for part in range(width + 1)] if width else []
    means = [
        math.fsum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)
    ]
    low, span = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    heights = (round((mean - low) / span * (len(_BLOCKS) - 1)) if span else 0 for mean in means)
    return "".join(_BLOCKS[height] for height in heights)
