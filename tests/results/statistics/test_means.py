import math

import numpy as np
import pytest
from scipy import stats

from results.statistics.means import FEWEST_FOR_INTERVAL, mean


def test_the_interval_is_the_wider_one_of_a_studentised_bootstrap_and_of_student() -> None:
    """The formula restated with explicit resamples, with random numbers of its own."""
    values = np.random.default_rng(3).exponential(1.0, 12)
    generator = np.random.default_rng(4)
    samples = values[generator.integers(0, 12, (20_000, 12))]
    t = (samples.mean(1) - values.mean()) / (samples.std(1, ddof=1) / math.sqrt(12))
    s = values.std(ddof=1) / math.sqrt(12)
    low, high = values.mean() - np.quantile(t, [0.975, 0.025]) * s
    student = stats.t.interval(0.95, 11, values.mean(), s)
    low, high = min(low, student[0]), max(high, student[1])
    found = mean(values.tolist())
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_order_does_not_matter_and_units_scale() -> None:
    values = np.random.default_rng(0).normal(size=FEWEST_FOR_INTERVAL)
    first, second = mean(values.tolist()), mean(values[::-1].tolist())
    assert first == second
    scaled = mean((100 * values + 7).tolist())
    for name in ("value", "low", "high"):
        assert getattr(scaled, name) == pytest.approx(100 * getattr(first, name) + 7)


def test_few_values_have_a_mean_but_no_interval() -> None:
    few = mean([1.0, 2.0, 6.0])
    assert few.value == 3.0
    assert math.isnan(few.low)
    assert few.note == "3 values are too few for an interval, which needs 8"
    assert mean([2.0] * 9).note == "all values are equal, which gives no interval"
    assert not mean([])


def test_normal_values_are_covered() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        found = mean(generator.normal(1.0, 1.0, 11).tolist())
        covered += found.low <= 1.0 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_no_interval_extends_below_the_lowest_possible_value() -> None:
    regrets = [0.0] * 7 + [3.0]
    assert mean(regrets).low < 0
    assert mean(regrets, lowest=0.0).low == 0
    assert mean(regrets, lowest=0.0).high == mean(regrets).high
