"""Samples in image files: their check before any training, and the hashes that identify them."""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL
from jaxtyping import Int64
from tqdm import tqdm

from ssl_transfer.datasets.base import Split, Targets
from ssl_transfer.datasets.decoding import (
    VERSION,
    Decoding,
    Facts,
    Span,
    decode,
    read_bytes,
    read_header,
)
from ssl_transfer.datasets.images import FileImages, Spans
from ssl_transfer.datasets.peculiarities import Summary, sentences, summarised
from ssl_transfer.datasets.reader import Options, Verify, some
from ssl_transfer.datasets.unchanged import Digests, Known, Numbers
from ssl_transfer.system import inputs, staging, stamps, texts
from ssl_transfer.system.stamps import DIGEST_BYTES
from ssl_transfer.system.texts import Texts

log = logging.getLogger(__name__)

_BATCH, _BATCHES = 64, 64  # files per task of a thread, and tasks at once


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The files of one split, not yet opened.

    Args:
        paths: paths of the files.
        names: stable names, independent of the dataset's location.
        targets: class numbers, or a row per image (see ``Split``).
        spans: the part of its file that each image is (see ``FileImages``).
        domains: number of each image's domain (see ``Split``).
        stamps: stamps of the files, if they were found by listing folders (``None``: the files are
            looked at when they are checked).
    """

    paths: Sequence[str]
    names: Sequence[str]
    targets: Targets
    spans: Spans | None = None
    domains: Int64[np.ndarray, " samples"] | None = None
    stamps: Numbers | None = None

    def keep(self, indices: Int64[np.ndarray, " kept"]) -> "Listing":
        """Return the files at ``indices``."""
        return Listing(
            paths=texts.pick(self.paths, indices),
            names=texts.pick(self.names, indices),
            targets=self.targets[indices],
            spans=None if self.spans is None else self.spans[indices],
            domains=None if self.domains is None else self.domains[indices],
            stamps=None if self.stamps is None else self.stamps[indices],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """The checked files of a dataset.

    Args:
        splits: the splits, without the skipped files.
        content: hash of names and bytes of all files, for the fingerprint.
        facts: how files were verified, and number and names of the skipped ones, for the record.
        digests: hash of each sample's bytes, by split, or of its file's stamp.
        by_content: whether ``digests`` are hashes of bytes.
    """

    splits: dict[str, Split]
    content: str
    facts: dict[str, object]
    digests: dict[str, Digests]
    by_content: bool = True


def inspect_files(
    options: Options, listings: Mapping[str, Listing], decoding: Decoding | None = None
) -> Files:
    """Return the splits of these files, after every image has been checked once.

    The result is cached (see ``look_at``), so that only the first of many runs reads all files.

    Args:
        options: of the dataset; ``verify`` says how files are checked, and ``on_corrupt`` what
            happens to images that do not decode.
        listings: files per split; all of them exist.
        decoding: how they become RGB (``None``: the defaults of ``Decoding``).

    Raises:
        ValueError: naming the files that do not decode, or that are in two classes.
    """
    paths = texts.joined([listing.paths for listing in listings.values()])
    parts = [listing.spans for listing in listings.values() if listing.spans is not None]
    spans = np.concatenate(parts) if parts else None
    decoding = decoding or Decoding()
    looked = look_at(paths, decoding, spans, options.verify, _stamps(listings))
    if spans is None:
        sizes = looked.stamps[:, 0]
        _refuse_shared(options, listings, looked.stamps[:, 3])
    else:
        sizes = spans[:, 1]
    for sentence in sentences(options.name, looked.summary, decoding):
        _warn_once(sentence)
    if looked.corrupt and options.on_corrupt == "error":
        _refuse_corrupt(options, listings, looked.corrupt)
    digest = hashlib.sha256(looked.content.encode())
    if decoding.value_range is not None:  # the same bytes, but other pixels
        digest.update(json.dumps(decoding.value_range).encode())
    splits, digests, skipped, start = {}, {}, [], 0
    is_fine = np.ones(len(paths), bool)
    is_fine[list(looked.corrupt)] = False
    by_content = options.verify == "full"
    compared = spans is None and not _is_copied(paths) and not inputs.names_suffice(options.verify)
    for key, listing in listings.items():
        end = start + len(listing.paths)
        for piece in _as_json(key, listing.names, sizes[start:end]):
            digest.update(piece.encode())
        fine = np.flatnonzero(is_fine[start:end])
        skipped += [listing.names[i] for i in np.flatnonzero(~is_fine[start:end]).tolist()]
        whole = len(fine) == len(listing.paths)
        remaining = listing if whole else listing.keep(fine)
        rows = slice(start, end) if whole else start + fine  # a slice shares the memory
        digests[key] = looked.digests[rows]
        known = None
        if compared:
            stamps_of_split, root = looked.stamps[rows], _root(remaining.paths)
            known = Known(stamps_of_split, digests[key], root, by_content=by_content)
        images = FileImages(remaining.paths, decoding, remaining.spans, known, recorded=True)
        splits[key] = Split(images, remaining.targets, remaining.names, domains=remaining.domains)
        start = end
    if skipped:
        log.warning("`%s`: skipping %d corrupt images: %s", options.name, len(skipped), skipped)
    facts: dict[str, object] = {"corrupt": len(skipped), "corrupt_names": sorted(skipped)[:100]}
    if not by_content:
        facts["verify"] = options.verify
    return Files(splits, digest.hexdigest(), facts, digests, by_content)


def _stamps(listings: Mapping[str, Listing]) -> Numbers | None:
    """Return the stamps of all files; None if some are not known."""
    known = [listing.stamps for listing in listings.values() if listing.stamps is not None]
    copied = any(_is_copied(listing.paths) for listing in listings.values())
    return np.concatenate(known) if len(known) == len(listings) and not copied else None


def _is_copied(paths: Sequence[str]) -> bool:
    """Return whether files lie in a copy on the node's disk, whose stamps are of no interest."""
    return bool(paths) and staging.stamp(os.path.abspath(paths[0])) is not None  # noqa: PTH100


