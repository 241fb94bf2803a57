"""Everything about one run: its record, scores per class, worst errors, and training curves."""

import dataclasses
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.errors import ResultsError
from results.records import all_folders, load_document
from results.rendering import Table, to_csv

PREDICTIONS = "test_predictions.npz"
WORST = 20
"""Number of the worst errors that are listed."""
SHOWN_CLASSES = 25
"""With more classes, the terminal shows those with the lowest scores; the CSV has all."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Class scores of the test split.

    Args:
        files: name of each image.
        targets: class numbers ``[N]``, or rows of 1, 0 and -1 (not known) ``[N, C]``.
        scores: class scores ``[N, C]``.
        classes: names of the classes.
    """

    files: NDArray[np.str_]
    targets: NDArray[np.int64]
    scores: NDArray[np.float32]
    classes: tuple[str, ...]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class with the highest score, per image."""
        highest: NDArray[np.int64] = self.scores.argmax(1)
        return highest

    def probabilities(self) -> NDArray[np.float64]:
        """Return the softmax of the class scores, as fractions."""
        scores = self.scores.astype(np.float64)
        with np.errstate(invalid="ignore"):
            powers = np.exp(scores - scores.max(1, keepdims=True))
        powers = np.nan_to_num(powers, nan=1.0)  # infinity minus infinity
        shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
        return shares

    def confusion(self) -> NDArray[np.int64]:
        """Return the number of images by true class (row) and predicted class (column)."""
        size = len(self.classes)
        pairs = self.targets * size + self.predicted
        counts: NDArray[np.int64] = np.bincount(pairs, minlength=size * size)
        return counts.reshape(size, size)


def find_run(outputs: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the document (record or failure) of one run.

    Args:
        outputs: where runs write.
        name: folder of the run, or the start of its id (4 or more digits).

    Raises:
        ResultsError: if there is no such run, or several.
    """
    place = Path(name).expanduser()
    if place.is_dir():
        document = load_document(place)
        if document is None:
            raise ResultsError(
                "the folder must be that of a run, with record.json or failure.json, but "
                f"`{place}` holds neither."
            )
        return place, document
    matches = []
    # A folder's name ends with the first eight digits of the id.
    for folder in all_folders(outputs) if outputs.is_dir() else ():
        if folder.name[-8:].startswith(name[:8]) and (document := load_document(folder)):
            matches.append((folder, document))
    matches = [pair for pair in matches if str(pair[1]["run_id"]).startswith(name)]
    if len(name) < 4 or len(matches) != 1:
        known = ", ".join(str(folder) for folder, _ in matches[:5])
        what = f"is that of {len(matches)} runs ({known})" if matches else "is that of none"
        raise ResultsError(
            "the run must be a folder, or the start of one run's id (4 or more digits; `python -m "
            f"results list --format csv` shows them), but `{name}` {what} below `{outputs}`."
        )
    return matches[0]


