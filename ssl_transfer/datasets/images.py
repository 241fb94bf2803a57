"""Sequences of images that are decoded on access."""

import operator
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from ssl_transfer.datasets.decoding import Decoding, Span, decode, read_bytes
from ssl_transfer.datasets.unchanged import Known
from ssl_transfer.system.texts import Texts

Spans = Int64[np.ndarray, "images 2"]
"""First byte and number of bytes of each image in its file."""


class Images(Sequence[Image.Image]):
    """RGB images that are decoded one by one; subclasses define ``load`` and ``__len__``."""

    def load(self, index: int) -> Image.Image:
        """Return one image; ``index`` lies in ``[0, len(self))``."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [self.load(i) for i in range(*index.indices(len(self)))]
        position = operator.index(index)
        position += len(self) if position < 0 else 0
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is outside of {len(self)} images")
        return self.load(position)


class ArrayImages(Images):
    """Images held in memory as one array."""

    def __init__(self, pixels: UInt8[np.ndarray, "images height width 3"]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, index: int) -> Image.Image:
        """Return one image."""
        return Image.fromarray(self.pixels[index])


class FileImages(Images):
    """Images in files.

    Args:
        paths: the file of each image.
        decoding: how they become RGB (``None``: the defaults of ``Decoding``).
        spans: first byte and number of bytes of each image in its file, where a file holds many
            images (``None``: each file is one image).
        known: what the files are compared with when they are read (``None``: nothing).
        recorded: whether the files are recorded as inputs of their data set already.
    """

    def __init__(
        self,
        paths: Sequence[str],
        decoding: Decoding | None = None,
        spans: Spans | None = None,
        known: Known | None = None,
        *,
        recorded: bool = False,
    ) -> None:
        self.paths = paths if isinstance(paths, Texts) else tuple(paths)
        self.decoding = decoding or Decoding()
        self.spans, self.known, self.recorded = spans, known, recorded

    def __len__(self) -> int:
        return len(self.paths)

    def span_of(self, index: int) -> Span | None:
        """Return the part of its file that one image is (``None``: the whole file)."""
        if self.spans is None:
            return None
        start, size = self.spans[index].tolist()
        return start, size

    def load(self, index: int) -> Image.Image:
        """Return one image.

        Raises:
            ValueError: naming the file, if it cannot be decoded.
            OSError: naming the file, if it has changed.
        """
        path, span = self.paths[index], self.span_of(index)
        try:
            content, status = read_bytes(path, span)
        except (OSError, ValueError) as error:
            raise self._unreadable(path, span, error) from error
        if self.known is not None:
            self.known.require(index, path, status, content)
        try:
            return decode(content, self.decoding)[0]
        except ValueError as error:
            raise self._unreadable(path, span, error) from error
        except MemoryError as error:
            raise ValueError(
                f"`{path}` must fit into memory when it is decoded, but does not; lower "
                "trainer.workers, or shrink the image."
            ) from error

    def require_unchanged(self, index: int | None = None) -> None:
        """Compare one file, or all files (``None``), in whose place results are used.

        Raises:
            OSError: naming a file that has changed since the data set was built, or is missing.
        """
        if self.known is None:
            return
        if index is None:
            self.known.require_all(self.paths)
        else:
            self.known.require_unread(index, self.paths[index])

    @staticmethod
    def _unreadable(path: str, span: Span | None, error: Exception) -> ValueError:
        part = "" if span is None else f" from byte {span[0]} to {sum(span)}"
        return ValueError(
            f"`{path}`{part} must be an image that decodes, but does not ({error}); repair it, or "
            "remove it and start again."
        )


class PickedImages(Images):
    """Some of another sequence's images, in a given order."""

    def __init__(
        self, images: Sequence[Image.Image], indices: Int64[np.ndarray, " picked"]
    ) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Image.Image:
        """Return one image."""
        return self.images[int(self.indices[index])]


class CroppedImages(Images):
    """Another sequence's images, each cropped to a box.

    Args:
        images: the whole images.
        boxes: left, top, right and bottom of each in pixels.
        padded: whether the parts of a box outside of its image are black (else they are ignored).
    """

    def __init__(
        self,
        images: Sequence[Image.Image],
        boxes: Int64[np.ndarray, "images 4"],
        *,
        padded: bool = False,
    ) -> None:
        self.images, self.boxes, self.padded = images, boxes, padded

    def __len__(self) -> int:
        return len(self.boxes)

    def load(self, index: int) -> Image.Image:
        """Return one image.

        Raises:
            ValueError: if no part of the image lies in its box.
        """
        image = self.images[index]
        left, top, right, bottom = self.boxes[index].tolist()
        box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError(
                f"a bounding box must show a part of its image, but {self.boxes[index].tolist()} "
                f"shows nothing of image {index}, which has {image.width}x{image.height} px; "
                "correct the annotation, or read images without boxes."
            )
        return image.crop((left, top, right, bottom) if self.padded else box)


class SizedImages(Images):
    """Another sequence's images, each checked to have its stated size.

    Args:
        images: the images.
        sizes: width and height of each in pixels.
    """

    def __init__(self, images: Sequence[Image.Image], sizes: Int64[np.ndarray, "images 2"]) -> None:
        self.images, self.sizes = images, sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def load(self, index: int) -> Image.Image:
        """Return one image.

        Raises:
            ValueError: if it has another size.
        """
        image = self.images[index]
        width, height = self.sizes[index].tolist()
        if image.size != (width, height):
            raise ValueError(
                f"every image must have {width}x{height} px, to which its landmarks belong, but "
                f"image {index} has {image.width}x{image.height} px; unpack the archive again."
            )
        return image


class JoinedImages(Images):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Image.Image]]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def load(self, index: int) -> Image.Image:
        """Return one image."""
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - (int(self.ends[part - 1]) if part else 0)]


def leaves(images: Sequence[Image.Image]) -> Iterator[Sequence[Image.Image]]:
    """Yield the sequences that a sequence is made of, and that are not made of others."""
    if isinstance(images, PickedImages | CroppedImages | SizedImages):
        yield from leaves(images.images)
    elif isinstance(images, JoinedImages):
        for part in images.parts:
            yield from leaves(part)
    else:
        yield images


def in_files(images: Sequence[Image.Image]) -> Iterator[FileImages]:
    """Yield the images in files that a sequence is made of."""
    return (leaf for leaf in leaves(images) if isinstance(leaf, FileImages))
