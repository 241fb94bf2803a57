import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predicted import write_arrays

from results.commands.main import main
from results.figures import canvas
from results.runs.pictures import draw_confusion


@pytest.fixture(autouse=True)
def _hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def judged(write) -> Path:
    """Return the folder of a run of three images, of which one is judged wrongly."""
    selection = {
        "split": "val",
        "chosen": {"lr": 1.0},
        "scores": [
            {"lr": 0.1, "value": 0.5},
            {"lr": 1.0, "value": 0.75},
            {"lr": 9.0, "value": None},
        ],
        "at_edge": ["lr"],
    }
    folder = write(
        value=2 / 3, selection=selection, duration_s=4000.0, versions={"torch": "2.6.0"},
        data={"classes": ["a", "b"], "sizes": {"train": 9, "test": 3}, "num_classes": 2},
        identity={"protocol": {"name": "linear_probe", "epochs": 3, "head": "linear"}},
    )  # fmt: skip
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | write_arrays(folder)))
    lines = [{"training": "refit", "step": n, "steps": 4, "lr": 0.1, "loss": 4 - n} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def words_of(capsys) -> tuple[str, str]:
    """Return what was printed, with each run of spaces as one, and what was said as an error."""
    shown, said = capsys.readouterr()
    assert all(len(line) <= 100 for line in shown.splitlines() if "/" not in line)
    return "\n".join(" ".join(line.split()) for line in shown.splitlines()), said


def test_a_report_says_everything_about_a_run(judged: Path, outputs: Path, capsys) -> None:
    assert main(["run", judged.name[-8:-4], "--outputs", str(outputs)]) == 0
    shown, said = words_of(capsys)
    assert said == ""
    for line in (
        "status finished",
        "seed 0",
        "protocol keys epochs=3, head=linear",
        "chosen lr=1.0 (selected on val)",
        "duration 1 h 7 min on 1 × unknown",
        "versions torch 2.6.0",
        "top1 (primary) test 66.67 %",
        "1.0 0.7500",
        "9.0 diverged",
        "a 2 50.00 100.00 66.67",
        "b 1 100.00 50.00 66.67",
        "a b 1 50.00",
        "a/2.jpg a b 73.11 26.89",  # 1 / (1 + exp(-1))
        "Worst errors of 1 among 3 test images",
        "refit █▁ 2 of 4 0.1 3 2",
    ):
        assert line in shown.splitlines(), line
    assert "lr: the chosen value ends its list" in shown


def test_a_report_is_saved_as_markdown_numbers_and_pictures(
    judged: Path, outputs: Path, tmp_path: Path, capsys
) -> None:
    saved = tmp_path / "report"
    assert main(["run", str(judged), "--outputs", str(outputs), "--to", str(saved)]) == 0
    names = {path.name for path in saved.iterdir()}
    assert names == {"run.md", "per_class.csv", "errors.csv", "confusion.csv", "confusion.png",
                     "curves.png"}  # fmt: skip
    rows = list(csv.reader((saved / "confusion.csv").read_text().splitlines()))
    assert rows == [["true class", "a", "b"], ["a", "1", "1"], ["b", "0", "1"]]
    (error,) = csv.DictReader((saved / "errors.csv").read_text().splitlines())
    assert (error["file"], error["true"], error["predicted"]) == ("a/2.jpg", "a", "b")
    assert "| a/2.jpg | a | b | 73.11 | 26.89 |" in (saved / "run.md").read_text()


def test_without_matplotlib_the_numbers_are_saved_and_one_sentence_says_what_is_missing(
    judged: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(canvas.importlib.util, "find_spec", lambda name: None)
    assert main(["run", str(judged), "--to", str(tmp_path / "report")]) == 0
    assert "warning: pictures need the package matplotlib" in capsys.readouterr().err
    assert (tmp_path / "report" / "confusion.csv").exists()
    assert not list((tmp_path / "report").glob("*.png"))


def test_a_failed_run_says_its_reason(write, capsys) -> None:
    folder = write(method="byol", error="The loss must stay finite.", stage="work", when="today")
    assert main(["run", str(folder)]) == 0
    shown, _ = words_of(capsys)
    assert "status failed at today; `retry=true` repeats it" in shown
    assert "reason The loss must stay finite." in shown


def test_a_pattern_that_fits_several_runs_is_refused(judged: Path, capsys) -> None:
    assert main(["run", str(judged), str(judged)]) == 2
    assert "one run must be named, but 2 are, as by a pattern" in words_of(capsys)[1]


def test_several_classes_per_image_have_average_precisions(judged: Path, capsys) -> None:
    record = json.loads((judged / "record.json").read_text())
    record |= write_arrays(judged, targets=np.array([[1, 0], [1, -1], [0, 1]]))
    (judged / "record.json").write_text(json.dumps(record))
    assert main(["run", str(judged)]) == 0
    shown, _ = words_of(capsys)
    # a: precision 1 up to a recall of 0.5, then 2/3: (1 + 2/3) / 2, and (6 + 5 * 2/3) / 11
    assert "a 2 1 0 83.33 84.85" in shown.splitlines()
    assert "b 1 1 1 100.00 100.00" in shown.splitlines()
    assert "a/1.jpg b 0.000" in shown.splitlines()
    assert "recall" not in shown


def test_an_impossible_score_is_said_to_be_invalid(judged: Path, capsys) -> None:
    record = json.loads((judged / "record.json").read_text())
    record["scores"][0]["value"] = 1.7
    (judged / "record.json").write_text(json.dumps(record))
    assert main(["run", str(judged)]) == 0
    assert "invalid: `top1` is 170 %" in words_of(capsys)[0]


def test_an_unfinished_run_shows_its_training(judged: Path, capsys) -> None:
    (judged / "record.json").unlink()
    assert main(["run", str(judged)]) == 0
    shown, _ = words_of(capsys)
    assert "status unfinished: it is being computed, or was interrupted" in shown
    assert "refit █▁ 2 of 4 0.1 3 2" in shown


def test_old_predictions_are_said_and_the_rest_is_shown(judged: Path, capsys) -> None:
    record = json.loads((judged / "record.json").read_text())
    del record["files"]
    (judged / "record.json").write_text(json.dumps(record))
    np.savez(judged / "test_predictions.npz", np.zeros((3, 2)))
    assert main(["run", str(judged)]) == 0
    shown, said = words_of(capsys)
    assert "top1 (primary) test 66.67 %" in shown
    assert said.count("\n") == 1
    assert "force=true" in said


@pytest.mark.parametrize("classes", [2, 40])
def test_the_picture_of_a_confusion_matrix_has_room_for_every_class(
    tmp_path: Path, classes: int
) -> None:
    counts = np.eye(classes, dtype=np.int64) * 7
    names = [f"class $_{number}$ 鳥" for number in range(classes)]  # no formula; a foreign letter
    draw_confusion(tmp_path / "confusion.png", counts, names, "a $title")
    with Image.open(tmp_path / "confusion.png") as picture:
        dark = np.asarray(picture.convert("RGB"))[..., 0] < 60  # cells of the diagonal
        assert min(picture.size) > 12 * classes
    assert dark.any(axis=1).sum() > 0.5 * len(dark)