def read_predictions(folder: Path) -> Predictions | None:
    """Return the class scores that a run left; None if it left none.

    Raises:
        ResultsError: if the file is damaged or was written by older code.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if "scores" not in arrays:
                raise ResultsError(
                    f"`{path}` was written by older code, without class scores and file names; "
                    "repeat the run's command with force=true."
                )
            predictions = Predictions(
                files=arrays["files"],
                targets=arrays["targets"].astype(np.int64),
                scores=arrays["scores"],
                classes=tuple(arrays["classes"].tolist()),
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ResultsError(
            f"`{path}` must hold the predictions of the run, but cannot be read ({error}); repeat "
            "the run's command with force=true."
        ) from error
    count, width = len(predictions.files), len(predictions.classes)
    shapes = (predictions.scores.shape, predictions.targets.shape)
    if shapes[0] != (count, width) or shapes[1] not in ((count,), (count, width)):
        raise ResultsError(
            f"`{path}` must hold a score per image and class, but its arrays have other shapes "
            f"({shapes[0]} and {shapes[1]}); repeat the run's command with force=true."
        )
    return predictions


def facts(folder: Path, document: Mapping[str, Any]) -> list[str]:
    """Return a line for each known fact about a run: its names, state, data and versions."""
    encoder = document.get("encoder") or {}
    values = {
        "run": document.get("run_id"),
        "folder": folder,
        "status": document.get("status", "failed"),
        **{key: document.get(key) for key in ("model", "method", "dataset", "protocol", "seed")},
        "encoder": encoder.get("label"),
        "reason": document.get("reason") or document.get("error"),
        "images": _sizes(document.get("data") or {}),
        "duration": _seconds(document.get("duration_s")),
        "started": document.get("started") or document.get("when"),
        "device": document.get("device"),
        "processes": document.get("processes"),
        "code": (document.get("code") or {}).get("revision"),
        "versions": ", ".join(f"{k} {v}" for k, v in (document.get("versions") or {}).items()),
    }
    return [f"{key:<10} {value}" for key, value in values.items() if value not in (None, "")]


def overview(document: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a run's scores and hyper-parameters."""
    tables = []
    scores = [
        [score["metric"], score["split"], _score(score), "primary" if score.get("primary") else ""]
        for score in document.get("scores") or ()
    ]
    if scores:
        tables.append(Table("Scores", ["metric", "split", "value", ""], scores, left=2))
    return [*tables, *_selection(document.get("selection") or {})]


def _sizes(data: Mapping[str, Any]) -> str | None:
    sizes = data.get("sizes") or {}
    return ", ".join(f"{key} {count}" for key, count in sizes.items()) or None


def _seconds(value: Any) -> str | None:
    return f"{value:.1f} s" if isinstance(value, int | float) else None


def _score(score: Mapping[str, Any]) -> str:
    value = float(score["value"])
    return f"{100 * value:.2f} %" if score["unit"] == "fraction" else f"{value:.4g} {score['unit']}"


