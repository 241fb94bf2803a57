"""The tables of a report, with the numbers behind their texts."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from results.agreement.analysis import Analysis
from results.agreement.choice_tables import cost_table, to_tables
from results.agreement.choosing import FAR, MEAN, Choice
from results.agreement.correlation_tables import legend, to_one_table
from results.agreement.ranks import Ranking
from results.records.cells import ordered
from results.records.reading import MissingRun
from results.report.html import Number
from results.tables.grid_tables import tables_of
from results.tables.grids import Grid, grids
from results.tables.layout import Layout
from results.tables.rendering import Table, is_best
from results.tables.wide import without_refused

LISTS_ENCODERS = "without a score of"
"""The start of notes that name all encoders, which may be hundreds; the page counts them."""


def correlation_table(analysis: Analysis) -> Table:
    """Return all correlations as one table."""
    texts = to_one_table(analysis.correlations)
    names = list(analysis.correlations[0].coefficients)
    rows = []
    for row, entry in zip(texts.rows, analysis.correlations, strict=True):
        first = len(row) - len(names)
        coefficients = [entry.coefficients.get(name) for name in names]
        values = [c.value if c else None for c in coefficients]
        rows.append([*row[:first], *map(Number, row[first:], values)])
    return dataclasses.replace(texts, rows=rows, notes=legend(analysis.correlations))


def score_tables(analysis: Analysis) -> list[Table]:
    """Return one table of encoders and datasets per protocol, the target's first."""
    layout = Layout()
    several = grids(without_refused(analysis.results)[0], layout)
    texts = tables_of(several, layout, analysis.results.mean_over)
    pairs = sorted(
        zip(several, texts, strict=True), key=lambda pair: pair[0].about[0] != analysis.protocol
    )
    return [_with_values(grid, text) for grid, text in pairs]


def _with_values(grid: Grid, texts: Table) -> Table:
    rows = []
    for coordinates, (encoder, *cells) in zip(grid.rows, texts.rows, strict=True):
        entries = [grid.at(coordinates, column) for column in grid.all_columns]
        rows.append(
            [
                encoder,
                *(
                    Number(cell, entry.value, best=is_best(cell))
                    for cell, entry in zip(cells, entries, strict=True)
                ),
            ]
        )
    return dataclasses.replace(texts, rows=rows)


def rank_table(rankings: Sequence[Ranking]) -> Table:
    """Return the ranks of all encoders by dataset and over all, with intervals and groups."""
    by_dataset = {
        ranking.dataset: {rank.encoder: rank for rank in ranking.ranks} for ranking in rankings
    }
    encoders = ordered(encoder for column in by_dataset.values() for encoder in column)
    # The last ranking is the one over all datasets, if there are several.
    places = {rank.encoder: rank.rank for rank in rankings[-1].ranks}
    encoders.sort(key=lambda encoder: places.get(encoder, math.inf))
    rows: list[list[str]] = []
    for encoder in encoders:
        row: list[str] = [encoder]
        for column in by_dataset.values():
            rank = column.get(encoder)
            if rank is None:
                row.append("–")
                continue
            text = f"{rank.rank:.3g}"
            if rank.low is not None and rank.high is not None:
                text += f" [{rank.low:.3g}, {rank.high:.3g}]"
            row.append(Number(text, rank.rank, group=rank.group))
        rows.append(row)
    notes = (
        [
            "[low, high]: 95 % interval of the rank",
            "letters: encoders that share one cannot be told apart",
        ]
        if any(rank.group for ranking in rankings for rank in ranking.ranks)
        else []
    )
    return Table("Ranks by the target; 1 is the best", ["encoder", *by_dataset], rows, notes)


def choice_tables(analysis: Analysis) -> list[Table]:
    """Return what choosing by each proxy gives, means over datasets first, and what it costs."""
    tables = []
    for texts in reversed(to_tables(analysis.choices, FAR)):
        means = texts.header[1] == "datasets"
        entries = [choice for choice in analysis.choices if (choice.dataset == MEAN) == means]
        first = len(texts.header) - 6
        rows = [
            [*row[:first], *map(Number, row[first:], _numbers(entry))]
            for row, entry in zip(texts.rows, entries, strict=True)
        ]
        notes = [note for note in texts.notes if not note.startswith(LISTS_ENCODERS)]
        notes += [] if means and len(analysis.datasets) > 1 else _incomplete(analysis)
        tables.append(dataclasses.replace(texts, rows=rows, notes=notes))
    price = cost_table(analysis.costs, analysis.choices, analysis.target.name)
    return tables if price is None else [*tables, price]


def _incomplete(analysis: Analysis) -> Iterator[str]:
    """Yield how many encoders each proxy has no score of, on the dataset with the fewest."""
    for proxy in analysis.proxies:
        counts = [
            len(set(analysis.target.raw[dataset]) - set(proxy.on(dataset)[0]))
            for dataset in analysis.datasets
        ]
        most = max(counts, default=0)
        if proxy.raw and most:
            yield f"`{proxy.name}` has no score of up to {most} encoders of a dataset"


def _numbers(entry: Choice) -> list[float | None]:
    values = (
        entry.regret.value, entry.regret_at_3.value, entry.relative_top1, entry.hit_at_1,
        entry.hit_at_3, entry.num_misses,
    )  # fmt: skip
    return [None if math.isnan(value) else value for value in values]


def gap_table(gaps: Sequence[MissingRun]) -> Table:
    """Return the runs without a score; those of one encoder with the same reason are one row."""
    groups: dict[tuple[str, ...], list[MissingRun]] = {}
    for gap in gaps:
        key = (gap.encoder or gap.run_id, gap.protocol, gap.kind, gap.reason)
        groups.setdefault(key, []).append(gap)
    rows = [
        [
            encoder, protocol, ", ".join(ordered(gap.dataset for gap in group if gap.dataset)),
            kind.replace("_", " "), reason, Number(str(len(group)), len(group)),
        ]
        for (encoder, protocol, kind, reason), group in groups.items()
    ]  # fmt: skip
    header = ["encoder", "protocol", "datasets", "kind", "reason", "runs"]
    return Table("Cells without a score", header, rows, left=5)


def outdated_table(analysis: Analysis) -> Table:
    """Return the cells with runs of other data or weights than the latest ones."""
    header = ["encoder", "protocol", "dataset", "shown", "runs left out"]
    title = "Cells with runs of other data or weights than the latest ones"
    return Table(title, header, list(_outdated(analysis)), left=4)


def _outdated(analysis: Analysis) -> Iterator[list[str]]:
    for protocol, cells in analysis.cells.items():
        for (encoder, dataset), cell in sorted(cells.items()):
            if cell.outdated or cell.left_out:
                shown = "outdated runs" if cell.outdated else "the latest runs"
                left_out = Number(str(cell.left_out), cell.left_out)
                yield [encoder, protocol, dataset, shown, left_out]
