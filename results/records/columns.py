"""Runs as one block of bytes: the format of the cache and between processes.

    magic, 4 bytes of CRC-32, 8 bytes of the length of the head, head (JSON), arrays

The head holds texts, descriptions and the lengths of the arrays. The block is read without pickle,
and one that is damaged, foreign or of another version is refused as a whole.
"""

import functools
import hashlib
import json
import sys
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from results.records.descriptions import Description, Metric, Run

_MAGIC = b"ssl_transfer runs 1\n"
_ARRAYS = {"stamps": "q", "descriptions": "i", "metrics": "i", "durations": "d", "values": "d"}
_CODED = ("model", "method", "protocol", "dataset", "encoder_id", "encoder_label", "preprocessing",
          "dataset_node", "data", "weights", "status", "device")  # fmt: skip
_MADE_BY = (
    "columns.py", "defaults.py", "descriptions.py", "differences.py", "finished_records.py",
    "validity.py",
)  # fmt: skip
"""Modules that decide what a block holds; a change of one of them makes older blocks unusable."""

Stamp = tuple[int, int, int, int]
"""Size, times of modification and of change in nanoseconds, and inode of a file."""


class Unusable(ValueError):
    """The block is damaged, foreign or of another version."""


class Entry(NamedTuple):
    """A file and the run that it describes.

    Args:
        file: its path relative to the outputs folder.
        stamp: its stamp before it was read.
        run: the run.
    """

    file: str
    stamp: Stamp
    run: Run


@functools.cache
def _version() -> str:
    folder = Path(__file__).parent
    code = b"".join((folder / name).read_bytes() for name in _MADE_BY)
    return hashlib.sha256(code).hexdigest() + sys.byteorder


