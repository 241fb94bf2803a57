"""Images decoded once: the pixels of a dataset's files in one memory-mapped file for all runs.

<folder>/<32 hex>/pixels       a row per image (where, how large, checksum), then RGB bytes; takes
                               this name when it is whole
                  claim.json   while a process decodes

The hex digits are a hash of the contents of all files and of the decoder's version, so that changed
files get another store, and copies of the same files share one. An image whose checksum does not
match is decoded from its file.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import logging
import mmap
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import PIL
from PIL import Image, features
from tqdm import tqdm

from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.decoding import VERSION, read_bytes
from ssl_transfer.datasets.images import (
    CroppedImages,
    FileImages,
    Images,
    JoinedImages,
    PickedImages,
    SizedImages,
    in_files,
    leaves,
)
from ssl_transfer.system import claims, inputs
from ssl_transfer.system.files import replace_atomically

log = logging.getLogger(__name__)

Choice = Literal["auto", "always", "never"]


AUTO_PIXELS = 96 * 96
"""Mean pixels per image above which ``auto`` makes no store: resizing a photograph then takes as
long as decoding it, and its pixels take ten times the space of its file."""
AUTO_BYTES = 4 << 30
"""Size above which ``auto`` makes no store: the store should fit in memory beside the runs."""
_SAMPLE = 128  # headers read to estimate a store's size
_RESERVE = 1 << 30  # bytes of the disk reserved for checkpoints and records
_PART, _PARTS = 64, 16  # images per task of a thread, and tasks between writes to the disk
_HELD = 1 << 28  # approximate bytes of pixels in memory at once
_ROW = np.dtype([("start", "<i8"), ("width", "<i4"), ("height", "<i4"), ("crc", "<u4")])

DATASET = "dataset-"
"""Beginning of the names of empty files beside a store: the fingerprints of its data sets."""


Source = tuple[FileImages, int]
"""An image: a sequence of images in files, and the image's place in it."""


def decode_once(
    dataset: Dataset, folder: Path, choice: Choice = "auto", *, progress_bar: bool = True
) -> Dataset:
    """Return the dataset with its files' images read from a store, which is created if missing.

    Pixels, order, fingerprint and facts stay the same. If several processes call this function, one
    of them decodes and the others wait. If the store cannot be created (no space, no permission),
    the images are read from their files and a warning gives the reason.

    Args:
        dataset: the dataset; images that are not in image files stay unchanged.
        folder: folder of the stores, created if missing.
        choice: when to use a store: ``auto`` (if the images have at most ``AUTO_PIXELS`` pixels on
            average and ``AUTO_BYTES`` in total), ``always`` or ``never``.
        progress_bar: whether to draw a progress bar when decoding takes longer than two seconds.
    """
    files = [images for split in dataset.splits.values() for images in in_files(split.images)]
    parts = list({id(images): images for images in files}.values())
    count = sum(map(len, parts))
    if choice == "never" or not count:
        return dataset
    size = _estimate(parts)
    if choice == "auto" and (size > AUTO_BYTES or size > 3 * AUTO_PIXELS * count):
        return dataset
    try:
        place = folder / _key(dataset, parts) / "pixels"
        store = _store(dataset.name, parts, place, size, progress_bar=progress_bar)
        # `python -m launchers clean` compares the names of these files with the runs' records.
        (store.parent / f"{DATASET}{dataset.fingerprint[:32]}").touch()
    except OSError as error:
        log.warning("images of `%s` are decoded whenever they are needed: %s", dataset.name, error)
        return dataset
    starts = itertools.accumulate(map(len, parts), initial=0)
    read = {
        id(images): DecodedImages(images, start, store)
        for images, start in zip(parts, starts, strict=False)
    }
    splits = {
        key: dataclasses.replace(split, images=_replaced(split.images, read))
        for key, split in dataset.splits.items()
    }
    return dataclasses.replace(dataset, splits=splits)


class DecodedImages(Images):
    """Images in files, read from a store of their pixels.

    Args:
        files: decode the images that the store does not have.
        start: row of the first of them in the store's table.
        store: the file made by ``decode_once``; a worker process gets its path, not its pixels.
    """

    def __init__(self, files: FileImages, start: int, store: Path) -> None:
        self.files, self.start, self.store = files, start, store
        self._opened: Opened | None = _open(store)

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._opened = _open(self.store)

    def load(self, index: int) -> Image.Image:
        """Return one image.

        Raises:
            ValueError: naming the file, if the store does not have it and it cannot be decoded.
            OSError: naming the file, if it has changed.
        """
        if self._opened is None:
            return self.files.load(index)
        start, width, height, crc = self._opened.table[self.start + index].item()
        if not width:  # it did not decode when the store was made
            return self.files.load(index)
        self.files.require_unchanged(index)
        pixels = self._opened.pixels[start : start + 3 * width * height]
        if _checksum(pixels, width, height) != crc:
            log.warning("`%s` is damaged; images are read from their files", self.store)
            with contextlib.suppress(OSError):  # the file may belong to another user
                self.store.unlink()  # the next run creates the store again
            self._opened = None
            return self.files.load(index)
        return Image.frombytes("RGB", (width, height), pixels)


