import pytest
from drawings import SVG, encoder_groups, outside, overlaps

from results.agreement.analysis import analyse
from results.figures.rows import RowPanel, draw_rows
from results.figures.target_scores import chart
from results.figures.theme import PAPER
from results.published.catalogue import read_published


def test_encoders_stand_in_the_order_of_their_mean_scores() -> None:
    results = read_published(["transfer_2021_table1"]).keep(datasets=["dtd"])
    analysis = analyse(results, ["logistic_regression"])
    groups = encoder_groups(chart(analysis, PAPER))
    names = [str(g.get("data-encoder")) for g in groups if g.find(f"{SVG}text") is not None]
    scores = analysis.target.raw["dtd"]
    assert names == sorted(scores, key=lambda encoder: -scores[encoder])


def test_a_missing_score_leaves_its_row_empty() -> None:
    panels = [
        RowPanel("dtd", "top1 (%)", {"a": 1.0, "b": 2.0}),
        RowPanel("pets", "top1 (%)", {"a": 3.0}),
    ]
    groups = encoder_groups(draw_rows(panels, ["a", "b"], PAPER, "Scores", ""))
    dots = [g.get("data-encoder") for g in groups if g.find(f"{SVG}circle") is not None]
    assert sorted(map(str, dots)) == ["a", "a", "b"]


def test_a_bar_reaches_from_zero_to_the_value_and_a_label_tells_the_interval() -> None:
    panel = RowPanel("rotation", "similarity", {"a": -0.5, "b": 1.0}, {"b": (0.8, 1.2)}, bars=True)
    groups = encoder_groups(draw_rows([panel], ["a", "b"], PAPER, "Invariances", ""))
    bars = {
        g.get("data-encoder"): g.find(f"{SVG}rect")
        for g in groups
        if g.find(f"{SVG}rect") is not None
    }
    widths = {name: float(str(bar.get("width"))) for name, bar in bars.items() if bar is not None}
    lefts = {name: float(str(bar.get("x"))) for name, bar in bars.items() if bar is not None}
    assert widths["b"] == pytest.approx(2 * widths["a"], abs=0.2)
    assert lefts["b"] == pytest.approx(lefts["a"] + widths["a"], abs=0.2)
    labels = [g.get("aria-label") for g in groups]
    assert "b: rotation 1 [0.8, 1.2]" in labels


@pytest.mark.parametrize(("encoders", "panels"), [(1, 1), (30, 12), (50, 15)])
def test_no_texts_overlap(encoders: int, panels: int) -> None:
    names = [
        f"small_resnet-simclr epochs=100 width=32 pretrain_on=photographs seed={n}"
        for n in range(encoders)
    ]
    values = {name: 70 + n / 7 for n, name in enumerate(names)}
    titles = [f"a_dataset_of_long_name_{n}" for n in range(panels)]
    rows = [RowPanel(title, "mean_per_class (%)", values) for title in titles]
    drawing = draw_rows(rows, names, PAPER, "Scores", "")
    assert overlaps(drawing) == []
    assert outside(drawing) == []
