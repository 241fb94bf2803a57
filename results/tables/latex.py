"""Rendering of tables in LaTeX with the rules of the package booktabs."""

from collections.abc import Sequence

from results.plain_text import latex
from results.tables.rendering import Table, group_of, is_best

PACKAGES = r"% needs \usepackage{booktabs}"
"""Comment that names what a document must load."""


def to_latex(table: Table) -> str:
    r"""Return the table as a ``table`` environment; best scores are ``\textbf``."""
    columns = "l" * table.left + "r" * (len(table.header) - table.left)
    remarks = [rf"  \par\smallskip\footnotesize {latex(note)}" for note in table.remarks()]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex(table.title)}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            _line([latex(name) for name in table.header]),
            r"    \midrule",
            *(_line([_cell(cell) for cell in row]) for row in table.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            *remarks,
            r"\end{table}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return rf"    {' & '.join(cells)} \\"


def _cell(cell: str) -> str:
    text = rf"\textbf{{{latex(cell)}}}" if is_best(cell) else latex(cell)
    letters = group_of(cell)
    return rf"{text} \textsuperscript{{{latex(letters)}}}" if letters else text
