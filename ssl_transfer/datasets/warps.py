"""Geometric transforms of whole batches: affine maps, boxes and displacements, one per image.

All coordinates are in pixels from the image's centre, with y downwards, as torchvision has them. A
transform and the centre crop after it are one resampling: only the pixels of the crop are computed.
"""

import functools
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.randomness import derive

Pixels = Float32[Tensor, "batch 3 height width"]
Window = tuple[int, int]
"""Height and width of the centre crop to compute."""

Interpolation = Literal["bilinear", "nearest"]
Beyond = Literal["zeros", "reflection"]
"""What lies beyond the border: black, or the mirrored image."""

SHARING = 8
"""Images from which a processor reads the places of a common map as weighted sums of rows, which
is then faster than reading each image by itself."""


def affine_matrices(
    *,
    angle: Float64[np.ndarray, " #batch"] | float = 0.0,
    translate: Float64[np.ndarray, "#batch 2"] | tuple[float, float] = (0.0, 0.0),
    scale: Float64[np.ndarray, " #batch"] | float = 1.0,
    shear: Float64[np.ndarray, "#batch 2"] | tuple[float, float] = (0.0, 0.0),
) -> Float64[np.ndarray, "batch 2 3"]:
    """Return the maps from the output's coordinates to the input's, as ``affine`` of torchvision.

    Args:
        angle: rotation in degrees, clockwise.
        translate: shift of the image in pixels, to the right and downwards.
        scale: factor of size.
        shear: angles in degrees along x and y.
    """
    rotation = np.radians(np.atleast_1d(angle))
    along_x, along_y = np.radians(np.atleast_2d(shear)).T
    turned = rotation - along_y
    # The rotation times the shears; its determinant is 1.
    a, b = np.cos(turned) / np.cos(along_y), -np.sin(rotation)
    b = b - np.cos(turned) * np.tan(along_x) / np.cos(along_y)
    c, d = np.sin(turned) / np.cos(along_y), np.cos(rotation)
    d = d - np.sin(turned) * np.tan(along_x) / np.cos(along_y)
    a, b, c, d, factor = np.broadcast_arrays(a, b, c, d, np.atleast_1d(scale))
    inverse = np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2) / factor[:, None, None]
    moved = -(inverse @ np.atleast_2d(translate)[:, :, None])
    return np.concatenate([np.broadcast_to(inverse, (len(moved), 2, 2)), moved], axis=-1)


def warp(
    pixels: Pixels,
    matrices: Float64[np.ndarray, "#batch 2 3"],
    window: Window,
    *,
    interpolation: Interpolation = "bilinear",
    beyond: Beyond = "zeros",
) -> Float32[Tensor, "batch 3 _ _"]:
    """Return the centre crops of the images after affine maps.

    Args:
        pixels: the images.
        matrices: maps from the output's coordinates to the input's; one for all images, or one per
            image.
        window: size of the crop.
        interpolation: how the input is read between its pixels.
        beyond: what lies beyond the input's border.
    """
    # Places in the input, in units of half its size: first a row of the map times y, then plus x.
    y, x = (axis[None, :] for axis in _centred_axes(pixels, window))
    height, width = pixels.shape[-2:]
    relative = matrices * np.array([[2 / width], [2 / height]])
    maps = torch.from_numpy(relative.astype(np.float32)).to(pixels.device)[..., None]
    places = [
        (row[:, 1] * y + row[:, 2])[:, :, None] + (row[:, 0] * x)[:, None] for row in maps.unbind(1)
    ]
    return _read(pixels, torch.stack(places, dim=-1), interpolation, beyond)


def displaced(
    pixels: Pixels, fields: Float32[Tensor, "#batch 2 height width"], window: Window
) -> Float32[Tensor, "batch 3 _ _"]:
    """Return the centre crops of the images with every pixel read at a displaced place.

    Args:
        pixels: the images; they are mirrored beyond their border.
        fields: displacements along x and y in pixels; one for all images, or one per image.
        window: size of the crop.
    """
    y, x = _centred_axes(pixels, window)
    across, down = centre(fields, window).unbind(1)
    height, width = pixels.shape[-2:]
    places = [(across + x) * (2 / width), (down + y[:, None]) * (2 / height)]
    return _read(pixels, torch.stack(places, dim=-1), "bilinear", "reflection")


@functools.lru_cache(maxsize=4)
def smooth_fields(
    sigma: float, rms: float, window: Window, seed: int
) -> Float32[Tensor, "2 height width"]:
    """Return a random field of displacements along x and y: noise, smoothed by a Gaussian.

    Args:
        sigma: standard deviation of the Gaussian in pixels, which wraps around at the border.
        rms: root mean square of the displacements along each axis, in pixels.
        window: height and width.
        seed: of the noise.
    """
    generator = np.random.Generator(np.random.Philox(derive(seed, "displacements")))
    noise = generator.uniform(-1, 1, (2, *window))
    # The product of the transforms is the transform of the convolution.
    frequencies = np.hypot(np.fft.fftfreq(window[0])[:, None], np.fft.rfftfreq(window[1]))
    gaussian = np.exp(-2 * (np.pi * sigma * frequencies) ** 2)
    gaussian[0, 0] = 0  # a shift of the whole image is no deformation
    field = np.fft.irfft2(np.fft.rfft2(noise) * gaussian, s=window)
    field *= rms / np.sqrt(np.square(field).mean(axis=(1, 2), keepdims=True))
    return torch.from_numpy(field.astype(np.float32))


