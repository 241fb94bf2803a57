"""Ridge regression for a whole grid of penalties from one decomposition, with cross-validation.

The penalised least squares problem (Hoerl and Kennard 1970,
https://doi.org/10.1080/00401706.1970.10488634), with an intercept that is not penalised:

    minimise  sum of |y - W x - b|²  +  alpha |W|²

With centred features X = U S V' the predictions are X V (S² + alpha)⁻¹ V' X' y: only the diagonal
depends on alpha. The decomposition is that of the smaller of the two matrices X' X (features) and
X X' (samples), in float64. Cross-validation computes this matrix once for all folds: without a
fold, X' X is the sum over the other folds, and X X' is a part of the whole.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ssl_transfer.estimators.blocks import Features, blocks, mean

Targets = Float[Tensor, "samples outputs"]
ScoreByOutput = Callable[[Targets, Targets], Float[Tensor, " outputs"]]
"""A score of predictions and targets, one number per output."""

CHUNK_ROWS = 2**14
"""Rows that are converted to float64 at once."""


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Linear functions fitted by ridge regression, one per penalty.

    Args:
        weights: of every penalty.
        intercepts: likewise.
    """

    weights: Float64[Tensor, "alphas dim outputs"]
    intercepts: Float64[Tensor, "alphas outputs"]

    def predict(self, features: Features) -> Float64[Tensor, "alphas samples outputs"]:
        """Return the predictions of every penalty."""
        by_block = [rows @ self.weights for _, rows in blocks(features)]
        return torch.cat(by_block, dim=1) + self.intercepts[:, None]


def fit(features: Features, targets: Targets, alphas: Sequence[float]) -> Ridge:
    """Return the solution for every penalty.

    Args:
        features: at least one row.
        targets: numbers to regress; NaN is left out, and an output then has the solution on the
            samples for which it is known.
        alphas: penalties, positive.

    Raises:
        ValueError: if an output has no known target, or a penalty is not positive.
    """
    _require(targets, alphas)
    dim, outputs = features.shape[1], targets.shape[1]
    weights = torch.empty(len(alphas), dim, outputs, dtype=torch.float64, device=features.device)
    intercepts = weights.new_empty(len(alphas), outputs)
    for columns, rows in _with_equal_rows(targets):
        problem = _problem(features[rows], targets[rows][:, columns])
        spectrum = problem.spectrum(None)
        for number, alpha in enumerate(alphas):
            weights[number, :, columns] = problem.weights(spectrum, alpha)
            intercepts[number, columns] = spectrum.intercept(weights[number, :, columns])
    return Ridge(weights, intercepts)


