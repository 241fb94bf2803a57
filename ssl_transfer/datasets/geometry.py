"""The geometry of the evaluation's view: where a place of the image lies in the encoder's input.

Coordinates are measured in pixels from the left and the top edge, so that the centre of the first
pixel is (0.5, 0.5).
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ssl_transfer.preprocessing import Preprocessing

Sizes = Int64[np.ndarray, "images 2"]
Landmarks = Float64[np.ndarray, "images twice_landmarks"]


def resized_sizes(sizes: Sizes, preprocessing: Preprocessing) -> Sizes:
    """Return width and height of each image after the resize that precedes the centre crop.

    Args:
        sizes: width and height of each image in pixels.
        preprocessing: preprocessing of the encoder.
    """
    side, short = preprocessing.shorter_side, sizes.min(axis=1, keepdims=True)
    if preprocessing.square:
        return np.full_like(sizes, preprocessing.size)
    if preprocessing.squash:
        return np.full_like(sizes, side)
    # torchvision rounds the longer side down.
    longer = np.floor(side * sizes / short).astype(np.int64)
    return np.where(sizes == short, side, longer)


def to_view(landmarks: Landmarks, sizes: Sizes, preprocessing: Preprocessing) -> Landmarks:
    """Return landmarks in the coordinates of the encoder's input.

    The view is that of ``transforms.centre_crop``: the shorter side is resized and the centre is
    cropped, with torchvision's rounding; or the whole image is resized to a square, which may be
    cropped.

    Args:
        landmarks: x and y of every landmark in pixels of its image (NaN: unknown).
        sizes: width and height of each image in pixels.
        preprocessing: preprocessing of the encoder.

    Returns:
        x and y in pixels of the input, which outside of [0, ``preprocessing.size``] are not seen.
    """
    resized = resized_sizes(sizes, preprocessing)
    # The crop starts at the nearest whole pixel, at the even one of two, as Python's `round` does.
    corner = np.rint((resized - preprocessing.size) / 2)
    places = landmarks.reshape(len(landmarks), -1, 2)
    inside: Landmarks = (places * (resized / sizes)[:, None] - corner[:, None]).reshape(
        landmarks.shape
    )
    return inside


def outside(
    landmarks: Landmarks, size: int, tolerance: float = 0.0
) -> Bool[np.ndarray, "images landmarks"]:
    """Return which known landmarks lie outside of the encoder's input.

    Args:
        landmarks: x and y of every landmark in pixels of the input (NaN: unknown).
        size: side of the input in pixels.
        tolerance: distance from the edge, in pixels, up to which a landmark is not outside.
    """
    places = landmarks.reshape(len(landmarks), -1, 2)
    x, y = places[:, :, 0], places[:, :, 1]
    low, high = -tolerance, size + tolerance
    return np.asarray((x < low) | (x > high) | (y < low) | (y > high))
