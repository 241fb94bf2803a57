import math
import xml.etree.ElementTree as ET

import pytest
from drawings import SVG, outside, overlaps

from results.agreement.correlations import MEAN, Correlation
from results.figures.correlation_map import draw
from results.figures.drawing import NotDrawn
from results.figures.theme import PAPER
from results.statistics.estimate import Estimate


def correlation(dataset: str, proxy: str, c: Estimate) -> Correlation:
    return Correlation(dataset, proxy, "finetune", {"spearman": c, "pearson (logit)": c})


STRONG, WEAK = Estimate(0.9, 0.7, 0.97, 13), Estimate(-0.2, -0.6, 0.3, 13)


def test_every_cell_has_its_number_and_brackets_where_the_interval_holds_zero() -> None:
    drawing = draw([correlation("dtd", "knn", STRONG), correlation("pets", "knn", WEAK)], PAPER)
    texts = [text.text for text in drawing.texts]
    assert texts.count("0.90") == 2
    assert texts.count("(-0.20)") == 2


def test_too_few_encoders_are_shown_as_such() -> None:
    drawing = draw([correlation("dtd", "knn", Estimate.none(3, "too few"))], PAPER)
    assert [text.text for text in drawing.texts].count("too few") == 2
    assert "nan" not in drawing.svg()


def test_the_scale_has_its_middle_at_zero() -> None:
    entries = [
        correlation("a", "knn", Estimate(value, value, value, 9)) for value in (-1.0, 0.0, 0.5)
    ]
    entries = [
        correlation(f"dataset_{n}", "knn", entry.coefficients["spearman"])
        for n, entry in enumerate(entries)
    ]
    root = ET.fromstring(draw(entries, PAPER).svg())
    fills = [(r.get("fill"), float(r.get("fill-opacity", "1"))) for r in root.iter(f"{SVG}rect")]
    assert (PAPER.negative, 1.0) in fills
    assert (PAPER.negative, 0.0) in fills
    assert (PAPER.positive, 0.5) in fills


def test_no_texts_overlap_at_eight_proxies_and_fifteen_sets_with_long_names() -> None:
    entries = [
        correlation(dataset, f"transferability estimator={n} statistics=train", STRONG)
        for dataset in [*(f"imagenet_sketch_subset_of_dataset_{n}" for n in range(15)), MEAN]
        for n in range(8)
    ]
    drawing = draw(entries, PAPER)
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_differences_of_proxies_have_no_row() -> None:
    single = correlation("dtd", "knn", STRONG)
    difference = Correlation("dtd", "knn − probe", "finetune", single.coefficients, True)
    assert draw([single, difference], PAPER).svg() == draw([single], PAPER).svg()
    with pytest.raises(NotDrawn, match="a proxy with scores"):
        draw([difference], PAPER)


def test_a_missing_cell_is_a_dash() -> None:
    entries = [correlation("dtd", "knn", STRONG), correlation("pets", "logme", STRONG)]
    assert [text.text for text in draw(entries, PAPER).texts].count("–") == 4
    assert not math.isnan(STRONG.value)
