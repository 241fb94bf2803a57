import xml.etree.ElementTree as ET

import pytest
from drawings import SVG, encoder_groups, outside, overlaps

from results.agreement.analysis import Analysis, analyse
from results.figures.drawing import NotDrawn
from results.figures.invariances import (
    APPEARANCE,
    SPATIAL,
    TRANSFORMS,
    chart,
    chart_with_scores,
    invariances,
    mean_invariance,
)
from results.figures.theme import PAPER
from results.records.reading import Results, Row
from ssl_transfer.datasets.invariance_transforms import TRANSFORMS as MEASURED

ENCODERS = [f"small_resnet-simclr epochs=100 seed={n}" for n in range(6)]


def row(encoder: str, protocol: str, dataset: str, value: float, unit: str = "cosine") -> Row:
    return Row(encoder, encoder, protocol, dataset, 0, "similarity", value, unit, True, True,
               "test", f"{encoder}{protocol}{dataset}")  # fmt: skip


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    rows = []
    for n, encoder in enumerate(ENCODERS):
        rows.append(row(encoder, "finetune", "dtd", 0.5 + n / 20, "fraction"))
        rows.append(row(encoder, "synthetic_invariance transform=hue", "cifar", 0.9 - n / 10))
        rows.append(row(encoder, "synthetic_invariance transform=h_flip", "cifar", n / 10))
        rows.append(row(encoder, "synthetic_invariance transform=rotation", "cifar", n / 20))
        rows.append(row(encoder, "real_world_invariance", "coil100", 0.3))
        rows.append(row(encoder, "real_world_invariance", "own_views", 0.2))
    return analyse(Results(rows), [])


def test_the_groups_are_those_of_the_measurement() -> None:
    groups = {name: transform.group for name, transform in MEASURED.items()}
    known = {name: group for group, names in TRANSFORMS.items() for name in names}
    assert {str(name): group for name, group in groups.items()}.items() <= known.items()


def test_measurements_stand_in_the_order_of_the_paper_with_own_sets_last(
    analysis: Analysis,
) -> None:
    found = [(one.group, one.name) for one in invariances(analysis.results)]
    assert found == [
        (SPATIAL, "rotation"), (SPATIAL, "h_flip"), (SPATIAL, "coil100"), (APPEARANCE, "hue"),
        ("", "own_views"),
    ]  # fmt: skip


def test_every_encoder_has_a_bar_per_measurement_of_one_scale(analysis: Analysis) -> None:
    drawing = chart(analysis, PAPER)
    bars = {g.get("aria-label"): g.find(f"{SVG}rect") for g in encoder_groups(drawing)}
    last = ENCODERS[5]

    def length(label: str) -> float:
        bar = bars[label]
        assert isinstance(bar, ET.Element)
        return float(str(bar.get("width")))

    assert length(f"{last}: h_flip 0.5") == pytest.approx(
        2 * length(f"{last}: rotation 0.25"), abs=0.2
    )
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_the_mean_of_a_group_is_over_all_of_its_changes(analysis: Analysis) -> None:
    means = mean_invariance(invariances(analysis.results), SPATIAL).raw[""]
    assert means[ENCODERS[4]] == pytest.approx((0.4 + 0.2 + 0.3) / 3)


def test_an_encoder_without_one_of_the_changes_has_no_mean(analysis: Analysis) -> None:
    without = [
        r for r in analysis.results.rows if r.encoder != ENCODERS[0] or "hue" not in r.protocol
    ]
    means = mean_invariance(invariances(Results(without)), APPEARANCE).raw[""]
    assert set(means) == set(ENCODERS[1:])


def test_both_groups_stand_against_the_scores_with_their_correlations(analysis: Analysis) -> None:
    drawing = chart_with_scores(analysis, PAPER)
    texts = [text.text for text in drawing.texts]
    assert {"spatial invariance", "appearance invariance", "finetune (%)"} <= set(texts)
    assert any("ρ = 1.00" in text for text in texts)
    assert any("ρ = -1.00" in text for text in texts)
    assert overlaps(drawing) == []


def test_without_a_measurement_one_sentence_says_what_is_needed() -> None:
    bare = analyse(Results([row("a", "finetune", "dtd", 0.5)]), [])
    for figure in (chart, chart_with_scores):
        with pytest.raises(NotDrawn, match="synthetic_invariance"):
            figure(bare, PAPER)
