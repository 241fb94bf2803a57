"""Correlations as tables of texts and as CSV."""

from collections.abc import Sequence

from results.agreement.correlations import MEAN, NAMES, POOLED, Correlation, Name
from results.agreement.scores import CLIP
from results.statistics.intervals import FEWEST, Coefficient
from results.tables import rendering
from results.tables.rendering import Table, to_csv


def show_correlations(coefficients: Sequence[Correlation]) -> None:
    """Print one table per dataset, then the legend."""
    for table in to_tables(coefficients):
        print(rendering.to_terminal(table), end="\n\n")
    print(rendering.notes(legend(coefficients)))


def to_tables(correlations: Sequence[Correlation]) -> list[Table]:
    """Return one table of texts per dataset."""
    tables = []
    for dataset in dict.fromkeys(entry.dataset for entry in correlations):
        same = [entry for entry in correlations if entry.dataset == dataset]
        names = [name for name in NAMES if name in same[0].coefficients]
        rows = [[entry.proxy, *_cells(entry, names)] for entry in same]
        title = f"{dataset}: correlation with {same[0].target}"
        tables.append(Table(title, ["proxy", "n", *names], rows, _undefined(same)))
    return tables


def to_one_table(correlations: Sequence[Correlation]) -> Table:
    """Return all correlations as one table, for Markdown."""
    rows = [[entry.dataset, entry.proxy, *_cells(entry, NAMES)] for entry in correlations]
    title = f"Correlation with {correlations[0].target}"
    return Table(title, ["dataset", "proxy", "n", *NAMES], rows, legend(correlations), left=2)


def legend(correlations: Sequence[Correlation]) -> list[str]:
    """Return the notes that explain the numbers."""
    notes = [
        "coefficients over n encoders (seeds averaged first) with 95 % intervals; fewer than "
        f"{FEWEST} encoders are too few",
        f"logits: scores in [0, 1] as log-odds, limited to [{CLIP:.2%}, {1 - CLIP:.2%}]; errors "
        "count with their sign changed",
    ]
    if any(entry.is_difference for entry in correlations):
        notes.append("a − b: how much better a correlates than b, on the encoders that have both")
    if any(entry.dataset == MEAN for entry in correlations):
        notes.append(
            f"{MEAN}: its interval is the mean of the datasets' intervals, which holds however "
            f"the datasets depend on each other; {POOLED}: logits averaged over datasets first"
        )
    return notes + _undefined(correlations)


def to_csv_long(correlations: Sequence[Correlation]) -> str:
    """Return CSV with one row of numbers per dataset, proxy and coefficient."""
    header = ["dataset", "proxy", "target", "coefficient", "n", "value", "low", "high", "note"]
    rows: list[list[object]] = []
    for entry in correlations:
        for name, c in entry.coefficients.items():
            ends = [round(number, 6) for number in (c.value, c.low, c.high)]
            label = f"difference of {name}" if entry.is_difference else name
            rows.append([entry.dataset, entry.proxy, entry.target, label, c.n, *ends, c.note])
    return to_csv(header, rows)


def _cells(correlation: Correlation, names: Sequence[Name]) -> list[str]:
    sign = "+" if correlation.is_difference else ""
    counts = sorted({c.n for c in correlation.coefficients.values()})
    texts = [_shown(correlation.coefficients.get(name), sign) for name in names]
    return ["-".join(str(n) for n in counts), *texts]


def _shown(c: Coefficient | None, sign: str) -> str:
    if c is None:
        return "–"
    if not c:
        return c.note.split(":")[0]
    return f"{_short(c.value, sign)} [{_short(c.low)}, {_short(c.high)}]"


def _short(number: float, sign: str = "") -> str:
    """Return a coefficient in [-2, 2] as text: ``.64``, ``-.05``, ``1.00``."""
    rounded = round(number, 2) + 0.0  # no -0.00
    text = f"{rounded:{sign}.2f}"
    return text.replace("0.", ".", 1) if abs(rounded) < 1 else text


def _undefined(correlations: Sequence[Correlation]) -> list[str]:
    """Return one sentence per reason why a coefficient is undefined."""
    notes = (c.note for entry in correlations for c in entry.coefficients.values() if ":" in c.note)
    return list(dict.fromkeys(notes))
