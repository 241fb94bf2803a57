"""Batched L-BFGS for logistic regressions with an L2 penalty, see ``softmax_regression``.

The problems of a batch share their samples or have their own, as the ``Design`` says; each has its
own penalty, step length and end. Axes: P problems, K classes, N samples, R coordinates and the
constant, M remembered pairs.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.estimators.lbfgs import Pairs, PerProblem, dot
from ssl_transfer.estimators.logistic_losses import Doubt, Multinomial, OneVsRest

Loss = Multinomial | OneVsRest
Parameters = Float[Tensor, "P K R"]

SUFFICIENT_DECREASE = 1e-4  # Nocedal and Wright 2006, section 3.1
CURVATURE = 0.9  # likewise
TRIALS = 25  # trials of a line search; each trial doubles or halves the interval
MEMORY_ELEMENTS = 2**27  # elements of the largest array of a batch: 512 MiB in float32


@runtime_checkable
class Design(Protocol):
    """The features of a batch of problems, in the coordinates of the fit."""

    rows: Float[Tensor, "N R"] | Float[Tensor, "P N R"]
    """The samples, which the problems share or not; the last coordinate is the constant 1."""

    variances: Float[Tensor, " R"] | Float[Tensor, "P 1 R"]
    """Mean squares of the coordinates."""

    def logits(self, theta: Parameters) -> Float[Tensor, "P K N"]:
        """Return the products of parameters and features."""
        ...

    def pull_back(self, residuals: Float[Tensor, "P K N"]) -> Parameters:
        """Return the mean over samples of the products of residuals and features."""
        ...

    def keep(self, mask: Bool[Tensor, " P"]) -> "Design":
        """Return the features of the problems in ``mask``."""
        ...


class Solver:
    """Batched L-BFGS on one design."""

    def __init__(
        self,
        design: Design,
        loss: Loss,
        *,
        tol: float,
        max_iter: int,
        memory: int,
    ) -> None:
        self.design, self.loss = design, loss
        self.tol, self.max_iter, self.memory = tol, max_iter, memory
        samples, axes = design.rows.shape[-2:]
        largest = max(1, loss.classes) * max(samples, memory * axes)
        self.largest_batch = max(1, MEMORY_ELEMENTS // largest)

    def solve(
        self, start: Parameters, penalties: PerProblem
    ) -> tuple[Parameters, Int64[Tensor, " P"], Bool[Tensor, " P"]]:
        """Return the minima, the numbers of iterations, and a mask of the converged problems."""
        theta = start.clone()
        iterations = torch.zeros(len(start), dtype=torch.int64)
        converged = torch.zeros(len(start), dtype=torch.bool)
        numbers = torch.arange(len(start), device=start.device)
        state = State(self, start, penalties)
        for iteration in range(self.max_iter + 1):
            good, stuck = state.prepare(self.tol)
            if iteration < 2:  # the curvature is still an estimate
                good &= state.decrease <= 0
            over = good | stuck
            if iteration == self.max_iter:
                over[:] = True
            if bool(over.any()):
                ended = numbers[over]
                theta[ended] = state.theta[over]
                iterations[ended.cpu()] = iteration
                converged[ended.cpu()] = good[over].cpu()
                if bool(over.all()):
                    break
                numbers = numbers[~over]
                state.keep(~over)
            state.step()
        return theta, iterations, converged


class State:
    """The unfinished problems of a batch; the first axis of every tensor is the problem."""

    def __init__(self, solver: Solver, theta: Parameters, penalties: PerProblem) -> None:
        self._design, self._loss = solver.design, solver.loss
        self.theta = theta
        self.penalty = penalties.to(theta.dtype)[:, None, None].repeat(1, 1, theta.shape[2])
        self.penalty[..., -1] = 0  # the intercept has no penalty
        self.margins = self._margins(theta)
        self._loss.exclude(self.margins)
        p, doubt = self._loss.probabilities(self.margins)
        self.loss = self._loss.mean(doubt) + self._ridge(theta, theta) / 2
        # Clamp the curvature: below 1e-8 it is rounding and would make the first step too long.
        spread = (p * (1 - p)).mean((1, 2)).clamp(min=1e-8)
        self.scaling = (spread[:, None, None] * self._design.variances + self.penalty).rsqrt()
        self.gradient = self._gradient(p, doubt)
        self.direction, self.decrease = self.gradient, self.loss
        self.stuck = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        self._pairs = Pairs(len(theta), solver.memory, theta[0].numel(), theta)

    def keep(self, mask: Bool[Tensor, " P"]) -> None:
        """Forget the problems outside of ``mask``."""
        for name, value in vars(self).items():
            if not name.startswith("_"):
                setattr(self, name, value[mask])
        self._design = self._design.keep(mask)
        self._pairs.keep(mask)

    def prepare(self, tol: float) -> tuple[Bool[Tensor, " P"], Bool[Tensor, " P"]]:
        """Compute the direction; return masks of the converged and of the failed problems."""
        scaled = (self.gradient * self.scaling).flatten(1)
        direction = self._pairs.apply_inverse(scaled).neg_().view_as(self.theta)
        self.direction = direction.mul_(self.scaling)
        # Compute the decrease of the quadratic model: half of Newton's squared decrement.
        self.decrease = -dot(self.gradient, self.direction) / 2
        # Compare it with the remaining loss, or with the reduction of the loss if that is smaller.
        entropy = self._loss.entropy
        explained = (entropy - self.loss).clamp(min=1e-4 * entropy)
        good = self.decrease.abs() <= tol * torch.minimum(self.loss, explained)
        return good, (self.stuck | (self.decrease <= 0)) & ~good

    def step(self) -> None:
        """Take one step along the direction of every problem."""
        change = self._margins(self.direction)
        length, p, doubt = self._line_search(change)
        narrow = length.to(self.theta.dtype)[:, None, None]
        step = self.direction * narrow
        self.margins.addcmul_(change, narrow)
        self.theta = self.theta + step
        before, self.gradient = self.gradient, self._gradient(p, doubt)
        difference = (self.gradient - before).mul_(self.scaling).flatten(1)
        self.stuck |= ~self._pairs.add(step.div_(self.scaling).flatten(1), difference)

    def _line_search(
        self, change: Float[Tensor, "P K N"]
    ) -> tuple[PerProblem, Float[Tensor, "P K N"], Doubt]:
        """Return step lengths that satisfy the Wolfe conditions, and the probabilities there.

        The search bisects between a length that is too short and one that is too long (Nocedal and
        Wright 2006, section 3.1). If it fails for a problem, the result is the largest length that
        was too short.
        """
        linear = self._ridge(self.theta, self.direction)
        square = self._ridge(self.direction, self.direction)
        ridge = self._ridge(self.theta, self.theta) / 2
        before, slope = self.loss, -2 * self.decrease
        # Add a tolerance for the rounding error of the loss.
        noise = 4 * torch.finfo(self.theta.dtype).eps * before
        length = torch.ones_like(before)
        short, long = torch.zeros_like(before), torch.full_like(before, torch.inf)

        def look(problems: slice | Bool[Tensor, " P"]) -> tuple[Tensor, ...]:
            narrow = length[problems].to(self.theta.dtype)[:, None, None]
            moved = change[problems]
            p, doubt = self._loss.probabilities(
                torch.addcmul(self.margins[problems], moved, narrow)
            )
            return p, doubt, self._loss.mean(doubt), dot(p, moved) / change.shape[2]

        p, doubt, data, tilt = looks = look(slice(None))
        for trial in range(TRIALS + 1):
            self.loss = data + ridge + length * linear + length.square() * square / 2
            steepness = tilt + linear + length * square
            fell = self.loss <= before + SUFFICIENT_DECREASE * length * slope + noise
            flat = steepness >= CURVATURE * slope
            searching = ~(fell & flat)
            if trial == TRIALS or not bool(searching.any()):
                break
            long = torch.where(fell, long, length)
            short = torch.where(fell & ~flat, length, short)
            middle = torch.where(long.isinf(), 2 * length, (short + long) / 2)
            if trial == TRIALS - 1:
                middle = short
            length = torch.where(searching, middle, length)
            # Only the problems without a length are looked at again.
            for values, new in zip(looks, look(searching), strict=True):
                values[searching] = new
        return length, p, doubt

    def _margins(self, theta: Parameters) -> Float[Tensor, "P K N"]:
        return self._loss.margins(self._design.logits(theta))

    def _ridge(self, first: Parameters, second: Parameters) -> PerProblem:
        return dot(self.penalty * first, second)

    def _gradient(self, p: Float[Tensor, "P K N"], doubt: Doubt) -> Parameters:
        """Return the gradient of the loss; ``p`` becomes the residuals."""
        residuals = self._loss.residuals(p, doubt)
        # Products with numbers near the smallest of the type are many times slower.
        limits = torch.finfo(p.dtype)
        pulled = self._design.pull_back(F.hardshrink(residuals, limits.tiny / limits.eps))
        return pulled.addcmul_(self.penalty, self.theta)