def _root(paths: Sequence[str]) -> str:
    """Return the folder whose list of files is kept."""
    return paths.prefix if isinstance(paths, Texts) else ""


def _originals(paths: Sequence[str]) -> Sequence[str]:
    """Return the absolute path of each file, for a copy that of its original."""
    if not isinstance(paths, Texts) or b".." in paths.data:
        return inputs.originals(paths)
    (root,) = inputs.originals([paths.prefix])
    return paths.after(root.rstrip(os.sep) + os.sep)


def _as_json(key: str, names: Sequence[str], sizes: Int64[np.ndarray, " files"]) -> Iterator[str]:
    """Yield the pieces of the JSON text of ``[key, names, sizes]``, which may be very long."""
    yield f"[{json.dumps(key)}, ["
    names_left, begun = iter(names), False
    while some_names := list(itertools.islice(names_left, 4096)):
        yield ", " * begun + json.dumps(some_names)[1:-1]
        begun = True
    yield "], ["
    for start in range(0, len(sizes), 4096):
        yield ", " * bool(start) + json.dumps(sizes[start : start + 4096].tolist())[1:-1]
    yield "]]"


def _refuse_corrupt(
    options: Options, listings: Mapping[str, Listing], corrupt: Mapping[int, str]
) -> None:
    """Refuse images that do not decode."""
    places = [
        path if listing.spans is None else f"{path}: {name}"
        for listing in listings.values()
        for path, name in zip(listing.paths, listing.names, strict=True)
    ]
    reasons = some([f"{places[i]} ({why})" for i, why in sorted(corrupt.items())])
    raise ValueError(
        f"every image of `{options.name}` must decode, but {len(corrupt)} of {len(places)} "
        f"do not: {reasons}; repair or remove them, or set dataset.on_corrupt=skip."
    )


