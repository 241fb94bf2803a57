"""Whitened features: their cosine and distance tell how much a change of an image changes them.

Ericsson, Gouk and Hospedales 2021, https://arxiv.org/abs/2111.11398; their code is
eval_synthetic_invariance.py of github.com/linusericsson/ssl-invariances.
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ssl_transfer.config.ranges import Fraction, Range

Factorisation = Literal["eigen", "published"]
Shrinkage = Literal["auto"] | Fraction
Ridge = Annotated[float, Range(0, cap=1e6)]

CHUNK_ELEMENTS = 2**24  # features in double precision at once: 128 MiB
RANK_TOLERANCE = 1e-12
"""A direction counts as constant if its variance is at most this share of the largest variance: the
standard deviation is then at most a millionth, which is the rounding of float32 features."""


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of features; the covariance (divisor N - 1) as its eigen-decomposition.

    Args:
        mean: mean feature.
        eigenvalues: in ascending order, not negative.
        eigenvectors: column i belongs to eigenvalue i.
        samples: number of images, N.
        ledoit_wolf: the shrinkage that Ledoit and Wolf's estimator chooses, in [0, 1].
    """

    mean: Float64[Tensor, " dim"]
    eigenvalues: Float64[Tensor, " dim"]
    eigenvectors: Float64[Tensor, "dim dim"]
    samples: int
    ledoit_wolf: float

    @property
    def rank(self) -> int:
        """Number of directions whose variance is more than rounding (see ``RANK_TOLERANCE``)."""
        tolerance = max(RANK_TOLERANCE, len(self.mean) * torch.finfo(torch.float64).eps)
        return int((self.eigenvalues > tolerance * self.eigenvalues[-1]).sum())

    @property
    def covariance(self) -> Float64[Tensor, "dim dim"]:
        """The sample covariance."""
        return (self.eigenvectors * self.eigenvalues) @ self.eigenvectors.T


@dataclasses.dataclass(frozen=True)
class Whitening:
    """The affine map after which the features have mean 0 and the identity as covariance.

    Args:
        mean: mean feature.
        factor: a matrix L for which ``L @ L.T`` is the precision, the inverse covariance.
        samples: number of images of the statistics.
        rank: rank of their covariance, before regularisation.
        shrinkage: share of the covariance that was replaced by a multiple of the identity.
        ridge: constant that was added to every variance.
    """

    mean: Float64[Tensor, " dim"]
    factor: Float64[Tensor, "dim dim"]
    samples: int
    rank: int
    shrinkage: float
    ridge: float

    def __call__(self, features: Float[Tensor, "*batch dim"]) -> Float64[Tensor, "*batch dim"]:
        """Return ``(features - mean) @ factor``."""
        return (features.double() - self.mean) @ self.factor

    def to(self, device: torch.device) -> "Whitening":
        """Return the same map on a device."""
        mean, factor = self.mean.to(device), self.factor.to(device)
        return dataclasses.replace(self, mean=mean, factor=factor)


def feature_statistics(
    features: Float[np.ndarray, "samples dim"], *, device: torch.device | None = None
) -> FeatureStatistics:
    """Return mean and covariance of features, in double precision.

    The features are read twice in chunks, so that a memory-mapped file may be larger than memory.

    Args:
        features: one row per image, all finite.
        device: where to compute (``None``: the CPU); the result is on the CPU.

    Raises:
        ValueError: if there are fewer than two images, or all have the same features.
    """
    samples, dim = features.shape
    if samples < 2:
        raise ValueError(f"a covariance needs at least two images, but there are {samples}.")
    device = device or torch.device("cpu")
    mean = torch.zeros(dim, dtype=torch.float64, device=device)
    for chunk in _chunks(features, device):
        mean += chunk.sum(dim=0)
    mean /= samples
    products = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    fourth = 0.0  # sum of the fourth powers of the centred features' lengths
    for chunk in _chunks(features, device):
        centred = chunk - mean
        products.addmm_(centred.T, centred)
        fourth += float(centred.square().sum(dim=1).square().sum())
    rounding = (1e-12 * float(mean.abs().max())) ** 2
    if float(products.diagonal().max()) / samples <= rounding:
        raise ValueError(
            f"a covariance needs features that vary, but all {samples} images have the same "
            "features; check the encoder's weights."
        )
    eigenvalues, eigenvectors = torch.linalg.eigh(products / (samples - 1))
    return FeatureStatistics(
        mean.cpu(),
        eigenvalues.clamp(min=0).cpu(),
        eigenvectors.cpu(),
        samples,
        _ledoit_wolf(products / samples, fourth, samples),
    )


