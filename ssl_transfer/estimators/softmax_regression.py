"""Multinomial and one-vs-rest logistic regression with an L2 penalty, for a grid of penalties.

The objective is scikit-learn's, ``C * sum_n CE(W x_n + b, y_n) + |W|^2 / 2`` with a free intercept,
divided by ``C N``; for several classes per sample CE is the sum of binary cross-entropies, so that
each class is a separate problem. A grid of 45 values of C is a path of similar problems on the same
features. Four techniques reduce the cost without changing the objective:

1. *Coordinates.* The features are centred (the free intercept absorbs the shift), scaled by one
   number and rotated to their principal axes. With fewer samples than features this also removes
   the directions without variance, where the optimal weight is zero.
2. *Preconditioning.* In these coordinates the Hessian is about ``h s_r^2 + penalty`` on axis r,
   with the variance ``s_r^2`` along the axis and the mean ``h`` of ``p (1 - p)``. L-BFGS starts
   from the inverse of this diagonal.
3. *Path following.* About one problem per decade of C is solved in ascending order, starting from
   an extrapolation of the last two solutions. The other problems start from an interpolation in
   log C and need few iterations. A single large C is solved in the same way; starting from zero, it
   would need thousands of iterations.
4. *Batches.* Problems of one level share each product with the features. Logits are linear in the
   step, so that a line search needs no product: there are two products per iteration.

Axes: P problems, K classes, N samples, R rotated features and the constant, M remembered pairs.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.interpolate import CubicSpline
from torch import Tensor

from ssl_transfer.estimators.logistic_losses import Multinomial, OneVsRest
from ssl_transfer.estimators.logistic_solver import Loss, Parameters, Solver

Labels = Int64[Tensor, " samples"] | Int64[Tensor, "samples classes"]

STRIDE = 10.0  # factor between the values of C that are solved one after another
NARROW = 128  # weight vectors of a batch up to which their transpose is multiplied


@dataclasses.dataclass(frozen=True)
class Solution:
    """One classifier per value of C, in the order of ``fit_path``'s argument.

    Args:
        weights: weights of the original features.
        intercepts: minus infinity for a class without a sample, infinity for a class that every
            sample shows.
        C: inverse strengths of the penalty.
        iterations: number of iterations of L-BFGS.
        converged: whether the tolerance was reached.
    """

    weights: Float[Tensor, "P classes dim"]
    intercepts: Float[Tensor, "P classes"]
    C: tuple[float, ...]
    iterations: Int64[Tensor, " P"]
    converged: Bool[Tensor, " P"]

    def logits(
        self, problem: int, features: Float[Tensor, "samples dim"]
    ) -> Float[Tensor, "samples classes"]:
        """Return one classifier's class scores."""
        return torch.addmm(self.intercepts[problem], features, self.weights[problem].T)

    def __getitem__(self, problems: slice) -> "Solution":
        return Solution(
            self.weights[problems],
            self.intercepts[problems],
            self.C[problems],
            self.iterations[problems],
            self.converged[problems],
        )


