"""The strict comparison of a file's tensors with a network's, and its report."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ssl_transfer.models.columns import COLUMNS
from ssl_transfer.models.reading import State

# Prefixes of the tensors of heads on an encoder: classifiers (of supervised training and of
# published linear probes), projectors, predictors, prototypes, queues, auxiliary tasks.
_HEAD = re.compile(
    r"(fc|heads?|head_\w+|classifier|linear|last_linear|aux\w*|project\w*|predict\w*|prototypes?"
    r"|queue\w*|jigsaw\w*)(\.|$)",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Comparison of a file's tensors with an encoder's.

    Args:
        path: the file.
        layout: layout of the file's names.
        matched: the encoder's tensors that the file has, in the same shape.
        missing: the encoder's tensors that the file lacks, except BatchNorm's counters
            ``num_batches_tracked`` and the range of kept features.
        unexpected: the file's tensors that the encoder lacks, except the dropped ones.
        reshaped: names with the file's and the encoder's shape, where they differ.
        dropped: the file's tensors that belong to a head.
        total: number of the encoder's tensors.
    """

    path: Path
    layout: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    dropped: tuple[str, ...]
    total: int

    @property
    def complete(self) -> bool:
        """Whether the file has all of the encoder's tensors, and no others except heads."""
        return not (self.missing or self.unexpected or self.reshaped)

    def differences(self) -> str:
        """Return a description of the differences, with the first names of each kind."""
        parts = []
        if self.missing:
            parts.append(f"the file lacks {some(self.missing)}")
        if self.unexpected:
            parts.append(f"the encoder lacks {some(self.unexpected)}")
        if self.reshaped:
            shapes = [f"{n} is {list(a)} for {list(b)}" for n, a, b in self.reshaped]
            parts.append(f"shapes differ (another architecture?): {some(shapes)}")
        return "; ".join(parts)


def compare(
    expected: Mapping[str, Tensor],
    state: State,
    path: Path,
    layout: str,
    drop: Sequence[str] = (),
) -> LoadReport:
    """Return the comparison of a file's tensors, renamed by a layout, with the encoder's.

    Args:
        expected: the encoder's tensors.
        state: the file's tensors under the encoder's names.
        path: the file.
        layout: the layout that renamed them.
        drop: prefixes of names to ignore, in addition to those of heads.
    """
    shared = [name for name in expected if name in state]
    extra = [name for name in state if name not in expected]
    dropped = [n for n in extra if _HEAD.match(n) or n.startswith(tuple(drop))]
    return LoadReport(
        path=path,
        layout=layout,
        matched=tuple(n for n in shared if state[n].shape == expected[n].shape),
        missing=tuple(n for n in expected if n not in state and not is_optional(n)),
        unexpected=tuple(n for n in extra if n not in set(dropped)),
        reshaped=tuple(
            (n, tuple(state[n].shape), tuple(expected[n].shape))
            for n in shared
            if state[n].shape != expected[n].shape
        ),
        dropped=tuple(dropped),
        total=len(expected),
    )


def is_counter(name: str) -> bool:
    """Return whether a tensor is BatchNorm's counter of batches, which no output depends on."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def is_optional(name: str) -> bool:
    """Return whether a file may lack a tensor: a counter, or the range of kept features."""
    return is_counter(name) or name == COLUMNS


def some(names: Sequence[str], shown: int = 3) -> str:
    """Return the first names and the number of the others."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
