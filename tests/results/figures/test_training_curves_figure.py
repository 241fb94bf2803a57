import json
from pathlib import Path

import pytest
from drawings import SVG, encoder_groups, outside, overlaps

from results.agreement.analysis import analyse
from results.figures.drawing import NotDrawn
from results.figures.theme import PAPER
from results.figures.training_curves import MOST_POINTS, MOST_RUNS, chart, thinned
from results.records.reading import Results, Row


def results_of(folder: Path, runs: int, steps: int = 3, *, key: str = "loss") -> Results:
    """Return runs that logged a number at every step."""
    rows, folders = [], {}
    for n in range(runs):
        run = f"{n:016x}"
        folders[run] = folder / run
        folders[run].mkdir()
        lines = [{"training": "refit", "step": s, key: 1 / (s + 1)} for s in range(steps)]
        (folders[run] / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        rows.append(
            Row(f"encoder_{n}", f"{n}", "finetune", f"set_{n % 3}", 0, "top1", 0.5 + n / 1000,
                "fraction", True, True, "test", run)
        )  # fmt: skip
    return Results(rows, folders=folders)


def test_points_are_means_of_equal_parts() -> None:
    steps, losses = list(range(100)), [float(step) for step in range(100)]
    few_steps, means = thinned(steps, losses)
    assert len(few_steps) == MOST_POINTS
    assert (few_steps[0], few_steps[-1]) == (1.0, 99.0)
    assert means == [0.5 + 2 * part for part in range(50)]


@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_a_short_training_keeps_all_of_its_points(count: int) -> None:
    steps, losses = list(range(count)), [1.0] * count
    assert thinned(steps, losses) == ([float(step) for step in steps], losses)


def test_each_run_is_one_curve_of_its_encoder(tmp_path: Path) -> None:
    drawing = chart(analyse(results_of(tmp_path, 6), []), PAPER)
    groups = encoder_groups(drawing)
    labels = [str(group.get("data-encoder")) for group in groups]
    assert sorted(labels) == [f"encoder_{n}" for n in range(6)]
    assert [str(g.find(f"{SVG}path").get("d")).count("L") for g in groups] == [2] * 6  # type: ignore[union-attr]
    assert {"finetune set_0", "encoder_5"} <= {text.text for text in drawing.texts}
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_of_many_runs_an_even_choice_is_shown(tmp_path: Path) -> None:
    drawing = chart(analyse(results_of(tmp_path, MOST_RUNS + 40), []), PAPER)
    assert len(encoder_groups(drawing)) == MOST_RUNS
    assert f"{MOST_RUNS} runs are shown" in drawing.caption


def test_the_order_of_records_does_not_matter(tmp_path: Path) -> None:
    results = results_of(tmp_path, 9)
    turned = Results(results.rows[::-1], folders=results.folders)
    assert chart(analyse(turned, []), PAPER).svg() == chart(analyse(results, []), PAPER).svg()


def test_without_a_loss_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotDrawn, match="logged a loss"):
        chart(analyse(results_of(tmp_path, 2, key="top1"), []), PAPER)
