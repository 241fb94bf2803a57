"""One run: scores per class with scikit-learn as judge, errors by name, curves, pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

from results import run_pictures, single_run
from results.cli import main
from results.errors import ResultsError
from results.single_run import Curve, Predictions

GENERATOR = np.random.default_rng(0)
CLASSES = ("crow", "jay", "wren")


def predictions(count: int = 60, classes: int = 3, *, several: bool = False) -> Predictions:
    scores = GENERATOR.normal(size=(count, classes)).astype(np.float32)
    targets = GENERATOR.integers(0, classes, count)
    if several:
        targets = GENERATOR.integers(-1, 2, (count, classes))
    names = CLASSES if classes == 3 else tuple(f"a class of birds {i:03}" for i in range(classes))
    return Predictions(np.array([f"{i}.jpg" for i in range(count)]), targets, scores, names)


def test_scores_per_class_are_scikit_learns() -> None:
    found = predictions()
    header, rows = single_run.per_class(found)
    assert header == ["class", "images", "recall", "precision", "F1"]
    judge = precision_recall_fscore_support(found.targets, found.predicted, zero_division=np.nan)
    expected = [[*CLASSES], judge[3], judge[1], judge[0], judge[2]]
    for column, values in zip(zip(*rows, strict=True), expected, strict=True):
        assert list(column) == pytest.approx(list(values), nan_ok=True)
    matrix = confusion_matrix(found.targets, found.predicted)
    np.testing.assert_array_equal(found.confusion(), matrix)


def test_average_precision_is_scikit_learns_without_what_is_not_known() -> None:
    found = predictions(several=True)
    _, rows = single_run.per_class(found)
    for place, (name, shown, known, value) in enumerate(rows):
        column = found.targets[:, place]
        mask = column >= 0
        judge = average_precision_score(column[mask], found.scores[mask, place])
        assert (name, shown, known) == (CLASSES[place], (column == 1).sum(), mask.sum())
        assert value == pytest.approx(judge)
    assert single_run.worst_errors(found) is None


def test_the_worst_errors_are_the_surest_wrong_predictions() -> None:
    scores = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1], [0.05, 0.05, 0.9]])
    found = Predictions(np.array(["a", "b", "c", "d"]), np.array([1, 1, 0, 2]), scores, CLASSES)
    table = single_run.worst_errors(found)
    assert table is not None
    assert table.rows == [
        ["b", "jay", "wren", "80.0", "10.0"],
        ["a", "jay", "crow", "70.0", "20.0"],
        ["c", "crow", "jay", "60.0", "30.0"],
    ]
    assert table.title == "Worst errors of 3 among 4 test images"


def test_a_class_without_images_or_infinite_scores_is_no_obstacle() -> None:
    scores = np.array([[np.inf, 0, -np.inf], [0, np.inf, np.inf]], dtype=np.float32)
    found = Predictions(np.array(["a", "b"]), np.array([1, 1]), scores, CLASSES)
    assert "-" in single_run.class_table(found).rows[0]
    assert np.isfinite(found.probabilities()).all()


def test_curves_have_each_step_once_and_survive_damage(tmp_path: Path) -> None:
    lines = [{"training": "grid", "step": s, "loss": 1 / s, "lr": 0.1} for s in (1, 2, 3, 2, 3)]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "metrics.jsonl").write_text(f'{text}\n{{"training": "re\n[]\n{{"step": 1}}\n')
    assert single_run.curves(tmp_path) == [Curve("grid", [1, 2, 3], [1, 0.5, 1 / 3], [0.1] * 3)]


@pytest.mark.parametrize("classes", [2, 200])
def test_pictures_are_drawn_for_few_and_for_many_classes(tmp_path: Path, classes: int) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra [report]")
    run_pictures.draw_confusion(predictions(400, classes), tmp_path / "confusion.png")
    curves = [Curve(f"grid {i}", [1, 2], [2.0, 1.0], [0.1, 0.01]) for i in range(classes // 50 + 1)]
    run_pictures.draw_curves(curves, tmp_path / "curves.png")
    for name in ("confusion", "curves"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A finished run as the library leaves it, and a failed one."""
    folder = tmp_path / "linear_probe" / "small_resnet_birds_0a1b2c3d"
    folder.mkdir(parents=True)
    score = {"metric": "top1", "value": 0.5, "split": "test", "unit": "fraction",
             "higher_is_better": True, "primary": True}  # fmt: skip
    names = {"model": "small_resnet", "method": "as_is", "dataset": "birds",
             "protocol": "linear_probe", "seed": 0}  # fmt: skip
    head = {"schema": 1, **names, "precision": "fp32", "config": {}, "identity": {}}
    selection = {"split": "val", "chosen": {"lr": 0.1}, "at_edge": ["lr"],
                 "scores": [{"lr": 0.1, "value": 0.75}, {"lr": 1.0, "value": None}]}  # fmt: skip
    record: dict[str, Any] = {
        **head, "run_id": "0a1b2c3d4e5f6071", "status": "finished", "scores": [score],
        "encoder": {"id": "e", "label": "small_resnet"}, "duration_s": 2.0, "selection": selection,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))
    found = predictions()
    np.savez(folder / "test_predictions.npz", files=found.files, targets=found.targets,
             scores=found.scores, classes=np.array(CLASSES))  # fmt: skip
    failed = tmp_path / "knn" / "small_resnet_birds_0affffff"
    failed.mkdir(parents=True)
    failure = {**head, "run_id": "0affffff00000000", "error": "no images", "stage": "work",
               "traceback": "", "encoder": {"id": None, "label": "small_resnet"}}  # fmt: skip
    (failed / "failure.json").write_text(json.dumps(failure))
    return tmp_path


