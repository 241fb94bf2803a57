"""Rendered shapes whose position, rotation, hue, size and lighting are known: nothing to download.

They are for measures of what a representation tells about factors of a scene. The renderer is
arithmetic on a grid of points: a shape is a polygon without symmetry, so that its rotation can be
read from the image over the whole circle.
"""

import colorsys
import hashlib
import math

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from ssl_transfer.datasets.base import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.reader import Options, assemble, reader
from ssl_transfer.datasets.splitting import hold_out
from ssl_transfer.randomness import uniforms

IMAGES = 600
SIDE = 48  # pixels of an image
SAMPLES = 3  # points per pixel and direction; their mean is the pixel
TEST_FRACTION = 1 / 3
BACKGROUND = 0.35  # grey value without light

# Corners in units of half the size, around the centre of the circle that encloses them.
POLYGONS = {
    "arrow": ((1, 0), (0, 0.9), (0, 0.35), (-0.9, 0.35), (-0.9, -0.35), (0, -0.35), (0, -0.9)),
    "flag": ((-0.8, -0.6), (0.9, -0.6), (0.9, 0.6), (0.1, 0.6), (0.1, -0.2), (-0.8, -0.2)),
    "kite": ((1, 0), (-0.35, 0.75), (-0.8, 0), (-0.35, -0.75)),
}

# The lowest and the highest value of every factor.
RANGES = {
    "x": (14.0, 34.0),  # of the centre, in pixels from the left edge
    "y": (14.0, 34.0),  # likewise, from the top edge
    "rotation": (0.0, 2 * math.pi),
    "hue": (0.0, 1.0),
    "size": (7.0, 13.0),  # distance of the outermost corner from the centre, in pixels
    "lighting": (0.4, 1.0),  # brightness of everything
}
PERIODS = {"rotation": 2 * math.pi, "hue": 1.0}


@reader
def shapes(options: Options) -> Dataset:
    """Return 600 images of 48x48 pixels: an arrow, a flag or a kite in front of grey.

    The targets are the six factors of ``RANGES``, drawn independently and uniformly. A third of the
    images forms the test split (seeded); with the default ``val_fraction``, 320 images train and 80
    validate.
    """
    numbers = np.arange(IMAGES)
    draws = uniforms(0, "factors of shapes", np.zeros_like(numbers), numbers, draws=len(RANGES))
    low, high = np.array(list(RANGES.values())).T
    factors = low + draws * (high - low)
    kinds = list(POLYGONS)
    pixels = np.stack([
        render(kinds[number % len(kinds)], **dict(zip(RANGES, row.tolist(), strict=True)))
        for number, row in enumerate(factors)
    ])  # fmt: skip
    names = [f"{kinds[number % len(kinds)]}/{number:03d}" for number in range(IMAGES)]
    whole = Split(ArrayImages(pixels), factors, names)
    train, test = hold_out(np.zeros_like(numbers), TEST_FRACTION, options.split_seed, "test")
    return assemble(
        options,
        classes=list(RANGES),
        train=whole.subset(train),
        test=whole.subset(test),
        content=hashlib.sha256(pixels.tobytes()).hexdigest(),
        target="values",
        periods=PERIODS,
        facts={"test": "seeded, 1/3"},
    )


def render(
    shape: str, *, x: float, y: float, rotation: float, hue: float, size: float, lighting: float
) -> UInt8[np.ndarray, "side side 3"]:
    """Return an image of one shape.

    Args:
        shape: a key of ``POLYGONS``.
        x: centre in pixels from the left edge.
        y: centre in pixels from the top edge.
        rotation: angle from the x axis towards the y axis.
        hue: as in ``colorsys``; saturation and value are 1.
        size: distance of the outermost corner from the centre, in pixels.
        lighting: factor of all intensities, in ``[0, 1]``.
    """
    cosine, sine = math.cos(rotation), math.sin(rotation)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    corners = np.array(POLYGONS[shape], dtype=np.float64) * size @ turn + (x, y)
    places = (np.arange(SIDE * SAMPLES) + 0.5) / SAMPLES
    inside = contains(corners, places, places)
    covered = inside.reshape(SIDE, SAMPLES, SIDE, SAMPLES).mean(axis=(1, 3))[..., None]
    colour = np.array(colorsys.hsv_to_rgb(hue % 1, 1.0, 1.0))
    intensity = lighting * (covered * colour + (1 - covered) * BACKGROUND)
    pixels: UInt8[np.ndarray, "side side 3"] = np.rint(255 * intensity).astype(np.uint8)
    return pixels


def contains(
    corners: Float64[np.ndarray, "corners 2"],
    x: Float64[np.ndarray, " columns"],
    y: Float64[np.ndarray, " rows"],
) -> Bool[np.ndarray, "rows columns"]:
    """Return which points of a grid lie in a polygon.

    A ray from such a point to the right crosses an odd number of edges.

    Args:
        corners: x and y of the corners, in order.
        x: of every column of points.
        y: of every row.
    """
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = np.flatnonzero((y0 > y) != (y1 > y))
        crossing = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
        inside[rows] ^= x < crossing[:, None]
    return inside
