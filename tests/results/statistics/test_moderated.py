"""Moderated variances."""

import doctest

import numpy as np
import pytest
from scipy.special import polygamma

from results.statistics import moderated as module
from results.statistics.moderated import _inverse_trigamma, moderated


def test_equal_true_variances_become_nearly_one() -> None:
    chance = np.random.default_rng(0)
    variances, degrees = moderated(chance.chisquare(2, 500) / 2, np.full(500, 2))
    assert variances == pytest.approx(np.ones(500), abs=0.3)
    assert degrees.min() > 20


def test_the_prior_is_recovered() -> None:
    chance = np.random.default_rng(1)
    true = 3.0 * 8 / chance.chisquare(8, 20_000)
    variances, degrees = moderated(true * chance.chisquare(3, 20_000) / 3, np.full(20_000, 3))
    assert degrees[0] == pytest.approx(8 + 3, rel=0.1)
    # The posterior has mean error below that of the variances alone.
    assert np.mean((np.log(variances) - np.log(true)) ** 2) < 0.5 * polygamma(1, 1.5)


def test_very_different_variances_stay_as_they_are() -> None:
    variances = np.exp(np.linspace(-9, 9, 9))
    result, degrees = moderated(variances, np.full(9, 4))
    assert result[2:] == pytest.approx(variances[2:], rel=0.2, abs=0)
    assert degrees == pytest.approx(np.full(9, 4.0), abs=0.4)


def test_few_items_and_those_without_variance_are_unchanged() -> None:
    variances, degrees = np.array([1.0, 0.0, 4.0, 0.0]), np.array([2, 2, 2, 0])
    result, certain = moderated(variances, degrees)
    assert (result.tolist(), certain.tolist()) == (variances.tolist(), degrees.tolist())
    mixed, _ = moderated(np.array([1.0, 0.0, 4.0, 2.0]), np.array([2, 2, 2, 2]))
    assert mixed[1] == 0


@pytest.mark.parametrize("value", [1e-3, 0.5, 40.0])
def test_the_inverse_of_trigamma(value: float) -> None:
    assert polygamma(1, _inverse_trigamma(value)) == pytest.approx(value)


def test_examples_hold() -> None:
    assert doctest.testmod(module).failed == 0
