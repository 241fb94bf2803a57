"""The lines that answer a sweep: which proxies agree with the target, and the best encoders."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from results.agreement.analysis import TARGET, Analysis, analyse
from results.agreement.choosing import RANDOM, Choice
from results.agreement.headline import HEADLINE, Agreement
from results.errors import ResultsError
from results.plain_text import one_line
from results.records.cells import Cell, cells, ordered
from results.records.labels import natural
from results.records.reading import Results
from results.report.aggregates import aggregates_of
from results.report.answer import count, number
from results.tables.printing import save
from results.tables.wide import protocols

_PROXIES = 3
_ENCODERS = 3


def has_target(results: Results) -> bool:
    """Return whether a dataset has a score of the target."""
    return any(row.protocol.split(" ")[0] == TARGET and row.dataset for row in results.rows)


def agreement(results: Results, folder: Path, saved: list[str]) -> Iterator[str]:
    """Yield how the best proxies agree and what choosing by them costs.

    All correlations and choices are saved. There is no line for fewer than five encoders, or
    without a proxy that is no baseline.

    Args:
        results: the results of the sweep.
        folder: where to save the tables.
        saved: receives the names of the tables.
    """
    if not has_target(results):
        return
    try:
        analysis = analyse(results)
    except ResultsError as error:
        yield f"no correlations: {error}"
        return
    if analysis.too_few or {proxy.name for proxy in analysis.proxies} <= analysis.baselines:
        return
    for aggregate in aggregates_of(analysis):
        save(folder, aggregate.name, aggregate.tables, aggregate.numbers)
        saved.append(aggregate.name)
    shown = list(_best_proxies(analysis))
    yield from _correlations(analysis, shown)
    yield from _regrets(analysis.choices, shown)


def _best_proxies(analysis: Analysis) -> Iterator[Agreement]:
    """Yield the proxies that agree best, then the best baseline, as far as they are defined."""
    known = [one for one in analysis.agreements if one.coefficient]
    yield from [one for one in known if one.proxy not in analysis.baselines][:_PROXIES]
    yield from [one for one in known if one.proxy in analysis.baselines][:1]


def _correlations(analysis: Analysis, shown: Sequence[Agreement]) -> Iterator[str]:
    if shown:
        yield f"correlation with {TARGET} ({HEADLINE}, 95 % interval):"
    width = max((len(one_line(one.proxy)) for one in shown), default=0)
    for one in shown:
        where = count(len(one.datasets), "dataset")
        encoders = count(one.coefficient.n, "encoder")
        kind = ", a baseline" if one.proxy in analysis.baselines else ""
        name = one_line(one.proxy)
        yield f"  {name:<{width}}  {number(one.coefficient)} on {where}, {encoders}{kind}"


def _regrets(choices: Sequence[Choice], shown: Sequence[Agreement]) -> Iterator[str]:
    """Yield one line about the choices over all datasets, if they are comparable."""
    overall = {one.proxy: one for one in choices if one.dataset == choices[-1].dataset and one}
    most = max((one.encoders for one in overall.values()), default=0)
    parts = []
    for name in (*(one.proxy for one in shown), RANDOM):
        if (choice := overall.get(name)) is not None:
            among = "" if choice.encoders == most else f" (among {choice.encoders})"
            parts.append(f"{choice.regret.value:.2f} by {name}{among}")
    if len(parts) > 1:
        unit = overall[RANDOM].unit if RANDOM in overall else "points"
        yield f"loss of choosing the encoder, in {unit}: {', '.join(parts)}"


def best_encoders(results: Results) -> list[str]:
    """Return one line per protocol with its best encoders, the target first.

    The other protocols follow by the number of their datasets. Scores are means over the datasets
    that all of the ranked encoders have.
    """
    tables = {protocol: cells(results, protocol) for protocol in protocols(results)}
    by_coverage = sorted(
        tables,
        key=lambda name: (name.split(" ")[0] != TARGET, -_coverage(tables[name])),
    )
    lines = (_best(protocol, tables[protocol]) for protocol in by_coverage)
    return [line for line in lines if line is not None]


def _coverage(table: Mapping[tuple[str, str], Cell]) -> int:
    """Return the number of datasets with a score."""
    return len({dataset for (_, dataset), cell in table.items() if cell.values})


def _best(protocol: str, table: Mapping[tuple[str, str], Cell]) -> str | None:
    """Return the best encoders of a protocol; None if its scores cannot be averaged."""
    scored = {key: cell for key, cell in table.items() if cell.values and cell.row is not None}
    datasets = ordered(dataset for _, dataset in scored)
    rows = {
        encoder: [scored[encoder, d] for d in datasets if (encoder, d) in scored]
        for encoder in ordered(encoder for encoder, _ in scored)
    }
    complete = {encoder: row for encoder, row in rows.items() if len(row) == len(datasets)}
    first = [cell.row for row in complete.values() for cell in row if cell.row is not None]
    if len({(row.metric, row.unit) for row in first}) != 1:
        return None
    scale = 100.0 if first[0].unit == "fraction" else 1.0
    means = {e: scale * statistics.fmean(c.mean for c in row) for e, row in complete.items()}
    sign = -1 if first[0].higher_is_better else 1
    best = sorted(means, key=lambda encoder: (sign * means[encoder], natural(encoder)))
    shown = ", ".join(f"{encoder} {means[encoder]:.4g}" for encoder in best[:_ENCODERS])
    where = f"mean of {len(datasets)} datasets" if len(datasets) > 1 else datasets[0]
    return f"best of {len(rows)} by {protocol} ({first[0].metric}, {where}): {shown}"