def require_unchanged(images: Sequence[Image.Image]) -> None:
    """Compare the files of images with what they were, before results are used in their place.

    Raises:
        OSError: naming a file that has changed since the data set was built, or is missing.
    """
    for leaf in leaves(images):
        files = leaf.files if isinstance(leaf, DecodedImages) else leaf
        if isinstance(files, FileImages):
            files.require_unchanged()


@dataclasses.dataclass(frozen=True)
class Opened:
    """An open store: its table, and the memory-mapped bytes of the pixels."""

    table: np.ndarray
    pixels: memoryview


def _open(store: Path) -> Opened | None:
    """Return the content of a complete store; None if there is none."""
    try:
        with store.open("rb") as file:
            table = np.lib.format.read_array(file, allow_pickle=False)
            pixels = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[file.tell() :]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("`%s` is damaged (%s)", store, error)
        return None
    sizes = 3 * table["width"].astype(np.int64) * table["height"]
    whole = table.dtype == _ROW and len(pixels) == sizes.sum()
    return Opened(table, pixels) if whole else None


def _checksum(pixels: bytes | memoryview, width: int, height: int) -> int:
    """Return the CRC-32 of an image's pixels and of its shape."""
    return zlib.crc32(pixels, width << 16 ^ height)


def _replaced(
    images: Sequence[Image.Image], read: Mapping[int, DecodedImages]
) -> Sequence[Image.Image]:
    """Return the same sequence with its leaves replaced, by the ``id`` of the old leaves."""
    if isinstance(images, PickedImages):
        return PickedImages(_replaced(images.images, read), images.indices)
    if isinstance(images, CroppedImages):
        return CroppedImages(_replaced(images.images, read), images.boxes, padded=images.padded)
    if isinstance(images, SizedImages):
        return SizedImages(_replaced(images.images, read), images.sizes)
    if isinstance(images, JoinedImages):
        return JoinedImages([_replaced(part, read) for part in images.parts])
    return read.get(id(images), images)


def _sources(parts: Sequence[FileImages]) -> Iterator[Source]:
    """Yield all images in the order of the store's rows."""
    return ((images, index) for images in parts for index in range(len(images)))


def _estimate(parts: Sequence[FileImages]) -> int:
    """Return the estimated size of the decoded images in bytes, from the headers of a sample."""
    areas = []
    count = sum(map(len, parts))
    picked = set(np.linspace(0, count - 1, min(_SAMPLE, count)).astype(int).tolist())
    starts = itertools.accumulate(map(len, parts), initial=0)
    for images, start in zip(parts, starts, strict=False):
        for index in sorted(row - start for row in picked if 0 <= row - start < len(images)):
            path, span = images.paths[index], images.span_of(index)
            try:
                file = path if span is None else io.BytesIO(read_bytes(path, span)[0])
                with Image.open(file) as image:
                    areas.append(image.width * image.height)
            except (OSError, ValueError, SyntaxError) as error:
                log.debug("no size of an image in `%s` (%s)", path, error)
    return round(3 * float(np.mean(areas)) * count) if areas else 0


