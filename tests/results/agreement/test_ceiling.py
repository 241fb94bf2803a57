import math

import numpy as np
import pytest
from scipy import stats

from results import Row
from results.agreement.ceiling import between_seeds, spearman_brown
from results.agreement.correlation_tables import legend
from results.agreement.correlations import MEAN, NAMES
from results.records.reading import Results


def row(encoder: int, seed: int, value: float, dataset: str = "d", **changes) -> Row:
    one = Row(
        f"e{encoder}", f"{encoder}", "finetune", dataset, seed, "m", value, "points", True, True,
        "test", "",
    )  # fmt: skip
    return one._replace(run_id=f"{encoder} {seed} {dataset}", **changes)


def repeated(encoders: int, seeds: int, noise: float) -> tuple[Results, np.ndarray]:
    generator = np.random.default_rng(0)
    table = generator.standard_normal((encoders, 1)) + noise * generator.standard_normal(
        (encoders, seeds)
    )
    rows = [row(e, s, table[e, s]) for e in range(encoders) for s in range(seeds)]
    return Results(rows), table


def test_two_seeds_are_correlated_and_corrected_by_spearman_and_brown() -> None:
    results, table = repeated(9, 2, 0.7)
    (entry,) = between_seeds(results, "finetune", NAMES)
    r = stats.pearsonr(table[:, 0], table[:, 1])[0]
    assert entry.coefficients["pearson"].value == pytest.approx(2 * r / (1 + r), abs=1e-3)
    # Rank coefficients are corrected on the scale of a normal population's correlation.
    tau = stats.kendalltau(table[:, 0], table[:, 1])[0]
    rho = math.sin(math.pi * tau / 2)
    expected = 2 / math.pi * math.asin(2 * rho / (1 + rho))
    assert entry.coefficients["kendall"].value == pytest.approx(expected, abs=1e-3)
    for c in entry.coefficients.values():
        assert (c.n, c.low < c.value < c.high) == (9, True)


def test_three_seeds_give_three_divisions_of_one_seed_each() -> None:
    results, table = repeated(8, 3, 0.5)
    (entry,) = between_seeds(results, "finetune", ["pearson"])
    pairs = ((0, 1), (0, 2), (1, 2))
    r = np.mean([stats.pearsonr(table[:, a], table[:, b])[0] for a, b in pairs])
    expected = spearman_brown(float(r), 3)
    assert entry.coefficients["pearson"].value == pytest.approx(expected, abs=1e-3)


def test_the_ceiling_is_the_reliability_of_the_mean_over_seeds() -> None:
    # Four seeds with noise of standard deviation 0.8: 1 / (1 + 0.64 / 4) of the variance is true.
    results, _ = repeated(3000, 4, 0.8)
    (entry,) = between_seeds(results, "finetune", ["pearson"])
    assert entry.coefficients["pearson"].value == pytest.approx(1 / 1.16, abs=0.01)


def test_datasets_are_averaged_and_encoders_with_one_seed_are_left_out() -> None:
    one, _ = repeated(7, 2, 0.3)
    rows = [*one.rows, *(r._replace(dataset="f", run_id=f"{r.run_id} f") for r in one.rows)]
    entries = between_seeds(Results([*rows, row(7, 0, 9.0)]), "finetune", ["spearman"])
    assert [entry.dataset for entry in entries] == ["d", "f", MEAN]
    assert {entry.coefficients["spearman"].n for entry in entries} == {7}


@pytest.mark.parametrize("order", [[(0, 1), (2, 3)], [(0,), (0,)]])
def test_fewer_than_two_shared_seeds_have_no_ceiling_but_a_reason(
    order: list[tuple[int, ...]],
) -> None:
    rows = [row(e, s, e + s / 9) for e in range(8) for s in order[e % 2]]
    entries = between_seeds(Results(rows), "finetune")
    assert not entries[0].coefficients["spearman"]
    assert any("at least two seeds" in note for note in legend(entries))


def test_perfect_repeats_have_a_ceiling_of_one() -> None:
    rows = [row(e, s, float(e)) for e in range(6) for s in range(2)]
    (entry,) = between_seeds(Results(rows), "finetune", NAMES)
    assert {round(c.value, 9) for c in entry.coefficients.values()} == {1.0}
