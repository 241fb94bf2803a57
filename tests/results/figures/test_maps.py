from pathlib import Path

import pytest
from drawings import encoder_groups, outside, overlaps

from results.agreement.analysis import analyse
from results.figures.drawing import NotDrawn
from results.figures.maps import MOST_CLASSES, MOST_MAPS, MOST_POINTS, chart, read_maps
from results.figures.theme import PAPER
from results.records.reading import Results, Row

HEAD = "perplexity,name,class,view,x,y\n"


def results_of(folder: Path, tables: list[str]) -> Results:
    rows, folders = [], {}
    for n, text in enumerate(tables):
        run = f"{n:016x}"
        folders[run] = folder / run
        folders[run].mkdir()
        (folders[run] / "tsne.csv").write_text(text)
        rows.append(
            Row(f"small_resnet-simclr epochs=100 seed={n}", f"{n}", "tsne", "dtd", 0,
                "trustworthiness", 0.9, "fraction", True, True, "test", run)
        )  # fmt: skip
    return Results(rows, folders=folders)


def table(points: int, classes: int, perplexity: int = 30) -> str:
    lines = (
        f"{perplexity},{n}.png,class {n % classes},0,{n % 31},{n % 37}\n" for n in range(points)
    )
    return "".join(lines)


def test_a_map_has_the_points_of_the_first_perplexity(tmp_path: Path) -> None:
    results = results_of(tmp_path, [HEAD + table(20, 2) + table(20, 2, 50)])
    (one,) = read_maps(results)
    assert len(one.points) == 20
    assert one.points[3] == (3.0, 3.0)
    assert one.classes[:3] == ["class 0", "class 1", "class 0"]


def test_points_and_maps_are_limited_and_the_caption_says_so(tmp_path: Path) -> None:
    text = HEAD + table(MOST_POINTS + 100, 2)
    results = results_of(tmp_path, [text] * (MOST_MAPS + 1))
    assert len(read_maps(results)[0].points) == MOST_POINTS
    drawing = chart(analyse(results, [], "tsne"), PAPER)
    assert len(encoder_groups(drawing)) == MOST_MAPS
    assert f"{MOST_MAPS} of {MOST_MAPS + 1} maps are shown" in drawing.caption
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_classes_beyond_those_that_can_be_told_apart_are_grey(tmp_path: Path) -> None:
    drawing = chart(analyse(results_of(tmp_path, [HEAD + table(90, 30)]), [], "tsne"), PAPER)
    assert f"{30 - MOST_CLASSES} further classes are grey" in drawing.caption
    assert [text.text for text in drawing.texts].count("class 0") == 1
    assert "class 29" not in {text.text for text in drawing.texts}


@pytest.mark.parametrize(
    "text", ["", "nonsense\n", HEAD, HEAD + "30,a.png,x,0,left,1\n", HEAD + "30,a.png,x,0,nan,1\n"]
)
def test_a_damaged_table_is_no_map(tmp_path: Path, text: str) -> None:
    results = results_of(tmp_path, [text])
    assert read_maps(results) == []
    with pytest.raises(NotDrawn, match="finished runs of `tsne`"):
        chart(analyse(results, [], "tsne"), PAPER)
