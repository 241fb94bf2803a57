"""Classifiers of few-shot episodes on features; all episodes of a call are one batch of tensors.

Axes: E episodes, K ways, S shots, Q queries (of all ways), D features, R coordinates of a fit. Each
function returns the class scores of the queries, of which the largest is the prediction. A query's
scores depend on the support and on this query alone.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import randomness
from ssl_transfer.estimators.cosine_classifier import class_vectors, unit_features, usual_scale
from ssl_transfer.estimators.logistic_losses import Multinomial
from ssl_transfer.estimators.logistic_solver import Parameters, Solver

Support = Float[Tensor, "E K S D"]
Queries = Float[Tensor, "E Q D"]
Scores = Float[Tensor, "E Q K"]
HeadKind = Literal["linear", "cosine"]

PATH_TOL = 1e-3  # tolerance of the fits that only lead to the next one


def class_mean_scores(support: Support, queries: Queries) -> Scores:
    """Return minus the squared Euclidean distance of each query from each class's mean feature.

    A term that is the same for all classes of a query is left out. Snell et al. 2017, equations 1
    and 2 (https://arxiv.org/abs/1703.05175), without training, as in few_shot.py of
    github.com/linusericsson/ssl-transfer (416913f).
    """
    means = support.mean(dim=2)
    # Distances do not depend on the origin; a near one keeps rounding errors small.
    origin = means.mean(dim=1, keepdim=True)
    means, centred = means - origin, queries - origin
    lengths = means.square().sum(dim=2)[:, None]
    return torch.baddbmm(lengths, centred, means.mT, beta=-1, alpha=2)


def logistic_regression_scores(
    support: Support,
    queries: Queries,
    *,
    C: float = 1.0,
    tol: float = 1e-6,
    max_iter: int = 1000,
) -> tuple[Scores, Bool[Tensor, " E"]]:
    """Return the logits of a logistic regression per episode, and which fits have converged.

    The objective is scikit-learn's, ``C * sum CE(W x + b, y) + |W|^2 / 2`` with a free intercept.

    Args:
        support: features with known classes.
        queries: features to classify.
        C: inverse strength of the penalty, positive.
        tol: see ``softmax_regression.fit_path``.
        max_iter: maximum number of iterations per value of C.
    """
    episodes, ways, shots, _ = support.shape
    design, projected = _own_coordinates(support.flatten(1, 2), queries)
    labels = torch.arange(ways, device=support.device).repeat_interleave(shots)
    loss = Multinomial(labels, ways)
    penalties = design.scale.square().mul(C * len(labels)).reciprocal().double()
    theta = design.rows.new_zeros(episodes, ways, design.rows.shape[2])
    # Weights of zero are near the optimum if the penalty exceeds the largest curvature. From there,
    # a path of smaller and smaller penalties leads to the penalty of C.
    decades = max(0, math.ceil(math.log10(support.shape[3] / float(penalties.min()))))
    converged = torch.zeros(episodes, dtype=torch.bool)
    for decade in range(decades, -1, -1):
        accuracy = tol if decade == 0 else max(tol, PATH_TOL)
        solver = Solver(design, loss, tol=accuracy, max_iter=max_iter, memory=10)
        theta, _, converged = solver.solve(theta, penalties * 10.0**decade)
    return projected @ theta.mT, converged


@dataclasses.dataclass
class _Own:
    """Features of which each problem has its own, with a coordinate of ones for the intercept."""

    rows: Float[Tensor, "E N R"]
    variances: Float[Tensor, "E 1 R"]
    scale: Float[Tensor, " E"]

    def logits(self, theta: Parameters) -> Float[Tensor, "E K N"]:
        return theta @ self.rows.mT

    def pull_back(self, residuals: Float[Tensor, "E K N"]) -> Parameters:
        return (residuals @ self.rows).div_(self.rows.shape[1])

    def keep(self, mask: Bool[Tensor, " E"]) -> "_Own":
        return _Own(self.rows[mask], self.variances[mask], self.scale[mask])


def _own_coordinates(
    support: Float[Tensor, "E N D"], queries: Queries
) -> tuple[_Own, Float[Tensor, "E Q R"]]:
    """Return the support and the queries on the principal axes of each episode's support.

    The optimal weights lie in the space of the centred support features, so that parts of the
    queries outside of it have no effect on the logits.
    """
    mean = support.mean(dim=1, keepdim=True)
    centred, others = support - mean, queries - mean
    scale = centred.square().mean(dim=(1, 2)).sqrt()
    scale = scale.where(scale > 0, 1.0)
    centred, others = centred / scale[:, None, None], others / scale[:, None, None]
    if centred.shape[1] < centred.shape[2]:
        # The axes are combinations of the samples: the eigenvectors of the matrix of products.
        squares, combinations = torch.linalg.eigh(centred @ centred.mT)
        # Directions without variance, whose squares are rounding errors, are left out.
        floor = squares[:, -1:] * centred.shape[1] * torch.finfo(squares.dtype).eps
        inverse_lengths = squares.rsqrt().where(squares > floor, 0.0)
        axes = centred.mT @ (combinations * inverse_lengths[:, None])
    else:
        axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors
    rows, projected = (F.pad(part @ axes, (0, 1), value=1.0) for part in (centred, others))
    return _Own(rows, rows.square().mean(dim=1, keepdim=True), scale), projected


@dataclasses.dataclass(frozen=True)
class HeadTraining:
    """The training of heads by stochastic gradient descent.

    The defaults are those of the code of Chen et al. 2019 (https://arxiv.org/abs/1904.04232),
    methods/baselinefinetune.py of github.com/wyharveychen/CloserLookFewShot at 8074c34. Section 4.1
    of the paper has 100 steps instead of 100 passes over the support.

    Args:
        epochs: passes over the support.
        steps: number of steps instead (``None``: by ``epochs``).
        batch_size: samples per step (``None``: the whole support). The last batch of a pass may be
            smaller.
        lr: learning rate.
        momentum: momentum of the gradients.
        dampening: share of each new gradient that the momentum leaves out.
        weight_decay: L2 penalty of all parameters.
        seed: seed of the initial weights and of the order of samples.
    """

    epochs: int = 100
    steps: int | None = None
    batch_size: int | None = 4
    lr: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight_decay: float = 0.001
    seed: int = 0

    def length(self, samples: int) -> int:
        """Return the number of steps for a support of ``samples``."""
        per_pass = math.ceil(samples / (self.batch_size or samples))
        return self.epochs * per_pass if self.steps is None else self.steps

    def optimizer(self, groups: list[dict[str, object]]) -> torch.optim.SGD:
        """Return the optimizer of parameter groups."""
        return torch.optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=self.weight_decay,
        )


class EpisodeHeads(nn.Module):
    """One head per episode.

    Args:
        kind: ``linear``; ``cosine``: for features of length 1; the cosine of feature and weight
            vector, times the learnt length of the weight vector and the usual scale.
        weight: initial weights.
        bias: initial intercepts (``None``: zero); a cosine head has none.
    """

    def __init__(
        self,
        kind: HeadKind,
        weight: Float[Tensor, "E K D"],
        bias: Float[Tensor, " K"] | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(weight.clone())
        if kind == "linear":
            start = weight.new_zeros(weight.shape[1]) if bias is None else bias
            self.bias = nn.Parameter(start.to(weight).repeat(len(weight), 1, 1))
        else:
            self.length = nn.Parameter(weight.norm(dim=2, keepdim=True))

    def forward(self, features: Float[Tensor, "E samples D"]) -> Float[Tensor, "E samples K"]:
        """Return the logits of each episode's samples."""
        if self.kind == "linear":
            return torch.baddbmm(self.bias, features, self.weight.mT)
        scale = usual_scale(self.weight.shape[1])
        return torch.bmm(features, class_vectors(self.weight, self.length, scale).mT)


def initial_head(dim: int, ways: int, seed: int) -> nn.Linear:
    """Return the linear layer that all heads start from, with torch's usual random weights."""
    with randomness.seeded(randomness.derive(seed, "episode head")):
        return nn.Linear(dim, ways)


def trained_head_scores(
    support: Support,
    queries: Queries,
    numbers: Int64[Tensor, " E"],
    *,
    kind: HeadKind,
    training: HeadTraining,
) -> Scores:
    """Return the logits of a head per episode, trained on the support: Baseline and Baseline++.

    Chen et al. 2019, section 3.2 (https://arxiv.org/abs/1904.04232).

    Args:
        support: features with known classes.
        queries: features to classify.
        numbers: numbers of the episodes, on which their orders of samples depend.
        kind: see ``EpisodeHeads``.
        training: how the head is trained.
    """
    ways, shots, dim = support.shape[1:]
    first = initial_head(dim, ways, training.seed)
    features, weight = support.flatten(1, 2), first.weight.detach().to(support)
    if kind == "cosine":
        features, queries = unit_features(features), unit_features(queries)
    weight = weight.expand(len(support), -1, -1)
    if ways * (shots + 1) < dim:
        # Weights stay in the space of the support and the initial weights. All steps commute with
        # rotations, so that they are made in coordinates of that space.
        basis = torch.linalg.qr(torch.cat([features, weight], dim=1).mT).Q
        features, queries, weight = features @ basis, queries @ basis, weight @ basis
    heads = EpisodeHeads(kind, weight, first.bias.detach())
    optimizer = training.optimizer([{"params": list(heads.parameters())}])
    every = torch.arange(len(support), device=support.device)[:, None]
    with torch.enable_grad():
        for order in sample_order(numbers.cpu(), ways * shots, training):
            batch = order.to(support.device)
            loss = episode_losses(heads(features[every, batch]), batch // shots).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        scores: Tensor = heads(queries)
    return scores


def episode_losses(
    logits: Float[Tensor, "E samples K"], labels: Int64[Tensor, "E samples"]
) -> Float[Tensor, " E"]:
    """Return the mean cross-entropy of each episode."""
    every = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return every.view(labels.shape).mean(dim=1)


def sample_order(
    numbers: Int64[Tensor, " E"], samples: int, training: HeadTraining
) -> Iterator[Int64[Tensor, "E batch"]]:
    """Yield the samples of every step; each pass over the support has a random order."""
    every, steps = numbers.numpy(), training.length(samples)
    size = training.batch_size or samples
    per_pass = math.ceil(samples / size)
    for start in range(0, steps, per_pass):
        passes = np.full_like(every, start // per_pass)
        keys = randomness.uniforms(training.seed, "episode order", passes, every, draws=samples)
        batches = torch.split(torch.from_numpy(keys.argsort(axis=1)), size, dim=1)
        yield from batches[: steps - start]
