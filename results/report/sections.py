"""The sections of a report in the order of the page: each is made from an analysis alone."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from results.agreement.analysis import Analysis
from results.agreement.correlation_tables import to_one_table
from results.agreement.headline import Agreement
from results.agreement.ranks import OVERALL
from results.records.cells import Cell as ScoreCell
from results.records.cells import ordered
from results.records.reading import MissingRun
from results.report import answer, html
from results.report.html import Number
from results.report.provenance import provenance, sentences, to_table
from results.statistics.intervals import FEWEST
from results.tables.rendering import Table
from results.tables.wide import protocols, wide

COEFFICIENT = "Spearman's ρ"
"""The name of ``headline.HEADLINE`` in sentences."""
FEW_DATASETS = 3
"""Number of datasets up to which the answer names the best encoder of each."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a report shows besides its analysis.

    Args:
        sources: sentences that say where the numbers are read from.
        command: the command that made the report.
        highlight: the encoder that is highlighted first; empty for none.
        maps: whether t-SNE maps are shown.
    """

    sources: Sequence[str] = ()
    command: str = "python -m results report"
    highlight: str = ""
    maps: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page: its anchor, its heading, and its content as HTML."""

    name: str
    title: str
    body: str


def sections(analysis: Analysis, request: Request) -> list[Section]:
    """Return the sections of a report that have content."""
    made = [make(analysis, request) for make in ORDER]
    return [section for section in made if section.body]


def _answer(analysis: Analysis, request: Request) -> Section:
    target, encoders = analysis.target.name, len(analysis.encoders)
    start = answer.basis(target, encoders, analysis.datasets, len(analysis.proxies))
    texts = [*_agreement(analysis), *_best_encoders(analysis)]
    body = [
        html.paragraphs([_lead(analysis)], "lead"), html.paragraphs([start]), html.bullets(texts)
    ]  # fmt: skip
    return Section("answer", "Answer", "\n".join(body))


def _lead(analysis: Analysis) -> str:
    """Return the sentence that answers the question."""
    target, encoders, best = analysis.target.name, len(analysis.encoders), analysis.best
    if not analysis.proxies:
        return f"There is no proxy to compare with {answer.name(target)}."
    if best is None:
        return answer.too_few(encoders, FEWEST)
    kind = "baseline" if best.proxy in analysis.baselines else "proxy"
    others = len(_known(analysis, baselines=kind == "baseline")) - 1
    return answer.best_proxy(best, target, encoders, others, COEFFICIENT, kind=kind)


def _agreement(analysis: Analysis) -> Iterator[str]:
    """Yield what qualifies the answer: other proxies, baselines, and the choice of the best."""
    best, encoders = analysis.best, len(analysis.encoders)
    if best is None:
        return
    proxies, baselines = _known(analysis, baselines=False), _known(analysis, baselines=True)
    for group, kind in ((proxies, ""), (baselines, "baseline" if proxies else "")):
        if kind and (text := answer.baselines(group, COEFFICIENT)):
            yield text
        differences = {
            one.proxy: analysis.advantages[one.proxy] for one in group if one.proxy != best.proxy
        }
        yield from answer.comparison(best.proxy, differences, encoders, kind)
    if text := answer.optimism(len(proxies)):
        yield text


def _known(analysis: Analysis, *, baselines: bool) -> list[Agreement]:
    """Return the agreements of the baselines, or of the other proxies, that have a coefficient."""
    return [
        one
        for one in analysis.agreements
        if one.coefficient and (one.proxy in analysis.baselines) == baselines
    ]


def _best_encoders(analysis: Analysis) -> Iterator[str]:
    """Yield the best encoder over all datasets, and of each dataset if there are few."""
    rankings = sorted(analysis.ranks, key=lambda ranking: ranking.dataset != OVERALL)
    for ranking in rankings if len(rankings) <= FEW_DATASETS else rankings[:1]:
        if text := answer.best_encoder(ranking, analysis.target.name):
            yield text


def _correlations(analysis: Analysis, request: Request) -> Section:
    if not analysis.correlations:
        return Section("correlations", "Correlations", "")
    texts = to_one_table(analysis.correlations)
    names = list(analysis.correlations[0].coefficients)
    rows = []
    for row, entry in zip(texts.rows, analysis.correlations, strict=True):
        first = len(row) - len(names)
        coefficients = [entry.coefficients.get(name) for name in names]
        values = [c.value if c else None for c in coefficients]
        rows.append([*row[:first], *map(Number, row[first:], values)])
    content = dataclasses.replace(texts, rows=rows)
    return Section("correlations", "Correlations", html.table(content, "correlation-table"))


