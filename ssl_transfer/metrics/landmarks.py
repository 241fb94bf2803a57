"""Scores of predicted landmarks as pure functions; some of the landmarks may be unknown.

Unknown coordinates are NaN in the targets and are left out of every score. A landmark has two
columns, its x and its y, and is unknown if one of them is NaN.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Values = Float[Tensor, "samples outputs"]
Pairs = Float[Tensor, "samples twice_landmarks"]

R2_UNIT = "explained share"
"""Unit of R² in records: it is at most 1, but may be negative, so that it is no fraction."""


def r2_by_output(predictions: Values, targets: Values) -> Float[Tensor, " outputs"]:
    """Return the coefficient of determination of each output.

    It is 1 - (sum of squared errors) / (sum of squared deviations from the mean of the targets).

    Args:
        predictions: predicted numbers, all finite.
        targets: true numbers (NaN: unknown).

    Returns:
        At most 1; NaN for an output that is not defined: fewer than two known targets, or all of
        them equal.

    Raises:
        ValueError: if a prediction of a known target is NaN or infinite.
    """
    known = _known(predictions, targets)
    counts = known.sum(0)
    zero = torch.zeros((), dtype=torch.float64, device=targets.device)
    truth = torch.where(known, targets.double(), zero)
    errors = torch.where(known, truth - predictions.double(), zero)
    deviations = torch.where(known, truth - truth.sum(0) / counts.clamp(min=1), zero)
    quotient = errors.square().sum(0) / deviations.square().sum(0)
    return torch.where(varying(targets), 1 - quotient, torch.nan)


def mean_r2(predictions: Values, targets: Values) -> float:
    """Return the unweighted mean of the outputs' R².

    It equals ``sklearn.metrics.r2_score`` if every output is defined. Outputs that are not defined
    (see ``r2_by_output``) are left out and named by ``constant_among``; scikit-learn counts them as
    0 or 1.

    Args:
        predictions: predicted numbers.
        targets: true numbers (NaN: unknown).

    Raises:
        ValueError: if no output is defined, or a prediction is not finite.
    """
    by_output = r2_by_output(predictions, targets)
    if bool(by_output.isnan().all()):
        raise ValueError(
            "R² needs an output with two different known targets, but every output is constant or "
            "unknown."
        )
    return float(by_output.nanmean())


def varying(targets: Values) -> Bool[Tensor, " outputs"]:
    """Return for each output whether it has two different known targets."""
    known = ~targets.isnan()
    low = torch.where(known, targets, torch.inf).amin(0)
    high = torch.where(known, targets, -torch.inf).amax(0)
    return low < high


def constant_among(names: Sequence[str], targets: Values) -> list[str]:
    """Return the names of the outputs whose known targets are all equal, or too few for R².

    Args:
        names: one per output.
        targets: true numbers (NaN: unknown), at least one row.
    """
    return [name for name, varies in zip(names, varying(targets).tolist(), strict=True)
            if not varies]  # fmt: skip


def mse(predictions: Values, targets: Values) -> float:
    """Return the mean squared error over all known targets.

    Args:
        predictions: predicted numbers.
        targets: true numbers (NaN: unknown).

    Raises:
        ValueError: if no target is known, or a prediction is not finite.
    """
    known = _known(predictions, targets)
    if not bool(known.any()):
        raise ValueError("the mean squared error needs a known target, but there is none.")
    return float((predictions.double() - targets.double())[known].square().mean())


def distances(predictions: Pairs, targets: Pairs) -> Float[Tensor, "samples landmarks"]:
    """Return the Euclidean distance of each predicted landmark from its true place.

    Args:
        predictions: x and y of every landmark.
        targets: likewise (NaN: unknown).

    Returns:
        In the unit of the coordinates; NaN for an unknown landmark.
    """
    errors: Tensor = torch.linalg.vector_norm(_places(predictions) - _places(targets), dim=2)
    return errors


def distance_between(targets: Pairs, first: int, second: int) -> Float[Tensor, " samples"]:
    """Return the distance between two true landmarks of each sample, such as the eyes.

    Args:
        targets: x and y of every landmark (NaN: unknown).
        first: number of one landmark, from 0.
        second: number of the other.

    Returns:
        NaN if one of the two is unknown.
    """
    places = _places(targets)
    length: Tensor = torch.linalg.vector_norm(places[:, first] - places[:, second], dim=1)
    return length


def box_side(targets: Pairs) -> Float[Tensor, " samples"]:
    """Return the geometric mean of width and height of the box around the known landmarks.

    The normaliser of Bulat and Tzimiropoulos 2017 (https://arxiv.org/abs/1703.07332), for poses in
    which the distance between two landmarks may vanish.

    Args:
        targets: x and y of every landmark (NaN: unknown).

    Returns:
        NaN if no landmark is known.
    """
    places = _places(targets)
    known = ~places.isnan().any(2, keepdim=True)
    low = torch.where(known, places, torch.inf).amin(1)
    high = torch.where(known, places, -torch.inf).amax(1)
    sides = torch.where(known.any(1), high - low, torch.nan)
    return sides.prod(1).sqrt()


def normalised_errors(
    predictions: Pairs, targets: Pairs, normaliser: Float[Tensor, " samples"]
) -> Float[Tensor, "samples landmarks"]:
    """Return each landmark's distance from its true place, divided by the sample's normaliser.

    Args:
        predictions: x and y of every landmark, all finite.
        targets: likewise (NaN: unknown).
        normaliser: length of each sample, in the unit of the coordinates.

    Returns:
        NaN for an unknown landmark, and for a sample whose normaliser is NaN or zero.

    Raises:
        ValueError: if a prediction of a known landmark is NaN or infinite.
    """
    _known(predictions, targets)
    length = torch.where(normaliser > 0, normaliser.double(), torch.nan)
    return distances(predictions, targets) / length[:, None]


def nme(errors: Float[Tensor, "samples landmarks"]) -> float:
    """Return the normalised mean error: the mean over samples of the mean over their landmarks.

    Sagonas et al. 2016, equation 1 (https://doi.org/10.1016/j.imavis.2016.01.002), where a sample
    is normalised by the distance between the outer corners of the eyes.

    Args:
        errors: see ``normalised_errors``; NaN is left out.

    Raises:
        ValueError: if all errors are NaN.
    """
    _require_error(errors, "the normalised mean error")
    by_sample = errors.nanmean(1)
    return float(by_sample.nanmean())


def pck(errors: Float[Tensor, "samples landmarks"], threshold: float) -> float:
    """Return the share of correct keypoints: known landmarks within a normalised distance.

    Yang and Ramanan 2013, section 6 (https://doi.org/10.1109/TPAMI.2012.261); a landmark exactly
    at the threshold is correct.

    Args:
        errors: see ``normalised_errors``; NaN is left out.
        threshold: the largest correct error.

    Returns:
        In [0, 1].

    Raises:
        ValueError: if all errors are NaN.
    """
    _require_error(errors, "the share of correct keypoints")
    known = ~errors.isnan()
    return float((errors[known] <= threshold).double().mean())


def _places(coordinates: Pairs) -> Float[Tensor, "samples landmarks 2"]:
    return coordinates.double().reshape(len(coordinates), -1, 2)


def _known(predictions: Values, targets: Values) -> Bool[Tensor, "samples outputs"]:
    """Return which targets are known, after a check of their predictions."""
    known = ~targets.isnan()
    wrong = known & ~predictions.isfinite()
    if bool(wrong.any()):
        raise ValueError(
            f"predictions must be finite, but {int(wrong.sum())} of {int(known.sum())} are NaN or "
            "infinite; are the features finite?"
        )
    return known


def _require_error(errors: Float[Tensor, "samples landmarks"], what: str) -> None:
    if bool(errors.isnan().all()):
        raise ValueError(
            f"{what} needs a known landmark in a sample with a normaliser, but there is none."
        )