def _selection(selection: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the table of the hyper-parameters that were tried, and which was chosen."""
    points = selection.get("scores") or []
    chosen = selection.get("chosen") or {}
    keys = [key for key in chosen if key != "value"]
    if not keys:
        return
    rows = [
        [*(f"{point.get(key):g}" for key in keys),
         "diverged" if point.get("value") is None else f"{100 * point['value']:.2f} %",
         "chosen" if all(point.get(key) == chosen[key] for key in keys) else ""]
        for point in points
    ] or [[*(f"{chosen[key]:g}" for key in keys), "", "fixed"]]  # fmt: skip
    edges = ", ".join(map(str, selection.get("at_edge") or ()))
    note = f"the chosen value of {edges} lies at an end of those tried" if edges else ""
    split = selection.get("split")
    title = f"Hyper-parameters, selected on {split}" if split else "Hyper-parameters"
    yield Table(title, [*keys, "score", ""], rows, left=0, notes=[note] if note else [])


def per_class(predictions: Predictions) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the scores of every class, as fractions.

    One class per image: number of images, recall, precision and F1 (NaN where undefined). Several
    classes per image: number of images that show the class and that are known, and the average
    precision over all levels of recall.
    """
    if predictions.targets.ndim == 2:
        rows = [
            [
                name,
                int((column == 1).sum()),
                int((column >= 0).sum()),
                _average_precision(s, column),
            ]
            for name, column, s in zip(
                predictions.classes, predictions.targets.T, predictions.scores.T, strict=True
            )
        ]
        return ["class", "shown", "known", "average precision"], rows
    confusion = predictions.confusion()
    right = confusion.diagonal()
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / confusion.sum(1)
        precision = right / confusion.sum(0)
        f1 = 2 * right / (confusion.sum(0) + confusion.sum(1))
    rows = [
        [name, int(confusion[i].sum()), float(recall[i]), float(precision[i]), float(f1[i])]
        for i, name in enumerate(predictions.classes)
    ]
    return ["class", "images", "recall", "precision", "F1"], rows


def _average_precision(scores: NDArray[np.float32], column: NDArray[np.int64]) -> float:
    """Return the mean of the precision at each image that shows the class, ties counted last."""
    known = column >= 0
    order = np.lexsort((column[known], -scores[known].astype(np.float64)))
    shown = column[known][order] == 1
    if not shown.any():
        return float("nan")
    precision = np.cumsum(shown) / np.arange(1, len(shown) + 1)
    return float(precision[shown].mean())


def class_table(predictions: Predictions) -> Table:
    """Return the scores of the classes; of many classes, those with the lowest scores."""
    header, rows = per_class(predictions)
    shown = rows
    notes = []
    if len(rows) > SHOWN_CLASSES:
        place = 3 if predictions.targets.ndim == 2 else 2
        ranked = sorted(rows, key=lambda row: np.nan_to_num(row[place], nan=2.0))
        shown = ranked[:SHOWN_CLASSES]
        notes = [f"the {SHOWN_CLASSES} lowest of {len(rows)} classes; `--to FOLDER` writes all"]
    cells = [[_cell(value) for value in row] for row in shown]
    return Table("Scores per class, in %", header, cells, left=1, notes=notes)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{100 * value:.1f}"
    return str(value)


def worst_errors(predictions: Predictions) -> Table | None:
    """Return the wrong predictions with the highest probability; None for several classes."""
    if predictions.targets.ndim == 2:
        return None
    probabilities = predictions.probabilities()
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    order = wrong[np.lexsort((wrong, -confidence[wrong]))]
    rows = [
        [str(predictions.files[i]), predictions.classes[predictions.targets[i]],
         predictions.classes[predictions.predicted[i]], f"{100 * confidence[i]:.1f}",
         f"{100 * probabilities[i, predictions.targets[i]]:.1f}"]
        for i in order[:WORST].tolist()
    ]  # fmt: skip
    title = f"Worst errors of {len(wrong)} among {len(predictions.files)} test images"
    header = ["file", "class", "predicted", "probability, %", "of the class, %"]
    return Table(title, header, rows, left=3)


@dataclasses.dataclass(frozen=True)
class Curve:
    """The logged values of one training of a run.

    Args:
        training: its name.
        steps: the optimizer steps.
        losses: the loss at each of them.
        rates: the learning rate at each of them.
    """

    training: str
    steps: list[int]
    losses: list[float]
    rates: list[float]


def curves(folder: Path) -> list[Curve]:
    """Return the training curves of a run; lines that are damaged or repeated are left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    points: dict[str, dict[int, tuple[float, float]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            step, name = int(entry["step"]), str(entry["training"])
            values = (float(entry["loss"]), float(entry["lr"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        points.setdefault(name, {})[step] = values  # after a kill, steps are logged again
    return [
        Curve(name, steps := sorted(of_it), [of_it[s][0] for s in steps],
              [of_it[s][1] for s in steps])
        for name, of_it in points.items()
    ]  # fmt: skip


def curve_table(drawn: Sequence[Curve]) -> Table:
    """Return the first, middle and last loss of each training."""
    rows = []
    for curve in drawn:
        places = (0, len(curve.steps) // 2, len(curve.steps) - 1)
        losses = [f"{curve.losses[place]:.4g}" for place in places]
        rows.append([curve.training, str(curve.steps[-1]), *losses, f"{curve.rates[-1]:.3g}"])
    header = ["training", "steps", "first loss", "middle", "last", "last lr"]
    return Table("Training curves", header, rows, left=1)


def write_csv(predictions: Predictions, folder: Path) -> list[Path]:
    """Write the scores per class and the confusion matrix as CSV; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    header, rows = per_class(predictions)
    files = {"per_class.csv": to_csv(header, rows)}
    if predictions.targets.ndim == 1:
        matrix = [
            [name, *counts]
            for name, counts in zip(
                predictions.classes, predictions.confusion().tolist(), strict=True
            )
        ]
        files["confusion.csv"] = to_csv(["true class", *predictions.classes], matrix)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]