def fit_path(
    features: Float[Tensor, "samples dim"],
    labels: Labels,
    *,
    C: Sequence[float],
    classes: int,
    tol: float = 1e-5,
    max_iter: int = 1000,
    memory: int = 10,
    basis: Float[Tensor, "dim axes"] | None = None,
    start: Solution | None = None,
) -> Solution:
    """Return the classifiers that minimise ``C * sum CE + |W|^2 / 2`` for every C.

    Args:
        features: floating-point features; the fit uses their type and device.
        labels: class numbers in ``[0, classes)``; a class without a sample is left out of the
            fit and never predicted, as in scikit-learn. Or rows of 1 (shown), 0 (not shown) and -1
            (left out of that class's problem).
        C: inverse strengths of the penalty, in any order.
        classes: number of classes.
        tol: a problem has converged when the next step is expected to lower its loss by less than
            this share. Unlike scikit-learn's bound on the gradient, this criterion does not depend
            on the scale of the features or on C.
        max_iter: maximum number of iterations per problem.
        memory: number of pairs that L-BFGS stores.
        basis: ``principal_axes`` of samples that include these, or of any that are at least as many
            as features, so that several fits share them (``None``: of these samples).
        start: classifiers of similar features, one of which a single C starts from: the first for
            that C, then for smaller values (``None``: start from zero weights).

    Raises:
        ValueError: for features or labels that cannot be fitted.
    """
    _check(features, labels, C, classes)
    loss, present, constant = _posed(labels, classes)
    design = _Shared(features, basis)
    solver = Solver(design, loss, tol=tol, max_iter=max_iter, memory=memory)
    inverse_strengths = np.asarray(C, dtype=np.float64)
    # The penalty of the mean loss, for weights of the scaled features, is 1 / (C unit).
    unit = len(features) * design.scale**2
    if start is None:
        # If the penalty exceeds the largest curvature, zero is a good start.
        path = _Path(_waypoints(inverse_strengths, 1 / (unit * features.shape[1])), unit, solver)
    else:
        assert len(C) == 1, "a start belongs to a single C"
        first, lowest = _best_start(start, design, loss, present)
        path = _Path(_waypoints(inverse_strengths, lowest), unit, solver)
        path.theta[0] = first
    path.follow()
    every = torch.from_numpy(np.searchsorted(path.values, inverse_strengths))
    weights, intercepts = design.to_features(path.theta[every])
    solution = Solution(
        weights=weights.new_zeros(len(C), classes, features.shape[1]),
        intercepts=constant.to(weights).repeat(len(C), 1),
        C=tuple(C),
        iterations=path.iterations[every],
        converged=path.converged[every],
    )
    solution.weights[:, present] = weights
    solution.intercepts[:, present] = intercepts
    return solution


def _check(features: Tensor, labels: Tensor, C: Sequence[float], classes: int) -> None:
    if len(features) == 0 or len(C) == 0:
        raise ValueError("logistic regression needs at least one sample and one value of C.")
    if min(C) <= 0 or not np.isfinite(C).all():
        raise ValueError(f"every C must be a positive number, but they are {list(C)}.")
    _check_finite(features)
    low, high = int(labels.min()), int(labels.max())
    if labels.ndim == 2:
        if low < -1 or high > 1 or labels.shape[1] != classes:
            raise ValueError(
                f"labels must be rows of {classes} numbers out of -1, 0 and 1, but are of "
                f"{labels.shape[1]} that reach from {low} to {high}."
            )
    elif low < 0 or high >= classes:
        raise ValueError(f"labels must lie in [0, {classes}), but reach from {low} to {high}.")


def _check_finite(features: Tensor) -> None:
    if not bool(features.isfinite().all()):
        raise ValueError(
            "the features must be finite numbers, but some are infinite or NaN; check the "
            "encoder's weights, or use `precision=fp32`."
        )


def _posed(
    labels: Labels, classes: int
) -> tuple[Loss, Int64[Tensor, " present"], Float[Tensor, " classes"]]:
    """Return the loss, the classes that can be learnt, and constant logits of the others."""
    constant = torch.full((classes,), -torch.inf, device=labels.device)
    if labels.ndim == 1:
        present, targets = torch.unique(labels, return_inverse=True)
        return Multinomial(targets, len(present)), present, constant
    shown, absent = (labels == 1).any(0), (labels == 0).any(0)
    constant[shown & ~absent] = torch.inf
    present = (shown & absent).nonzero()[:, 0]
    if len(present) == 0:
        raise ValueError(
            "logistic regression needs a class that some samples show and others do not, but "
            "there is none."
        )
    return OneVsRest(labels[:, present]), present, constant


