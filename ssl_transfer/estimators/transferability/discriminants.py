"""Separation of classes by linear discriminants: the H-score, with and without shrinkage, SFDA."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

from ssl_transfer.estimators.blocks import Block, Features
from ssl_transfer.estimators.transferability.moments import (
    CONSTANT,
    Groups,
    Labels,
    NotDefined,
    centred,
    class_means,
    groups_of,
    isometric,
    require_variation,
    rounding_level,
    scatter,
)

SFDA_DECAY = 5.0  # how fast the regularisation falls with the largest variance within classes
SFDA_LEAST = 1e-10  # smallest regularisation; both constants are those of the public code


def h_score(features: Features, labels: Labels) -> float:
    """Return the H-score ``tr(cov(F)^-1 cov(E[F|y]))``; larger is better.

    Bao et al. 2019 (https://doi.org/10.1109/ICIP.2019.8803726). Directions whose variance is only
    rounding are left out; the public code inverts them down to a share of 1e-15, so that rounding
    decides its value. With fewer images than dimensions the score is ``classes - 1`` for all
    features in general position; ``h_score_shrinkage`` still distinguishes them.

    Args:
        features: one row per image.
        labels: class numbers.

    Returns:
        A number from 0 to ``classes - 1``.

    Raises:
        NotDefined: if the features are constant, or if fewer than two classes occur.
    """
    require_variation(features)
    groups = groups_of(labels)
    coordinates = isometric(features)
    variances, axes = torch.linalg.eigh(scatter(centred(coordinates)))
    kept = variances > rounding_level(variances, features)
    means = class_means(centred(coordinates), groups) @ axes[:, kept]
    return float((groups.counts[:, None] * means.square() / variances[kept]).sum())


def h_score_shrinkage(features: Features, labels: Labels) -> float:
    """Return the H-score with the covariance of Ledoit and Wolf; larger is better.

    Ibrahim et al. 2022 (https://arxiv.org/abs/2110.06893),
    ``tr(cov_a(F)^-1 (1 - a) cov(E[F|y]))`` with the shrunk covariance ``cov_a`` and its strength a.
    All covariances are divided by the number of images.

    Args:
        features: one row per image.
        labels: class numbers.

    Returns:
        A number from 0 to ``classes - 1``.

    Raises:
        NotDefined: if the features are constant, if fewer than two classes occur, or if the
            covariance is singular and no shrinkage is due.
    """
    require_variation(features)
    groups = groups_of(labels)
    coordinates = isometric(features)
    covariance = scatter(centred(coordinates)) / len(features)
    strength = ledoit_wolf(coordinates, covariance, features.shape[1])
    average = covariance.trace() / features.shape[1]
    shrunk = (1 - strength) * covariance
    shrunk.diagonal().add_(strength * average)
    factor, failure = torch.linalg.cholesky_ex(shrunk)
    if failure:
        raise NotDefined("the covariance of the features is singular and no shrinkage is due")
    means = class_means(centred(coordinates), groups)
    whitened = torch.linalg.solve_triangular(factor, means.T, upper=False)
    return float((1 - strength) * (groups.shares * whitened.square()).sum())


def ledoit_wolf(
    features: Features, covariance: Float64[Tensor, "axes axes"], dim: int
) -> Float64[Tensor, ""]:
    """Return the strength of the shrinkage of Ledoit and Wolf 2004, in [0, 1].

    "A well-conditioned estimator for large-dimensional covariance matrices", section 3.

    Args:
        features: one row per image.
        covariance: their covariance, divided by the number of images.
        dim: dimension of the space that is shrunk, at least that of the features.
    """
    samples = len(features)
    fourth = sum(float(rows.square().sum(dim=1).square().sum()) for _, rows in centred(features))
    squared = covariance.square().sum()
    distance = squared - covariance.trace().square() / dim
    error = (fourth / samples - squared) / samples
    if distance <= 0:  # the covariance is already a multiple of the identity
        return torch.zeros_like(squared)
    return (error / distance).clamp(0, 1)


def sfda(features: Features, labels: Labels, *, log: bool = True) -> float:
    """Return SFDA, the fit of a regularised discriminant to harder features; larger is better.

    Shao et al. 2022 (https://arxiv.org/abs/2207.03036), section 3. A Fisher discriminant with
    regularisation ``exp(-5 * largest variance within classes)`` gives each image the probability of
    its class. Then every image is mixed with the mean of the other classes' means, more strongly if
    its class is less probable, and a second discriminant is fitted. A discriminant with all Fisher
    components classifies by the inverse of the covariance within classes.

    The public code overwrites its input when it mixes, approximates the largest variance by three
    steps of a power iteration, and averages probabilities instead of their logarithms
    (``log=False``).

    Args:
        features: one row per image; not changed.
        labels: class numbers.
        log: average the logarithms of the probabilities.

    Returns:
        The mean (log) probability of the images' classes, in nats.

    Raises:
        NotDefined: if the features are constant, if fewer than two classes occur, or if no class
            has different images.
    """
    require_variation(features)
    groups = groups_of(labels)
    coordinates = isometric(features)

    def plain() -> Iterator[Block]:
        return centred(coordinates)

    first = _discriminant(plain, groups, features.shape[1])
    others = (first.means.sum(dim=0) - first.means) / (len(first.means) - 1)

    def harder() -> Iterator[Block]:
        for part, rows in plain():
            number = groups.numbers[part, None]
            # The probabilities pass the softmax a second time, as published.
            probable = first.logits(rows).softmax(dim=1).softmax(dim=1).gather(1, number)
            yield part, probable * rows + (1 - probable) * others[groups.numbers[part]]

    second = _discriminant(harder, groups, features.shape[1], first.strength)
    total = 0.0
    for part, rows in harder():
        logs = second.logits(rows).log_softmax(dim=1).gather(1, groups.numbers[part, None])
        total += float((logs if log else logs.exp()).sum())
    return total / len(features)


@dataclasses.dataclass(frozen=True)
class _Discriminant:
    """A linear discriminant: class means, weights, intercepts and strength of regularisation."""

    means: Float64[Tensor, "classes axes"]
    weights: Float64[Tensor, "classes axes"]
    intercepts: Float64[Tensor, " classes"]
    strength: float

    def logits(self, rows: Float64[Tensor, "rows axes"]) -> Float64[Tensor, "rows classes"]:
        return torch.addmm(self.intercepts, rows, self.weights.T)


def _discriminant(
    parts: Callable[[], Iterator[Block]], groups: Groups, dim: int, strength: float | None = None
) -> _Discriminant:
    """Fit the discriminant of a class by its mean and the covariance within classes.

    Args:
        parts: returns the blocks of the features.
        groups: the images of every class.
        dim: dimension of the features, over which the regularisation spreads the variance.
        strength: of the regularisation (``None``: it follows from the largest variance).
    """
    means = class_means(parts(), groups)
    within = scatter((part, rows - means[groups.numbers[part]]) for part, rows in parts())
    within /= len(groups.numbers)
    if within.trace() <= CONSTANT**2 * means.square().sum(dim=1).max():
        raise NotDefined("the images of each class have the same features")
    if strength is None:
        largest = float(torch.linalg.eigvalsh(within)[-1])
        strength = max(math.exp(-SFDA_DECAY * largest), SFDA_LEAST)
    shrunk = (1 - strength) * within
    shrunk.diagonal().add_(strength * within.trace() / dim)
    weights = torch.cholesky_solve(means.T, torch.linalg.cholesky(shrunk)).T
    intercepts = groups.shares.log() - (means * weights).sum(dim=1) / 2
    return _Discriminant(means, weights, intercepts, strength)
