import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.correlation_coverage import chosen, coverage, difference_coverage
from results.statistics.estimate import Estimate
from results.statistics.intervals import Kind, average, coefficient, difference, population
from results.statistics.simulated import Z_GRID, expected, simulated

WEIGHTED: list[Kind] = ["weighted_kendall", "weighted_kendall_by_target"]
KINDS: list[Kind] = ["pearson", "spearman", "kendall", *WEIGHTED]


@pytest.mark.parametrize("n", [5, 8, 30])
def test_coefficients_equal_those_of_scipy_also_with_ties(n: int) -> None:
    generator = np.random.default_rng(0)
    for digits in (8, 0):
        x, y = np.round(2 * generator.standard_normal((2, n)), digits)
        expected = [
            stats.pearsonr(x, y)[0],
            stats.spearmanr(x, y)[0],
            stats.kendalltau(x, y)[0],
            stats.weightedtau(x, y)[0],
            stats.weightedtau(y, x, rank=None)[0],
        ]
        found = [coefficient(x, y, kind).value for kind in KINDS]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_pearsons_interval_is_the_one_of_fishers_z() -> None:
    x, y = np.random.default_rng(1).standard_normal((2, 9))
    expected = stats.pearsonr(x, y).confidence_interval(0.95)
    found = coefficient(x, y, "pearson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [6, 13])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.9])
def test_intervals_cover_the_population_in_95_percent_of_samples(
    n: int, kind: Kind, rho: float
) -> None:
    assert 0.93 <= coverage(chosen, kind, n, rho, samples=3000) <= 0.97


@pytest.mark.parametrize("kind", ["pearson", "weighted_kendall"])
def test_intervals_of_a_difference_cover_it(kind: Kind) -> None:
    assert 0.92 <= difference_coverage(kind, 6, (0.7, 0.7, 0.7), 400) <= 0.99


def test_the_intervals_simulated_are_those_that_are_given() -> None:
    x, y = np.random.default_rng(2).standard_normal((2, 20, 9))
    for kind in KINDS:
        low, high = chosen(x, y + x, kind)
        given = [coefficient(a, b, kind) for a, b in zip(x, y + x, strict=True)]
        np.testing.assert_allclose([(c.low, c.high) for c in given], np.stack([low, high], 1))


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_simulated_coefficients_scatter_around_the_populations(kind: Kind) -> None:
    samples = simulated(kind, 13).values  # type: ignore[arg-type]
    rhos = np.tanh(Z_GRID)
    means = samples.mean(1)
    expected = np.array([population(rho, kind) for rho in rhos])
    if kind == "spearman":  # its sample value is biased (Moran 1948)
        taus = np.array([population(rho, "kendall") for rho in rhos])
        expected = expected + 3 / (13 + 1) * (taus - expected)
    np.testing.assert_allclose(means, expected, atol=0.01)


@pytest.mark.parametrize("kind", ["weighted_kendall", "weighted_kendall_by_target"])
@pytest.mark.parametrize("rho", [-0.6, 0.6])
def test_simulated_weighted_coefficients_have_the_mean_of_scipys(kind: Kind, rho: float) -> None:
    generator = np.random.default_rng(8)
    values = []
    for _ in range(400):
        x, noise = generator.standard_normal((2, 7))
        y = rho * x + 0.8 * noise
        rank = True if kind == "weighted_kendall" else None
        values.append(stats.weightedtau(y, x, rank=rank)[0])
    deviation = np.std(values) / math.sqrt(len(values))
    assert expected(kind, 7, rho) == pytest.approx(np.mean(values), abs=4 * deviation)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["pearson", "spearman", "kendall", "weighted_kendall_by_target"])
def test_mirrored_scores_have_the_mirrored_interval(kind: Kind) -> None:
    x, y = np.random.default_rng(3).standard_normal((2, 8))
    one, two = coefficient(x, y, kind), coefficient(-x, y, kind)
    expected = (-two.value, -two.high, -two.low)
    assert (one.value, one.low, one.high) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_rank_intervals_do_not_change_under_monotone_maps(kind: Kind) -> None:
    x, y = np.random.default_rng(4).standard_normal((2, 8))
    assert coefficient(x, y, kind) == coefficient(np.exp(x), y**3, kind)