class _Shared:
    """Features that all problems share, with a column of ones for the intercept."""

    def __init__(
        self, features: Float[Tensor, "N dim"], basis: Float[Tensor, "dim axes"] | None
    ) -> None:
        centred, self.mean, self.scale = _centred(features)
        self.basis = _axes(centred) if basis is None else basis
        rows = centred @ self.basis
        self.rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        self.variances = self.rows.square().mean(0)

    def logits(self, theta: Parameters) -> Float[Tensor, "P K N"]:
        flat = theta.flatten(0, 1)
        # BLAS is up to twice as fast if the narrow matrix is on the right.
        narrow = len(flat) < NARROW
        logits = (self.rows @ flat.T).T.contiguous() if narrow else flat @ self.rows.T
        return logits.view(*theta.shape[:2], -1)

    def pull_back(self, residuals: Float[Tensor, "P K N"]) -> Parameters:
        product = residuals.flatten(0, 1) @ self.rows
        return product.div_(len(self.rows)).view(*residuals.shape[:2], -1)

    def keep(self, mask: Bool[Tensor, " P"]) -> "_Shared":
        return self

    def to_features(
        self, theta: Parameters
    ) -> tuple[Float[Tensor, "P K dim"], Float[Tensor, "P K"]]:
        """Return weights and intercepts for the original features."""
        weights = theta[..., :-1] @ self.basis.T / self.scale
        return weights, theta[..., -1] - weights @ self.mean

    def from_features(
        self, weights: Float[Tensor, "P K dim"], intercepts: Float[Tensor, "P K"]
    ) -> Parameters:
        """Return the parameters in the fit's coordinates; the inverse of ``to_features``."""
        intercepts = (intercepts + weights @ self.mean).unsqueeze(-1)
        return torch.cat([weights @ self.basis * self.scale, intercepts], dim=-1)


def principal_axes(features: Float[Tensor, "N dim"]) -> Float[Tensor, "dim axes"]:
    """Return an orthonormal basis of the centred features: the principal axes, up to rounding.

    Every orthonormal basis gives the same optimum. The accuracy of the axes only affects the
    preconditioner, so that single precision is enough, and so are the axes of more samples.

    Raises:
        ValueError: if a feature is not finite.
    """
    _check_finite(features)
    return _axes(_centred(features)[0])


def _centred(
    features: Float[Tensor, "N dim"],
) -> tuple[Float[Tensor, "N dim"], Float[Tensor, " dim"], float]:
    """Return features with mean 0 and mean square 1, their mean, and their scale."""
    mean = features.mean(0)
    centred = features - mean
    scale = float(centred.square().mean().sqrt()) or 1.0
    return centred.div_(scale), mean, scale


def _axes(centred: Float[Tensor, "N dim"]) -> Float[Tensor, "dim axes"]:
    span: Tensor | None = None
    square = centred
    if len(centred) < centred.shape[1]:
        span, triangle = torch.linalg.qr(centred.T)
        square = triangle.T
    axes: Tensor = torch.linalg.eigh(square.T @ square).eigenvectors
    return axes if span is None else torch.mm(span, axes)


def _best_start(
    start: Solution, design: _Shared, loss: Loss, present: Int64[Tensor, " present"]
) -> tuple[Float[Tensor, "K R"], float]:
    """Return the classifier at which a path begins, and its C.

    Large weights that separate the samples of ``start`` are far off for others, and the way back is
    long. Thus C is lowered by decades for as long as this lowers the loss of these samples.
    """
    best: tuple[Float[Tensor, "K R"], float] | None = None
    smallest = math.inf
    for problem, C in enumerate(start.C):
        if best is not None and best[1] / C < STRIDE * (1 - 1e-6):
            continue
        intercepts = start.intercepts[problem, present]
        # If the start had no samples of a class, its intercept starts at zero like its weights.
        intercepts = intercepts.where(intercepts.isfinite(), 0)[None]
        theta = design.from_features(start.weights[problem, present][None], intercepts)
        margins = loss.margins(design.logits(theta))
        loss.exclude(margins)
        mean = float(loss.mean(loss.probabilities(margins)[1]))
        if best is not None and mean >= smallest:
            break
        best, smallest = (theta[0], C), mean
    assert best is not None, "a start has a classifier"
    return best


