"""Decode the bytes of an image file to 8-bit RGB; the check of files and the runs share this code.

Rules for every format:

- The EXIF orientation is applied, unless the data are read as published. Colour profiles (ICC) and
  gamma are ignored, and CMYK is converted by Pillow's formula with Adobe's polarity, with or
  without Adobe's marker: all as torchvision's loader does.
- Transparent pixels show white, in every mode.
- 16-bit and 32-bit grey is scaled from ``value_range``; 16-bit colour is read by its upper 8 bits,
  which is all that Pillow gives.
- Of an animation or a file with several pages, the first picture is taken.
- JPEG files above ``MAX_PIXELS`` are decoded at a half, a quarter or an eighth of their size; other
  formats can only be decoded whole and are refused.
"""

import contextlib
import dataclasses
import io
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import PIL
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from ssl_transfer.system import lfs

MAX_PIXELS = 89_478_485
"""Pillow warns of a decompression bomb above this (256 MiB of RGB) and refuses twice as many."""

VERSION = 1
"""Part of every cache key of file checks and of stored pixels; raise it when ``decode`` changes."""

Image.init()
FORMATS = tuple(
    name
    for name in (
        "JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "TGA",
        "PCX", "SGI", "SUN", "QOI", "DDS", "PSD", "ICO",
    )
    if name in Image.OPEN
)  # fmt: skip
"""The only formats that are opened, for safety: Pillow's EPS plugin starts a program."""

# This module limits the pixels itself. A warnings filter that is set earlier keeps precedence.
warnings.simplefilter("ignore", Image.DecompressionBombWarning, append=True)

_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = (0.0, 65535.0)
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
_BAND = 1 << 20  # pixels converted at a time, so that a large image needs no second copy
_LARGE_PIXELS = 1 << 24
_LARGE = threading.RLock()
"""Held while an image of more than ``_LARGE_PIXELS`` is decoded, so that only one is in memory."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files are decoded.

    Args:
        upright: whether to rotate a photograph by its EXIF orientation.
        value_range: the values that become black and white in grey images of more than 8 bits;
            values outside are clipped. ``None``: 0 and 65535; floating-point images are refused.
    """

    upright: bool = True
    value_range: tuple[float, float] | None = None


def decoding_of(value_range: Sequence[float] | None) -> Decoding:
    """Return how the files of a user's dataset are decoded.

    Args:
        value_range: see ``Decoding``.

    Raises:
        ValueError: if the range is not two finite numbers, the lower first.
    """
    if value_range is None:
        return Decoding()
    low, high = value_range if len(value_range) == 2 else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "`dataset.value_range` must be null or two finite numbers, the lower first, but is "
            f"{list(value_range)}."
        )
    return Decoding(value_range=(float(low), float(high)))


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is unusual about an image file.

    Args:
        depth: ``""`` for 8 bits per channel; else ``grey`` or ``colour``.
        values: the lowest and highest value of a file of more than 8 bits per channel.
        several: whether the file has more than one picture.
        reduced: width and height in the file, if it was decoded at a reduced size.
    """

    depth: str = ""
    values: tuple[float, float] = (0.0, 0.0)
    several: bool = False
    reduced: tuple[int, int] | None = None


Span = tuple[int, int]
"""Where an image lies in a file that holds many: its first byte, and its number of bytes."""


def read_rgb(
    path: str | os.PathLike[str], decoding: Decoding | None = None, span: Span | None = None
) -> Image.Image:
    """Return the image in a file as 8-bit RGB.

    Args:
        path: path of the file.
        decoding: how to decode it (``None``: the defaults of ``Decoding``).
        span: the part of the file that is the image (``None``: the whole file).

    Raises:
        OSError: if the file cannot be read.
        ValueError: if its content cannot be decoded.
    """
    return decode(read_bytes(path, span)[0], decoding or Decoding())[0]


def read_bytes(
    path: str | os.PathLike[str], span: Span | None = None
) -> tuple[bytes, os.stat_result]:
    """Return the bytes of a file, or of a part of it, and the file's status after it was read.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file ends before the part does.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - faster than Path
        if span is None:
            return file.readall(), os.fstat(file.fileno())
        start, size = span
        data = os.pread(file.fileno(), size, start)
        if len(data) < size:
            raise ValueError(f"the file ends {size - len(data)} bytes before this image does")
        return data, os.fstat(file.fileno())


