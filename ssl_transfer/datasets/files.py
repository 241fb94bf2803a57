"""Samples in image files: every file is checked before any training."""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import PIL
from jaxtyping import Int64, UInt64

from ssl_transfer.datasets.base import Split, Targets
from ssl_transfer.datasets.decoding import VERSION, Decoding, Facts, Span, decode, read_bytes
from ssl_transfer.datasets.images import FileImages, Spans
from ssl_transfer.datasets.peculiarities import Summary, sentences, summarised
from ssl_transfer.datasets.reader import Options, some
from ssl_transfer.system import inputs, stamps

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The files of one split, not yet opened.

    Args:
        paths: paths of the files.
        names: stable names, independent of the dataset's location.
        targets: class numbers, or a row per image (see ``Split``).
        spans: the part of its file that each image is (see ``FileImages``).
        domains: number of each image's domain (see ``Split``).
    """

    paths: Sequence[str]
    names: Sequence[str]
    targets: Targets
    spans: Spans | None = None
    domains: Int64[np.ndarray, " samples"] | None = None

    def keep(self, indices: Int64[np.ndarray, " kept"]) -> "Listing":
        """Return the files at ``indices``."""
        return Listing(
            paths=[self.paths[i] for i in indices],
            names=[self.names[i] for i in indices],
            targets=self.targets[indices],
            spans=None if self.spans is None else self.spans[indices],
            domains=None if self.domains is None else self.domains[indices],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """The checked files of a dataset.

    Args:
        splits: the splits, without the skipped files.
        content: hash of names and bytes of all files, for the fingerprint.
        facts: number and names of the skipped files, for the record.
        digests: hash of each sample's bytes, by split.
    """

    splits: dict[str, Split]
    content: str
    facts: dict[str, object]
    digests: dict[str, list[bytes]]


def inspect_files(
    options: Options, listings: Mapping[str, Listing], decoding: Decoding | None = None
) -> Files:
    """Return the splits of these files, after every image has been decoded once.

    The result is cached (see ``look_at``), so that only the first of many runs decodes all files.

    Args:
        options: of the dataset; ``on_corrupt`` decides what happens to images that do not decode.
        listings: files per split; all of them exist.
        decoding: how they become RGB (``None``: the defaults of ``Decoding``).

    Raises:
        ValueError: naming the files that do not decode, or that are in two classes.
    """
    paths = [path for listing in listings.values() for path in listing.paths]
    parts = [listing.spans for listing in listings.values() if listing.spans is not None]
    spans = np.concatenate(parts) if parts else None
    if spans is None:
        numbers, sizes = _file_numbers(paths)
        _refuse_shared(options, listings, numbers)
    else:
        sizes = spans[:, 1].tolist()
    decoding = decoding or Decoding()
    looked = look_at(paths, decoding, spans)
    corrupt = looked.corrupt
    for sentence in sentences(options.name, looked.summary, decoding):
        _warn_once(sentence)
    if corrupt and options.on_corrupt == "error":
        names = [name for listing in listings.values() for name in listing.names]
        places = (
            paths if spans is None else [f"{p}: {n}" for p, n in zip(paths, names, strict=True)]
        )
        reasons = some([f"{places[i]} ({why})" for i, why in sorted(corrupt.items())])
        raise ValueError(
            f"every image of `{options.name}` must decode, but {len(corrupt)} of {len(paths)} "
            f"do not: {reasons}; repair or remove them, or set dataset.on_corrupt=skip."
        )
    digest = hashlib.sha256(looked.content.encode())
    if decoding.value_range is not None:  # the same bytes, but other pixels
        digest.update(json.dumps(decoding.value_range).encode())
    splits, digests, skipped, start = {}, {}, [], 0
    for key, listing in listings.items():
        end = start + len(listing.paths)
        digest.update(json.dumps([key, list(listing.names), sizes[start:end]]).encode())
        bad = [i for i in range(len(listing.paths)) if start + i in corrupt]
        skipped += [listing.names[i] for i in bad]
        whole = np.setdiff1d(np.arange(len(listing.paths)), bad)
        remaining = listing.keep(whole) if bad else listing
        digests[key] = [looked.digests[start + i] for i in whole]
        splits[key] = Split(
            FileImages(remaining.paths, decoding, remaining.spans),
            remaining.targets,
            remaining.names,
            domains=remaining.domains,
        )
        start = end
    if skipped:
        log.warning("`%s`: skipping %d corrupt images: %s", options.name, len(skipped), skipped)
    facts: dict[str, object] = {"corrupt": len(skipped), "corrupt_names": sorted(skipped)[:100]}
    return Files(splits, digest.hexdigest(), facts, digests)


def _file_numbers(paths: Sequence[str]) -> tuple[UInt64[np.ndarray, "files 2"], list[int]]:
    """Return each file's number (of the device, and of the file on it), and each file's size."""
    facts = itertools.chain.from_iterable(
        (status.st_dev, status.st_ino, status.st_size)
        for status in map(os.stat, paths)  # six times as fast as Path.stat
    )
    rows = np.fromiter(facts, dtype=np.uint64, count=3 * len(paths)).reshape(-1, 3)
    return rows[:, :2], rows[:, 2].tolist()


def _refuse_shared(
    options: Options, listings: Mapping[str, Listing], numbers: UInt64[np.ndarray, "files 2"]
) -> None:
    """Refuse a file that is in two classes of a split, also through links."""
    start = 0
    for key, listing in listings.items():
        of_split = numbers[start : start + len(listing.paths)]
        start += len(listing.paths)
        known = np.flatnonzero(of_split[:, 1])  # some file systems have no file numbers
        _, first, inverse = np.unique(
            of_split[known], axis=0, return_index=True, return_inverse=True
        )
        others = known[first][inverse.reshape(-1)]
        apart = known != others  # an unknown value, NaN, differs from itself
        known, others = known[apart], others[apart]
        differs = listing.targets[known] != listing.targets[others]
        wrong = np.flatnonzero(differs.any(axis=tuple(range(1, differs.ndim))))
        if len(wrong):
            name, other = (listing.names[places[wrong[0]]] for places in (known, others))
            raise ValueError(
                f"an image of `{options.name}` must be in one class only, but `{name}` and "
                f"`{other}` ({key}) are the same file; remove one."
            )


@functools.lru_cache(maxsize=256)
def _warn_once(sentence: str) -> None:
    """Log a warning once per process, even if several runs read the same dataset."""
    log.warning(sentence)


@dataclasses.dataclass(frozen=True)
class Looked:
    """Result of the check of image files.

    Args:
        corrupt: position of each file that does not decode -> the reason.
        digests: hash of each file's bytes (see ``stamps.of_bytes``).
        summary: what is unusual in the files that decode.
    """

    corrupt: dict[int, str]
    digests: list[bytes]
    summary: Summary

    @property
    def content(self) -> str:
        """A hash of all bytes."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()


