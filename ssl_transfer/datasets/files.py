"""Samples in image files: every file is checked before any training."""

import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import PIL
from jaxtyping import Int64

from ssl_transfer.datasets.base import Split, Targets
from ssl_transfer.datasets.decoding import VERSION, Decoding, Facts, decode
from ssl_transfer.datasets.images import FileImages
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
    """

    paths: Sequence[str]
    names: Sequence[str]
    targets: Targets

    def keep(self, indices: Int64[np.ndarray, " kept"]) -> "Listing":
        """Return the files at ``indices``."""
        return Listing(
            paths=[self.paths[i] for i in indices],
            names=[self.names[i] for i in indices],
            targets=self.targets[indices],
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
    stats = [os.stat(path) for path in paths]  # noqa: PTH116 - six times as fast as Path.stat
    _refuse_shared(options, listings, stats)
    sizes = [stat.st_size for stat in stats]
    decoding = decoding or Decoding()
    looked = look_at(paths, decoding)
    corrupt = looked.corrupt
    for sentence in sentences(options.name, looked.summary, decoding):
        _warn_once(sentence)
    if corrupt and options.on_corrupt == "error":
        reasons = some([f"{paths[i]} ({why})" for i, why in sorted(corrupt.items())])
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
            FileImages(remaining.paths, decoding), remaining.targets, remaining.names
        )
        start = end
    if skipped:
        log.warning("`%s`: skipping %d corrupt images: %s", options.name, len(skipped), skipped)
    facts: dict[str, object] = {"corrupt": len(skipped), "corrupt_names": sorted(skipped)[:100]}
    return Files(splits, digest.hexdigest(), facts, digests)


def _refuse_shared(
    options: Options, listings: Mapping[str, Listing], stats: Sequence[os.stat_result]
) -> None:
    """Refuse a file that is in two classes of a split, also through links."""
    position = 0
    for key, listing in listings.items():
        seen: dict[tuple[int, int], tuple[str, object]] = {}
        for name, target in zip(listing.names, listing.targets.tolist(), strict=True):
            stat = stats[position]
            position += 1
            if not stat.st_ino:
                continue  # a file system without file numbers
            other = seen.setdefault((stat.st_dev, stat.st_ino), (name, target))
            if other[1] != target:
                raise ValueError(
                    f"an image of `{options.name}` must be in one class only, but `{name}` and "
                    f"`{other[0]}` ({key}) are the same file; remove one."
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


def look_at(paths: Sequence[str], decoding: Decoding) -> Looked:
    """Return which files do not decode, what is unusual in the others, and all files' hashes.

    Every file is decoded as in a run, in threads (Pillow decodes without holding the interpreter's
    lock). JPEG is decoded at an eighth of its size, which skips most of the arithmetic but reads
    the whole file: about 7,000 files of 32x32 px, or 1,400 of 500x400 px, per second and core. The
    result is cached until a path or a stamp changes (see ``inputs.Remembered``); looking it up only
    reads the files' stamps. A file that cannot be read is checked again. The files become inputs of
    the data set that is being built.

    Args:
        paths: the files; all exist.
        decoding: how they become RGB.
    """
    how = json.dumps([VERSION, PIL.__version__, decoding.upright, decoding.value_range])
    stamps_before = [inputs.stamp_of(path) for path in paths]
    assert None not in stamps_before, "all files exist"
    remembered, settled = inputs.Remembered(how, paths, stamps_before), True
    if (known := remembered.get()) is not None:
        corrupt = {int(key): str(why) for key, why in known["corrupt"].items()}
        looked = Looked(corrupt, known["digests"], known["summary"])
    else:
        log.info("checking %d images; the result is kept until they change", len(paths))
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            looks = list(pool.map(functools.partial(_look, decoding=decoding), paths, chunksize=64))
        corrupt = {i: look.reason for i, look in enumerate(looks) if look.reason is not None}
        fine = [i for i in range(len(paths)) if i not in corrupt]
        summary = summarised([paths[i] for i in fine], [looks[i].facts for i in fine])
        looked = Looked(corrupt, [look.digest for look in looks], summary)
        settled = [inputs.stamp_of(path) for path in paths] == stamps_before
        if not settled:
            log.warning("images changed while they were checked; the next run checks them again")
        elif not any(look.passing for look in looks):
            remembered.keep(vars(looked))
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


def _look(path: str, decoding: Decoding) -> _Look:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return _Look(error.strerror or str(error), inputs.UNSETTLED, passing=True)
    digest = stamps.of_bytes(data)
    try:
        _, facts = decode(data, decoding, checking=True)
    except ValueError as error:
        return _Look(str(error), digest)
    except MemoryError:
        return _Look("not enough memory to decode it", digest, passing=True)
    return _Look(None, digest, facts)
