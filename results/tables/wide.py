"""Wide tables of scores: by default encoder × dataset for each protocol."""

import dataclasses

from results.records.cells import ordered
from results.records.reading import Results
from results.tables.grid_numbers import csv_of
from results.tables.grid_tables import tables_of
from results.tables.grids import grids
from results.tables.layout import Layout
from results.tables.rendering import Table


def wide(results: Results, metric: str | None = None) -> list[Table]:
    """Return one table of texts per protocol, with encoders as rows and datasets as columns.

    Fractions are shown in percent. The last column is the mean over datasets, for encoders with a
    score on all of them.
    """
    layout = Layout(metrics=(metric,) if metric else ())
    return tables_of(grids(results, layout), layout, results.mean_over)


def wide_csv(results: Results, metric: str | None = None) -> str:
    """Return the tables of ``wide`` as one CSV of numbers."""
    layout = Layout(metrics=(metric,) if metric else ())
    return csv_of(grids(results, layout), layout, results.mean_over)


def without_refused(results: Results) -> tuple[Results, str | None]:
    """Return results without labels of which every run was refused before its work.

    Such an encoder, protocol or data set is usually a mistyped setting; its row, table or column
    would stay in all tables. The tables of a sweep show all of its cells.

    Returns:
        The results, and a sentence that names these labels (None: there are none).
    """
    if results.sweep:
        return results, None
    entries = [*results.rows, *(gap for gap in results.gaps if gap.stage != "check")]
    refused: set[tuple[str, str]] = set()
    for axis in ("encoder", "protocol", "dataset"):
        tried = {getattr(entry, axis) for entry in entries}
        labels = {getattr(gap, axis) for gap in results.gaps}
        refused |= {(axis, label) for label in labels - tried if label}
    if not refused:
        return results, None
    gaps = [
        gap
        for gap in results.gaps
        if not any(getattr(gap, axis) == label for axis, label in refused)
    ]
    named = ", ".join(f"`{name}`" for name in ordered(label for _, label in refused))
    return dataclasses.replace(results, gaps=gaps), (
        f"left out: {named}, of which every run was refused before its work; `python -m results "
        "failures` has the reasons."
    )


def protocols(results: Results) -> list[str]:
    """Return the protocols that evaluate encoders on datasets."""
    evaluated = [row.protocol for row in results.rows if row.dataset]
    return ordered(evaluated + [gap.protocol for gap in results.gaps if gap.dataset])
