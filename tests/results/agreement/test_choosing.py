import itertools
import math

import numpy as np
import pytest

from results import ResultsError, Row
from results.agreement.choosing import (
    MEAN,
    RANDOM,
    choices,
    expected_misses,
    front,
    misses_of,
    regret_difference,
    verdict,
)
from results.agreement.scores import Scores, scores
from results.records.reading import Results

TARGET = {"a": 0.90, "b": 0.85, "c": 0.80, "d": 0.70, "e": 0.60, "f": 0.50}


def rows(protocol: str, values: dict[str, float], dataset: str = "d1", **changes) -> list[Row]:
    return [
        Row(e, e, protocol, dataset, 0, "m", v, "fraction", True, True, "test", "")._replace(
            **changes
        )
        for e, v in values.items()
    ]


def both(proxy: dict[str, float], target: dict[str, float] = TARGET) -> Results:
    return Results([*rows("probe", proxy), *rows("finetune", target)])


def test_the_choice_of_a_proxy_costs_what_the_best_encoder_has_more() -> None:
    (found,) = choices(
        both({"a": 0.3, "b": 0.7, "c": 0.5, "d": 0.8, "e": 0.4, "f": 0.1}), ["probe"], "finetune"
    )
    assert (found.chosen, found.best, found.encoders) == (("d",), ("a",), 6)
    assert found.regret.value == pytest.approx(20.0)
    assert found.relative_top1 == pytest.approx(0.7 / 0.9)
    assert (found.hit_at_1, found.hit_at_3) == (0, 0)
    assert found.regret_at_3.value == pytest.approx(5.0)  # d, b, c


def test_of_tied_encoders_each_is_chosen_equally_often() -> None:
    tied = {"a": 0.5, "b": 0.5, "c": 0.1, "d": 0.5, "e": 0.2, "f": 0.1}
    (found,) = choices(both(tied), ["probe"], "finetune")
    assert found.chosen == ("a", "b", "d")
    assert found.regret.value == pytest.approx(100 * (0.9 - (0.9 + 0.85 + 0.7) / 3))
    assert found.hit_at_1 == pytest.approx(1 / 3)
    assert found.hit_at_3 == 1


def test_a_random_choice_is_the_mean_over_all_orders() -> None:
    (found,) = choices(both(TARGET), [RANDOM], "finetune")
    y = list(TARGET.values())
    orders = list(itertools.permutations(y))
    assert found.regret.value == pytest.approx(100 * (0.9 - np.mean(y)))
    best = np.mean([max(order[:3]) for order in orders])
    assert found.regret_at_3.value == pytest.approx(100 * (0.9 - best))
    assert found.hit_at_1 == pytest.approx(1 / 6)
    assert found.hit_at_3 == pytest.approx(1 / 2)


def test_errors_are_chosen_by_the_lowest_and_have_no_relative_accuracy() -> None:
    errors = {e: 1 - v for e, v in TARGET.items()}
    results = Results(
        [*rows("probe", TARGET), *rows("finetune", errors, higher_is_better=False, unit="error")]
    )
    (found,) = choices(results, ["probe"], "finetune")
    assert (found.best, found.chosen, found.regret.value) == (("a",), ("a",), 0)
    assert math.isnan(found.relative_top1)
    assert found.unit == "scores"


def test_encoders_without_the_proxy_are_named_and_few_are_too_few() -> None:
    proxy = {e: v for e, v in TARGET.items() if e != "a"}
    (found,) = choices(both(proxy), ["probe"], "finetune")
    assert (found.left_out, found.best, found.encoders) == (("a",), ("b",), 5)
    del proxy["b"]
    (few,) = choices(both(proxy), ["probe"], "finetune")
    assert (bool(few), few.note, few.left_out) == (False, "too few", ("a", "b"))


def zoo(datasets: int, encoders: int = 8, noise: float = 0.1) -> Results:
    generator = np.random.default_rng(0)
    quality = generator.uniform(0.3, 0.8, encoders)
    everything = []
    for number in range(datasets):
        target = quality + 0.05 * generator.normal(size=encoders)
        proxy = target + noise * generator.normal(size=encoders)
        for name, values in (("finetune", target), ("probe", proxy)):
            column = {f"e{i}": float(np.clip(v, 0, 1)) for i, v in enumerate(values)}
            everything += rows(name, column, f"d{number}")
    return Results(everything)


