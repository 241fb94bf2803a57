import math

import pytest

from results.agreement.headline import Agreement
from results.agreement.leave_one_out import Influence
from results.agreement.ranks import OVERALL, Rank, Ranking
from results.report import answer
from results.statistics.estimate import Estimate


def agreement(low: float, high: float, *datasets: str) -> Agreement:
    value = (low + high) / 2
    return Agreement("knn", Estimate(value, low, high, 8), datasets or ("a", "b"))


def best(one: Agreement, others: int = 2) -> str:
    return answer.best_proxy(one, "finetune", 8, others, "Spearman", kind="proxy")


def test_the_best_proxy_is_said_to_agree_only_if_its_interval_lies_above_0() -> None:
    assert best(agreement(0.2, 0.8)) == (
        "Of 3 proxies, `knn` agrees best with `finetune`: Spearman 0.50 [0.20, 0.80], mean over "
        "2 datasets, 8 encoders."
    )
    for low in (0.0, -0.1):
        text = best(agreement(low, 0.8))
        assert text.startswith("None of 3 proxies is shown to agree with `finetune`")
        assert "the interval contains 0" in text


def test_an_interval_below_0_is_named_as_such() -> None:
    assert "the interval lies below 0" in best(agreement(-0.8, -0.1))


def test_a_single_proxy_is_not_called_the_best_of_several() -> None:
    assert best(agreement(0.2, 0.8, "a"), 0) == (
        "`knn` agrees with `finetune`: Spearman 0.50 [0.20, 0.80] on `a`, 8 encoders."
    )
    assert best(agreement(-0.2, 0.8), 0).startswith("`knn` is not shown to agree with `finetune`")


def test_only_differences_whose_interval_excludes_0_are_claimed() -> None:
    differences = {
        "worse": Estimate(0.4, 0.1, 0.7, 8),
        "equal": Estimate(0.1, -0.2, 0.4, 8),
        "touching": Estimate(0.1, 0.0, 0.4, 8),
        "better": Estimate(-0.4, -0.7, -0.1, 6),
        "unknown": Estimate(math.nan, math.nan, math.nan, 3),
    }
    better, undecided, worse = answer.comparison("knn", differences, 8)
    assert better == "`knn` agrees better than `worse` (+0.40 [0.10, 0.70])."
    assert "`equal` (+0.10 [-0.20, 0.40]) or `touching`" in undecided
    assert worse == "`knn` agrees less than `better` (-0.40 [-0.70, -0.10], 6 encoders)."
    assert answer.comparison("knn", {}, 8) == []


@pytest.mark.parametrize(
    ("parts", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_parts_are_listed(parts: list[str], text: str) -> None:
    assert answer.listed(parts) == text


def test_long_lists_are_cut() -> None:
    assert answer.listed([str(n) for n in range(11)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 3 more"


def test_a_name_with_a_backtick_stays_one_name() -> None:
    assert answer.name("a`b").count("`") == 2


def test_baselines_are_listed_and_named_as_such() -> None:
    text = answer.baselines([agreement(0.2, 0.8), agreement(-0.2, 0.4)], "Spearman")
    assert text is not None
    assert text.endswith(
        "`knn` 0.50 [0.20, 0.80] and `knn` 0.10 [-0.20, 0.40] (Spearman, mean over 2 datasets)."
    )
    assert answer.baselines([], "Spearman") is None
    differences = {"parameters": Estimate(0.4, 0.1, 0.7, 8)}
    (better,) = answer.comparison("knn", differences, 8, "baseline")
    assert better == "`knn` agrees better than the baseline `parameters` (+0.40 [0.10, 0.70])."


def ranking(*groups: str, dataset: str = "digits") -> Ranking:
    return Ranking(
        dataset, [Rank(f"e{n}", n, n - 0.5, n + 1.0, group) for n, group in enumerate(groups, 1)]
    )


def test_encoders_that_share_a_letter_with_the_best_cannot_be_told_apart_from_it() -> None:
    assert answer.best_encoder(ranking("ab", "bc", "c", "a"), "finetune") == (
        "`e1` ranks first by `finetune` on `digits` (rank 1 [0.5, 2]), but cannot be told apart "
        "from `e2` and `e4`."
    )
    text = answer.best_encoder(ranking("a", "b", dataset=OVERALL), "finetune")
    assert text is not None
    assert "over all datasets" in text
    assert text.endswith("and is told apart from all others.")


def test_a_best_encoder_without_uncertainty_is_not_claimed_to_be_better() -> None:
    ranks = [Rank(name, rank, None, None, "") for name, rank in (("x", 1.5), ("y", 1.5), ("z", 3))]
    text = answer.best_encoder(Ranking("digits", ranks), "finetune")
    assert text is not None
    assert "like `y`" in text
    assert "the uncertainty of ranks is unknown" in text


def test_a_single_encoder_ranks_nowhere() -> None:
    assert answer.best_encoder(ranking("a"), "finetune") is None


def test_the_ceiling_is_named_or_said_to_be_unknown() -> None:
    text = answer.ceiling(Estimate(0.9, 0.8, 0.95, 8), "finetune", "Spearman")
    assert text.startswith(
        "`finetune` itself, repeated with other seeds, would agree with Spearman"
    )
    assert "0.90 [0.80, 0.95]" in text
    unknown = Estimate.none(8, "undefined: it needs two seeds")
    assert answer.ceiling(unknown, "finetune", "Spearman") == (
        "How well `finetune` agrees with itself is unknown: it needs two seeds."
    )
    few = Estimate.none(3, "too few")
    assert answer.ceiling(few, "finetune", "Spearman").endswith("the encoders are too few.")


def influence(proxy: str, *values: float) -> Influence:
    return Influence("digits", proxy, 0.7, dict(zip("xyz", values, strict=True)))


def test_the_answer_may_depend_on_one_encoder() -> None:
    own, other = influence("knn", 0.6, 0.8, 0.7), influence("ridge", 0.5, 0.9, 0.6)
    assert answer.influence("knn", [own], "encoder") == (
        "If one encoder is left out, the coefficient of `knn` lies between 0.60 (without `x`) and "
        "0.80 (without `y`)."
    )
    text = answer.influence("knn", [own, other], "encoder")
    assert text is not None
    assert text.endswith("but other proxies agree better: `ridge` without `y`.")
    text = answer.influence("knn", [own, influence("ridge", 0.5, 0.7, 0.6)], "family")
    assert text is not None
    assert text.endswith("and it stays the best proxy whichever family is left out.")
    assert answer.influence("knn", [other], "encoder") is None