@pytest.mark.parametrize("n", [5, 7, 20, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_order_ends_at_one_and_random_scores_inside(n: int, kind: Kind) -> None:
    x = np.arange(n, dtype=np.float64)
    perfect = coefficient(x, x, kind)
    assert perfect.value == pytest.approx(1)
    assert perfect.high == 1
    assert perfect.low <= 1
    noise = np.random.default_rng(n).standard_normal(n)
    found = coefficient(x, noise, kind)
    assert -1 <= found.low < found.value < found.high <= 1


def test_fewer_than_five_encoders_are_too_few() -> None:
    x = np.arange(4.0)
    found = coefficient(x, x, "spearman")
    assert not found
    assert math.isnan(found.value)
    assert (found.n, found.note) == (4, "too few")
    assert difference(x, x, x, "spearman").note == "too few"
    assert average([found]).note == "too few"
    assert average([]).note == "too few"


@pytest.mark.parametrize("kind", KINDS)
def test_constant_scores_have_no_coefficient_but_a_reason(kind: Kind) -> None:
    x, constant = np.arange(6.0), np.full(6, 0.1)
    for found in (coefficient(x, constant, kind), difference(x, x, constant, kind)):
        assert not found
        assert "the same for all encoders" in found.note


@pytest.mark.parametrize("kind", KINDS)
def test_a_difference_changes_its_sign_with_the_order_of_proxies(kind: Kind) -> None:
    target, one, two = np.random.default_rng(5).standard_normal((3, 8))
    forth, back = difference(target, one, two, kind), difference(target, two, one, kind)
    assert (forth.value, forth.low) == pytest.approx((-back.value, -back.high))
    parts = coefficient(one, target, kind).value - coefficient(two, target, kind).value
    assert forth.value == pytest.approx(parts)


def test_the_more_two_proxies_agree_the_better_they_can_be_told_apart() -> None:
    target, one, noise = np.random.default_rng(6).standard_normal((3, 9))
    near, far = (difference(target, one, one + s * noise, "pearson") for s in (0.1, 1.0))
    itself = difference(target, one, one, "pearson")
    assert itself.value == 0
    assert itself.high - itself.low <= near.high - near.low < far.high - far.low


def test_the_difference_of_pearsons_equals_zous_published_formula() -> None:
    # Zou 2007, equations 13 and 15, retyped with r12 and r13 sharing the first variable.
    target, one, two = np.random.default_rng(7).standard_normal((3, 12))
    two = two + target
    r12, r13, r23 = (
        float(np.corrcoef(a, b)[0, 1]) for a, b in ((target, one), (target, two), (one, two))
    )
    c = ((r23 - r12 * r13 / 2) * (1 - r12**2 - r13**2 - r23**2) + r23**3) / (
        (1 - r12**2) * (1 - r13**2)
    )
    half = stats.norm.ppf(0.975) / math.sqrt(12 - 3)
    l1, u1, l2, u2 = (math.tanh(math.atanh(r) + s * half) for r in (r12, r13) for s in (-1, 1))
    low = r12 - r13 - math.sqrt((r12 - l1) ** 2 + (u2 - r13) ** 2 - 2 * c * (r12 - l1) * (u2 - r13))
    high = (
        r12 - r13 + math.sqrt((u1 - r12) ** 2 + (r13 - l2) ** 2 - 2 * c * (u1 - r12) * (r13 - l2))
    )
    found = difference(target, one, two, "pearson")
    assert (found.low, found.high) == pytest.approx((low, high))


def test_an_average_is_the_mean_of_values_and_ends() -> None:
    found = average([Estimate(0.2, 0.0, 0.6, 7), Estimate(0.6, 0.2, 0.8, 6)])
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.1, 0.7))
    assert found.n == 6