def read_header(file: str | io.BytesIO) -> None:
    """Read the beginning of an image file, which tells its format and its size.

    Args:
        file: the path, or the content.

    Raises:
        OSError: if the file cannot be read.
        ValueError: saying why it is no image that ``decode`` reads.
    """
    with _explained(file), Image.open(file, formats=FORMATS) as opened:
        _reduce(opened, checking=True)
        _refuse_misread(getattr(opened, "tag_v2", {}))


def decode(data: bytes, decoding: Decoding, *, checking: bool = False) -> tuple[Image.Image, Facts]:
    """Return the image in a file's bytes as 8-bit RGB, and what is unusual about the file.

    Args:
        data: the whole file.
        decoding: how to decode it.
        checking: whether only the success of decoding matters, not the pixels. JPEG is then
            decoded at an eighth of its size, which reads the whole file and fails where decoding
            in full size fails, but skips most of the arithmetic.

    Raises:
        ValueError: saying why the content cannot be decoded.
        MemoryError: if there is not enough memory.
    """
    if not data:
        raise ValueError("an empty file")
    file = io.BytesIO(data)
    with _explained(file):
        return _decode(file, decoding, checking=checking)


@contextlib.contextmanager
def _explained(file: str | io.BytesIO) -> Iterator[None]:
    """Turn the errors of Pillow into ValueErrors that say what is wrong with the content."""
    try:
        yield
    except UnidentifiedImageError as error:
        if lfs.is_pointer(file):
            raise ValueError(lfs.ADVICE) from error
        raise ValueError(f"not an image that Pillow {PIL.__version__} reads") from error
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"it has more than twice {MAX_PIXELS / 1e6:.0f} million pixels; shrink it"
        ) from error
    except Exception as error:  # Pillow's parsers raise exceptions of any type for bad content
        raise ValueError(str(error) or type(error).__name__) from error


def _decode(file: io.BytesIO, decoding: Decoding, *, checking: bool) -> tuple[Image.Image, Facts]:
    with Image.open(file, formats=FORMATS) as opened:
        with _LARGE if math.prod(opened.size) > _LARGE_PIXELS else contextlib.nullcontext():
            rgb, facts = _to_rgb_and_facts(opened, decoding, checking=checking)
        if checking and opened.format != "MPO":  # a camera's second picture is a preview
            facts = dataclasses.replace(facts, several=_has_more(opened))
        return rgb, facts


