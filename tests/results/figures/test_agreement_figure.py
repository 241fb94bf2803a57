import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from drawings import SVG, encoder_groups, outside, overlaps, synthetic

from results.agreement.analysis import Analysis, analyse
from results.agreement.scores import Scores
from results.figures.agreement import chart, draw
from results.figures.drawing import NotDrawn
from results.figures.export import save
from results.figures.theme import PAGE, PAPER
from results.published.catalogue import read_published
from results.records.reading import Results
from results.records.score_intervals import Interval


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    results = read_published(["transfer_2021_table1"]).keep(datasets=["dtd", "pets"])
    return analyse(results, ["logistic_regression"])


def same(scores: dict[str, dict[str, float]], name: str = "finetune") -> Scores:
    return Scores(name, scores, scores, set(scores))


def test_every_encoder_with_both_scores_is_one_mark_per_panel(analysis: Analysis) -> None:
    groups = encoder_groups(chart(analysis, PAPER))
    labels = [str(group.get("data-encoder")) for group in groups]
    assert sorted(labels) == sorted([*analysis.encoders, *analysis.encoders])
    assert all(group.find(f"{SVG}circle") is not None for group in groups)
    assert all(str(g.get("aria-label")).startswith(str(g.get("data-encoder"))) for g in groups)


def test_intervals_lie_in_the_group_of_their_encoder(analysis: Analysis) -> None:
    def interval(scores: Scores, dataset: str, encoder: str) -> Interval:
        value = scores.raw[dataset][encoder]
        return Interval(value - 0.02, value + 0.01)

    drawing = draw(analysis.target, analysis.proxies, [], PAPER, interval)
    for group in encoder_groups(drawing):
        circle, paths = group.find(f"{SVG}circle"), list(group.iter(f"{SVG}path"))
        assert circle is not None
        across, up = [str(path.get("d")) for path in paths[:2]]
        assert across.count(f" {circle.get('cy')}") == 2
        assert up.count(f"{circle.get('cx')} ") == 2


def test_points_lie_in_the_order_of_their_scores(analysis: Analysis) -> None:
    across = {}
    for group in encoder_groups(chart(analysis, PAPER)):
        if "dtd" in str(group.get("aria-label")):
            circle = group.find(f"{SVG}circle")
            assert circle is not None
            across[str(group.get("data-encoder"))] = float(str(circle.get("cx")))
    by_score = analysis.proxies[0].raw["dtd"]
    assert sorted(across, key=across.__getitem__) == sorted(by_score, key=by_score.__getitem__)


def test_titles_state_the_coefficients_and_their_intervals(analysis: Analysis) -> None:
    texts = [text.text for text in chart(analysis, PAPER).texts]
    c = next(c for c in analysis.correlations if c.dataset == "dtd").coefficients["spearman"]
    assert any(f"ρ = {c.value:.2f} [{c.low:.2f}, {c.high:.2f}]" in text for text in texts)


def test_below_five_encoders_the_title_says_too_few() -> None:
    results = read_published(["transfer_2021_table1"]).keep(datasets=["dtd"])
    few = Results([row for row in results.rows if row.encoder in {"swav", "byol", "pirl"}])
    texts = [text.text for text in chart(analyse(few, ["logistic_regression"]), PAPER).texts]
    assert "n = 3: too few" in texts


def test_no_texts_overlap_in_a_figure_of_two_panels(analysis: Analysis) -> None:
    assert overlaps(chart(analysis, PAPER)) == []


def test_no_texts_overlap_at_four_proxies_twelve_sets_and_thirty_encoders() -> None:
    target, proxies = synthetic(30, 12, 4)
    drawing = draw(target, proxies, [], PAPER)
    assert len([text for text in drawing.texts if text.text.startswith("dataset_")]) == 48
    assert overlaps(drawing) == []
    assert outside(drawing) == []
    assert "labels are left out" in drawing.caption


@pytest.mark.parametrize("encoders", [1, 2])
def test_one_and_equal_scores_are_drawn(encoders: int) -> None:
    equal = {"dtd": {f"encoder_{n}": 0.5 for n in range(encoders)}}
    drawing = draw(same(equal), [same(equal, "knn")], [], PAPER)
    assert overlaps(drawing) == []
    assert "nan" not in drawing.svg()


def test_known_intervals_are_drawn_as_bars_through_the_point() -> None:
    raw = {"dtd": {"a": 0.5, "b": 0.7}}
    both = same(raw), [same(raw, "knn")]
    without = draw(*both, [], PAPER).svg()
    bars = draw(
        *both,
        [],
        PAPER,
        lambda s, dataset, e: Interval(raw[dataset][e] - 0.05, raw[dataset][e] + 0.05),
    ).svg()
    assert bars.count('stroke-width="0.7"') == without.count('stroke-width="0.7"') + 4


def test_without_an_encoder_with_both_scores_one_sentence_says_so() -> None:
    with pytest.raises(NotDrawn, match="an encoder with both scores"):
        draw(same({"dtd": {"a": 0.5}}), [same({"pets": {"a": 0.5}}, "knn")], [], PAPER)


def test_the_page_theme_has_variables_and_no_background(analysis: Analysis) -> None:
    page, paper = chart(analysis, PAGE).svg(), chart(analysis, PAPER).svg()
    assert "var(--ink,#222222)" in page
    assert "var(" not in paper
    assert f'fill="{PAPER.paper}"' in paper
    assert PAPER.paper not in re.sub(r"var\([^)]*\)", "", page)


def test_hostile_labels_are_escaped() -> None:
    raw = {"dtd": {'<script>"&\x1b[0m\n</svg>': 0.5, "b": 0.6}}
    text = draw(same(raw), [same(raw, "knn")], [], PAPER).svg()
    assert "<script" not in text
    assert text.count("</svg>") == 1
    assert len(list(ET.fromstring(text).iter(f"{SVG}circle"))) == 2


@pytest.mark.parametrize(
    ("ending", "start"), [("svg", b"<svg"), ("pdf", b"%PDF"), ("png", b"\x89PNG")]
)
def test_files_have_the_format_of_their_ending(tmp_path: Path, ending: str, start: bytes) -> None:
    raw = {"dtd": {"a": 0.5, "b": 0.7}}
    path = tmp_path / "new" / f"agreement.{ending}"
    save(draw(same(raw), [same(raw, "knn")], [], PAPER), path)
    assert path.read_bytes().startswith(start)


def test_the_order_of_records_does_not_matter_and_an_axis_holds_only_what_is_shown() -> None:
    results = read_published(["transfer_2021_table1"]).keep(datasets=["dtd"])
    turned = Results(results.rows[::-1])
    drawings = [chart(analyse(one, ["logistic_regression"]), PAPER) for one in (results, turned)]
    assert drawings[0].svg() == drawings[1].svg()
    raw = {"dtd": {"a": 0.5, "b": 0.7}}
    more = {"dtd": {"a": 0.5, "b": 0.7, "without a target": 0.01}}
    without = draw(same(raw), [same(raw, "knn")], [], PAPER).svg()
    assert draw(same(raw), [same(more, "knn")], [], PAPER).svg() == without