def _refuse_shared(
    options: Options, listings: Mapping[str, Listing], inodes: Int64[np.ndarray, " files"]
) -> None:
    """Refuse a file that is in two classes of a split, also through links."""
    start = 0
    for key, listing in listings.items():
        of_split = inodes[start : start + len(listing.paths)]
        start += len(listing.paths)
        ordered = np.sort(of_split)
        if (ordered[1:] != ordered[:-1]).all():
            continue
        known = np.flatnonzero(of_split)  # some file systems have no file numbers
        _, first, inverse = np.unique(of_split[known], return_index=True, return_inverse=True)
        others = known[first][inverse.reshape(-1)]
        apart = known != others  # an unknown value, NaN, differs from itself
        known, others = known[apart], others[apart]
        differs = listing.targets[known] != listing.targets[others]
        wrong = np.flatnonzero(differs.any(axis=tuple(range(1, differs.ndim))))
        for row in wrong.tolist():
            places = int(known[row]), int(others[row])
            # Equal numbers may also be those of files on two devices.
            if os.path.samefile(*(listing.paths[place] for place in places)):  # noqa: PTH121
                name, other = (listing.names[place] for place in places)
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
        digests: hash of each image's bytes (see ``stamps.of_bytes``), or of its file's stamp if the
            bytes were not read.
        summary: what is unusual in the files that decode.
        stamps: stamp of each file (of each image's file once, if files hold many images).
    """

    corrupt: dict[int, str]
    digests: Digests
    summary: Summary
    stamps: Numbers

    @property
    def content(self) -> str:
        """A hash of all bytes."""
        return hashlib.sha256(_bytes_of(self.digests)).hexdigest()


def look_at(
    paths: Sequence[str],
    decoding: Decoding,
    spans: Spans | None = None,
    verify: Verify = "full",
    numbers: Numbers | None = None,
) -> Looked:
    """Return which files do not decode, what is unusual in the others, and all files' hashes.

    Every file is decoded as in a run, in threads (Pillow decodes without holding the interpreter's
    lock). JPEG is decoded at an eighth of its size, which skips most of the arithmetic but reads
    the whole file: about 7,000 files of 32x32 px, or 1,400 of 500x400 px, per second and core. The
    result is cached until a path or a stamp changes (see ``inputs.Remembered``). A file that cannot
    be read is checked again. The files become inputs of the data set that is being built.

    Args:
        paths: the file of each image; all exist.
        decoding: how they become RGB.
        spans: the part of its file that each image is (``None``: the whole file).
        verify: ``full`` reads and decodes whole files; ``headers`` reads their beginnings only, and
            ``off`` nothing: then hashes are those of stamps.
        numbers: stamps of the files (``None``: they are looked at).
    """
    how = json.dumps([VERSION, PIL.__version__, decoding.upright, decoding.value_range])
    if spans is not None:
        how += hashlib.sha256(spans.astype("<i8").tobytes()).hexdigest()
    if verify != "full":
        how += verify
    files = paths if spans is None else list(dict.fromkeys(paths))
    if inputs.names_suffice(verify):
        numbers = np.zeros((len(files), 4), np.int64) if numbers is None else numbers
    if numbers is None:
        numbers = np.frombuffer(inputs.stamps_of(files), np.int64).reshape(-1, 4)
    before = _bytes_of(numbers)
    places = _originals(files)
    remembered = inputs.Remembered(how, places, before, digests=len(paths))
    settled = True
    if verify == "off":
        known: dict[str, Any] | None = {"corrupt": {}, "summary": {}, "digests": b""}
    else:
        known = remembered.get()
    if known is None:
        log.info("checking %d images; the result is kept until they change", len(paths))
        known, passing = _checked(paths, decoding, spans, verify)
        settled = inputs.stamps_of(files) == before
        if not settled:
            log.warning("images changed while they were checked; the next run checks them again")
        elif not passing:
            remembered.keep(known)
    digests = np.frombuffer(known["digests"], np.uint8).reshape(-1, DIGEST_BYTES)
    if verify != "full":
        rows = {path: row for row, path in enumerate(files)} if spans is not None else {}
        of_files = numbers if spans is None else numbers[[rows[path] for path in paths]]
        digests = _of_stamps(of_files, spans)
    corrupt = {int(key): str(why) for key, why in known["corrupt"].items()}
    looked = Looked(corrupt, digests, known["summary"], numbers)
    if spans is not None:  # the hash of a file that holds many images is computed elsewhere
        for path in files:
            inputs.note_file(path)
    elif verify == "full" and settled:
        inputs.note_files(places, before, known["digests"])
    elif verify == "full":
        inputs.note_files(places, before, inputs.UNSETTLED * len(paths))
    else:
        inputs.note_files(places, before, _bytes_of(digests))
    return looked


def _bytes_of(rows: Numbers | Digests) -> memoryview:
    """Return the bytes of an array, without a copy."""
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def _of_stamps(numbers: Numbers, spans: Spans | None) -> Digests:
    """Return hashes that differ if stamps (or spans) do, for files that were not read."""
    rows = numbers if spans is None else np.concatenate([numbers, spans], axis=1)
    size, hashes = rows.itemsize * rows.shape[1], bytearray()
    for first in range(0, len(rows), 4096):  # a list of all hashes would take 90 MB for a million
        data = rows[first : first + 4096].astype("<i8").tobytes()
        parts = (data[start : start + size] for start in range(0, len(data), size))
        hashes += b"".join(stamps.of_bytes(b"stamp" + part) for part in parts)
    return np.frombuffer(hashes, np.uint8).reshape(-1, DIGEST_BYTES)


def _checked(
    paths: Sequence[str], decoding: Decoding, spans: Spans | None, verify: Verify
) -> tuple[dict[str, Any], bool]:
    """Return the facts of all files, and whether some are those of the machine, not the files."""
    corrupt: dict[int, str] = {}
    digests = bytearray()
    unusual: list[tuple[str, Facts]] = []
    passing = False

    def look_batch(start: int) -> list[_Look]:
        batch = slice(start, start + _BATCH)
        parts = itertools.repeat(None) if spans is None else map(tuple, spans[batch].tolist())
        rows = zip(paths[batch], parts, strict=False)
        return [_look(path, decoding, span, verify) for path, span in rows]

    bar = tqdm(total=len(paths), desc="checking images", delay=2.0, leave=False, disable=None)
    workers = min(16, os.cpu_count() or 1)
    # One task per file, or all tasks at once, would take a gigabyte for a million files.
    with bar, ThreadPoolExecutor(workers, initializer=inputs.ignore_opening) as pool:
        starts = iter(range(0, len(paths), _BATCH))
        while window := list(itertools.islice(starts, _BATCHES)):
            for start, looks in zip(window, pool.map(look_batch, window), strict=True):
                for index, look in enumerate(looks, start):
                    digests += look.digest
                    passing |= look.passing
                    if look.reason is not None:
                        corrupt[index] = look.reason
                    elif look.facts != _USUAL:
                        unusual.append((paths[index], look.facts))
                bar.update(len(looks))
    summary = summarised([path for path, _ in unusual], [facts for _, facts in unusual])
    return {"corrupt": corrupt, "summary": summary, "digests": bytes(digests)}, passing


@dataclasses.dataclass(frozen=True)
class _Look:
    """One file: why it does not decode (``None``: it does), and the hash of its bytes."""

    reason: str | None
    digest: bytes
    facts: Facts = dataclasses.field(default_factory=Facts)
    passing: bool = False
    """Whether the reason is a state of the machine, not the file's content."""


_USUAL = Facts()


def _look(
    path: str, decoding: Decoding, span: Span | None = None, verify: Verify = "full"
) -> _Look:
    try:
        if verify == "headers" and span is None:
            read_header(path)
            return _Look(None, inputs.UNSETTLED)
        data, _ = read_bytes(path, span)
    except OSError as error:
        return _Look(error.strerror or str(error), inputs.UNSETTLED, passing=True)
    except ValueError as error:
        return _Look(str(error), inputs.UNSETTLED)
    digest = stamps.of_bytes(data)
    try:
        if verify == "headers":
            read_header(io.BytesIO(data))
            return _Look(None, digest)
        _, facts = decode(data, decoding, checking=True)
    except ValueError as error:
        return _Look(str(error), digest)
    except MemoryError:
        return _Look("not enough memory to decode it", digest, passing=True)
    return _Look(None, digest, facts)
