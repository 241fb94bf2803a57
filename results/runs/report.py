"""What is known about one run: facts, scores of classes and images, and the course of training."""

import dataclasses
import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from results.errors import ResultsError
from results.plain_text import one_line
from results.records.predictions import (
    ClassRanking,
    ClassScores,
    Predictions,
    confusion,
    rankings_by_class,
    read_predictions,
    scores_by_class,
    wrong_entries,
    wrong_images,
)
from results.records.training_curves import Curves, Training, is_finite, read_curves, sparkline
from results.records.validity import impossible
from results.runs.folder import SingleRun
from results.tables.rendering import Table
from results.tables.units import duration

CLASSES_SHOWN = 40
ROWS_SHOWN = 10
ERRORS_SHOWN = 20
_MARK = "—"
"""Shown where a score is a division by zero."""

Fact = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class RunReport:
    """Everything that is shown about a run.

    Args:
        run: the run.
        facts: names and texts.
        tables: scores, selection, classes, errors, trainings; empty ones are left out.
        predictions: its class scores, if it has any that can be read.
        curves: the course of its trainings.
        problems: one sentence per file that could not be used.
    """

    run: SingleRun
    facts: Sequence[Fact]
    tables: Sequence[Table]
    predictions: Predictions | None
    curves: Curves
    problems: Sequence[str]


def report_on(run: SingleRun) -> RunReport:
    """Read the files of a run and return what they say."""
    problems: list[str] = []
    predictions = None
    try:
        if run.status == "finished":
            predictions = read_predictions(run.folder, run.document)
    except ResultsError as error:
        problems.append(str(error))
    curves = read_curves(run.folder)
    if curves.damaged:
        path = run.folder / "metrics.jsonl"
        problems.append(f"`{path}`: {curves.damaged} lines are damaged and were left out.")
    if run.status != "failed" and (run.folder / "failure.json").is_file():
        path = run.folder / "failure.json"
        problems.append(f"a later attempt to compute this run failed; `{path}` holds the reason.")
    tables = [_scores(run.document), _selection(run.document)]
    if predictions is not None:
        tables += _of_predictions(predictions)
    tables.append(_trainings(curves))
    shown = [table for table in tables if table.rows]
    return RunReport(run, list(_facts(run)), shown, predictions, curves, problems)


