"""Escaping of text from records for terminals, Markdown, CSV, HTML and LaTeX.

Records may come from anybody, so their text is not trusted. Each output format has one function.
"""

import html
import re


def printable(text: str) -> str:
    r"""Return a text with every unprintable character escaped.

    Control characters, terminal escapes and marks that change the direction of writing become
    ``\x1b`` and the like; newlines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Return a text for a cell of a table: printable and without newlines."""
    return printable(re.sub(r"[\n\r\t\v\f\u2028\u2029]+", " ", text))


def markdown(text: str, *, code: bool = False) -> str:
    """Return a text escaped for Markdown; with ``code`` its backticks keep their meaning.

    An underscore within a word is not escaped, because Markdown does not interpret it.
    """
    text = html.escape(one_line(text), quote=False)
    text = re.sub(r"([\\|*\[\]~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return text if code else text.replace("`", "\\`")


def csv_cell(value: object) -> object:
    """Return a value for a CSV file, escaped so that no spreadsheet reads it as a formula."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    if not text.lstrip().startswith(("=", "+", "-", "@")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def html_text(text: str) -> str:
    """Return a text escaped for HTML elements and quoted attributes."""
    return html.escape(printable(text), quote=True)


_LATEX = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    "[": "{[}",
    "*": "{*}",
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": "$-$",
    "–": r"\textendash{}",
    "…": r"\ldots{}",
}


def latex(text: str) -> str:
    r"""Return a text escaped for LaTeX: for a cell, a caption or a paragraph.

    A bracket and a star are in braces, because ``\\`` before them would read them as its argument.
    A hyphen before a number is a minus sign. Letters beyond Latin-1, which many fonts lack, become
    ``\u4e2d`` and the like.
    """
    text = re.sub(r"(?<![\w.)-])-(?=\.?\d)", "−", one_line(text))
    text = "".join(c if c <= "\xff" or c in _LATEX else ascii(c)[1:-1] for c in text)
    escaped = "".join(_LATEX.get(c, c) for c in text)
    return re.sub(r"([-,'`])(?=\1)|([?!])(?=`)", r"\1\2{}", escaped)  # these would be ligatures
