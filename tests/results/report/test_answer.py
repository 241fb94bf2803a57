import math

import pytest

from results.agreement.headline import Agreement
from results.report import answer
from results.statistics.intervals import Coefficient


def agreement(low: float, high: float, *datasets: str) -> Agreement:
    value = (low + high) / 2
    return Agreement("knn", Coefficient(value, low, high, 8), datasets or ("a", "b"))


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
        "worse": Coefficient(0.4, 0.1, 0.7, 8),
        "equal": Coefficient(0.1, -0.2, 0.4, 8),
        "touching": Coefficient(0.1, 0.0, 0.4, 8),
        "better": Coefficient(-0.4, -0.7, -0.1, 6),
        "unknown": Coefficient(math.nan, math.nan, math.nan, 3),
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
