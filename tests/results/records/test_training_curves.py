import json
from pathlib import Path

from results.records.training_curves import read_curves, sparkline


def test_steps_that_were_repeated_after_an_interruption_replace_the_earlier_ones(
    tmp_path: Path,
) -> None:
    lines = [
        {"training": "refit", "step": 10, "lr": 0.1, "loss": 3.0},
        {"training": "monitor", "step": 10, "knn_top1": 0.5},
        {"training": "monitor", "step": 10, "probe_top1": 0.4},
        {"training": "refit", "step": 30, "lr": 0.1, "loss": 9.0},
        {"training": "refit", "step": 20, "lr": 0.2, "loss": 8.0},
        {"training": "refit", "step": 20, "lr": 0.2, "loss": 2.0},
        {"training": "refit", "step": 40, "lr": 0.0, "loss": float("nan")},
        {"training": "score", "top1": 0.7, "split": "test"},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"training": "refit", "ste\n[1]\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    curves = read_curves(tmp_path)
    (refit,) = curves.trainings
    assert refit.name == "refit"
    assert refit.series("loss") == ([10, 20], [3.0, 2.0])
    assert refit.series("lr") == ([10, 20, 40], [0.1, 0.2, 0.0])
    assert curves.monitor.series("knn_top1") == ([10], [0.5])
    assert curves.damaged == 2


def test_a_run_without_training_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path).trainings == []


def test_a_sparkline_rises_from_its_lowest_to_its_highest_mean() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 1, 1], width=2) == "█▁"
    assert sparkline([2, 2]) == "▁▁"
    assert sparkline([]) == ""