def _chunks(
    features: Float[np.ndarray, "samples dim"], device: torch.device
) -> Iterator[Float64[Tensor, "chunk dim"]]:
    rows = max(1, CHUNK_ELEMENTS // features.shape[1])
    for start in range(0, len(features), rows):
        # `np.array` copies: memory of a file that is mapped for reading cannot be a tensor's.
        yield torch.from_numpy(np.array(features[start : start + rows])).to(device).double()


def _ledoit_wolf(covariance: Float64[Tensor, "dim dim"], fourth: float, samples: int) -> float:
    """Return the shrinkage towards a multiple of the identity that has the least expected error.

    Ledoit and Wolf 2004, lemma 3.3 (https://doi.org/10.1016/S0047-259X(03)00096-4).

    Args:
        covariance: sample covariance with divisor N.
        fourth: sum of the fourth powers of the centred samples' lengths.
        samples: N.
    """
    dim = len(covariance)
    squares, trace = float(covariance.square().sum()), float(covariance.trace())
    spread = squares - trace**2 / dim  # squared distance of the covariance from its target
    error = min((fourth / samples - squares) / samples, spread)
    return error / spread if spread > 0 and error > 0 else 0.0


def whitening(
    statistics: FeatureStatistics,
    *,
    shrinkage: Shrinkage = "auto",
    ridge: float = 0.0,
    factorisation: Factorisation = "eigen",
) -> Whitening:
    """Return the map that whitens features.

    Cosines and distances of whitened features do not depend on which of all factors of the
    precision is used, apart from rounding. They do not change either if an invertible affine map is
    applied to the features before the statistics, unless the covariance is regularised.

    Args:
        statistics: mean and covariance S of dimension d.
        shrinkage: S is replaced by ``(1 - shrinkage) * S + shrinkage * trace(S) / d * identity``.
            ``auto``: 0 if S has full rank or a ``ridge``, else the value that Ledoit and Wolf's
            estimator chooses.
        ridge: constant to add to every variance. The published code adds 1e-10 for an untrained
            network.
        factorisation: ``eigen``: of the eigen-decomposition; ``published``: lower Cholesky factor
            of the inverse, rounded to float32.

    Raises:
        ValueError: if S is singular and not regularised.
    """
    rank, dim = statistics.rank, len(statistics.mean)
    chosen = shrinkage if shrinkage != "auto" else 0.0
    if shrinkage == "auto" and rank < dim and ridge == 0:
        chosen = statistics.ledoit_wolf
    if rank < dim and chosen == 0 and ridge == 0:
        more = f"use more than {dim} images, or " if statistics.samples <= dim else ""
        raise ValueError(
            f"the covariance of the features must have full rank to be inverted, but has rank "
            f"{rank} of {dim} dimensions ({statistics.samples} images); {more}set `shrinkage` to "
            "`auto` or to a number above 0."
        )
    target = statistics.eigenvalues.mean()
    variances = (1 - chosen) * statistics.eigenvalues + chosen * target + ridge
    factor = statistics.eigenvectors / variances.sqrt()
    if factorisation == "published":
        factor = torch.linalg.cholesky(factor @ factor.T).float().double()
    return Whitening(statistics.mean, factor, statistics.samples, rank, float(chosen), ridge)


def cosine_similarities(
    a: Float64[Tensor, "*batch dim"], b: Float64[Tensor, "*batch dim"]
) -> Float64[Tensor, "*batch"]:
    """Return the cosines of whitened features; NaN where one of them is exactly the mean.

    Args:
        a: whitened features.
        b: whitened features to compare with.
    """
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    cosines: Tensor = (a * b).sum(dim=-1) / lengths
    return cosines.clamp(-1, 1)


def mahalanobis_distances(
    a: Float64[Tensor, "*batch dim"], b: Float64[Tensor, "*batch dim"]
) -> Float64[Tensor, "*batch"]:
    """Return the Mahalanobis distances of features: the Euclidean ones of their whitened features.

    The unit is the standard deviation of the features along the line between both.

    Args:
        a: whitened features.
        b: whitened features to compare with.
    """
    distances: Tensor = torch.linalg.vector_norm(a - b, dim=-1)
    return distances