def cropped_and_resized(
    pixels: Pixels, boxes: Float64[np.ndarray, "batch 4"], window: Window
) -> Float32[Tensor, "batch 3 _ _"]:
    """Return a box of each image, cut and resized by bilinear interpolation with antialiasing.

    Args:
        pixels: the images; they are black beyond their border.
        boxes: top, left, height and width in pixels from the top left corner; rounded.
        window: size of the result.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    unique, rows = np.unique(np.rint(corners).astype(np.int64), axis=0, return_inverse=True)
    result = pixels.new_empty(len(pixels), 3, *window)
    height, width = pixels.shape[-2:]
    for number, (top, left, bottom, right) in enumerate(unique.tolist()):
        chosen = torch.from_numpy(np.flatnonzero(rows.reshape(-1) == number)).to(pixels.device)
        part = pixels[chosen, :, max(top, 0) : bottom, max(left, 0) : right]
        outside = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
        result[chosen] = resized(F.pad(part, outside), window)
    return result


def resized(
    pixels: Float32[Tensor, "batch 3 _ _"],
    window: Window,
    mode: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
) -> Float32[Tensor, "batch 3 _ _"]:
    """Return the images resized, with antialiasing as Pillow does it.

    Args:
        pixels: the images, with values in [0, 1].
        window: height and width of the result.
        mode: interpolation.
    """
    if mode == "nearest":
        return F.interpolate(pixels, window, mode="nearest-exact")
    result = F.interpolate(pixels, window, mode=mode, align_corners=False, antialias=True)
    return result.clamp_(0, 1)


def resized_levels(
    levels: UInt8[Tensor, "batch 3 _ _"],
    window: Window,
    mode: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
) -> UInt8[Tensor, "batch 3 _ _"]:
    """Return images of 8 bits resized, as ``resized``; a processor computes them in integers."""
    if levels.device.type == "cpu" and mode != "nearest":
        return F.interpolate(levels, window, mode=mode, align_corners=False, antialias=True)
    return resized(levels.float() / 255, window, mode).mul_(255).round_().to(torch.uint8)


def centre(
    pixels: Shaped[Tensor, "batch channels height width"], window: Window
) -> Shaped[Tensor, "batch channels _ _"]:
    """Return the centre crop; the window lies in the image."""
    top, left = corner(pixels.shape[-2:], window)
    return pixels[..., top : top + window[0], left : left + window[1]]


def corner(shape: torch.Size, window: Window) -> tuple[int, int]:
    """Return the top left corner of the centre crop, rounded as torchvision does."""
    height, width = shape
    return round((height - window[0]) / 2), round((width - window[1]) / 2)


def _centred_axes(
    pixels: Tensor, window: Window
) -> tuple[Float32[Tensor, " rows"], Float32[Tensor, " columns"]]:
    """Return y and x of the pixels of the centre crop."""
    (top, left), (height, width) = corner(pixels.shape[-2:], window), pixels.shape[-2:]
    y = torch.arange(top, top + window[0], device=pixels.device) + (0.5 - height / 2)
    x = torch.arange(left, left + window[1], device=pixels.device) + (0.5 - width / 2)
    return y, x


def _read(
    pixels: Pixels,
    grid: Float32[Tensor, "#batch _ _ 2"],
    interpolation: Interpolation,
    beyond: Beyond,
) -> Float32[Tensor, "batch 3 _ _"]:
    """Return the images read at x and y from the centre, in units of half the image's size."""
    if len(grid) == 1 and len(pixels) >= SHARING and pixels.device.type == "cpu":
        return _read_alike(pixels, grid[0], interpolation, beyond)
    return F.grid_sample(
        pixels,
        grid.expand(len(pixels), -1, -1, -1),
        mode=interpolation,
        padding_mode=beyond,
        align_corners=False,
    )


def image_minor(pixels: Pixels) -> Pixels:
    """Return the images with the values of one pixel of all images side by side in memory."""
    return pixels.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)


def _read_alike(
    pixels: Pixels,
    grid: Float32[Tensor, "rows columns 2"],
    interpolation: Interpolation,
    beyond: Beyond,
) -> Float32[Tensor, "batch 3 rows columns"]:
    """Return the same places of all images, as ``grid_sample``, which computes them per image.

    Every output pixel is a weighted sum of a few rows of a table with one row per input pixel.
    """
    batch, channels, height, width = pixels.shape
    x, y = (
        _within(((axis + 1) * side - 1) / 2, side, beyond)
        for axis, side in zip(grid.flatten(0, 1).unbind(1), (width, height), strict=True)
    )
    if interpolation == "nearest":
        corners = [(x.round(), y.round(), torch.ones_like(x))]
    else:
        left, top = x.floor(), y.floor()
        across, down = x - left, y - top
        corners = [
            (left, top, (1 - across) * (1 - down)),
            (left + 1, top, across * (1 - down)),
            (left, top + 1, (1 - across) * down),
            (left + 1, top + 1, across * down),
        ]
    rows = x.new_empty(len(x), len(corners), dtype=torch.int32)
    weights = x.new_empty(len(x), len(corners))
    for number, (column, row, weight) in enumerate(corners):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        # Integers: large images have more pixels than float32 can number.
        rows[:, number] = row.clamp(0, height - 1).int() * width
        rows[:, number] += column.clamp(0, width - 1).int()
        weights[:, number] = weight * inside
    table = pixels.permute(2, 3, 0, 1).reshape(height * width, batch * channels)
    read = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
    return read.view(*grid.shape[:2], batch, channels).permute(2, 3, 0, 1)


def _within(
    places: Float32[Tensor, " places"], side: int, beyond: Beyond
) -> Float32[Tensor, " places"]:
    """Return places along an axis, mirrored at the borders of the outer pixels if wanted."""
    if beyond == "zeros":
        return places
    folded = (places + 0.5).remainder_(2 * side)
    return torch.minimum(folded, 2 * side - folded).sub_(0.5).clamp_(0, side - 1)