def _store(
    name: str, parts: Sequence[FileImages], store: Path, size: int, *, progress_bar: bool
) -> Path:
    """Return the path of the store of these files; create the store if there is no complete one.

    Raises:
        OSError: if the store cannot be created; no partial file is left.
    """

    def is_there() -> bool:
        return _open(store) is not None

    def say_waiting(owner: dict[str, Any]) -> None:
        log.info("waiting for %s, which decodes the images of `%s`", claims.describe(owner), name)

    if is_there():
        return store
    count = sum(map(len, parts))
    stamps_before = [_stamps_when_built(images) for images in parts]

    def unchanged() -> bool:
        return all(
            inputs.stamps_of(_files(images)) == before
            for images, before in zip(parts, stamps_before, strict=True)
        )

    with claims.claimed(store.parent, finished=is_there, waiting=say_waiting, alone=True) as ours:
        if ours:
            for leftover in store.parent.glob(f".{store.name}.*.tmp"):  # of a killed process
                leftover.unlink(missing_ok=True)
            _refuse_too_large(size, store.parent)
            part = min(_PART, max(1, _HELD * count // (_PARTS * max(1, size))))
            log.info("decoding %d images of `%s` once, to `%s`", count, name, store)
            replace_atomically(
                store, lambda file: _fill(file, parts, unchanged, name, progress_bar, part)
            )
    return store


def _files(images: FileImages) -> Sequence[str]:
    """Return the files that images lie in, each once."""
    return images.paths if images.spans is None else list(dict.fromkeys(images.paths))


def _stamps_when_built(images: FileImages) -> bytes:
    """Return the stamps of files from when their data set was built, or of now."""
    if images.known is not None:
        return images.known.numbers.tobytes()
    return inputs.stamps_of(_files(images))


def _contents(dataset: Dataset, images: FileImages) -> bytes:
    """Return the hash of each image's file, as recorded when the data set was built.

    Raises:
        OSError: if a file changed while it was hashed.
    """
    if images.known is not None:
        return images.known.digests.tobytes()
    known = dataset.inputs.contents()
    files = _files(images)
    places = inputs.originals(files)
    left = [path for path, place in zip(files, places, strict=True) if place not in known]
    computed = dict(zip(left, inputs.contents(left), strict=True)) if left else {}
    digests = {
        path: known[place] if place in known else computed[path]
        for path, place in zip(files, places, strict=True)
    }
    for path, digest in digests.items():
        if digest == inputs.UNSETTLED:
            raise OSError(f"`{path}` changed while it was read")
    return b"".join(map(digests.__getitem__, images.paths))


def _key(dataset: Dataset, parts: Sequence[FileImages]) -> str:
    """Return a hash of the files' contents and of the decoder, as 32 hex digits.

    Raises:
        OSError: if a file changed while it was hashed.
    """
    # Versions of libjpeg may round differently.
    decoder = [PIL.__version__, *(features.version(name) for name in ("jpg", "webp"))]
    digest = hashlib.sha256(json.dumps([VERSION, *decoder]).encode())
    for images in parts:
        how = dataclasses.astuple(images.decoding)
        digest.update(json.dumps([*how, len(images), images.spans is None]).encode())
        digest.update(_contents(dataset, images))
        if images.spans is not None:
            digest.update(images.spans.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def _refuse_too_large(size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + size // 4 + _RESERVE:  # the size is an estimate
        needed, left = (tqdm.format_sizeof(count, "B") for count in (size, free))
        raise OSError(f"the disk of `{folder}` has {left} free for about {needed} of pixels")


def _fill(
    file: IO[bytes],
    parts: Sequence[FileImages],
    unchanged: Callable[[], bool],
    name: str,
    progress_bar: bool,
    part: int,
) -> None:
    """Write the store of these files; each task of a thread decodes ``part`` files.

    Raises:
        OSError: if a file changed meanwhile: its pixels would be stored under the old file's key.
    """
    table = np.zeros(sum(map(len, parts)), _ROW)
    np.lib.format.write_array(file, table)  # reserves the space of the table
    start = row = 0
    sources = _sources(parts)
    with (
        tqdm(
            total=len(table),
            desc=f"decoding {name}",
            disable=not progress_bar,
            leave=False,
            delay=2.0,
            mininterval=0.5 if sys.stderr.isatty() else 60.0,
        ) as bar,
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
    ):
        while window := list(itertools.islice(sources, part * _PARTS)):
            tasks = (window[first : first + part] for first in range(0, len(window), part))
            for decoded in pool.map(_decoded, tasks):
                for pixels, *description in decoded:
                    file.write(pixels)
                    table[row] = (start, *description)
                    start, row = start + len(pixels), row + 1
                bar.update(len(decoded))
    if not unchanged():
        raise OSError("files changed while they were decoded")
    file.seek(0)
    np.lib.format.write_array(file, table)


def _decoded(sources: Sequence[Source]) -> list[tuple[bytes, int, int, int]]:
    """Return every image's pixels, width, height and checksum; zeros if it does not decode."""
    decoded = []
    for images, index in sources:
        try:
            image = images[index]
        except ValueError as error:
            log.debug("%s", error)  # reading this image raises the error
            decoded.append((b"", 0, 0, 0))
            continue
        pixels = image.tobytes()
        decoded.append((pixels, *image.size, _checksum(pixels, *image.size)))
    return decoded