def _scores(analysis: Analysis, request: Request) -> Section:
    """Return one table per protocol, the target first."""
    tables = dict(zip(protocols(analysis.results), wide(analysis.results), strict=True))
    target = analysis.target.name.partition(":")[0]
    names = sorted(tables, key=lambda label: label.split(" ")[0] != target)
    parts = [
        html.table(
            _score_table(analysis, label, tables[label]), f"scores-{place}", of_encoders=True
        )
        for place, label in enumerate(names)
    ]
    return Section("scores", "Scores", "\n".join(parts))


def _score_table(analysis: Analysis, protocol: str, texts: Table) -> Table:
    """Return a table of scores with the numbers behind its texts, for sorting."""
    cells = analysis.cells[protocol]
    datasets = ordered(dataset for _, dataset in cells if dataset)
    rows = []
    for encoder, *row in texts.rows:
        values = [_value(cells.get((encoder, dataset))) for dataset in datasets]
        values += [_parsed(text) for text in row[len(datasets) :]]
        rows.append([encoder, *map(Number, row, values)])
    return dataclasses.replace(texts, rows=rows)


def _value(cell: ScoreCell | None) -> float | None:
    if cell is None or not cell.values or cell.row is None:
        return None
    return cell.mean * (100.0 if cell.row.unit == "fraction" else 1.0)


def _parsed(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _missing(analysis: Analysis, request: Request) -> Section:
    """Return failed, missing, invalid and outdated cells with their reasons."""
    results = analysis.results
    gaps = [_gap_row(group) for group in _grouped(results.gaps)]
    parts = []
    if gaps:
        header = ["encoder", "protocol", "datasets", "kind", "reason", "runs"]
        content = Table("Cells without a score", header, gaps, left=5)
        parts.append(html.table(content, "missing-table", of_encoders=True))
    if outdated := list(_outdated(analysis)):
        header = ["encoder", "protocol", "dataset", "shown", "runs left out"]
        title = "Cells with runs of other data or weights than the latest ones"
        content = Table(title, header, outdated, left=4)
        parts.append(html.table(content, "outdated-table", of_encoders=True))
    if results.problems:
        parts.append(html.paragraphs(["Files and runs that were left out or need attention:"]))
        parts.append(html.bullets(results.problems))
    title = "Failed, missing and outdated cells"
    if not parts:
        parts.append(html.paragraphs(["Every run has a score that belongs to the latest data."]))
    return Section("missing", title, "\n".join(parts))


def _grouped(gaps: Sequence[MissingRun]) -> list[list[MissingRun]]:
    groups: dict[tuple[str, ...], list[MissingRun]] = {}
    for gap in gaps:
        key = (gap.kind, gap.encoder, gap.protocol, gap.reason)
        groups.setdefault(key, []).append(gap)
    return list(groups.values())


def _gap_row(group: Sequence[MissingRun]) -> list[str]:
    first = group[0]
    datasets = ", ".join(ordered(gap.dataset for gap in group if gap.dataset))
    kind = first.kind.replace("_", " ")
    count = Number(str(len(group)), len(group))
    return [first.encoder or first.run_id, first.protocol, datasets, kind, first.reason, count]


def _outdated(analysis: Analysis) -> Iterator[list[str]]:
    for protocol, cells in analysis.cells.items():
        for (encoder, dataset), cell in sorted(cells.items()):
            if cell.outdated or cell.left_out:
                shown = "outdated runs" if cell.outdated else "the latest runs"
                left_out = Number(str(cell.left_out), cell.left_out)
                yield [encoder, protocol, dataset, shown, left_out]


def _provenance(analysis: Analysis, request: Request) -> Section:
    source = provenance(analysis.results)
    parts = [html.paragraphs(sentences(source, request.sources))]
    if source.facts:
        parts.append(html.table(to_table(source), "provenance-table"))
    parts.append(html.paragraphs([f"The report was made by {answer.name(request.command)}."]))
    return Section("provenance", "Provenance", "\n".join(parts))


ORDER: Sequence[Callable[[Analysis, Request], Section]] = (
    _answer,
    _correlations,
    _scores,
    _missing,
    _provenance,
)
