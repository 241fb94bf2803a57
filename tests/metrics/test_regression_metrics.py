"""Measures of predicted numbers, against scikit-learn and closed forms."""

import math

import numpy as np
import torch
from sklearn.metrics import r2_score

from ssl_transfer.metrics.regression import r2


def noisy(samples: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(0)
    targets = generator.normal(3, 2, (samples, outputs))
    predictions = targets + generator.normal(0, np.arange(1, outputs + 1), (samples, outputs))
    return torch.from_numpy(predictions), torch.from_numpy(targets)


def test_r2_is_scikit_learns() -> None:
    predictions, targets = noisy(40, 5)
    expected = r2_score(targets.numpy(), predictions.numpy(), multioutput="raw_values")
    np.testing.assert_allclose(r2(predictions, targets).numpy(), expected, rtol=1e-12)
    assert expected.min() < 0 < expected.max()


def test_r2_is_one_for_exact_predictions_and_zero_for_the_mean() -> None:
    _, targets = noisy(20, 3)
    assert r2(targets, targets).tolist() == [1, 1, 1]
    assert r2(targets.mean(0).expand_as(targets), targets).abs().max() < 1e-12


def test_r2_of_several_coordinates_is_weighted_by_their_variance() -> None:
    predictions, targets = noisy(30, 5)
    values = torch.tensor([0, 1, 0, 2, 1])
    scores = r2(predictions, targets, values)
    for value, outputs in enumerate(([0, 2], [1, 4], [3])):
        expected = r2_score(
            targets[:, outputs], predictions[:, outputs], multioutput="variance_weighted"
        )
        np.testing.assert_allclose(float(scores[value]), expected, rtol=1e-12)


def test_r2_of_an_angle_does_not_depend_on_its_zero() -> None:
    generator = np.random.default_rng(1)
    angles = torch.from_numpy(generator.uniform(0, 2, 50))
    guesses = angles + torch.from_numpy(generator.normal(0, 0.3, 50))

    def score(zero: float) -> float:
        circles = [
            torch.stack([(values - zero).sin(), (values - zero).cos()], dim=1)
            for values in (guesses, angles)
        ]
        return float(r2(*circles, torch.tensor([0, 0])))

    for zero in (0.5, math.pi / 2, 4.0):
        assert math.isclose(score(zero), score(0), rel_tol=1e-12)