def test_a_mean_has_an_interval_over_enough_datasets() -> None:
    found = choices(zoo(9), ["probe", "static_rank"], "finetune")
    (mean,) = (entry for entry in found if (entry.dataset, entry.proxy) == (MEAN, "probe"))
    own = [entry for entry in found if entry.proxy == "probe" and entry.dataset != MEAN]
    assert mean.regret.value == pytest.approx(np.mean([entry.regret.value for entry in own]))
    assert mean.regret.low <= mean.regret.value <= mean.regret.high
    assert mean.hit_at_3 == pytest.approx(np.mean([entry.hit_at_3 for entry in own]))
    few = choices(zoo(3), ["probe"], "finetune")[-1]
    assert math.isnan(few.regret.low)
    assert "which needs 8" in few.regret.note


def test_a_mean_names_the_datasets_that_it_leaves_out() -> None:
    results = zoo(3)
    results.rows = [r for r in results.rows if r.dataset != "d1" or r.encoder in ("e0", "e1")]
    mean = choices(results, ["probe"], "finetune")[-1]
    assert (mean.dataset, mean.note) == (MEAN, "without d1: too few encoders")
    assert mean.regret.n == 2


def test_the_order_of_records_changes_nothing() -> None:
    results = zoo(2)
    shuffled = Results([results.rows[i] for i in np.random.default_rng(1).permutation(32)])
    names = ["probe", "static_rank", RANDOM]
    # As text, because NaN differs from NaN in estimates without an interval.
    assert repr(choices(results, names, "finetune")) == repr(choices(shuffled, names, "finetune"))


def test_an_added_encoder_changes_no_rank_below_it() -> None:
    more = {**TARGET, "g": 0.1}
    before = choices(both(TARGET), ["probe"], "finetune")[0]
    after = choices(both(more, more), ["probe"], "finetune")[0]
    assert (before.chosen, repr(before.regret)) == (after.chosen, repr(after.regret))


def test_a_miss_is_among_the_best_third_and_far_below_by_the_proxy() -> None:
    names = [f"e{i}" for i in range(12)]
    target = np.arange(12, 0, -1.0)
    proxy = target.copy()
    proxy[[0, 6]] = proxy[[6, 0]]  # the best one has rank 7
    proxy[[3, 8]] = proxy[[8, 3]]  # the fourth has rank 9: five places
    proxy[[4, 11]] = proxy[[11, 4]]  # the fifth has rank 12, but is not in the top third
    found = misses_of(names, proxy, target, "d")
    assert [(m.encoder, m.target_rank, m.proxy_rank) for m in found] == [("e0", 1, 7)]
    assert (found[0].target_score, found[0].proxy_score, found[0].encoders) == (12, 6, 12)
    assert [m.encoder for m in misses_of(names, proxy, target, far=0.4)] == ["e0", "e3"]


def test_misses_of_a_random_ranking_are_counted_as_expected() -> None:
    generator = np.random.default_rng(0)
    target = generator.normal(size=9)
    names = [str(i) for i in range(9)]
    counts = [len(misses_of(names, generator.permutation(9.0 * np.arange(9)), target))
              for _ in range(600)]  # fmt: skip
    assert np.mean(counts) == pytest.approx(expected_misses(target), abs=0.1)


def test_a_verdict_says_that_a_proxy_is_no_better_than_a_reference() -> None:
    results = zoo(9, noise=2.0)
    target, probe = scores(results, "finetune"), scores(results, "probe")
    by_itself = Scores("itself", target.raw, target.logits)
    difference = regret_difference(target, probe, by_itself)
    assert difference.value > 0
    assert verdict(target, probe, by_itself) == (
        f"`probe` chooses no better than `itself`: its regret is {difference.value:.2f} larger "
        "(mean of 9 datasets)."
    )
    assert verdict(target, by_itself, probe) is None  # better, and tested
    few = zoo(2, noise=2.0)
    target, probe = scores(few, "finetune"), scores(few, "probe")
    text = verdict(target, Scores("itself", target.raw, target.logits), probe)
    assert text is not None
    assert text.endswith("smaller than that of `probe`, but 2 datasets are too few to test it.")


def test_the_front_holds_what_no_cheaper_proxy_matches() -> None:
    costs = {"free": 0.0, "knn": 1.0, "worse": 2.0, "tune": 5.0, "same": 5.0, "unknown": math.nan}
    agreement = {"free": 0.3, "knn": 0.6, "worse": 0.6, "tune": 0.8, "same": 0.8, "unknown": 0.99}
    assert front(costs, agreement) == ["free", "knn", "same"]
    assert front(costs, {}) == []


def test_a_target_is_no_proxy_and_needs_a_dataset() -> None:
    with pytest.raises(ResultsError, match="must differ from the target"):
        choices(both(TARGET), ["finetune"], "finetune")
    nowhere = Results([*rows("probe", TARGET), *rows("finetune", TARGET, "")])
    with pytest.raises(ResultsError, match="on a dataset"):
        choices(nowhere, ["probe"], "finetune")