def _to_rgb_and_facts(
    opened: ImageFile.ImageFile, decoding: Decoding, *, checking: bool
) -> tuple[Image.Image, Facts]:
    reduced = _reduce(opened, checking=checking)
    sixteen_bit_colour = _is_sixteen_bit_colour(opened)
    tags = getattr(opened, "tag_v2", {})
    _refuse_misread(tags)
    opened.load()
    image = _upright(opened) if decoding.upright else opened
    if _is_deep(image):
        low, high = _extremes(image)
        rgb = _from_deep(image, decoding.value_range, inverted=tags.get(_PHOTOMETRIC) == 0)
        return rgb, Facts("grey", (low, high), reduced=reduced)
    if not sixteen_bit_colour:
        return to_rgb(image), Facts(reduced=reduced)
    if decoding.value_range is not None:
        raise ValueError(
            "of 16-bit colour only the upper 8 bits are read, so that dataset.value_range cannot "
            "be applied; save it as 8-bit colour"
        )
    if isinstance(colour := image.info.get("transparency"), tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    rgb = to_rgb(image)
    brightest = max(np.asarray(band).max() for band in image.split()[:3])
    return rgb, Facts("colour", (0.0, 256.0 * float(brightest) + 255), reduced=reduced)


def _has_more(image: Image.Image) -> bool:
    """Return whether a file has further pictures, which need not decode."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # any exception of Pillow's parsers: there is data after the first picture
        return True


def _reduce(image: Image.Image, *, checking: bool) -> tuple[int, int] | None:
    """Let a JPEG file be decoded at a reduced size; return its own size if it is too large.

    Raises:
        ValueError: if an image of another format is too large.
    """
    width, height = image.size
    large = width * height > MAX_PIXELS
    if image.format not in ("JPEG", "MPO"):
        if large:
            raise ValueError(
                f"it has {width}x{height} pixels, and {image.format} is decoded whole; shrink it "
                f"to {MAX_PIXELS / 1e6:.0f} million pixels, or save it as JPEG"
            )
        return None
    scale = 8 if checking else 1
    while width * height > MAX_PIXELS * scale**2:
        scale *= 2
    if scale > 1:
        image.draft(None, (max(1, width // scale), max(1, height // scale)))
    return (width, height) if large else None


def _is_sixteen_bit_colour(image: Image.Image) -> bool:
    """Return whether Pillow will drop the lower 8 bits of every channel; call it before loading."""
    tiles = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA", "CMYK", "RGBX") and any(
        ";16" in str(tile[3]) for tile in tiles
    )


def _refuse_misread(tags: Mapping[int, Any]) -> None:
    """Refuse kinds of TIFF that Pillow decodes to wrong values.

    Raises:
        ValueError: naming the kind.
    """
    bits, formats = tags.get(_BITS, (8,)), tags.get(_SAMPLE_FORMAT, (1,))
    bits = bits if isinstance(bits, tuple) else (bits,)
    if len(bits) > 1 and max(bits) > 8 and tags.get(_PLANES) == 2:
        raise ValueError("16-bit colour in separate planes is not supported; save it interleaved")
    if bits == (8,) and formats in ((2,), 2):
        raise ValueError("signed 8-bit values are not supported; save them as 16-bit")


def _upright(image: Image.Image) -> Image.Image:
    """Return the image rotated by its EXIF orientation; other tags are ignored."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # unreadable EXIF data: no viewer turns such an image
        return image
    method = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_rgb(image: Image.Image, value_range: tuple[float, float] | None = None) -> Image.Image:
    """Return an 8-bit RGB version of an image of any mode, transparent pixels being white.

    Args:
        image: decoded.
        value_range: see ``Decoding``.

    Raises:
        ValueError: for floating-point pixels without a range or with NaN.
    """
    if _is_deep(image):
        return _from_deep(image, value_range)
    palette_alpha = (
        image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    )
    layered = image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if not (layered or palette_alpha or "transparency" in image.info):
        return image if image.mode == "RGB" else image.convert("RGB")
    return _by_bands(image, _on_white)


def _on_white(band: Image.Image) -> Image.Image:
    # `convert("RGB")` would show the hidden colours of transparent pixels.
    layered = band.convert("RGBA")
    background = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(background, layered).convert("RGB")


def _from_deep(
    image: Image.Image, value_range: tuple[float, float] | None, *, inverted: bool = False
) -> Image.Image:
    """Return grey values of more than 8 bits as RGB.

    Args:
        image: mode ``I``, ``I;16…`` or ``F``.
        value_range: see ``Decoding``.
        inverted: whether the lowest value is white (a TIFF tag).

    Raises:
        ValueError: see ``to_rgb``.
    """
    low, high = _extremes(image)
    if image.mode == "F" and not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its floating-point pixels must be finite, but some are NaN or infinite")
    if image.mode == "F" and value_range is None:
        raise ValueError(
            f"its pixels are floating-point numbers of unknown range (here {low:g} to {high:g}); "
            "set dataset.value_range=[LOWEST,HIGHEST], such as [0,1]"
        )
    transparent = image.info.get("transparency")

    def scaled(band: Image.Image) -> Image.Image:
        values = np.asarray(band)
        levels = to_levels(values, value_range or _SIXTEEN_BITS)
        levels = 255 - levels if inverted else levels
        if isinstance(transparent, int):
            levels = np.where(values == transparent, np.uint8(255), levels)
        return Image.fromarray(levels).convert("RGB")

    return _by_bands(image, scaled)


def _extremes(image: Image.Image) -> tuple[float, float]:
    """Return the lowest and the highest value of a one-channel image; NaN if there is one."""
    extremes = []
    for top, bottom in _rows(image):
        values = np.asarray(image.crop((0, top, image.width, bottom)))
        extremes.append((values.min(), values.max()))
    lows, highs = zip(*extremes, strict=True)
    return float(np.min(lows)), float(np.max(highs))


def to_levels(
    values: Shaped[np.ndarray, "height width"], value_range: tuple[float, float]
) -> UInt8[np.ndarray, "height width"]:
    """Return values scaled from a range to 0…255, rounded and clipped."""
    low, high = value_range
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return ``convert`` of an image; a large image is converted some rows at a time."""
    if image.width * image.height <= _BAND:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top, bottom in _rows(image):
        whole.paste(convert(image.crop((0, top, image.width, bottom))), (0, top))
    return whole


def _rows(image: Image.Image) -> Iterator[tuple[int, int]]:
    step = max(1, _BAND // image.width)
    for top in range(0, image.height, step):
        yield top, min(top + step, image.height)
