"""Colour and blur on whole batches; every image has its own factor.

The operations are torchvision's (``transforms.v2.functional``) on float images in [0, 1]; PIL would
round to 8 bits after each operation. The result for an image is bit-identical in every batch. The
code therefore uses no fused multiply-add (its vectorised and its scalar form round differently), no
matrix products, and no reductions by torch (which may split one large sum among threads).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

Pixels = Float32[Tensor, "batch 3 height width"]
Factor = Float32[Tensor, "batch 1 1 1"]

# BYOL's solarize (Grill et al. 2020, appendix B): pixels of at least 0.5 are inverted.
SOLARIZE_THRESHOLD = 0.5


def change(
    pixels: Pixels,
    rows: Int64[np.ndarray, " rows"],
    function: Callable[[Pixels, Any], Float32[Tensor, "rows channels height width"]],
    parameters: Any,
) -> None:
    """Replace some images of a batch, in place, by ``function`` of these and its parameters.

    Args:
        pixels: the batch.
        rows: positions of the images, each at most once.
        function: returns the new images, with three channels or one.
        parameters: second argument of ``function``.
    """
    positions = torch.from_numpy(rows)
    # These calls copy whole images; indexing with a tensor visits every pixel.
    images = function(pixels.index_select(0, positions), parameters)
    pixels.index_copy_(0, positions, images.expand(-1, 3, -1, -1))


def per_image(values: Float64[np.ndarray, " batch"]) -> Factor:
    """Return one float32 factor per image, ready to multiply a batch."""
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)


def brightness(pixels: Pixels, factor: Factor) -> Pixels:
    """Return the images multiplied by their factors."""
    return (pixels * factor).clamp_(0, 1)


def contrast(pixels: Pixels, factor: Factor) -> Pixels:
    """Return the images blended with their mean grey."""
    # numpy sums every row in an order that does not depend on the other rows.
    means = grayscale(pixels).flatten(1).numpy().mean(axis=1)
    return _blend(pixels, torch.from_numpy(means).view(-1, 1, 1, 1), factor)


def saturation(pixels: Pixels, factor: Factor) -> Pixels:
    """Return the images blended with their grey version."""
    return _blend(pixels, grayscale(pixels), factor)


def hue(pixels: Pixels, shift: Factor) -> Pixels:
    """Return the images with the hue rotated by the fraction ``shift`` of the colour circle."""
    red, green, blue = pixels.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)  # a reduction is six times slower
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = chroma.clamp_min(torch.finfo(chroma.dtype).tiny)  # of a grey pixel, 0 / 0 becomes 0
    # Compute the hue in sixths of the circle. In a tie red precedes green, and green precedes blue,
    # as in torchvision.
    angle = torch.where(
        value == red,
        (green - blue).div_(divisor),
        torch.where(
            value == green,
            (blue - red).div_(divisor).add_(2.0),
            (red - green).div_(divisor).add_(4.0),
        ),
    )
    angle += shift[:, 0] * 6.0
    # Convert HSV back to RGB by the closed form value - chroma * clamp(min(k, 4 - k), 0, 1).
    k = angle[:, None] + torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    k -= (k / 6.0).floor_().mul_(6.0)
    drop = torch.minimum(k, 4.0 - k).clamp_(0, 1).mul_(chroma[:, None])
    return torch.sub(value[:, None], drop, out=drop).clamp_(0, 1)


def grayscale(pixels: Pixels) -> Float32[Tensor, "batch 1 height width"]:
    """Return the luma of the images (ITU-R 601-2 weights, as torchvision and PIL use)."""
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)


def _blend(
    pixels: Pixels, other: Float[Tensor, "batch 1 #height #width"], factor: Factor
) -> Pixels:
    return (pixels * factor).add_(other * (1.0 - factor)).clamp_(0, 1)


def solarize(pixels: Pixels) -> Pixels:
    """Return the images with bright pixels inverted."""
    return torch.where(pixels >= SOLARIZE_THRESHOLD, 1.0 - pixels, pixels)


def gaussian_blur(pixels: Pixels, sigma: Float64[np.ndarray, " batch"]) -> Pixels:
    """Return the images blurred; the kernel's width is a tenth of theirs, but at least 3 pixels."""
    radius = max(1, min(pixels.shape[-2:]) // 20)
    radius = min(radius, min(pixels.shape[-2:]) - 1)
    offsets = np.arange(radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights /= weights[:, :1] + 2 * weights[:, 1:].sum(axis=1, keepdims=True)
    taps = [per_image(weights[:, offset]) for offset in offsets]
    padded = torch.nn.functional.pad(pixels, (radius,) * 4, mode="reflect")
    for axis in (2, 3):
        padded = _convolve(padded, taps, axis, pixels.shape[axis])
    return padded


def _convolve(
    pixels: Float32[Tensor, "batch 3 _ _"], taps: Sequence[Factor], axis: int, length: int
) -> Float32[Tensor, "batch 3 _ _"]:
    """Return the convolution with a symmetric kernel along an axis, which shrinks to ``length``."""
    radius = len(taps) - 1
    total = pixels.narrow(axis, radius, length) * taps[0]
    for offset, tap in enumerate(taps[1:], start=1):
        below = pixels.narrow(axis, radius - offset, length)
        above = pixels.narrow(axis, radius + offset, length)
        total += (below + above).mul_(tap)
    return total
