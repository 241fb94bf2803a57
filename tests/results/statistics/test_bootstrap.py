"""Resamples of test images, and intervals from them."""

import doctest

import numpy as np
import pytest
import scipy.stats

from results.statistics import bootstrap
from results.statistics.bootstrap import RESAMPLES, replicates, seed_of, wilson

RIGHT = np.random.default_rng(0).random(400) < 0.8


def share(right: np.ndarray) -> bootstrap.Statistic:
    return lambda weights: right.astype(float) @ weights / weights.sum(axis=0)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (7, 10), (990, 1000), (50, 50)])
def test_the_interval_of_a_share_is_wilsons(right: int, n: int) -> None:
    expected = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    low, high = wilson(right / n, right / n * (1 - right / n) / n, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_replicates_have_the_mean_and_the_variance_of_a_share() -> None:
    values, mean = replicates(share(RIGHT), 400, seed=1), RIGHT.mean()
    assert values.shape == (RESAMPLES,)
    assert values.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean * (1 - mean) / 400 / 1000))
    assert values.var() == pytest.approx(mean * (1 - mean) / 400, rel=0.15)


def test_images_of_a_group_are_drawn_together() -> None:
    right, groups = np.repeat(RIGHT[:40], 10), np.repeat(np.arange(40), 10)
    mean = right.mean()
    grouped = replicates(share(right), 400, seed=2, groups=groups)
    assert grouped.var() == pytest.approx(mean * (1 - mean) / 40, rel=0.15)
    assert set(np.round(grouped * 40, 9) % 1) == {0.0}


def test_runs_with_common_images_have_common_resamples() -> None:
    first = replicates(share(RIGHT), 400, seed=3)
    np.testing.assert_allclose(first + replicates(share(~RIGHT), 400, seed=3), 1)
    assert abs(np.corrcoef(first, replicates(share(RIGHT), 400, seed=4))[0, 1]) < 0.15


def test_large_arrays_are_worked_on_in_parts(monkeypatch) -> None:
    whole = replicates(share(RIGHT), 400, seed=5)
    widest = []

    def watched(weights: np.ndarray) -> np.ndarray:
        widest.append(weights.size)
        return share(RIGHT)(weights)

    monkeypatch.setattr(bootstrap, "_CHUNK", 40_000)
    np.testing.assert_allclose(replicates(watched, 400, seed=5), whole)
    monkeypatch.setattr(bootstrap, "_KEPT", 0)
    np.testing.assert_allclose(replicates(watched, 400, seed=5), whole)
    assert max(widest) == 40_000


def test_seeds_depend_on_contents_alone() -> None:
    names, targets = np.array(["a", "b"]), np.array([0, 1], dtype=np.int32)
    seed = seed_of(names, targets)
    assert seed == seed_of(names.astype("U9"), targets.astype(np.int64))
    others = (names[::-1], targets), (names, targets[::-1]), (np.array(["a\0b"]), targets)
    assert len({seed, *(seed_of(*other) for other in others)}) == 4


def test_examples_hold() -> None:
    assert doctest.testmod(bootstrap).failed == 0