def test_the_command_tells_and_writes_everything(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra [report]")
    target = outputs / "pictures"
    assert main(["run", "0a1b", "--outputs", str(outputs), "--to", str(target)]) == 0
    text = capsys.readouterr().out
    for part in ("run        0a1b2c3d4e5f6071", "small_resnet", "50.00 %", "selected on val",
                 "diverged", "lies at an end", "Scores per class", "Worst errors"):  # fmt: skip
        assert part in text
    written = {path.name for path in target.iterdir()}
    assert written == {"per_class.csv", "confusion.csv", "confusion.png"}
    lines = (target / "confusion.csv").read_text().splitlines()
    assert lines[0] == "true class,crow,jay,wren"
    folder = next(outputs.glob("linear_probe/*"))
    assert main(["run", str(folder)]) == 0


def test_a_failed_run_tells_its_reason(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "0aff", "--outputs", str(outputs)]) == 0
    text = capsys.readouterr().out
    assert "status     failed" in text
    assert "reason     no images" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("0a", "is that of 2 runs"), ("ffff", "is that of none"), ("", "4 or more digits")],
)
def test_an_unknown_run_is_one_sentence(
    outputs: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", name or "0a1", "--outputs", str(outputs)]) == 2
    assert message in capsys.readouterr().err


def test_older_and_damaged_predictions_are_refused(outputs: Path) -> None:
    folder = next(outputs.glob("linear_probe/*"))
    path = folder / "test_predictions.npz"
    np.savez(path, np.zeros(3))
    with pytest.raises(ResultsError, match=r"older code.*force=true"):
        single_run.read_predictions(folder)
    np.savez(path, files=np.array(["a"]), targets=np.array([0]), scores=np.zeros((2, 2)),
             classes=np.array(["x", "y"]))  # fmt: skip
    with pytest.raises(ResultsError, match="its arrays have other shapes"):
        single_run.read_predictions(folder)
    np.savez(path, scores=np.array([{}], dtype=object))
    with pytest.raises(ResultsError, match="cannot be read"):
        single_run.read_predictions(folder)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ResultsError, match="cannot be read"):
        single_run.read_predictions(folder)
    path.unlink()
    assert single_run.read_predictions(folder) is None