def facts_text(facts: Sequence[Fact], width: int) -> str:
    """Return facts as aligned lines of ``width`` characters; a longer path is not broken."""
    indent = max(len(name) for name, _ in facts) + 2
    return "\n".join(
        textwrap.fill(
            one_line(text),
            width,
            initial_indent=name.ljust(indent),
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for name, text in facts
    )


def facts_table(run: SingleRun, facts: Sequence[Fact]) -> Table:
    """Return facts as a table."""
    return Table(f"Run {run.id}", ["fact", "value"], facts, left=2)


def _facts(run: SingleRun) -> Iterator[Fact]:
    record = run.document
    yield "run", run.id
    yield "folder", str(run.folder)
    yield "status", _status(run)
    if not record:
        return
    if run.status == "failed":
        yield "reason", str(record["error"])
        yield "traceback", f"in {run.folder / 'failure.json'}"
        if isinstance(record.get("log"), str):
            yield "log", record["log"]
    elif record.get("reason"):
        yield "reason", str(record["reason"])
    for name in ("model", "method", "dataset", "protocol"):
        yield name, str(record.get(name) or "none")
    method = _part(_part(record, "config"), "method")
    if trained_on := _part(method, "pretrain_on").get("name"):
        yield "pretrain_on", str(trained_on)
    encoder = _part(record, "encoder")
    yield "encoder", f"{encoder.get('label') or 'unnamed'} ({encoder.get('id') or 'no id'})"
    yield "seed", str(record.get("seed"))
    identity = record.get("identity")
    for axis in ("protocol", "method", "dataset", "model"):
        node = _part(identity if isinstance(identity, dict) else {}, axis)
        if settings := _settings(node):
            yield f"{axis} keys", settings
    yield from _chosen(_part(record, "selection"))
    yield from _circumstances(record)


def _status(run: SingleRun) -> str:
    if run.status == "unfinished":
        return "unfinished: it is being computed, or was interrupted"
    if run.status == "failed":
        again = run.document.get("stage") == "check"
        remedy = "the same command tries again" if again else "`retry=true` repeats it"
        return f"failed at {run.document.get('when', 'an unknown time')}; {remedy}"
    return run.status


def _settings(node: Mapping[str, Any]) -> str:
    """Return the keys of a node of the configuration, as they stand on the command line."""
    return ", ".join(f"{key}={value}" for key, value in _leaves(node, ""))


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield dotted keys and values; names and targets repeat what the four names say."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        elif path or key not in ("name", "_target_"):
            yield f"{path}{key}", value if isinstance(value, str) else json.dumps(value)


def _chosen(selection: Mapping[str, Any]) -> Iterator[Fact]:
    point = _part(selection, "chosen")
    if point:
        text = ", ".join(f"{key}={value}" for key, value in point.items())
        by = f"selected on {selection['split']}" if selection.get("split") else "not selected"
        yield "chosen", f"{text} ({by})"
    if selection.get("best_epoch") is not None:
        yield "best epoch", str(selection["best_epoch"])
    edge = selection.get("at_edge")
    if isinstance(edge, list) and edge:
        names = ", ".join(map(str, edge))
        yield "at an edge", f"{names}: the chosen value ends its list; a better one may lie beyond"


def _circumstances(record: Mapping[str, Any]) -> Iterator[Fact]:
    data, trainable = _part(record, "data"), _part(record, "trainable")
    if data:
        sizes = ", ".join(f"{split} {size}" for split, size in _part(data, "sizes").items())
        yield "images", f"{sizes or 'unknown'}; {data.get('num_classes', '?')} classes"
        yield "data", f"fingerprint {str(data.get('fingerprint'))[:16]}"
    if record.get("weights_sha256"):
        yield "weights", f"sha256 {str(record['weights_sha256'])[:16]}"
    if trainable:
        yield "trained", f"{trainable.get('parameters')} parameters"
    if is_finite(record.get("duration_s")):
        device = record.get("device_name") or record.get("device", "unknown")
        where = f" on {record.get('processes', 1)} × {device}"
        yield "duration", f"{duration(record['duration_s'])}{where}"
    if record.get("started"):
        yield "started", str(record["started"])
    if record.get("job"):
        yield "job", str(record["job"])
    requires = record.get("requires")
    if isinstance(requires, list) and requires:
        yield "requires", ", ".join(map(str, requires))
    code = _part(record, "code")
    if code:
        changed = " with changes" if code.get("dirty") else ""
        yield "code", f"{code.get('revision')}{changed}"
    versions = _part(record, "versions")
    if versions:
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def _part(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = node.get(key)
    return part if isinstance(part, dict) else {}


def _scores(record: Mapping[str, Any]) -> Table:
    rows = []
    for score in record.get("scores") or ():
        fault = impossible(score)
        rows.append(
            [
                f"{score['metric']}{' (primary)' if score['primary'] else ''}",
                str(score.get("split") or ""),
                f"invalid: {fault}" if fault else _value(score["value"], score["unit"]),
            ]
        )
    return Table("Scores", ["metric", "split", "value"], rows, left=2)


def _value(value: float, unit: str) -> str:
    return _percent(value) + " %" if unit == "fraction" else f"{value:.4g} {unit}"


def _selection(record: Mapping[str, Any]) -> Table:
    """Return the best points of the grid with their scores on the selection split."""
    selection = _part(record, "selection")
    tried = selection.get("scores")
    points = (
        [point for point in tried if isinstance(point, dict)] if isinstance(tried, list) else []
    )
    points.sort(key=lambda point: -point["value"] if is_finite(point.get("value")) else math.inf)
    keys = list(dict.fromkeys(key for point in points for key in point if key != "value"))
    rows = [
        [*(str(point.get(key, "")) for key in keys), _selected_by(point.get("value"))]
        for point in points[:ROWS_SHOWN]
    ]
    notes = [f"the best {ROWS_SHOWN} of {len(points)} points"] if len(points) > ROWS_SHOWN else []
    title = f"Hyper-parameters on {selection.get('split')}"
    return Table(title, [*keys, "score"], rows, notes, left=max(1, len(keys)))


def _selected_by(value: Any) -> str:
    """Return the score of a point of the grid, which is null if its training diverged."""
    return f"{value:.4f}" if is_finite(value) else "diverged"


def _of_predictions(predictions: Predictions) -> list[Table]:
    if predictions.several_classes:
        return [
            ranking_table(rankings_by_class(predictions), CLASSES_SHOWN),
            entries_table(predictions),
        ]
    return [
        class_table(scores_by_class(predictions), CLASSES_SHOWN),
        confusions_table(predictions),
        errors_table(predictions),
    ]


def class_table(scores: Sequence[ClassScores], most: int | None = None) -> Table:
    """Return the scores of classes in percent; of many classes those with the lowest recall."""
    kept, notes = list(scores), []
    if most is not None and len(scores) > most:
        kept = sorted(scores, key=lambda c: math.inf if c.recall is None else c.recall)[:most]
        notes = [f"the {most} of {len(scores)} classes with the lowest recall"]
    rows = [
        [c.name, str(c.n), _percent(c.recall), _percent(c.precision), _percent(c.f1)] for c in kept
    ]
    if any(_MARK in row[2:] for row in rows):
        notes.append(f"{_MARK}: no image shows the class, or none is predicted as it")
    header = ["class", "n", "recall", "precision", "F1"]
    return Table("Scores per class in %", header, rows, notes)


def ranking_table(rankings: Sequence[ClassRanking], most: int | None = None) -> Table:
    """Return average precisions in percent; of many classes the lowest ones."""
    kept, notes = list(rankings), []
    if most is not None and len(rankings) > most:
        known = [c for c in rankings if c.average_precision is not None]
        kept = sorted(known, key=lambda c: c.average_precision or 0.0)[:most]
        notes = [f"the {most} of {len(rankings)} classes with the lowest average precision"]
    rows = [
        [c.name, str(c.n), str(c.others), str(c.unknown), _percent(c.average_precision),
         _percent(c.eleven_points)]
        for c in kept
    ]  # fmt: skip
    notes.append("11 points: the interpolation whose mean `map_11_point` is")
    if any(row[4] == _MARK for row in rows):
        notes.append(f"{_MARK}: no image shows the class")
    header = ["class", "n", "not shown", "not known", "average precision", "11 points"]
    return Table("Scores per class in %", header, rows, notes)


def confusions_table(predictions: Predictions) -> Table:
    """Return the most frequent confusions of two classes."""
    counts = confusion(predictions)
    of_class = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    rows = []
    for place in np.argsort(-counts, axis=None, kind="stable")[:ROWS_SHOWN]:
        true, predicted = divmod(int(place), len(predictions.classes))
        if not counts[true, predicted]:
            break
        names = [str(predictions.classes[c]) for c in (true, predicted)]
        count = int(counts[true, predicted])
        rows.append([*names, str(count), _percent(count / int(of_class[true]))])
    header = ["true class", "predicted class", "images", "% of true class"]
    return Table("Most frequent confusions", header, rows, left=2)


def errors_table(predictions: Predictions) -> Table:
    """Return the wrong predictions with the highest probability."""
    wrong = wrong_images(predictions)
    rows = [
        [e.file, e.true, e.predicted, _percent(e.probability), _percent(e.probability_of_true)]
        for e in wrong[:ERRORS_SHOWN]
    ]
    what = "share of the votes" if predictions.are_shares else "softmax of the class scores"
    header = ["file", "true class", "predicted class", "probability, %", "of the true class, %"]
    title = f"Worst errors of {len(wrong)} among {len(predictions.files)} test images"
    return Table(title, header, rows, [f"probability: {what}"], left=3)


def entries_table(predictions: Predictions) -> Table:
    """Return the highest scores of classes that the image does not show."""
    rows = [[e.file, e.absent, f"{e.score:.3f}"] for e in wrong_entries(predictions, ERRORS_SHOWN)]
    header = ["file", "class that it does not show", "score"]
    return Table("Worst errors", header, rows, left=2)


def _trainings(curves: Curves) -> Table:
    rows = [_training(one) for one in curves.trainings]
    rows = [row for row in rows if row]
    notes = ["loss: its course over the steps, lowest to highest; lr: the highest logged value"]
    if any(one.name == "grid" for one in curves.trainings):
        notes.append("`grid` trains one head per point at once; its loss is the sum of theirs")
    for key, name in (("knn_top1", "kNN accuracy"), ("probe_val_top1", "online probe")):
        steps, values = curves.monitor.series(key)
        if values:
            course = f" {sparkline(values)}" if len(values) > 1 else ""
            notes.append(f"{name} at step {steps[-1]}: {_percent(values[-1])} %{course}")
    header = ["training", "loss", "steps", "lr", "first loss", "last loss"]
    return Table("Course of training", header, rows, notes, left=2)


def _training(training: Training) -> list[str]:
    """Return the row of a training; nothing if no loss was logged."""
    (steps, losses), (_, rates) = training.series("loss"), training.series("lr")
    if not losses:
        return []
    planned = training.lines[-1].get("steps")
    last = f"{steps[-1]}" if planned in (None, steps[-1]) else f"{steps[-1]} of {planned}"
    rate = f"{max(rates):.3g}" if rates else ""
    return [training.name, sparkline(losses), last, rate, f"{losses[0]:.4g}", f"{losses[-1]:.4g}"]


def _percent(fraction: float | None) -> str:
    return _MARK if fraction is None else f"{100 * fraction:.2f}"
