"""Gaussians of the features: overlap of classes (GBC), and LEEP of a mixture's components."""

import warnings
from typing import Literal

import torch
from jaxtyping import Float64
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from ssl_transfer.config.ranges import Count, ProperFraction
from ssl_transfer.estimators.blocks import BLOCK_ELEMENTS, Features, blocks
from ssl_transfer.estimators.transferability.moments import (
    Labels,
    NotDefined,
    class_means,
    groups_of,
    principal,
    require_variation,
)
from ssl_transfer.estimators.transferability.predictions import leep

GBC_LEAST_VARIANCE = 1e-4  # that of the public code
Gaussian = Literal["spherical", "diagonal", "spherical_published"]


def gbc(
    features: Features,
    labels: Labels,
    *,
    gaussian: Gaussian = "spherical",
    components: Count = 64,
) -> float:
    """Return minus the summed Bhattacharyya coefficients of all pairs of classes; larger is better.

    Pándy et al. 2022 (https://arxiv.org/abs/2111.12780): each class is a Gaussian of the
    principal components; the sum runs over ordered pairs. Variances are at least 1e-4.

    Args:
        features: one row per image.
        labels: class numbers, each with two images at least.
        gaussian: ``spherical``: one variance per class; ``diagonal``: one per class and component;
            ``spherical_published``: as the public code, which counts the logarithms of the
            variances once instead of once per component.
        components: number of principal components, at least 1.

    Returns:
        A number from ``-classes * (classes - 1)`` to 0.

    Raises:
        NotDefined: if the features are constant, if fewer than two classes occur, or if a class has
            one image.
    """
    require_variation(features)
    groups = groups_of(labels, at_least=2)
    scores = principal(features, components)
    means = class_means(blocks(scores), groups)
    deviations = ((p, (rows - means[groups.numbers[p]]).square()) for p, rows in blocks(scores))
    variances = class_means(deviations, groups).clamp(min=GBC_LEAST_VARIANCE)
    if gaussian != "diagonal":
        variances = variances.mean(dim=1, keepdim=True).expand_as(variances)
    weight = 1 / means.shape[1] if gaussian == "spherical_published" else 1.0
    step = max(1, BLOCK_ELEMENTS // means.numel())
    total = sum(
        float(_coefficients(means, variances, slice(start, start + step), weight).sum())
        for start in range(0, len(means), step)
    )
    return len(means) - total  # every class overlaps itself by 1


def _coefficients(
    means: Float64[Tensor, "classes components"],
    variances: Float64[Tensor, "classes components"],
    chosen: slice,
    weight: float,
) -> Float64[Tensor, "chosen classes"]:
    """Return the Bhattacharyya coefficients of some classes with all classes.

    Args:
        means: of each class.
        variances: of each class, positive.
        chosen: the classes of the rows.
        weight: factor of the part with the logarithms of the variances.
    """
    average = (variances[chosen, None] + variances) / 2
    apart = ((means[chosen, None] - means).square() / average).sum(dim=2) / 8
    logs = variances.log()
    spread = (average.log() - (logs[chosen, None] + logs) / 2).sum(dim=2) / 2
    return (-apart - weight * spread).exp()


def n_leep(
    features: Features,
    labels: Labels,
    *,
    seed: int = 0,
    components_per_class: Count = 5,
    variance: ProperFraction = 0.8,
) -> float:
    """Return N-LEEP, the LEEP of a Gaussian mixture's components; larger is better.

    Li et al. 2021 (https://arxiv.org/abs/2011.11200): the posteriors of a mixture of
    Gaussians with full covariances, fitted to principal components of the features, take the place
    of the source classes' probabilities.

    Args:
        features: one row per image.
        labels: class numbers.
        seed: of the mixture's starting point, in ``[0, 2**32)``.
        components_per_class: Gaussians per class.
        variance: share of the variance that the principal components exceed, in (0, 1).

    Returns:
        A number of nats, at most 0.

    Raises:
        NotDefined: if the features are constant, if fewer than two classes occur, or if the mixture
            has more Gaussians than there are images, or cannot be fitted.
    """
    require_variation(features)
    groups = groups_of(labels)
    number = components_per_class * len(groups.counts)
    if number > len(features):
        raise NotDefined(
            f"{len(features)} images are fewer than the {number} Gaussians of a mixture"
        )
    scores = principal(features, variance).cpu().numpy()
    mixture = GaussianMixture(number, random_state=seed)
    try:
        with warnings.catch_warnings():
            # The published mixture also stops after 100 steps.
            warnings.simplefilter("ignore", ConvergenceWarning)
            posteriors = mixture.fit(scores).predict_proba(scores)
    except ValueError as error:
        raise NotDefined(f"the mixture of Gaussians cannot be fitted ({error})") from error
    return leep(torch.from_numpy(posteriors), groups.numbers.cpu())