def cross_validate(
    features: Features,
    targets: Targets,
    alphas: Sequence[float],
    folds: Int64[Tensor, " samples"],
    score: ScoreByOutput,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Float[Tensor, "alphas folds outputs"]:
    """Return the score of every penalty on every fold, fitted without that fold.

    Args:
        features: one row per sample.
        targets: numbers to regress; NaN is left out (see ``fit``).
        alphas: penalties, positive.
        folds: number of each sample's fold; each number from 0 to the largest one occurs.
        score: score of predictions and known targets.
        progress: shows a bar while it yields the numbers of the folds.

    Returns:
        NaN where an output has no known target in the fold, or none outside of it.

    Raises:
        ValueError: if an output has no known target, or a penalty is not positive.
    """
    _require(targets, alphas)
    number_of_folds = int(folds.max()) + 1
    scores = targets.new_full((len(alphas), number_of_folds, targets.shape[1]), torch.nan)
    for columns, rows in _with_equal_rows(targets):
        problem = _problem(features[rows], targets[rows][:, columns], folds[rows])
        for fold in progress(range(number_of_folds)):
            held = problem.folds == fold
            if not bool(held.any()) or bool(held.all()):
                continue
            spectrum = problem.spectrum(fold)
            projections = problem.projections(spectrum, held)
            for number, alpha in enumerate(alphas):
                predictions = spectrum.predict(projections, alpha)
                scores[number, fold, columns] = score(predictions, problem.targets[held]).to(scores)
    return scores


def _require(targets: Targets, alphas: Sequence[float]) -> None:
    empty = int(targets.isnan().all(0).sum())
    if empty:
        raise ValueError(
            f"ridge regression needs a known target of every output, but {empty} of "
            f"{targets.shape[1]} outputs have none."
        )
    if not all(alpha > 0 for alpha in alphas):
        raise ValueError(f"penalties of ridge regression must be positive, but are {list(alphas)}.")


def _with_equal_rows(
    targets: Targets,
) -> Iterator[tuple[Int64[Tensor, " columns"], Bool[Tensor, " samples"] | slice]]:
    """Yield the outputs that are known for the same samples, and these samples."""
    known = ~targets.isnan()
    if bool(known.all()):
        yield torch.arange(targets.shape[1], device=targets.device), slice(None)
        return
    patterns, pattern_of = torch.unique(known, dim=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        yield torch.nonzero(pattern_of == number)[:, 0], patterns[:, number]


@dataclasses.dataclass(frozen=True)
class _Spectrum:
    """The decomposition of the training samples, and the targets in its basis.

    Args:
        values: squared singular values of the centred features.
        basis: the vectors to project centred features on, in the terms of the problem.
        coefficients: targets in this basis.
        mean: mean training features.
        mean_target: mean training targets.
        rows: which samples were trained on.
    """

    values: Float64[Tensor, " rank"]
    basis: Float64[Tensor, "_ rank"]
    coefficients: Float64[Tensor, "rank outputs"]
    mean: Float64[Tensor, " dim"]
    mean_target: Float64[Tensor, " outputs"]
    rows: Bool[Tensor, " samples"]

    def shrunk(self, alpha: float) -> Float64[Tensor, "rank outputs"]:
        """Return the coefficients divided by S² + alpha."""
        return self.coefficients / (self.values + alpha)[:, None]

    def predict(
        self, projections: Float64[Tensor, "held rank"], alpha: float
    ) -> Float64[Tensor, "held outputs"]:
        """Return the predictions for samples from their projections on the basis."""
        return projections @ self.shrunk(alpha) + self.mean_target

    def intercept(self, weights: Float64[Tensor, "dim outputs"]) -> Float64[Tensor, " outputs"]:
        """Return the intercept that belongs to weights."""
        return self.mean_target - self.mean @ weights


@dataclasses.dataclass(frozen=True)
class _Problem(abc.ABC):
    """One of the two forms of the problem, all of whose targets are known.

    Args:
        features: one row per sample.
        targets: the numbers to regress.
        folds: number of each sample's fold.
    """

    features: Features
    targets: Float64[Tensor, "samples outputs"]
    folds: Int64[Tensor, " samples"]

    @functools.cached_property
    def origin(self) -> Float64[Tensor, " dim"]:
        """The mean of all features: sums of squares about it lose no digits to a large mean."""
        return mean(self.features)

    @abc.abstractmethod
    def spectrum(self, fold: int | None) -> _Spectrum:
        """Return the decomposition of the samples outside of a fold (``None``: of all)."""

    @abc.abstractmethod
    def projections(
        self, spectrum: _Spectrum, rows: Bool[Tensor, " samples"]
    ) -> Float64[Tensor, "rows rank"]:
        """Return the projections of centred samples on the basis."""

    @abc.abstractmethod
    def weights(self, spectrum: _Spectrum, alpha: float) -> Float64[Tensor, "dim outputs"]:
        """Return the weights for a penalty."""


def _problem(
    features: Features, targets: Targets, folds: Int64[Tensor, " samples"] | None = None
) -> _Problem:
    """Return the cheaper form of the problem."""
    if folds is None:
        folds = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    wide = features.shape[1] > len(features)
    return (_BySamples if wide else _ByFeatures)(features, targets.double(), folds)


class _ByFeatures(_Problem):
    """The problem by the matrix X' X, for more samples than features."""

    @functools.cached_property
    def moments(self) -> "list[_Moments]":
        """The sums over the samples of each fold."""
        return [self._moments(self.folds == fold) for fold in range(int(self.folds.max()) + 1)]

    def _moments(self, rows: Bool[Tensor, " samples"]) -> "_Moments":
        dim, outputs = self.features.shape[1], self.targets.shape[1]
        moments = _Moments.zero(dim, outputs, self.targets)
        for indices in torch.split(torch.nonzero(rows)[:, 0], CHUNK_ROWS):
            part = self.features[indices].double() - self.origin
            moments += _Moments.of(part, self.targets[indices])
        return moments

    def spectrum(self, fold: int | None) -> _Spectrum:
        """Return the decomposition of the samples outside of a fold (``None``: of all)."""
        parts = [part for number, part in enumerate(self.moments) if number != fold]
        total = sum(parts[1:], parts[0])
        mean, mean_target = total.features / total.count, total.targets / total.count
        # X' X and X' y of the centred samples.
        squares = total.squares - total.count * torch.outer(mean, mean)
        products = total.products - total.count * torch.outer(mean, mean_target)
        values, basis = torch.linalg.eigh(squares)
        return _Spectrum(
            values=values.clamp(min=0),
            basis=basis,
            coefficients=basis.T @ products,
            mean=mean + self.origin,
            mean_target=mean_target,
            rows=self.folds != (-1 if fold is None else fold),
        )

    def projections(
        self, spectrum: _Spectrum, rows: Bool[Tensor, " samples"]
    ) -> Float64[Tensor, "rows rank"]:
        """Return the projections of centred samples on the basis."""
        return (self.features[rows].double() - spectrum.mean) @ spectrum.basis

    def weights(self, spectrum: _Spectrum, alpha: float) -> Float64[Tensor, "dim outputs"]:
        """Return the weights for a penalty."""
        return spectrum.basis @ spectrum.shrunk(alpha)


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Sums over samples: their number, features, targets and products.

    Args:
        count: number of samples.
        features: sum of the features.
        targets: sum of the targets.
        squares: X' X.
        products: X' y.
    """

    count: int
    features: Float64[Tensor, " dim"]
    targets: Float64[Tensor, " outputs"]
    squares: Float64[Tensor, "dim dim"]
    products: Float64[Tensor, "dim outputs"]

    @classmethod
    def zero(cls, dim: int, outputs: int, like: Tensor) -> "_Moments":
        """Return the sums over no samples."""
        return cls(
            count=0,
            features=like.new_zeros(dim),
            targets=like.new_zeros(outputs),
            squares=like.new_zeros(dim, dim),
            products=like.new_zeros(dim, outputs),
        )

    @classmethod
    def of(
        cls, features: Float64[Tensor, "samples dim"], targets: Float64[Tensor, "samples outputs"]
    ) -> "_Moments":
        """Return the sums over some samples."""
        return cls(
            count=len(features),
            features=features.sum(0),
            targets=targets.sum(0),
            squares=features.T @ features,
            products=features.T @ targets,
        )

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(
            count=self.count + other.count,
            features=self.features + other.features,
            targets=self.targets + other.targets,
            squares=self.squares + other.squares,
            products=self.products + other.products,
        )


class _BySamples(_Problem):
    """The problem by the matrix X X', for more features than samples."""

    @functools.cached_property
    def centred(self) -> Float64[Tensor, "samples dim"]:
        """The features minus the mean of all."""
        return self.features.double() - self.origin

    @functools.cached_property
    def kernel(self) -> Float64[Tensor, "samples samples"]:
        """The products of the samples."""
        return self.centred @ self.centred.T

    def spectrum(self, fold: int | None) -> _Spectrum:
        """Return the decomposition of the samples outside of a fold (``None``: of all)."""
        rows = self.folds != (-1 if fold is None else fold)
        kernel = self._centred_kernel(rows, rows)
        mean_target = self.targets[rows].mean(0)
        values, vectors = torch.linalg.eigh(kernel)
        # U' y; the projection of a sample x is then (x - mean)' X' U.
        return _Spectrum(
            values=values.clamp(min=0),
            basis=vectors,
            coefficients=vectors.T @ (self.targets[rows] - mean_target),
            mean=self.centred[rows].mean(0) + self.origin,
            mean_target=mean_target,
            rows=rows,
        )

    def _centred_kernel(
        self, rows: Bool[Tensor, " samples"], trained: Bool[Tensor, " samples"]
    ) -> Float64[Tensor, "rows trained"]:
        """Return the products of samples with the training samples, both minus their mean."""
        own = self.kernel[trained][:, trained].mean(0)
        part = self.kernel[rows][:, trained]
        return part - part.mean(1, keepdim=True) - own + own.mean()

    def projections(
        self, spectrum: _Spectrum, rows: Bool[Tensor, " samples"]
    ) -> Float64[Tensor, "rows rank"]:
        """Return the projections of centred samples on the basis."""
        return self._centred_kernel(rows, spectrum.rows) @ spectrum.basis

    def weights(self, spectrum: _Spectrum, alpha: float) -> Float64[Tensor, "dim outputs"]:
        """Return the weights for a penalty."""
        trained = self.centred[spectrum.rows]
        return (trained - trained.mean(0)).T @ (spectrum.basis @ spectrum.shrunk(alpha))