def look_at(paths: Sequence[str], decoding: Decoding, spans: Spans | None = None) -> Looked:
    """Return which files do not decode, what is unusual in the others, and all files' hashes.

    Every file is decoded as in a run, in threads (Pillow decodes without holding the interpreter's
    lock). JPEG is decoded at an eighth of its size, which skips most of the arithmetic but reads
    the whole file: about 7,000 files of 32x32 px, or 1,400 of 500x400 px, per second and core. The
    result is cached until a path or a stamp changes (see ``inputs.Remembered``); looking it up only
    reads the files' stamps. A file that cannot be read is checked again. The files become inputs of
    the data set that is being built.

    Args:
        paths: the file of each image; all exist.
        decoding: how they become RGB.
        spans: the part of its file that each image is (``None``: the whole file).
    """
    how = json.dumps([VERSION, PIL.__version__, decoding.upright, decoding.value_range])
    if spans is not None:
        how += hashlib.sha256(spans.astype("<i8").tobytes()).hexdigest()
    files = paths if spans is None else list(dict.fromkeys(paths))
    stamps_before = [inputs.stamp_of(path) for path in files]
    assert None not in stamps_before, "all files exist"
    remembered = inputs.Remembered(how, files, stamps_before, digests=len(paths))
    settled = True
    if (known := remembered.get()) is not None:
        corrupt = {int(key): str(why) for key, why in known["corrupt"].items()}
        looked = Looked(corrupt, known["digests"], known["summary"])
    else:
        log.info("checking %d images; the result is kept until they change", len(paths))
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            parts = () if spans is None else (map(tuple, spans.tolist()),)
            looks = list(pool.map(_look, paths, itertools.repeat(decoding), *parts, chunksize=64))
        corrupt = {i: look.reason for i, look in enumerate(looks) if look.reason is not None}
        fine = [i for i in range(len(paths)) if i not in corrupt]
        summary = summarised([paths[i] for i in fine], [looks[i].facts for i in fine])
        looked = Looked(corrupt, [look.digest for look in looks], summary)
        settled = [inputs.stamp_of(path) for path in files] == stamps_before
        if not settled:
            log.warning("images changed while they were checked; the next run checks them again")
        elif not any(look.passing for look in looks):
            remembered.keep(vars(looked))
    if spans is not None:  # the hash of a file that holds many images is computed elsewhere
        for path in files:
            inputs.note_file(path)
        return looked
    noted = looked.digests if settled else [inputs.UNSETTLED] * len(paths)
    inputs.note_files(paths, cast("list[stamps.Stamp]", stamps_before), noted)
    return looked


@dataclasses.dataclass(frozen=True)
class _Look:
    """One file: why it does not decode (``None``: it does), and the hash of its bytes."""

    reason: str | None
    digest: bytes
    facts: Facts = dataclasses.field(default_factory=Facts)
    passing: bool = False
    """Whether the reason is a state of the machine, not the file's content."""


def _look(path: str, decoding: Decoding, span: Span | None = None) -> _Look:
    try:
        data = read_bytes(path, span)
    except OSError as error:
        return _Look(error.strerror or str(error), inputs.UNSETTLED, passing=True)
    except ValueError as error:
        return _Look(str(error), inputs.UNSETTLED)
    digest = stamps.of_bytes(data)
    try:
        _, facts = decode(data, decoding, checking=True)
    except ValueError as error:
        return _Look(str(error), digest)
    except MemoryError:
        return _Look("not enough memory to decode it", digest, passing=True)
    return _Look(None, digest, facts)
