"""The ten lines at the end of a sweep that answer best; everything else is saved in its folder."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from results.plain_text import printable
from results.records.reading import Results, read
from results.report.sweep_answer import agreement, best_encoders, has_target
from results.tables import rendering
from results.tables.printing import describe, save, warn
from results.tables.wide import wide, wide_csv

SMALL = 12
"""Number of rows up to which the tables of a sweep are printed."""
_REASONS = 10
_BEST = 3


def summarise(outputs: Path, sweep: str) -> int:
    """Print the answer of a sweep and save its tables; return 1 if a run has no record, else 0.

    The tables of a small sweep are printed. Of a larger one, the best encoders are named. If at
    least five encoders have scores of ``finetune`` and of another protocol, the correlations of the
    best proxies come first.
    """
    results = read(outputs, sweep)
    assert results.sweep is not None
    warn(results)
    shown = wide(results)
    small = sum(len(table.rows) for table in shown) <= SMALL
    saved = []
    if shown:
        save(results.sweep, "table", shown, wide_csv(results))
        saved.append("table")
        if small:
            print("\n\n".join(rendering.to_terminal(table) for table in shown), end="\n\n")
    lines = list(agreement(results, results.sweep, saved))
    if not small:
        lines += best_encoders(results)[:_BEST]
    _print_all(lines)
    _print_all(_missing(results))
    print(_counts(results))
    if saved:
        print(f"saved: {', '.join(saved)} (.csv, .md) in {results.sweep}")
    if (command := _report(results, outputs)) is not None:
        print(f"report: {command}")
    bad = [gap for gap in results.gaps if gap.kind not in ("not_applicable", "invalid")]
    return 1 if bad else 0


def _print_all(lines: Sequence[str]) -> None:
    for line in lines:
        print(printable(line))


def _missing(results: Results) -> list[str]:
    """Return why runs have no scores, at most a few reasons."""
    reasons = describe(results.gaps)
    if len(reasons) <= _REASONS:
        return reasons
    more = f"… and {len(reasons) - _REASONS} more reasons: python -m results failures"
    return [*reasons[:_REASONS], more]


def _counts(results: Results) -> str:
    counts = Counter(gap.kind for gap in results.gaps)
    failed = counts["failed"] + counts["missing"]
    parts = [f"{results.finished} finished"]
    if counts["not_applicable"]:
        parts.append(f"{counts['not_applicable']} not applicable")
    parts.append(f"{failed} failed or missing" if failed else "none failed")
    return f"{results.finished + counts['not_applicable'] + failed} runs: {', '.join(parts)}"


def _report(results: Results, outputs: Path) -> str | None:
    """Return the command that makes the report of a sweep; None without scores of the target."""
    if results.sweep is None or not has_target(results):
        return None
    place = os.path.relpath(outputs)
    shown = place if not place.startswith("..") else str(outputs)
    words = ["--sweep", results.sweep.name, "--outputs", shown, "--out", "report.html"]
    return shlex.join(["python", "-m", "results", "report", *words])
