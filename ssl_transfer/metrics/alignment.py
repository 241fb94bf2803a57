"""Alignment and uniformity of features on the unit sphere.

Wang and Isola 2020, https://arxiv.org/abs/2005.10242, section 4.1, with squared distances (alpha 2)
and t = 2; the variants within classes and by groups are those of Shi et al. 2022,
https://arxiv.org/abs/2107.14762. All functions normalise the features themselves. The squared
distance of unit vectors lies from 0 to 4 and is 2 - 2 cos; independent directions have about 2.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.randomness import permutation

T = 2
"""Factor of the squared distance in the kernel of uniformity."""
BLOCK, GPU_BLOCK = 1024, 2048
"""Rows of similarities at once."""
WIDTH = 16
"""Columns of similarities at once, in blocks: narrower parts make threads wait for each other."""
GROUPS, GROUP_SIZE = 3, 128
"""Number and size of the groups of the published estimate of uniformity."""

Features = Float[Tensor, "images dim"]


def directions(features: Features) -> Features:
    """Return features divided by their lengths.

    Raises:
        ValueError: if a feature is zero, because it has no direction.
    """
    zero = int((features == 0).all(dim=1).sum())
    if zero:
        raise ValueError(
            f"every feature must have a direction, but those of {zero} of {len(features)} images "
            "are zero; check the encoder's weights and `preprocessing`."
        )
    return F.normalize(features)


def alignment(first: Features, second: Features) -> float:
    """Return the mean squared distance of the normalised features of positive pairs.

    Args:
        first: one view per image.
        second: another view of the same images, in the same order.

    Returns:
        From 0 (equal directions) to 4; lower is better.

    Raises:
        ValueError: if there is no image, or a feature is zero.
    """
    _require_images(first, 1, "alignment")
    squares = [
        (directions(a) - directions(b)).square().sum(dtype=torch.float64)
        for a, b in zip(torch.split(first, BLOCK), torch.split(second, BLOCK), strict=True)
    ]
    return float(torch.stack(squares).sum()) / len(first)


def intra_class_alignment(features: Features, labels: Int64[Tensor, " images"]) -> float:
    """Return the mean over classes of the mean squared distance of all pairs in the class.

    With m unit vectors in a class, it is ``2 m / (m - 1) (1 - |mean|²)``. All classes weigh the
    same, whatever their number of images; numbers of classes that do not occur are left out.

    Args:
        features: one row per image.
        labels: class number of each image, from 0.

    Returns:
        From 0 to 4; lower means tighter classes.

    Raises:
        ValueError: if a class has one image only, or a feature is zero.
    """
    _require_images(features, 1, "alignment in classes")
    labels = labels.to(features.device)
    counts = torch.bincount(labels)
    alone = torch.nonzero(counts == 1).flatten().tolist()
    if alone:
        raise ValueError(
            f"every class must have two images for a distance, but {len(alone)} have only one, the "
            f"first being class {alone[0]}; add images or leave the class out."
        )
    # A sum of unit vectors per class, in double precision: 1 - |mean|² loses digits.
    sums = features.new_zeros(len(counts), features.shape[1], dtype=torch.float64)
    for rows, chunk in zip(torch.split(features, BLOCK), torch.split(labels, BLOCK), strict=True):
        sums.index_add_(0, chunk, directions(rows.double()))
    occurs = counts > 0
    sizes = counts[occurs].double()
    squared_means = (sums[occurs] / sizes[:, None]).square().sum(1)
    return float((2 * sizes / (sizes - 1) * (1 - squared_means)).clamp_min(0).mean())


def uniformity(features: Features, *, block: int | None = None) -> float:
    """Return the logarithm of the mean of ``exp(-2 d²)`` over all unordered pairs of images.

    Every pair is computed once: parts of the upper triangle of the similarities, one at a time.

    Args:
        features: one row per image, at least two.
        block: rows at once (``None``: what suits the device). It changes the result by rounding
            only.

    Returns:
        From -8 to 0; 0 if all directions are equal, about -4 for random directions of many
        dimensions; lower is better.

    Raises:
        ValueError: if there are fewer than two images, or a feature is zero.
    """
    _require_images(features, 2, "uniformity")
    block = block or (BLOCK if features.device.type == "cpu" else GPU_BLOCK)
    # exp(-t d²) = exp(-2 t) exp(2 t cos): the square root of 2 t goes into each factor.
    unit = directions(features) * math.sqrt(2 * T)
    width = WIDTH * block
    buffer = unit.new_empty(min(block, len(unit)) * min(width, len(unit)))
    total = torch.zeros((), dtype=torch.float64, device=unit.device)
    for start in range(0, len(unit), block):
        rows = unit[start : start + block]
        kernel = _kernel(rows, rows, buffer)
        # A block on the diagonal has each of its pairs twice, and each image with itself.
        total += (kernel.sum(dtype=torch.float64) - kernel.diagonal().sum(dtype=torch.float64)) / 2
        for other in range(start + block, len(unit), width):
            total += _kernel(rows, unit[other : other + width], buffer).sum()
    pairs = len(unit) * (len(unit) - 1) / 2
    return math.log(float(total) / pairs) - 2 * T


def _kernel(
    rows: Float[Tensor, "rows dim"], columns: Float[Tensor, "columns dim"], buffer: Tensor
) -> Float[Tensor, "rows columns"]:
    """Return exp of the products of rows and columns, in the buffer's memory."""
    out = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
    return torch.mm(rows, columns.T, out=out).exp_()


def groups(images: int, *, seed: int) -> Int64[np.ndarray, "3 128"]:
    """Return the images of the three groups of the published estimate of uniformity.

    Args:
        images: number of images.
        seed: seed of the choice.

    Raises:
        ValueError: if there are too few images for three groups without common images.
    """
    if images < GROUPS * GROUP_SIZE:
        raise ValueError(
            f"{GROUPS} groups of {GROUP_SIZE} images need {GROUPS * GROUP_SIZE} images, but there "
            f"are {images}; use the exact uniformity."
        )
    order = permutation(seed, "groups of uniformity", 0, images)
    return order[: GROUPS * GROUP_SIZE].reshape(GROUPS, GROUP_SIZE)


def uniformity_of_groups(
    features: Features, members: Int64[np.ndarray, "groups size"]
) -> Sequence[float]:
    """Return the uniformity of each group; the published estimate is their mean.

    Shi et al. 2022, eval/stats-dist.py of github.com/WOWNICE/ssl-small.

    Args:
        features: one row per image.
        members: the images of each group, see ``groups``.
    """
    rows = torch.from_numpy(members).to(features.device)
    return [uniformity(features[group]) for group in rows]


def _require_images(features: Features, least: int, what: str) -> None:
    if len(features) < least:
        raise ValueError(
            f"{what} needs at least {least} images, but there are {len(features)}; add images."
        )
