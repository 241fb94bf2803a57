"""Changes of colour and sharpness of whole batches on any device, with one strength per image.

``pixels`` has those of augmentation, which give bit-identical results in every batch, on the CPU
alone; here a GPU may compute.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from ssl_transfer.datasets.pixels import grayscale
from ssl_transfer.datasets.warps import Window, corner

Pixels = Float32[Tensor, "batch 3 height width"]
Factor = Float32[Tensor, "batch 1 1 1"]

WIDTHS = 3.0
"""Reach of a Gaussian kernel in standard deviations, unless its width is given."""


def contrast(pixels: Pixels, factor: Factor) -> Pixels:
    """Return the images blended with their mean grey; factor 1 changes nothing."""
    return blend(pixels, grayscale(pixels).mean(dim=(2, 3), keepdim=True), factor)


def sharpness(pixels: Pixels, factor: Factor) -> Pixels:
    """Return the images blended with a smoothed version, as Pillow does; factor 1 changes nothing.

    The smoothed version has the border of the image, because the kernel of 3x3 pixels does not fit
    there.
    """
    # Weights 1, and 5 for the centre: the sum of the 3x3 square and four times the centre.
    square = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    square = square[..., :-2] + square[..., 1:-1] + square[..., 2:]
    smooth = pixels.clone()
    inside = smooth[:, :, 1:-1, 1:-1]
    inside.mul_(4).add_(square).div_(13)
    return blend(pixels, smooth, factor)


def hue(pixels: Pixels, shift: Factor) -> Pixels:
    """Return the images with the hue rotated by the fraction ``shift`` of the colour circle."""
    red, green, blue = pixels.unbind(1)
    value, low = pixels.amax(dim=1), pixels.amin(dim=1)
    chroma = value - low
    per_chroma = torch.where(chroma == 0, 1.0, chroma).reciprocal_()
    # The angle in sixths of the circle; in a tie red precedes green, and green precedes blue.
    angle = torch.where(
        value == red,
        (green - blue).mul_(per_chroma),
        torch.where(
            value == green,
            (blue - red).mul_(per_chroma).add_(2.0),
            (red - green).mul_(per_chroma).add_(4.0),
        ),
    ).add_(shift[:, 0] * 6.0)
    result = torch.empty_like(pixels)
    for channel, place in enumerate((0.0, 2.0, 4.0)):
        # The distance from the channel's place on the circle: a channel is full up to 1 sixth away
        # from it, and empty from 2 sixths on.
        distance = angle - place
        distance.sub_((distance / 6.0).round_(), alpha=6.0).abs_()
        share = distance.neg_().add_(2.0).clamp_(0, 1)
        torch.addcmul(low, share, chroma, out=result[:, channel])
    return result.clamp_(0, 1)


def blend(pixels: Pixels, other: Float[Tensor, "batch _ _ _"], factor: Factor) -> Pixels:
    """Return ``factor`` parts of the images and the rest of the others, clipped to [0, 1]."""
    return torch.lerp(other, pixels, factor).clamp_(0, 1)


def blur(
    pixels: Pixels,
    sigma: Float64[np.ndarray, " batch"],
    window: Window,
    radius: int | None = None,
) -> Float32[Tensor, "batch 3 _ _"]:
    """Return centre crops of the images blurred by Gaussians; their borders are mirrored.

    The convolution along an axis is a product with a matrix, which takes the same time for any
    kernel.

    Args:
        pixels: the images.
        sigma: standard deviation of each image's Gaussian in pixels.
        window: height and width of the crop.
        radius: pixels on either side of the kernel's centre (``None``: three standard deviations).
    """
    unique, rows = np.unique(sigma, return_inverse=True)
    (top, left), (height, width) = corner(pixels.shape[-2:], window), pixels.shape[-2:]
    result = pixels.new_empty(len(pixels), 3, *window)
    for number, value in enumerate(unique.tolist()):
        chosen = torch.from_numpy(np.flatnonzero(rows == number)).to(pixels.device)
        part = pixels if len(unique) == 1 else pixels[chosen]
        down = _gaussian_matrix(height, value, radius)[top : top + window[0]].to(part)
        across = _gaussian_matrix(width, value, radius)[left : left + window[1]].to(part)
        result[chosen] = down @ (part @ across.T)
    return result


def _gaussian_matrix(side: int, sigma: float, radius: int | None) -> Float64[Tensor, "side side"]:
    """Return the matrix whose row i holds the weights of the pixels that become pixel i."""
    reach = max(1, math.ceil(WIDTHS * sigma)) if radius is None else radius
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    # Mirror without repeating the border: the period is 2 (side - 1).
    period = max(1, 2 * (side - 1))
    places = np.abs((np.arange(side)[:, None] + offsets + side - 1) % period - (side - 1))
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], places), weights)
    return torch.from_numpy(matrix)


def posterize(pixels: Pixels, bits: Float32[Tensor, "batch 1 1 1"]) -> Pixels:
    """Return the images with the highest bits of each 8-bit value only."""
    step = torch.exp2(8 - bits)
    return (levels(pixels).float() / step).floor_() * (step / 255)


def equalize(pixels: Pixels) -> Pixels:
    """Return the images with evenly used levels in each channel, as Pillow's ``ImageOps`` does."""
    values = levels(pixels).flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=pixels.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    brightest = torch.take_along_dim(counts, values.amax(dim=2, keepdim=True), dim=2)
    step = (counts.sum(dim=2, keepdim=True) - brightest) // 255
    below = counts.cumsum(dim=2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    # Too few pixels, or a single level: no step can be made.
    unchanged = torch.arange(256, device=pixels.device).expand_as(table)
    table = torch.where(step > 0, table, unchanged)
    return (torch.take_along_dim(table, values, dim=2).float() / 255).view_as(pixels)


def levels(pixels: Pixels) -> UInt8[Tensor, "batch 3 height width"]:
    """Return the images in 8 bits, rounded."""
    return (pixels * 255).round_().to(torch.uint8)