def _waypoints(
    inverse_strengths: Float64[np.ndarray, " C"], lowest: float
) -> Float64[np.ndarray, " path"]:
    """Return the values in ascending order, with more values where steps would be too large.

    Args:
        inverse_strengths: values of C.
        lowest: value of C from which a path may begin.
    """
    ascending = np.unique(inverse_strengths)
    if lowest < ascending[0]:
        ascending = np.concatenate([[lowest], ascending])
    parts = []
    for low, high in itertools.pairwise(ascending):
        steps = math.ceil(math.log(high / low, STRIDE) - 1e-6)
        parts.append(np.geomspace(low, high, max(1, steps), endpoint=False))
    return np.concatenate([*parts, ascending[-1:]])


class _Path:
    """The problems in ascending order of C, and those that are solved so far."""

    def __init__(self, values: Float64[np.ndarray, " path"], unit: float, solver: Solver) -> None:
        self.values, self.log_C, self.solver = values, np.log(values), solver
        rows = solver.design.rows
        self.penalties = torch.from_numpy(1 / (values * unit)).to(rows.device)
        self.theta = rows.new_zeros(len(values), solver.loss.classes, rows.shape[1])
        self.iterations = torch.zeros(len(values), dtype=torch.int64)
        self.converged = torch.zeros(len(values), dtype=torch.bool)
        self.solved: list[int] = []

    def follow(self) -> None:
        """Solve the widely spaced problems one by one, then the problems between in batches."""
        for problem in self._long_steps():
            self.solve([problem], self._extrapolate(problem))
        middles = [(a + b) // 2 for a, b in itertools.pairwise(self.solved) if b - a > 1]
        for level in (middles, sorted({*range(len(self.values))} - {*middles, *self.solved})):
            for first in range(0, len(level), self.solver.largest_batch):
                problems = level[first : first + self.solver.largest_batch]
                self.solve(problems, self._combine(self._spline(problems), self.solved))

    def solve(self, problems: list[int], start: Parameters) -> None:
        """Solve some problems together."""
        solution = self.solver.solve(start, self.penalties[problems])
        self.theta[problems], self.iterations[problems], self.converged[problems] = solution
        self.solved = sorted({*self.solved, *problems})

    def _long_steps(self) -> list[int]:
        """Return the first and the last problem, and as few problems as possible between them."""
        steps = [0]
        reach = math.log(STRIDE) + 1e-6
        for problem in range(1, len(self.values)):
            last = problem + 1 == len(self.values)
            if last or self.log_C[problem + 1] - self.log_C[steps[-1]] > reach:
                steps.append(problem)
        return steps

    def _extrapolate(self, problem: int) -> Parameters:
        """Return the linear extrapolation of the last two solutions in log C."""
        if len(self.solved) < 2:
            return self.theta[self.solved or [problem]]
        before, last = self.solved[-2:]
        ahead = self.log_C[problem] - self.log_C[last]
        share = ahead / (self.log_C[last] - self.log_C[before])
        return self._combine(np.array([[-share, 1 + share]]), [before, last])

    def _spline(self, problems: list[int]) -> Float64[np.ndarray, "new solved"]:
        """Return the coefficients of a cubic spline through the solved problems."""
        spline = CubicSpline(self.log_C[self.solved], np.eye(len(self.solved)))
        return np.asarray(spline(self.log_C[problems]))

    def _combine(
        self, coefficients: Float64[np.ndarray, "new solved"], problems: list[int]
    ) -> Parameters:
        matrix = torch.from_numpy(coefficients).to(self.theta)
        point: Tensor = torch.tensordot(matrix, self.theta[problems], dims=1)
        return point
