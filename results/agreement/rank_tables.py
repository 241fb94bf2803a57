"""Tables of ranks below tables of scores: encoder × dataset, and the mean rank."""

from collections.abc import Mapping, Sequence

from results.agreement.ranks import OVERALL, Rank, Ranking, ranks
from results.errors import ResultsError
from results.records.reading import Results
from results.tables.entries import MISSING
from results.tables.grids import Grid
from results.tables.layout import Coordinates, Layout
from results.tables.rendering import CellText, Table

MEAN_RANK = "mean rank"
"""Name of the column with mean ranks over datasets."""


def rankings_of(results: Results, grid: Grid, layout: Layout) -> list[Ranking]:
    """Return the rankings of the encoders of one grid; none if it has no scores.

    Raises:
        ResultsError: if rows are not encoders or columns not datasets.
    """
    if (layout.rows, layout.columns) != (("encoder",), ("dataset",)) or layout.apart:
        over = f", with means over {' and '.join(layout.mean_over)}" if layout.mean_over else ""
        raise ResultsError(
            "`--ranks` needs encoders as rows and datasets as columns, but the axes are "
            f"{' and '.join(layout.rows)} × {' and '.join(layout.columns)}{over}; leave out "
            "`--rows`, `--columns` and seeds of encoders in `--mean-over`."
        )
    if all(entry.value is None for entry in grid.entries.values()):
        return []
    about = dict(zip(layout.tables, grid.about, strict=True))
    metric = about.get("metric") or "".join(layout.metrics)
    return ranks(results, f"{about['protocol']}:{metric}" if metric else about["protocol"])


def rank_table(grid: Grid, rankings: Sequence[Ranking], title: str) -> Table:
    """Return the ranks as a table with the rows of the grid; the best encoder has rank 1."""
    columns = [
        {rank.encoder: _text(rank, ranking) for rank in ranking.ranks} for ranking in rankings
    ]
    rows = [
        [encoder, *(texts.get(encoder, MISSING) for texts in columns)] for (encoder,) in grid.rows
    ]
    header = ["encoder", *(_name(ranking) for ranking in rankings)]
    return Table(f"{title}: ranks, 1 is the best", header, rows, _notes(rankings))


def rank_columns(rankings: Sequence[Ranking]) -> dict[Coordinates, dict[str, object]]:
    """Return the columns of ranks beside scores in CSV, by row of the grid."""
    columns: dict[Coordinates, dict[str, object]] = {}
    for ranking in rankings:
        name = MEAN_RANK if ranking.dataset == OVERALL else f"{ranking.dataset} rank"
        for rank in ranking.ranks:
            ends = [None if end is None else round(end, 4) for end in (rank.low, rank.high)]
            numbers = (round(rank.rank, 4), *ends, rank.group)
            parts = ("", " low", " high", " group")
            named = {f"{name}{part}": one for part, one in zip(parts, numbers, strict=True)}
            columns.setdefault((rank.encoder,), {}).update(named)
    return columns


def with_rank_lines(
    columns: Mapping[str, Sequence[object]],
    grids: Sequence[Grid],
    layout: Layout,
    rankings: Sequence[Sequence[Ranking]],
) -> dict[str, list[object]]:
    """Return a long table with further lines for ranks, and a column ``group`` for their letters.

    Args:
        columns: the long table of the scores.
        grids: its grids.
        layout: their axes.
        rankings: the rankings of each grid.
    """
    extended = {name: list(values) for name, values in columns.items()}
    extended["group"] = [""] * len(extended["value"])
    for grid, some in zip(grids, rankings, strict=True):
        about = dict(zip(layout.tables, grid.about, strict=True))
        for ranking in some:
            metric = MEAN_RANK if ranking.dataset == OVERALL else "rank"
            for rank in ranking.ranks:
                line = about | {"encoder": rank.encoder, "dataset": ranking.dataset}
                line |= {"metric": metric, "unit": "", "status": "", "group": rank.group}
                numbers = {"value": rank.rank, "low": rank.low, "high": rank.high}
                facts: dict[str, object] = {**line, **numbers, "higher_is_better": False}
                for name, values in extended.items():
                    values.append(facts.get(name))
    return extended


def _name(ranking: Ranking) -> str:
    return MEAN_RANK if ranking.dataset == OVERALL else ranking.dataset


def _text(rank: Rank, ranking: Ranking) -> CellText:
    # Ranks on one dataset are whole or halves, mean ranks are not.
    numbers = [
        f"{number:.2f}" if ranking.dataset == OVERALL else f"{number:.4g}"
        for number in (rank.rank, rank.low, rank.high)
        if number is not None
    ]
    ends = f" [{', '.join(numbers[1:])}]" if numbers[1:] else ""
    return CellText(numbers[0] + ends, group=rank.group)


def _notes(rankings: Sequence[Ranking]) -> list[str]:
    notes = []
    if any(rank.group for ranking in rankings for rank in ranking.ranks):
        notes.append(
            "rank [95 % interval] and letters: encoders that share a letter cannot be told apart"
        )
    if len(rankings) > 1:
        notes.append(f"{MEAN_RANK}: over the datasets, for encoders with a score on all of them")
    named: Mapping[str, list[str]] = {
        note: [_name(ranking) for ranking in rankings if ranking.note == note]
        for note in dict.fromkeys(ranking.note for ranking in rankings if ranking.note)
    }
    for note, datasets in named.items():
        everywhere = len(datasets) == len(rankings)
        notes.append(note if everywhere else f"{', '.join(datasets)}: {note}")
    if any(ranking.left_out for ranking in rankings):
        notes.append(f"{MISSING} no score")
    return notes
