"""Reading of a record by comparison with a similar one, of which only a few values differ."""

import hashlib
import json
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from results.records.descriptions import Metric, Run
from results.records.validity import LARGEST, ROUNDING

_MARK = b"%d" % random.SystemRandom().randrange(10**16, 10**17)
"""Digits that no record has by chance, with which placeholders for values begin."""
_PLACEHOLDER = re.compile(_MARK + rb"([0-9]{3})")
_MOST_VALUES = 1000

Span = tuple[str, int, int]
"""Key, start and end of a value in the text of a record."""


class Template(NamedTuple):
    """The text of a record between its own values.

    Args:
        literals: the text around the values.
        canonical: the text whose hash is the checksum, with an empty text for each value.
        slots: the places in ``canonical`` and the values that belong there.
        places: key -> the place of its value.
        scores: the places of the first score and after the last one.
        run: the run of the record.
        placeholder: the id of the encoder, if a run with this id would not know its encoder.
    """

    literals: tuple[bytes, ...]
    canonical: tuple[bytes, ...]
    slots: tuple[tuple[int, int], ...]
    places: dict[str, int]
    scores: tuple[int, int]
    run: Run
    placeholder: str | None

    def read(self, content: bytes, folder: str) -> Run | None:
        """Return the run of a record that fits; None if it does not fit or is damaged."""
        values = self._values(content)
        if values is None:
            return None
        # The checksum proves that the rest of the text is what the run wrote.
        texts = list(self.canonical)
        for place, value in self.slots:
            texts[place] = values[value]
        digest = hashlib.sha256(b"".join(texts)).hexdigest().encode()
        if values[self.places["checksum"]] != b'"%b"' % digest:
            return None
        run, places = self.run, self.places
        numbers = tuple(map(float, values[self.scores[0] : self.scores[1]]))
        run_id: str = json.loads(values[places["run_id"]].decode())
        seed = int(values[places["seed"]]) if "seed" in places else run.seed
        started = json.loads(values[places["started"]].decode()) if "started" in places else ""
        duration = float(values[places["duration_s"]]) if "duration_s" in places else run.duration_s
        if not isinstance(started, str) or not isinstance(run_id, str) or not run_id.strip():
            return None
        if run_id == self.placeholder or not possible(numbers, run.metrics):
            return None
        if not duration <= LARGEST or (seed is not None and abs(seed) >= 2**64):
            return None
        return Run(
            run_id, run.description, seed, run.metrics, numbers, (), started, duration, "", "",
            folder,
        )  # fmt: skip

    def _values(self, content: bytes) -> list[bytes] | None:
        """Return the values between the literals; None if the text does not have them."""
        values = []
        place = 0
        for literal in self.literals[:-1]:
            if not content.startswith(literal, place):
                return None
            place += len(literal)
            end = content.find(b"\n", place)
            if content[end - 1 : end] == b",":
                end -= 1
            values.append(content[place:end])
            place = end
        return values if content[place:] == self.literals[-1] else None


def mark(content: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    """Return a text in which numbered placeholders replace the values at some places."""
    texts, done = [], 0
    for number, (start, end) in enumerate(spans):
        texts += [content[done:start], b"%b%03d" % (_MARK, number)]
        done = end
    return b"".join([*texts, content[done:]])


def make_template(
    content: bytes, canonical: bytes, spans: Sequence[Span], run: Run, placeholder: str | None
) -> Template:
    """Return the template of a record.

    Args:
        content: the record's text.
        canonical: the canonical text with the placeholders of ``mark``.
        spans: the values that the placeholders replace.
        run: the run of the record.
        placeholder: see ``Template``.

    Raises:
        ValueError: if the values cannot be told from the rest.
    """
    keys = [key for key, _, _ in spans]
    starts = [0, *(end for _, _, end in spans)]
    ends = [*(start for _, start, _ in spans), len(content)]
    pieces = _PLACEHOLDER.split(canonical)
    slots = tuple((2 * n + 1, int(number)) for n, number in enumerate(pieces[1::2]))
    # Each value stands once in the canonical text, except the checksum.
    used = sorted(value for _, value in slots)
    if len(spans) > _MOST_VALUES or used != [n for n, key in enumerate(keys) if key != "checksum"]:
        raise ValueError("the values cannot be told from the rest")
    if not {"checksum", "run_id"} <= set(keys) or keys.count("scores") != len(run.metrics):
        raise ValueError("a value is missing")
    first = keys.index("scores") if run.metrics else 0
    return Template(
        tuple(content[start:end] for start, end in zip(starts, ends, strict=True)),
        tuple(b"" if n % 2 else text for n, text in enumerate(pieces)),
        slots,
        {key: n for n, key in enumerate(keys) if key != "scores"},
        (first, first + len(run.metrics)),
        run,
        placeholder,
    )


def possible(values: Sequence[float], metrics: Sequence[Metric]) -> bool:
    """Return whether scores are finite, and fractions lie in [0, 1]."""
    for value, one in zip(values, metrics, strict=True):
        if not abs(value) <= LARGEST:
            return False
        if one.unit == "fraction" and not -ROUNDING <= value <= 1 + ROUNDING:
            return False
    return True
