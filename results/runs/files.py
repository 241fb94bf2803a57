"""The files of ``python -m results run --to FOLDER``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from results.errors import ResultsError
from results.records.predictions import (
    ClassRanking,
    ClassScores,
    Predictions,
    WrongEntry,
    WrongImage,
    confusion,
    rankings_by_class,
    scores_by_class,
    wrong_entries,
    wrong_images,
)
from results.runs.pictures import draw_confusion, draw_training
from results.runs.report import RunReport, facts_table
from results.tables import rendering

ENTRIES_SAVED = 1000


def save_report(report: RunReport, folder: Path) -> tuple[list[Path], str | None]:
    """Write a report as Markdown, its numbers as CSV, and its pictures as PNG.

    Args:
        report: the report of a run.
        folder: where the files are written; it is made if it does not exist.

    Returns:
        the files, and why there are no pictures (None if there are).
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"run.md": _markdown(report)}
    if report.predictions is not None:
        texts |= _numbers(report.predictions)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    files = [folder / name for name in texts]
    try:
        files += list(_pictures(report, folder))
    except ResultsError as error:
        return files, str(error)
    return files, None


def _markdown(report: RunReport) -> str:
    tables = [facts_table(report.run, report.facts), *report.tables]
    return "\n\n".join(map(rendering.to_markdown, tables)) + "\n"


def _numbers(predictions: Predictions) -> dict[str, str]:
    """Return the CSV files: all classes, all errors, and the confusion matrix."""
    if predictions.several_classes:
        averages = rankings_by_class(predictions)
        entries = wrong_entries(predictions, ENTRIES_SAVED)
        return {
            "per_class.csv": rendering.to_csv(ClassRanking._fields, averages),
            "errors.csv": rendering.to_csv(WrongEntry._fields, entries),
        }
    return {
        "per_class.csv": rendering.to_csv(ClassScores._fields, scores_by_class(predictions)),
        "errors.csv": rendering.to_csv(WrongImage._fields, wrong_images(predictions)),
        "confusion.csv": _matrix(predictions),
    }


def _matrix(predictions: Predictions) -> str:
    """Return the confusion matrix: one row per true class, one column per predicted class."""
    names = [str(name) for name in predictions.classes]
    rows: Sequence[Sequence[object]] = [
        [name, *row] for name, row in zip(names, confusion(predictions).tolist(), strict=True)
    ]
    return rendering.to_csv(["true class", *names], rows)


def _pictures(report: RunReport, folder: Path) -> Iterator[Path]:
    record = report.run.document
    names = [str(record[key]) for key in ("model", "method", "dataset") if record.get(key)]
    title = f"{record.get('protocol', 'run')} {report.run.id[:8]}: {', '.join(names)}"
    predictions = report.predictions
    if predictions is not None and not predictions.several_classes:
        path = folder / "confusion.png"
        classes = [str(name) for name in predictions.classes]
        draw_confusion(path, confusion(predictions), classes, title)
        yield path
    path = folder / "curves.png"
    if draw_training(path, report.curves, title):
        yield path