class _Codes:
    """Numbers of different values in the order of their first use."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def of(self, value: Any) -> int:
        return -1 if value is None else self.numbers.setdefault(value, len(self.numbers))


def pack(entries: Sequence[Entry]) -> bytes:
    """Return a block with the given entries."""
    texts, descriptions, metrics = _Codes(), _Codes(), _Codes()
    runs = [entry.run for entry in entries]
    numbers = {id(run.description): descriptions.of(run.description) for run in runs}
    arrays: dict[str, array[Any]] = {
        "stamps": array("q", (number for entry in entries for number in entry.stamp)),
        "descriptions": array("i", (numbers[id(run.description)] for run in runs)),
        "metrics": array("i", (metrics.of(run.metrics) for run in runs)),
        "durations": array("d", (run.duration_s for run in runs)),
        "values": array("d", (value for run in runs for value in run.values)),
    }
    head = {
        "version": _version(),
        "files": [entry.file for entry in entries],
        "run_ids": [run.run_id for run in runs],
        "seeds": [run.seed for run in runs],
        "started": [run.started for run in runs],
        # Few runs have faults, a reason or a stage.
        "rare": {
            str(place): [run.faults, run.reason, run.stage]
            for place, run in enumerate(runs)
            if run.faults or run.reason or run.stage
        },
        "descriptions": [_coded(one, texts) for one in descriptions.numbers],
        "metrics": list(metrics.numbers),
        "texts": list(texts.numbers),
        "lengths": {name: len(one) for name, one in arrays.items()},
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    content = b"".join(
        [len(text).to_bytes(8, "little"), text, *(one.tobytes() for one in arrays.values())]
    )
    return b"".join([_MAGIC, zlib.crc32(content).to_bytes(4, "little"), content])


def _coded(description: Description, texts: _Codes) -> list[Any]:
    parts = description.parts
    return [
        *(texts.of(getattr(description, name)) for name in _CODED),
        None if parts is None else [texts.of(text) for part in parts for text in part],
        description.requires,
        description.trial,
    ]


def unpack(block: bytes, outputs: str) -> list[Entry]:
    """Return the entries of a block.

    Args:
        block: what ``pack`` returned.
        outputs: the outputs folder, which the folders of runs begin with.

    Raises:
        Unusable: if the block is damaged, foreign or of another version.
    """
    start = len(_MAGIC) + 4
    if block[: len(_MAGIC)] != _MAGIC:
        raise Unusable("it has another format")
    if zlib.crc32(memoryview(block)[start:]) != int.from_bytes(block[start - 4 : start], "little"):
        raise Unusable("its checksum is wrong")
    try:
        return _unpacked(memoryview(block)[start:], outputs)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
        raise Unusable("its content is not what it must be") from error


def _unpacked(content: memoryview, outputs: str) -> list[Entry]:
    length = int.from_bytes(content[:8], "little")
    head = json.loads(bytes(content[8 : 8 + length]))
    if head["version"] != _version():
        raise Unusable("it is of another version")
    arrays, place = {}, 8 + length
    for name, code in _ARRAYS.items():
        one = array(code)
        size = head["lengths"][name] * one.itemsize
        one.frombytes(content[place : place + size])
        arrays[name], place = one, place + size
    _require_texts(head)
    descriptions = _descriptions(head["descriptions"], head["texts"])
    metrics = [tuple(Metric(*one) for one in some) for some in head["metrics"]]
    if min([0, *arrays["descriptions"], *arrays["metrics"]]) < 0:
        raise Unusable("a number is negative")
    measured = [metrics[number] for number in arrays["metrics"]]
    every, values, done = arrays["values"].tolist(), [], 0
    for some in measured:
        values.append(tuple(every[done : done + len(some)]))
        done += len(some)
    count = len(head["files"])
    absent = [()] * count, [""] * count, [""] * count
    folders = [f"{outputs}/{file.rpartition('/')[0]}" for file in head["files"]]
    columns = [
        head["run_ids"], [descriptions[n] for n in arrays["descriptions"]], head["seeds"], measured,
        values, absent[0], head["started"], arrays["durations"].tolist(), *absent[1:], folders,
    ]  # fmt: skip
    runs = list(map(Run._make, zip(*columns, strict=True)))
    for place_of, (faults, reason, stage) in head["rare"].items():
        pairs = tuple((int(number), str(fault)) for number, fault in faults)
        number = int(place_of)
        runs[number] = runs[number]._replace(faults=pairs, reason=str(reason), stage=str(stage))
    numbers = iter(arrays["stamps"].tolist())
    stamps = zip(numbers, numbers, numbers, numbers, strict=True)
    return list(map(Entry._make, zip(head["files"], stamps, runs, strict=True)))


def _require_texts(head: dict[str, Any]) -> None:
    """Raise an error unless the lists of texts hold nothing but texts."""
    for name in ("files", "run_ids", "started", "texts"):
        if not set(map(type, head[name])) <= {str}:
            raise Unusable(f"`{name}` are not texts")
    if not set(map(type, head["seeds"])) <= {int, type(None)}:
        raise Unusable("a seed is no number")
    if any(
        file.startswith("/") or ".." in file.split("/") for file in head["files"] if ".." in file
    ):
        raise Unusable("a file lies outside of the outputs")


def _descriptions(coded: list[Any], texts: list[str]) -> list[Description]:
    known: list[str | None] = [*texts, None]  # the number -1 means None
    checked: set[str] = set()
    descriptions = []
    for *codes, parts, requires, trial in coded:
        fields = {name: known[code] for name, code in zip(_CODED, codes, strict=True)}
        pairs = None
        if parts is not None:
            some = [texts[code] for code in parts]
            pairs = tuple(zip(some[::2], some[1::2], strict=True))
            for _, text in pairs:
                if text not in checked:
                    json.loads(text)
                    checked.add(text)
        described: dict[str, Any] = {**fields, "parts": pairs}
        descriptions.append(Description(**described, requires=bool(requires), trial=bool(trial)))
    return descriptions
