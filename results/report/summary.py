"""The report at the end of a sweep, printed and saved in its folder."""

from collections import Counter
from pathlib import Path

from results.errors import ResultsError
from results.plain_text import printable
from results.records.reading import Results, read
from results.statistics.intervals import FEWEST
from results.tables import rendering
from results.tables.printing import describe, save, warn
from results.tables.wide import protocols, wide, wide_csv

TARGET = "finetune"


def summarise(outputs: Path, sweep: str) -> int:
    """Print and save the tables of a sweep; return 1 if one of its runs has no record, else 0.

    Correlations follow if at least five encoders have scores of ``finetune`` and of another
    protocol.
    """
    results = read(outputs, sweep)
    assert results.sweep is not None
    warn(results)
    saved = []
    shown = wide(results)
    if shown:
        print("\n\n".join(rendering.to_terminal(table) for table in shown), end="\n\n")
        saved.append(save(results.sweep, "table", shown, wide_csv(results)))
    if (text := _correlations(results, results.sweep)) is not None:
        saved.append(text)
    bad = [gap for gap in results.gaps if gap.kind not in ("not_applicable", "invalid")]
    for text in describe(results.gaps):
        print(text)
    print(_counts(results))
    for paths in saved:
        print(f"saved: {paths}")
    return 1 if bad else 0


def _counts(results: Results) -> str:
    counts = Counter(gap.kind for gap in results.gaps)
    failed = counts["failed"] + counts["missing"]
    parts = [f"{results.finished} finished"]
    if counts["not_applicable"]:
        parts.append(f"{counts['not_applicable']} not applicable")
    parts.append(f"{failed} failed or missing" if failed else "none failed")
    return f"{results.finished + counts['not_applicable'] + failed} runs: {', '.join(parts)}"


def _correlations(results: Results, folder: Path) -> str | None:
    from results.agreement.correlation_tables import show_correlations, to_csv_long, to_one_table
    from results.agreement.correlations import correlate

    names = protocols(results)
    encoders = {row.encoder for row in results.rows if row.protocol == TARGET}
    proxies = [name for name in names if name.split(" ")[0] != TARGET]
    proxies = [name for name in proxies if any(row.protocol == name for row in results.rows)]
    if len(encoders) < FEWEST or not proxies:
        return None
    try:
        coefficients = correlate(results, proxies, TARGET)
    except ResultsError as error:
        print(f"no correlations: {printable(str(error))}\n")
        return None
    show_correlations(coefficients)
    print()
    table = to_one_table(coefficients)
    return save(folder, "correlations", [table], to_csv_long(coefficients))
