import math

import pytest
from drawings import outside, overlaps

from results.agreement.cost import Cost
from results.agreement.headline import Agreement
from results.figures.cost_and_agreement import draw
from results.figures.drawing import NotDrawn
from results.figures.theme import PAPER
from results.statistics.estimate import Estimate


def cost(seconds: float, device: str = "cpu", unknown: int = 0) -> Cost:
    return Cost({device: seconds}, runs=1, cells=1, unknown=unknown)


def agreement(proxy: str, value: float) -> Agreement:
    return Agreement(proxy, Estimate(value, value - 0.2, min(value + 0.2, 1), 9), ("dtd",))


KNOWN = {"knn": cost(1), "probe": cost(10), "slow": cost(50), "finetune": cost(100), "size": Cost()}
AGREEMENTS = [agreement("knn", 0.5), agreement("probe", 0.8), agreement("slow", 0.6),
              agreement("size", 0.3)]  # fmt: skip


def test_every_proxy_is_named_and_the_front_joins_those_that_no_cheaper_one_matches() -> None:
    drawing = draw(KNOWN, AGREEMENTS, "finetune", PAPER)
    assert {"knn", "probe", "slow", "size", "finetune"} <= {text.text for text in drawing.texts}
    svg = drawing.svg()
    front = svg[: svg.index(f'stroke="{PAPER.colors[1]}"')].rpartition('d="')[2]
    assert front.count("L") == 4  # size, knn, probe: two steps of two lines each
    assert svg.count("<circle") == 4
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_proxies_without_cost_or_coefficient_are_named_in_the_caption() -> None:
    none = Agreement("few", Estimate.none(3, "too few"))
    known = {**KNOWN, "few": cost(3), "mixed": Cost({"cpu": 1, "cuda": 1}, runs=2, cells=2)}
    caption = draw(known, [*AGREEMENTS, none, agreement("mixed", 0.4)], "finetune", PAPER).caption
    assert "not drawn: few, mixed." in caption


def test_a_lower_bound_of_a_cost_is_said_to_be_one() -> None:
    caption = draw({**KNOWN, "knn": cost(1, unknown=2)}, AGREEMENTS, "finetune", PAPER).caption
    assert "lower bound, since some records do not state it: knn." in caption


def test_without_any_measured_cost_one_sentence_says_what_is_missing() -> None:
    with pytest.raises(NotDrawn, match="whose records state the time"):
        draw({"size": Cost()}, [agreement("size", 0.3)], "finetune", PAPER)


def test_many_proxies_of_equal_cost_and_agreement_do_not_overlap() -> None:
    names = [f"transferability estimator={n}" for n in range(20)]
    drawing = draw(
        {name: cost(2.0) for name in names}, [agreement(name, 0.5) for name in names], "x", PAPER
    )
    assert overlaps(drawing) == []
    assert "nan" not in drawing.svg()
    assert not math.isnan(cost(2.0).per_cell)
