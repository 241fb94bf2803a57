"""Wide tables: encoder × dataset for each protocol, mean and spread over runs."""

import dataclasses
import statistics
from collections.abc import Sequence

from results.records.cells import Cell, Cells, cells, ordered
from results.records.reading import Results
from results.tables.rendering import Table, to_csv

MISSING = "–"
OUTDATED = "other data"


def wide(results: Results, metric: str | None = None) -> list[Table]:
    """Return one table of texts per protocol.

    Fractions are shown in percent. The last column is the mean over datasets, for encoders with a
    score on all of them.
    """
    return [
        _table(protocol, cells(results, protocol, metric), results.mean_over)
        for protocol in protocols(results)
    ]


def without_refused(results: Results) -> tuple[Results, str | None]:
    """Return results without data sets of which every run was refused before its work.

    Such a data set is usually a mistyped name or folder; its column would stay in all tables.

    Returns:
        The results, and a sentence that names these data sets (None: there are none).
    """
    tried = {row.dataset for row in results.rows}
    tried |= {gap.dataset for gap in results.gaps if gap.stage != "check"}
    refused = ordered({gap.dataset for gap in results.gaps if gap.dataset} - tried)
    if not refused:
        return results, None
    gaps = [gap for gap in results.gaps if gap.dataset not in refused]
    named = ", ".join(f"`{name}`" for name in refused)
    return dataclasses.replace(results, gaps=gaps), (
        f"left out: {named}, of which every run was refused before its work; `python -m results "
        "failures` has the reasons."
    )


def protocols(results: Results) -> list[str]:
    """Return the protocols that evaluate encoders on datasets."""
    evaluated = [row.protocol for row in results.rows if row.dataset]
    return ordered(evaluated + [gap.protocol for gap in results.gaps if gap.dataset])


def wide_csv(results: Results, metric: str | None = None) -> str:
    """Return all tables as one CSV of numbers, with one row per protocol and encoder.

    Each dataset has columns for the mean, the sample standard deviation and the number of seeds
    (``runs`` if another key is averaged, too). Without a score, the first has the reason, such as
    ``failed`` or ``n/a``.
    """
    tables = {protocol: cells(results, protocol, metric) for protocol in protocols(results)}
    datasets = ordered(name for table in tables.values() for _, name in table if name)
    header = ["protocol", "encoder"]
    number = " runs" if results.mean_over else " seeds"
    header += [f"{name}{part}" for name in datasets for part in ("", " std", number)]
    rows = []
    for protocol, table in tables.items():
        own = _datasets(table)
        for encoder in ordered(encoder for encoder, _ in table):
            row: list[object] = [protocol, encoder]
            for name in datasets:
                row += _numbers(table.get((encoder, name), Cell()))
            rows.append([*row, _mean(table, encoder, own)])
    return to_csv([*header, "mean"], rows)


def _datasets(table: Cells) -> list[str]:
    return ordered(dataset for _, dataset in table if dataset)


def _scale(cell: Cell) -> float:
    return 100.0 if cell.row is not None and cell.row.unit == "fraction" else 1.0


def _numbers(cell: Cell) -> list[object]:
    if not cell.values:
        return ["" if _text(cell, 1) == MISSING else _text(cell, 1), None, None]
    spread = None if cell.spread is None else round(cell.spread * _scale(cell), 4)
    return [round(cell.mean * _scale(cell), 4), spread, len(cell.values)]


def _mean(table: Cells, encoder: str, datasets: Sequence[str]) -> float | None:
    """Return the mean over datasets; None if a score is missing or the units differ."""
    row = [table.get((encoder, dataset), Cell()) for dataset in datasets]
    units = {cell.row.unit for cell in row if cell.row is not None}
    if not all(cell.values for cell in row) or len(units) != 1:
        return None
    return round(statistics.fmean(cell.mean * _scale(cell) for cell in row), 4)


def _text(cell: Cell, runs: int) -> str:
    if not cell.values:
        reasons = {"invalid": cell.invalid, "failed": cell.failed, "n/a": cell.not_applicable}
        return next((text for text, holds in reasons.items() if holds), MISSING)
    scale = _scale(cell)
    digits = ".2f" if scale == 100 else ".4g"
    text = f"{cell.mean * scale:{digits}}"
    if cell.spread is not None:
        text += f" ± {cell.spread * scale:{digits}}"
    remarks = [f"n={len(cell.values)}"] if len(cell.values) != runs else []
    remarks += [f"{cell.failed} failed"] if cell.failed else []
    remarks += [f"{cell.invalid} invalid"] if cell.invalid else []
    remarks += [f"{cell.left_out} on other files"] if cell.left_out else []
    remarks += [OUTDATED] if cell.outdated else []
    return f"{text} ({', '.join(remarks)})" if remarks else text


def _table(protocol: str, table: Cells, mean_over: Sequence[str]) -> Table:
    datasets, encoders = _datasets(table), ordered(encoder for encoder, _ in table)
    counts = [len(cell.values) for cell in table.values() if cell.values]
    runs = max(counts, default=1)
    with_mean = len(datasets) > 1
    rows = []
    for encoder in encoders:
        row = [encoder, *(_text(table.get((encoder, d), Cell()), runs) for d in datasets)]
        if with_mean:
            mean = _mean(table, encoder, datasets)
            row.append(MISSING if mean is None else f"{mean:.2f}")
        rows.append(row)
    header = ["encoder", *datasets, *(["mean"] if with_mean else [])]
    return Table(f"{protocol}: {_metrics(table)}", header, rows, _notes(rows, runs, mean_over))


def _metrics(table: Cells) -> str:
    """Return the metrics of a table with their units."""
    datasets_of: dict[str, list[str]] = {}
    for (_, dataset), cell in table.items():
        if cell.row is not None:
            unit = "%" if cell.row.unit == "fraction" else cell.row.unit
            datasets_of.setdefault(f"{cell.row.metric} in {unit}", []).append(dataset)
    if not datasets_of:
        return "no score"
    common = max(datasets_of, key=lambda metric: len(datasets_of[metric]))
    others = [
        f"{metric} on {', '.join(ordered(datasets_of[metric]))}"
        for metric in datasets_of
        if metric != common
    ]
    return "; ".join([common, *others])


def _notes(rows: Sequence[Sequence[str]], runs: int, mean_over: Sequence[str]) -> list[str]:
    texts = [text for row in rows for text in row[1:]]
    notes = []
    if runs > 1:
        over = f"runs (seeds, {', '.join(mean_over)})" if mean_over else "seeds"
        notes.append(f"mean ± sample standard deviation over {runs} {over}")
    if MISSING in texts:
        notes.append(f"{MISSING} not run, or no mean because a dataset is missing")
    if "n/a" in texts:
        notes.append("n/a: the protocol cannot evaluate this encoder")
    if any("invalid" in text for text in texts):
        notes.append(
            "invalid: the score is NaN, infinite or no fraction, and no part of a mean; see "
            "`python -m results failures`"
        )
    if any(OUTDATED in text or "on other files" in text for text in texts):
        notes.append(
            f"{OUTDATED}: the fingerprints of data or weights differ from those of the latest runs "
            "in this column or row; runs on other files enter no mean; force=true computes them "
            "again"
        )
    if any("failed" in text for text in texts):
        notes.append("failed: see `python -m results failures`")
    return notes
