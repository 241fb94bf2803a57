"""Correlations as tables of texts and as CSV."""

from collections.abc import Sequence

from results.agreement.correlations import MEAN, POOLED, Correlation, Name
from results.agreement.headline import HEADLINE
from results.agreement.scores import CLIP
from results.statistics.estimate import Estimate
from results.statistics.intervals import FEWEST
from results.tables import rendering
from results.tables.rendering import Table, to_csv

_EXPLAINED: dict[Name, str] = {
    "weighted_kendall": "weighted_kendall: exchanges of the best encoders count most; the mean of "
    "the rankings by proxy and by target (scipy's weightedtau)",
    "weighted_kendall_by_target": "weighted_kendall_by_target: ranked by the target alone",
}


def show_correlations(coefficients: Sequence[Correlation]) -> None:
    """Print one table per dataset, the comparisons of proxies in sentences, and the legend."""
    for table in to_tables(coefficients):
        print(rendering.to_terminal(table), end="\n\n")
    for sentence in verdicts(coefficients):
        print(rendering.paragraph(sentence), end="\n\n")
    print(rendering.notes(legend(coefficients)))


def to_tables(correlations: Sequence[Correlation]) -> list[Table]:
    """Return one table of texts per dataset."""
    tables = []
    for dataset in dict.fromkeys(entry.dataset for entry in correlations):
        same = [entry for entry in correlations if entry.dataset == dataset]
        names = list(same[0].coefficients)
        rows = [[entry.proxy, *_cells(entry, names)] for entry in same]
        title = f"{dataset}: correlation with {same[0].target}"
        tables.append(Table(title, ["proxy", "n", *names], rows, _undefined(same)))
    return tables


def to_one_table(correlations: Sequence[Correlation]) -> Table:
    """Return all correlations as one table, for Markdown."""
    names = list(correlations[0].coefficients)
    rows = [[entry.dataset, entry.proxy, *_cells(entry, names)] for entry in correlations]
    title = f"Correlation with {correlations[0].target}"
    notes = [*verdicts(correlations), *legend(correlations)]
    return Table(title, ["dataset", "proxy", "n", *names], rows, notes, left=2)


def verdicts(correlations: Sequence[Correlation]) -> list[str]:
    """Return one sentence per pair of proxies: which one agrees better with the target.

    It is about ``HEADLINE``, or about the first coefficient if that is missing, and takes the mean
    over datasets where there are several. One proxy is called better only if the 95 % interval of
    the paired difference excludes 0; the last sentence names the number of comparisons.
    """
    several = any(entry.dataset == MEAN for entry in correlations)
    decisive = [
        entry for entry in correlations
        if entry.is_difference and (entry.dataset == MEAN or not several)
    ]  # fmt: skip
    sentences = [
        _verdict(entry, [e for e in correlations if e.proxy == entry.proxy]) for entry in decisive
    ]
    sentences = [sentence for sentence in sentences if sentence]
    if len(sentences) > 1:
        sentences.append(
            f"These are {len(sentences)} comparisons, each at 95 %: of 20 pairs that agree equally "
            "well, one is called different by chance."
        )
    return sentences


def _verdict(entry: Correlation, same: Sequence[Correlation]) -> str:
    """Return the sentence about one pair; empty if the difference is not defined."""
    name = HEADLINE if HEADLINE in entry.coefficients else next(iter(entry.coefficients))
    c = entry.coefficients[name]
    if not c:
        return ""
    proxy, base = entry.proxy.split(" − ")
    if c.low > 0 or c.high < 0:
        better, worse = (proxy, base) if c.low > 0 else (base, proxy)
        start = f"`{better}` agrees better with `{entry.target}` than `{worse}`"
    else:
        start = f"Whether `{proxy}` or `{base}` agrees better with `{entry.target}` is open"
    single = [e.coefficients[name].value for e in same if e.dataset not in (MEAN, POOLED)]
    higher = sum(value > 0 for value in single)
    where = f", mean of {len(single)} datasets; `{proxy}` is higher on {higher} of them"
    return (
        f"{start}: the difference `{proxy}` − `{base}` of {name} is {_shown(c, '+')} over {c.n} "
        f"encoders{where if len(single) > 1 else ''}."
    )


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
    shown = {name for entry in correlations for name in entry.coefficients}
    notes += [text for name, text in _EXPLAINED.items() if name in shown]
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


def _shown(c: Estimate | None, sign: str) -> str:
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
