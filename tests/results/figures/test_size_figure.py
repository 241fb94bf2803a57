import pytest
from drawings import SVG, encoder_groups, outside, overlaps

from results.agreement.analysis import analyse
from results.figures.drawing import NotDrawn
from results.figures.size import chart, draw
from results.figures.theme import PAPER
from results.published.catalogue import read_published
from results.tables.size_curves import CONSTRUCTIONS, Point, published_points

TABLES = ["rich_representations_supervised_finetune"]


def point(construction: str, parameters: int, mean: float, **other: object) -> Point:
    fields = {"networks": 1, "deviation": None, "repeats": 1, "source": "", "family": ""}
    encoder = f"{construction}-{parameters}"
    return Point(
        protocol="finetune", dataset="dtd", construction=construction, parameters=parameters,
        metric="top1", unit="fraction", mean=mean, encoders=encoder, **{**fields, **other},
    )  # fmt: skip


def test_every_construction_has_a_line_or_marks_and_a_name_in_the_legend() -> None:
    points = [point(name, 1000 * (n + 1), 0.5 + n / 50) for n, name in enumerate(CONSTRUCTIONS)]
    drawing = draw(points, PAPER)
    assert set(CONSTRUCTIONS.values()) <= {text.text for text in drawing.texts}
    assert len(encoder_groups(drawing)) == len(points)
    assert overlaps(drawing) == []


def test_parameters_stand_on_a_logarithmic_axis() -> None:
    points = [point("wide", size, 0.5) for size in (10**4, 10**5, 10**6)]
    marks = [group.find(f"{SVG}polygon") for group in encoder_groups(draw(points, PAPER))]
    across = [float(str(mark.get("points")).split(",")[0]) for mark in marks if mark is not None]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)


def test_published_points_are_hollow_and_numbers_count_the_networks() -> None:
    drawing = draw(published_points(TABLES, [], ["cifar10"]), PAPER)
    assert f'fill="{PAPER.paper}" stroke="' in drawing.svg()
    assert {"2", "4", "5", "10"} <= {text.text for text in drawing.texts}


def test_no_texts_overlap_in_the_published_figures() -> None:
    drawing = draw(published_points(TABLES), PAPER)
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_deviations_are_lines_through_their_points() -> None:
    without = draw([point("wide", 10, 0.5), point("wide", 20, 0.6)], PAPER).svg()
    svg = draw([point("wide", 10, 0.5, deviation=0.1), point("wide", 20, 0.6)], PAPER).svg()
    assert svg.count('stroke-width="0.8"') == without.count('stroke-width="0.8"') + 1


@pytest.mark.parametrize("x", ["parameters", "networks"])
def test_one_point_is_drawn(x: str) -> None:
    assert "nan" not in draw([point("single", 1000, 0.5)], PAPER, x).svg()


def test_published_encoders_of_known_size_are_named() -> None:
    results = read_published(["sfda_2022_supervised"]).keep(datasets=["dtd"])
    drawing = chart(analyse(results, ["parameters"]), PAPER)
    assert "mnasnet1_0-supervised" in {text.text for text in drawing.texts}
    assert overlaps(drawing) == []


def test_without_any_known_size_one_sentence_says_so() -> None:
    results = read_published(["transfer_2021_table1"]).keep(datasets=["dtd"])
    with pytest.raises(NotDrawn, match="number of parameters is known"):
        chart(analyse(results, ["logistic_regression"]), PAPER)
