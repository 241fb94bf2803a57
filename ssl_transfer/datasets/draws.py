"""The random numbers of a sample's view: what each is for, and the crops that they give."""

import numpy as np
from jaxtyping import Float64, Int64

Draws = Float64[np.ndarray, "batch draws"]

# The purpose of each of a sample's random numbers.
ATTEMPTS = 10
AREA, RATIO = slice(0, ATTEMPTS), slice(ATTEMPTS, 2 * ATTEMPTS)
TOP, LEFT, FLIP, JITTER = range(20, 24)
FACTORS, ORDER = slice(24, 28), slice(28, 32)
GRAYSCALE, BLUR, SIGMA, SOLARIZE, VERTICAL_FLIP = range(32, 37)
NUM_DRAWS = 37


def random_boxes(
    sizes: Int64[np.ndarray, "batch 2"],
    draws: Draws,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Int64[np.ndarray, "batch 4"]:
    """Return the boxes of random resized crops, distributed as torchvision's.

    Ten attempts draw a share of the area and a ratio of the sides; the first box that fits is
    placed at random. If none fits, the box is the largest central crop with an allowed ratio.

    Args:
        sizes: width and height of every image.
        draws: random numbers of every image.
        scale: range of the share of the area.
        ratio: range of width over height.

    Returns:
        Left, top, right and bottom of every box.
    """
    full_width, full_height = sizes[:, :1], sizes[:, 1:]
    area = full_width * full_height * (scale[0] + (scale[1] - scale[0]) * draws[:, AREA])
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * draws[:, RATIO])
    widths = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    heights = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (widths > 0) & (widths <= full_width) & (heights > 0) & (heights <= full_height)
    first = fits.argmax(axis=1)[:, None]
    fitting = fits.any(axis=1, keepdims=True)

    central_width = np.minimum(full_width, np.rint(full_height * ratio[1]).astype(np.int64))
    central_height = np.minimum(full_height, np.rint(full_width / ratio[0]).astype(np.int64))
    width = np.where(fitting, np.take_along_axis(widths, first, axis=1), central_width)
    height = np.where(fitting, np.take_along_axis(heights, first, axis=1), central_height)
    free_width, free_height = full_width - width, full_height - height
    left = np.where(
        fitting, (draws[:, [LEFT]] * (free_width + 1)).astype(np.int64), free_width // 2
    )
    top = np.where(
        fitting, (draws[:, [TOP]] * (free_height + 1)).astype(np.int64), free_height // 2
    )
    return np.concatenate([left, top, left + width, top + height], axis=1)
