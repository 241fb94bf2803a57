"""Selection of runs by an expression over the columns of the long table (``--where``)."""

import ast
import dataclasses
import re
from collections.abc import Iterator, Mapping

from results.errors import ResultsError, nearest
from results.records.frames import column_names, long_table
from results.records.reading import Results

_OPERATIONS = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd,
    ast.Invert, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.BitAnd, ast.BitOr,
    ast.Compare, ast.cmpop,
    ast.List, ast.Tuple, ast.Constant, ast.Load,
)  # fmt: skip
"""What an expression consists of, beside names of columns: neither calls nor subscripts."""
_CONSTANTS = (str, int, float, bool)
_LONGEST = 2000
"""Largest number of characters."""
_KEPT = ("missing", "required")
"""Kinds of gaps of which nothing is known but that they are absent; every selection shows them."""
_EXAMPLE = '`protocol.epochs == 100 and dataset.name == "dtd"`'


def where(results: Results, expression: str) -> Results:
    """Return the scores and the runs without scores for which an expression holds.

    Args:
        results: the results.
        expression: a pandas query over the columns of ``load``, such as
            ``protocol.epochs == 100 and dataset.name in ["dtd", "pets"]``. Dotted names need no
            backticks, names such as `` `method.views.0.hue` `` do.

    Raises:
        ResultsError: if the expression is none, or names an unknown column; the message lists the
            nearest known ones.
    """
    kept = _selected(results, expression)
    split = len(results.rows)
    rows = [row for row, inside in zip(results.rows, kept[:split], strict=True) if inside]
    gaps = [
        gap
        for gap, inside in zip(results.gaps, kept[split:], strict=True)
        if inside or gap.kind in _KEPT
    ]
    return dataclasses.replace(results, rows=rows, gaps=gaps)


def _selected(results: Results, expression: str) -> list[bool]:
    """Return for each row and then each gap whether an expression holds."""
    import numpy as np
    import pandas as pd

    text, columns = _translated(expression, column_names(results))
    table = long_table(results, list(columns.values()))
    # Categories have no order, so comparisons need their values.
    used = pd.DataFrame({name: list(np.asarray(table[column])) for name, column in columns.items()})
    try:
        holds = used.eval(text, engine="python", local_dict={}, global_dict={})
    except Exception as error:  # pandas raises errors of many kinds
        raise _unusable(expression, f"it cannot be computed: {error}") from error
    if not isinstance(holds, pd.Series) or not pd.api.types.is_bool_dtype(holds.dtype):
        raise _unusable(expression, "it is neither true nor false for a run")
    return [bool(one) for one in holds.fillna(False)]


def _translated(expression: str, known: list[str]) -> tuple[str, dict[str, str]]:
    """Return an expression whose columns have plain names, and the column of each name.

    Raises:
        ResultsError: if the expression has anything but columns, constants and operators.
    """
    if len(expression) > _LONGEST:
        raise _unusable(expression, f"it is longer than {_LONGEST} characters")
    quoted: dict[str, str] = {}
    text = _without_backticks(" ".join(expression.split("\n")), quoted).strip()
    try:
        tree = ast.parse(text, mode="eval")
        names = list(_names(tree, expression))
    except (SyntaxError, ValueError, MemoryError) as error:
        if isinstance(error, ResultsError):
            raise
        raise _unusable(expression, "it is no expression") from error
    except RecursionError as error:
        raise _unusable(expression, "it is nested too deeply") from error
    if not names:
        raise _unusable(expression, "it names no column")
    # The rest of the text stays, because `&` binds less tightly in pandas than in Python.
    columns: dict[str, str] = {}
    content = text.encode()
    for node in sorted(names, key=lambda node: -node.col_offset):
        column = ".".join(_path(node, expression, quoted))
        if column not in known:
            raise _unknown_column(column, known)
        name = f"column_{known.index(column)}"
        columns[name] = column
        content = content[: node.col_offset] + name.encode() + content[node.end_col_offset :]
    return content.decode(), columns


def _without_backticks(expression: str, quoted: dict[str, str]) -> str:
    """Return an expression with a plain name for each name in backticks outside of texts."""
    parts = re.split(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)""", expression)
    for place, part in enumerate(parts):
        if part.startswith("`"):
            name = f"_quoted_{len(quoted)}"
            quoted[name] = part[1:-1]
            parts[place] = name
    return "".join(parts)


def _names(node: ast.AST, expression: str) -> Iterator[ast.Name | ast.Attribute]:
    """Yield the names of columns.

    Raises:
        ResultsError: if there is anything else but constants and operators.
    """
    if isinstance(node, ast.Name | ast.Attribute):
        yield node
        return
    if isinstance(node, ast.Constant) and not isinstance(node.value, _CONSTANTS):
        raise _unusable(expression, f"`{ast.unparse(node)}` is neither text nor number")
    if not isinstance(node, _OPERATIONS):
        raise _unusable(expression, f"it may not contain `{ast.unparse(node)}`")
    for child in ast.iter_child_nodes(node):
        yield from _names(child, expression)


def _path(node: ast.Name | ast.Attribute, expression: str, quoted: Mapping[str, str]) -> list[str]:
    """Return the parts of a dotted name."""
    parts: list[str] = []
    inner: ast.AST = node
    while isinstance(inner, ast.Attribute):
        parts.insert(0, inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name):
        raise _unusable(expression, f"it may not contain `{ast.unparse(node)}`")
    return [quoted.get(inner.id, inner.id), *parts]


def _unknown_column(column: str, known: list[str]) -> ResultsError:
    """Return the error for an unknown column; its message lists the nearest known ones."""
    return ResultsError(
        f"a name in `--where` must be a column of the long table, but is `{column}`; the nearest "
        f"of the {len(known)} columns: {nearest(column, known)}."
    )


def _unusable(expression: str, reason: str) -> ResultsError:
    shown = expression if len(expression) <= 80 else f"{expression[:79]}…"
    return ResultsError(
        f"`--where` must compare columns, such as {_EXAMPLE}, but is `{shown}` ({reason})."
    )
