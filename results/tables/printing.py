"""Printing and saving of tables, correlations, warnings and reasons for missing scores."""

import sys
from collections.abc import Sequence
from pathlib import Path

from results.plain_text import printable
from results.records.reading import MissingRun, Results
from results.tables import rendering
from results.tables.html import to_page
from results.tables.latex import PACKAGES, to_latex
from results.tables.rendering import Table

FORMATS = ("terminal", "csv", "markdown", "latex", "html")
"""Formats of every command that shows tables."""

_ENDINGS = {"csv": "csv", "markdown": "md", "latex": "tex", "html": "html"}

_SHOWN_FILES = 3
"""Number of files that are listed for several runs with the same reason."""


def warn(results: Results) -> None:
    """Print warnings about unusable files."""
    for problem in results.problems[:10]:
        print(f"warning: {printable(problem)}", file=sys.stderr)
    if len(results.problems) > 10:
        print(f"warning: … and {len(results.problems) - 10} more files.", file=sys.stderr)


def show(shown: Sequence[Table], numbers: str, form: str) -> None:
    """Print tables as text in one of the ``FORMATS``, or their numbers as ``csv``."""
    print(_rendered(shown, numbers, form), end="")


def save(
    folder: Path, name: str, shown: Sequence[Table], numbers: str, form: str = "terminal"
) -> str:
    """Write a table as CSV, as Markdown and in one of the ``FORMATS``; return the paths as a text.

    A folder receives no text for terminals.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in dict.fromkeys(["csv", "markdown", form]):
        if kind in _ENDINGS:
            paths.append(folder / f"{name}.{_ENDINGS[kind]}")
            paths[-1].write_text(_rendered(shown, numbers, kind), encoding="utf-8")
    return ", ".join(map(str, paths))


def _rendered(shown: Sequence[Table], numbers: str, form: str) -> str:
    """Return tables as a text that ends with a newline."""
    if form == "csv":
        return numbers
    if form == "html":
        return to_page(shown) + "\n"
    if form == "latex":
        return "\n\n".join([PACKAGES, *map(to_latex, shown)]) + "\n"
    render = rendering.to_markdown if form == "markdown" else rendering.to_terminal
    return "\n\n".join(map(render, shown)) + "\n"


def describe(gaps: Sequence[MissingRun]) -> list[str]:
    """Return why runs have no scores; runs of one encoder with the same reason are one."""
    groups: dict[tuple[str, ...], list[MissingRun]] = {}
    for gap in gaps:
        alone = gap.run_id if not gap.encoder else ""
        key = (gap.kind, gap.encoder, gap.reason, alone)
        groups.setdefault(key, []).append(gap)
    return [printable(_describe(group)) for group in groups.values()]


def _describe(group: Sequence[MissingRun]) -> str:
    first = group[0]
    kinds = {"not_applicable": "not applicable", "required": "failed", "invalid": "invalid score"}
    kind = kinds.get(first.kind, first.kind)
    what = first.folder or f"{first.protocol} {first.run_id}"
    if first.encoder:
        datasets = ", ".join(dict.fromkeys(gap.dataset for gap in group if gap.dataset))
        seeds = ", ".join(str(n) for n in sorted({g.seed for g in group if g.seed is not None}))
        protocols = ", ".join(dict.fromkeys(gap.protocol for gap in group))
        what = f"{protocols} of {first.encoder}" + (f" on {datasets}" if datasets else "")
        what += f", seed {seeds}" if seeds else ""
        what += f" ({len(group)} runs)" if len(group) > 1 else ""
    lines = [f"{kind}: {what}", f"  {first.reason}"]
    files = {"failed": "failure.json", "invalid": "record.json"}
    paths = [f"  {gap.folder}/{files[gap.kind]}" for gap in group if gap.kind in files]
    lines += paths[:_SHOWN_FILES]
    if len(paths) > _SHOWN_FILES:
        lines.append(f"  … and {len(paths) - _SHOWN_FILES} more files")
    return "\n".join(lines)
