"""Changes of colour and sharpness of whole batches on any device, with one strength per image.

``pixels`` has those of augmentation, which give bit-identical results in every batch, on the CPU
alone; here a GPU may compute.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.datasets.pixels import grayscale

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
    kernel = torch.ones(3, 3, dtype=pixels.dtype, device=pixels.device)
    kernel[1, 1] = 5
    kernel = (kernel / kernel.sum()).expand(3, 1, 3, 3)
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(pixels, kernel, groups=3)
    return blend(pixels, smooth, factor)


def blend(pixels: Pixels, other: Float[Tensor, "batch _ _ _"], factor: Factor) -> Pixels:
    """Return ``factor`` parts of the images and the rest of the others, clipped to [0, 1]."""
    return torch.lerp(other, pixels, factor).clamp_(0, 1)


def blur(pixels: Pixels, sigma: Float64[np.ndarray, " batch"], radius: int | None = None) -> Pixels:
    """Return the images blurred by Gaussians; they are mirrored beyond their border.

    The convolution along an axis is a product with a matrix, which takes the same time for any
    kernel.

    Args:
        pixels: the images.
        sigma: standard deviation of each image's Gaussian in pixels.
        radius: pixels on either side of the kernel's centre (``None``: three standard deviations).
    """
    unique, rows = np.unique(sigma, return_inverse=True)
    result = torch.empty_like(pixels)
    for number, value in enumerate(unique.tolist()):
        chosen = torch.from_numpy(np.flatnonzero(rows == number)).to(pixels.device)
        part = pixels if len(unique) == 1 else pixels[chosen]
        down, across = (_gaussian_matrix(side, value, radius).to(part) for side in part.shape[2:])
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
