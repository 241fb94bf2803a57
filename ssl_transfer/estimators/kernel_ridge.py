"""Kernel ridge regression with an RBF kernel, for several outputs and a grid of hyper-parameters.

The model is scikit-learn's ``make_pipeline(StandardScaler(), KernelRidge(kernel="rbf"))``: with
standardised samples ``x_i`` and the kernel ``k(x, y) = exp(-gamma |x - y|^2)``, the prediction is
``f(x) = sum_i k(x, x_i) a_i`` without an intercept, and ``(K + alpha I) a = y``.

What points of the grid have in common is computed once: the squared distances for all values of
gamma, the kernel for all values of alpha, and the Cholesky decomposition of ``K + alpha I`` for all
outputs. A decomposition for every alpha costs ``n^3 / 3`` operations. An eigen-decomposition would
serve all of them, but takes about 90 times as long as one Cholesky decomposition (n = 2000, LAPACK
on CPU), so that it pays for none of the usual grids. All numbers are float64: the condition number
of ``K + alpha I`` may reach ``n / alpha``.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ssl_transfer.metrics.regression import r2

CHUNK_ELEMENTS = 2**25  # kernel values of queries in memory at once: 256 MiB


class KernelRidge:
    """The training samples of a kernel ridge regression, for any gamma and alpha.

    Args:
        features: training samples; the standardisation of all features is that of these samples.
        targets: numbers to predict, not standardised.
    """

    def __init__(
        self, features: Float[Tensor, "samples dim"], targets: Float[Tensor, "samples outputs"]
    ) -> None:
        features = features.double()
        self.mean, self.scale = features.mean(dim=0), _scale(features)
        self.samples = (features - self.mean) / self.scale
        self.targets = targets.double()
        self.squared = squared_distances(self.samples, self.samples)

    def distances(
        self, queries: Float[Tensor, "queries dim"]
    ) -> Float64[Tensor, "queries samples"]:
        """Return the squared distances of other samples, standardised in the same way."""
        return squared_distances((queries.double() - self.mean) / self.scale, self.samples)

    def coefficients(
        self, gamma: float, alphas: Sequence[float]
    ) -> Float64[Tensor, "alphas samples outputs"]:
        """Return the dual coefficients for one gamma and every alpha.

        Args:
            gamma: inverse of twice the squared width of the kernel, positive.
            alphas: penalties, positive.

        Returns:
            NaN for an alpha so small that ``K + alpha I`` is not positive definite in float64.
        """
        kernel = _kernel(self.squared, gamma)
        factor = torch.empty_like(kernel).mT  # columns in one piece, so that LAPACK copies nothing
        info = torch.empty((), dtype=torch.int32, device=kernel.device)
        solutions = []
        for alpha in alphas:
            # The distance of a sample to itself is 0.
            kernel.diagonal().fill_(1 + alpha)
            torch.linalg.cholesky_ex(kernel, out=(factor, info))
            solution = torch.cholesky_solve(self.targets, factor)
            solutions.append(solution if int(info) == 0 else torch.full_like(solution, torch.nan))
        return torch.stack(solutions)

    def predict(
        self,
        queries: Float[Tensor, "queries dim"],
        gamma: float,
        coefficients: Float64[Tensor, "alphas samples outputs"],
    ) -> Float64[Tensor, "alphas queries outputs"]:
        """Return predictions; the kernel is computed for some queries at a time."""
        chunks = torch.split(queries, max(1, CHUNK_ELEMENTS // len(self.samples)))
        parts = [predictions(self.distances(chunk), gamma, coefficients) for chunk in chunks]
        return torch.cat(parts, dim=1)


def predictions(
    squared: Float64[Tensor, "queries samples"],
    gamma: float,
    coefficients: Float64[Tensor, "alphas samples outputs"],
) -> Float64[Tensor, "alphas queries outputs"]:
    """Return the predictions of queries with these squared distances to the training samples."""
    alphas, samples, outputs = coefficients.shape
    side_by_side = coefficients.transpose(0, 1).reshape(samples, alphas * outputs)
    product = _kernel(squared, gamma) @ side_by_side
    return product.reshape(len(squared), alphas, outputs).transpose(0, 1)


def held_out_r2(
    features: Float[Tensor, "samples dim"],
    targets: Float[Tensor, "samples outputs"],
    held: Int64[np.ndarray, " held"],
    *,
    alphas: Sequence[float],
    gammas: Sequence[float],
    values: Int64[Tensor, " outputs"] | None = None,
) -> Iterator[Float64[Tensor, "alphas values"]]:
    """Yield the R2 of the held-out samples for one gamma after another.

    Args:
        features: all samples.
        targets: all numbers to predict; those of the held-out samples are not constant.
        held: the samples of one fold; the model is fitted, and features are standardised, on the
            others.
        alphas: penalties, positive.
        gammas: parameters of the kernel, positive.
        values: number of the value that each output is a coordinate of (see ``r2``).
    """
    mask = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    mask[torch.from_numpy(held)] = True
    model = KernelRidge(features[~mask], targets[~mask])
    squared, expected = model.distances(features[mask]), targets[mask].double()
    for gamma in gammas:
        predicted = predictions(squared, gamma, model.coefficients(gamma, alphas))
        yield torch.stack([r2(of_alpha, expected, values) for of_alpha in predicted])


def bytes_needed(samples: int, dim: int, queries: int) -> int:
    """Return the memory that a fit and its predictions need.

    These are three square matrices (squared distances, kernel, Cholesky factor), a chunk of the
    kernel of queries with its distances, and the features before and after standardisation.

    Args:
        samples: number of training samples.
        dim: number of features.
        queries: number of samples to predict.
    """
    chunk = min(queries * samples, max(CHUNK_ELEMENTS, samples))
    return 8 * (3 * samples**2 + 2 * chunk + (3 * samples + queries) * dim)


def squared_distances(
    rows: Float64[Tensor, "rows dim"], columns: Float64[Tensor, "columns dim"]
) -> Float64[Tensor, "rows columns"]:
    """Return the squared Euclidean distances; never negative."""
    squares = [samples.square().sum(dim=1) for samples in (rows, columns)]
    product = torch.addmm(squares[1].expand(len(rows), -1), rows, columns.T, alpha=-2)
    return product.add_(squares[0][:, None]).clamp_(min=0)


def _kernel(
    squared: Float64[Tensor, "rows columns"], gamma: float
) -> Float64[Tensor, "rows columns"]:
    return torch.mul(squared, -gamma).exp_()


def _scale(features: Float64[Tensor, "samples dim"]) -> Float64[Tensor, " dim"]:
    """Return the standard deviations, and 1 for features that are constant up to rounding.

    The bound on rounding errors is that of scikit-learn's ``StandardScaler`` (Chan et al. 1983,
    https://doi.org/10.1080/00031305.1983.10483115).
    """
    count, eps = len(features), torch.finfo(features.dtype).eps
    variance, mean = features.var(dim=0, correction=0), features.mean(dim=0)
    rounding = count * eps * variance + (count * mean * eps).square()
    return torch.where(variance <= rounding, 1.0, variance.sqrt())
