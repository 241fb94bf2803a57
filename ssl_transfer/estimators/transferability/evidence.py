"""LogME: the evidence of a Bayesian linear model of the targets."""

import dataclasses
import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ssl_transfer.config.ranges import Count, Positive
from ssl_transfer.estimators.blocks import Features, blocks
from ssl_transfer.estimators.transferability.moments import (
    Labels,
    NotDefined,
    groups_of,
    isometric,
    require_variation,
    rounding_level,
    scatter,
)

Targets = Labels | Int64[Tensor, "samples classes"] | Float[Tensor, "samples outputs"]

EXTREME = 1e12
"""Largest ratio of the largest eigenvalue to ``alpha / beta``, and of its inverse: an evidence that
grows without limit (targets that the features determine exactly) stays finite."""


def logme(
    features: Features, targets: Targets, *, tol: Positive = 1e-8, max_iter: Count = 200
) -> float:
    """Return LogME, the maximum log evidence per image; larger is better.

    You et al. 2021 (https://arxiv.org/abs/2102.11005), equation 2: the targets y are Gaussian
    around ``F w`` with precision beta, and the weights w are Gaussian around 0 with precision
    alpha. The evidence is maximal at a fixed point (https://arxiv.org/abs/2110.10545):
    ``alpha = gamma / |m|^2`` and ``beta = (n - gamma) / |F m - y|^2`` with the weights' mean m and
    ``gamma = sum beta s^2 / (alpha + beta s^2)`` over the singular values s of F. One
    decomposition of the features serves all columns of the targets.

    The public code for that fixed point lacks the term ``(d - n) log(alpha)`` of ``log det A`` with
    fewer images than dimensions; the value here is the evidence in both cases.

    Args:
        features: one row per image.
        targets: class numbers (one column of 0 and 1 per class that occurs); or rows of 1 (shown),
            0 (not shown) and -1 (unknown: such an image is left out for this class); or numbers to
            regress. A column whose known values are all equal is left out.
        tol: relative change of ``alpha / beta`` at which the fixed point has converged.
        max_iter: maximum number of iterations, at least 1.

    Returns:
        The mean over columns, in nats.

    Raises:
        NotDefined: if the features are constant, or if no column of the targets varies.
    """
    require_variation(features)
    evidences = [_maximum(problem, tol, max_iter) for problem in _problems(features, targets)]
    if not evidences:
        raise NotDefined("no column of the targets has two different known values")
    return float(torch.cat(evidences).mean())


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Regressions of several columns on the same features.

    Args:
        eigenvalues: of ``F F^T``, the positive ones.
        squares: squared coordinates of each column along these directions.
        rest: squared length of what no weights can fit.
        samples: number of images.
    """

    eigenvalues: Float64[Tensor, " axes"]
    squares: Float64[Tensor, "columns axes"]
    rest: Float64[Tensor, " columns"]
    samples: int


def _problems(features: Features, targets: Targets) -> Iterator[_Problem]:
    """Yield one problem per set of columns that are known for the same images."""
    if targets.ndim == 1:
        groups = groups_of(targets)
        coordinates = isometric(features)
        sums = torch.zeros(len(groups.counts), coordinates.shape[1], dtype=torch.float64)
        sums = sums.to(features.device)
        for part, rows in blocks(coordinates):
            sums.index_add_(0, groups.numbers[part], rows)
        yield _problem(coordinates, features, sums, groups.counts)
        return
    known = targets.isfinite() if targets.is_floating_point() else targets >= 0
    patterns, pattern_of = torch.unique(known, dim=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        columns = targets[:, pattern_of == number][pattern].double()
        columns = columns[:, _vary(columns)]
        if columns.shape[1]:
            rows = features if bool(pattern.all()) else features[pattern]
            coordinates = isometric(rows)
            sums = torch.zeros(columns.shape[1], coordinates.shape[1], dtype=torch.float64)
            sums = sums.to(features.device)
            for part, block in blocks(coordinates):
                sums.addmm_(columns[part].T, block)
            yield _problem(coordinates, rows, sums, columns.square().sum(dim=0))


def _vary(columns: Float64[Tensor, "samples columns"]) -> Bool[Tensor, " columns"]:
    if len(columns) < 2:
        return torch.zeros(columns.shape[1], dtype=torch.bool, device=columns.device)
    return columns.amax(dim=0) > columns.amin(dim=0)


def _problem(
    coordinates: Float[Tensor, "samples axes"],
    features: Features,
    sums: Float64[Tensor, "columns axes"],
    lengths: Float64[Tensor, " columns"],
) -> _Problem:
    """Return the problem of columns y with the products ``y^T F`` and the squared lengths."""
    eigenvalues, axes = torch.linalg.eigh(scatter(blocks(coordinates)))
    kept = eigenvalues > rounding_level(eigenvalues, features)
    eigenvalues, axes = eigenvalues[kept], axes[:, kept]
    squares = (sums @ axes).square() / eigenvalues
    complete = len(eigenvalues) == len(features)
    rest = lengths - squares.sum(dim=1)
    rest = torch.zeros_like(lengths) if complete else rest.clamp(min=0)
    return _Problem(eigenvalues, squares, rest, len(features))


def _maximum(problem: _Problem, tol: float, max_iter: int) -> Float64[Tensor, " columns"]:
    """Return each column's maximum log evidence, divided by the number of images.

    With ``t = alpha / beta`` and the eigenvalues s, the precision of the noise is optimal at
    ``beta = n / q(t)`` with ``q(t) = rest + sum x^2 t / (s + t)``, and the evidence becomes
    ``n/2 log beta - 1/2 sum log(1 + s/t) - n/2 (1 + log 2 pi)``.
    """
    s, squares, rest, n = problem.eigenvalues, problem.squares, problem.rest, problem.samples
    low, high = float(s.max()) / EXTREME, float(s.max()) * EXTREME
    t = torch.ones_like(rest).clamp(low, high)
    for _ in range(max_iter):
        inverse = 1 / (s + t[:, None])
        free = n - len(s) + t * inverse.sum(dim=1)  # n - gamma
        gamma = (s * inverse).sum(dim=1)
        weights = (squares * s * inverse.square()).sum(dim=1)  # |m|^2
        residual = rest + t.square() * (squares * inverse.square()).sum(dim=1)  # |F m - y|^2
        tiny = torch.finfo(t.dtype).tiny
        updated = gamma * residual / (weights * free).clamp(min=tiny)
        updated = updated.clamp(low, high)
        converged = bool(((updated - t).abs() <= tol * t).all())
        t = updated
        if converged:
            break
    fitted = rest + (squares * (t[:, None] / (s + t[:, None]))).sum(dim=1)
    beta = n / fitted
    penalty = torch.log1p(s / t[:, None]).sum(dim=1)
    evidence: Tensor = (n * beta.log() - penalty - n * (1 + math.log(2 * math.pi))) / (2 * n)
    return evidence
