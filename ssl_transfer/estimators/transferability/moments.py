"""What the estimators share: moments by class in float64, and undefined cases.

Features may have a million rows, so that they are converted to float64 one block at a time. All
estimators that use covariances do not change under rotations; with fewer samples than dimensions
they work on ``isometric`` coordinates, whose covariances are small.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ssl_transfer.estimators.blocks import Block, Features, blocks, mean

Labels = Int64[Tensor, " samples"]

CONSTANT = 1e-6
"""Largest difference of features that counts as rounding, relative to the largest feature."""


class NotDefined(ValueError):
    """An estimator has no value for these features and targets; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """The images of every class that occurs.

    Args:
        numbers: number of each image's class among those that occur.
        counts: number of images of each class, at least 1.
    """

    numbers: Labels
    counts: Float64[Tensor, " classes"]

    @property
    def shares(self) -> Float64[Tensor, " classes"]:
        """The share of the images that each class has."""
        return self.counts / self.counts.sum()


def groups_of(labels: Labels, *, at_least: int = 1) -> Groups:
    """Return the images of every class.

    Args:
        labels: class numbers; numbers without an image are left out.
        at_least: smallest number of images that the estimator needs of each class.

    Raises:
        NotDefined: if there are fewer than two classes, or too few images of one.
    """
    occurring, numbers, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if len(occurring) < 2:
        raise NotDefined("the images show fewer than two classes")
    few = occurring[counts < at_least].tolist()
    if few:
        raise NotDefined(
            f"each class needs at least {at_least} images, but {len(few)} of {len(occurring)} "
            f"classes have fewer (the first is class {few[0]})"
        )
    return Groups(numbers, counts.double())


def require_variation(features: Features) -> None:
    """Refuse features that do not distinguish images.

    Raises:
        NotDefined: if there are fewer than two images, or if all have the same features.
    """
    if len(features) < 2:
        raise NotDefined("there are fewer than two images")
    low, high = features.aminmax(dim=0)
    largest = torch.maximum(low.abs(), high.abs()).max()
    if (high - low).max() <= CONSTANT * largest:
        raise NotDefined("the features are the same for every image")


def isometric(features: Features) -> Float[Tensor, "samples axes"]:
    """Return coordinates with the same scalar products and at most as many dimensions as samples.

    With fewer samples than dimensions they are the transposed triangular factor of ``features.T``,
    in float64; otherwise they are the features themselves.
    """
    samples, dim = features.shape
    if samples >= dim:
        return features
    triangular: Tensor = torch.linalg.qr(features.double().T, mode="r").R
    return triangular.T


def centred(features: Features) -> Iterator[Block]:
    """Yield blocks of the rows minus their mean."""
    centre = mean(features)
    for part, rows in blocks(features):
        yield part, rows - centre


def scatter(parts: Iterable[Block]) -> Float64[Tensor, "dim dim"]:
    """Return the sum over rows of their outer products; at least one block is needed."""
    total: Tensor | None = None
    for _, rows in parts:
        product = _gram(rows)
        total = product if total is None else total.add_(product)
    assert total is not None
    return total


def _gram(rows: Float64[Tensor, "rows dim"]) -> Float64[Tensor, "dim dim"]:
    """Return ``rows.T @ rows``."""
    if rows.device.type == "cpu":
        # numpy computes one triangle of a product with its own transpose, torch both.
        array = rows.numpy()
        return torch.from_numpy(array.T @ array)
    return rows.T @ rows


def class_means(parts: Iterable[Block], groups: Groups) -> Float64[Tensor, "classes dim"]:
    """Return the mean of each class's rows; at least one block is needed."""
    total: Tensor | None = None
    for part, rows in parts:
        if total is None:
            total = rows.new_zeros(len(groups.counts), rows.shape[1])
        total.index_add_(0, groups.numbers[part], rows)
    assert total is not None
    return total / groups.counts[:, None]


def principal(features: Features, components: int | float) -> Float64[Tensor, "samples components"]:
    """Return the scores of a principal component analysis.

    Args:
        features: not constant.
        components: their number, limited to the number of axes; or the share of the variance, in
            (0, 1), that they exceed.
    """
    coordinates = isometric(features)
    values, axes = torch.linalg.eigh(scatter(centred(coordinates)))
    values, axes = values.flip(0).clamp(min=0), axes.flip(1)
    if isinstance(components, float):
        shares = values.cumsum(0) / values.sum()
        components = int((shares <= components).sum()) + 1
    chosen = axes[:, :components]
    return torch.cat([rows @ chosen for _, rows in centred(coordinates)])


def rounding_level(eigenvalues: Float64[Tensor, " axes"], features: Features) -> float:
    """Return the eigenvalue of a scatter matrix below which a direction is only rounding."""
    eps = torch.finfo(torch.float64).eps
    return float(eigenvalues.max()) * eps * max(features.shape)
