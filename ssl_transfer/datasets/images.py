"""Sequences of images that are decoded when asked for, and their way to RGB."""

import operator
import os
from collections.abc import Sequence
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

_EXIF_ORIENTATION = 0x0112


class Images(Sequence[Image.Image]):
    """RGB images that are decoded one by one; subclasses give ``load`` and a length."""

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
        paths: one file per image.
        upright: whether to turn a photograph as its EXIF orientation says.
    """

    def __init__(self, paths: Sequence[str], *, upright: bool = True) -> None:
        self.paths = tuple(paths)
        self.upright = upright

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int) -> Image.Image:
        """Return one image.

        Raises:
            ValueError: naming the file, if it cannot be decoded (any more).
        """
        path = self.paths[index]
        try:
            return read_rgb(path, upright=self.upright)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(
                f"`{path}` must be an image that decodes, but does not ({error}); repair it, or "
                "remove it and start again."
            ) from error


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
    """Another sequence's images, each cut to a box.

    Args:
        images: the whole ones.
        boxes: left, top, right and bottom of each in pixels; what lies outside of an image is not
            taken.
    """

    def __init__(self, images: Sequence[Image.Image], boxes: Int64[np.ndarray, "images 4"]) -> None:
        self.images, self.boxes = images, boxes

    def __len__(self) -> int:
        return len(self.boxes)

    def load(self, index: int) -> Image.Image:
        """Return one image.

        Raises:
            ValueError: if nothing of it lies in its box.
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
        return image.crop(box)


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


def read_rgb(path: str | os.PathLike[str], *, upright: bool = True) -> Image.Image:
    """Return the image in a file as RGB, turned upright as its EXIF orientation says.

    torchvision's ``ImageFolder`` ignores the orientation, so that photographs straight from a
    telephone come out lying; here they are seen as their owner sees them. Of an animation or a
    multi-page file the first picture is taken.
    """
    with Image.open(path) as image:
        image.load()
        if upright and image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an 8-bit RGB version of an image of any mode.

    Transparent pixels show white behind them (``convert`` would uncover whatever colour lies
    there), and 16-bit grey is scaled by 255/65535 (``convert`` would clip it to white). Mode ``I``
    is what older Pillows read 16-bit PNG files as, and is scaled likewise.

    Raises:
        ValueError: for floating-point pixels, whose range no file format fixes.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layered = image.convert("RGBA")
        background = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(background, layered).convert("RGB")
    return image.convert("RGB")
