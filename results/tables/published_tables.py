"""Published tables as tables of texts: scores per protocol, correlations per proxy."""

from collections.abc import Mapping, Sequence

from results.published.catalogue import Head, correlation_lines, correlation_names, head, lines
from results.published.protocols import UNKNOWN, Fact, facts, value_text
from results.tables.rendering import Table, to_csv

_EMPTY = "–"


def overview(names: Sequence[str]) -> str:
    """Return one line per table: its name, what it holds, and the papers or program it is from."""
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {_line(head(name))}" for name in names)


def _line(of: Head) -> str:
    origin = f"arXiv {', '.join(of.papers)}" if of.papers else of.source.split(" (")[0]
    return f"{of.content.removesuffix('.')} [{origin}]"


def published_tables(name: str) -> list[Table]:
    """Return a published table as one table per protocol or coefficient; sources are notes below.

    Raises:
        ResultsError: if the name is unknown; the message lists the known ones.
    """
    of = head(name)
    notes = [
        f"content: {of.content}", f"source: {of.source}", f"units: {of.units}",
        f"not stated: {of.not_stated}", of.notes,
    ]  # fmt: skip
    if name in correlation_names():
        return _correlations(name, notes)
    entries = lines(name)
    protocols = list(dict.fromkeys(entry["protocol"] for entry in entries))
    tables = []
    for protocol in protocols:
        of_protocol = [entry for entry in entries if entry["protocol"] == protocol]
        cells = {(line["model"], _column(line, of_protocol)): _score(line) for line in of_protocol}
        last = protocol == protocols[-1]
        settings = _settings(name, protocol, {line["dataset"] for line in of_protocol})
        about = [*settings, *(notes if last else [])]
        tables.append(_pivot(f"{name}: {protocol}", "encoder", cells, about))
    return tables


def lines_as_csv(name: str) -> str:
    """Return the lines of a published table as they are, without the comment at its head."""
    entries = correlation_lines(name) if name in correlation_names() else lines(name)
    return to_csv(list(entries[0]), [list(entry.values()) for entry in entries])


def _correlations(name: str, notes: Sequence[str]) -> list[Table]:
    entries = correlation_lines(name)
    groups = dict.fromkeys((entry["coefficient"], entry["target"]) for entry in entries)
    return [
        _pivot(
            f"{name}: {coefficient} with {target}",
            "proxy",
            {
                (line["proxy"], line["dataset"]): line["value"]
                for line in entries
                if (line["coefficient"], line["target"]) == (coefficient, target)
            },
            notes,
        )
        for coefficient, target in groups
    ]


def _pivot(
    title: str, corner: str, cells: Mapping[tuple[str, str], str], notes: Sequence[str]
) -> Table:
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    texts = [[row, *(cells.get((row, column), _EMPTY) for column in columns)] for row in rows]
    return Table(title, [corner, *columns], texts, notes)


def _column(line: Mapping[str, str], entries: Sequence[Mapping[str, str]]) -> str:
    """Return the data set, with the metric where a data set has several or there is none."""
    metrics = {entry["metric"] for entry in entries if entry["dataset"] == line["dataset"]}
    if line["dataset"] and len(metrics) == 1:
        return line["dataset"]
    return f"{line['dataset']} {line['metric']}".strip()


def _score(line: Mapping[str, str]) -> str:
    deviation = line.get("deviation")
    return f"{line['score']} ± {deviation}" if deviation else line["score"]


def _settings(table: str, protocol: str, datasets: set[str]) -> list[str]:
    """Return a note with the settings that are stated, and for which data sets if not for all."""
    places: dict[str, list[str]] = {}
    for dataset in sorted(datasets):
        for fact in facts(table, protocol, dataset):
            places.setdefault(_setting(fact), []).append(dataset)
    texts = [
        text if len(found) == len(datasets) else f"{text}, on {', '.join(found)}"
        for text, found in places.items()
    ]
    return [f"settings: {'; '.join(texts)}"] if texts else []


def _setting(fact: Fact) -> str:
    if not fact.key:
        return fact.comment
    value = "not stated" if fact.value == UNKNOWN else value_text(fact.value)
    return f"{fact.name} {value}" + (f" ({fact.comment})" if fact.comment else "")
