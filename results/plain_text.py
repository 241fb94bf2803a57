"""Names and sentences out of records as terminals, Markdown, CSV and HTML show them: as text.

Records may be anybody's. One function per place where their text ends up.
"""

import html
import re


def printable(text: str) -> str:
    r"""Return a text with every character escaped that does not show itself.

    Control characters, escapes of terminals and marks that turn the direction of writing become
    ``\x1b`` and the like; ends of lines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Return a text for a cell of a table: printable, without ends of lines."""
    return printable(re.sub(r"[\n\r\t\v\f\u2028\u2029]+", " ", text))


def markdown(text: str, *, code: bool = False) -> str:
    """Return a text that Markdown shows as it is; with ``code`` its backticks keep their meaning.

    An underscore within a word has no meaning and stays.
    """
    text = html.escape(one_line(text), quote=False)
    text = re.sub(r"([\\|*\[\]~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return text if code else text.replace("`", "\\`")


def csv_cell(value: object) -> object:
    """Return a value for a CSV file that no spreadsheet takes for a formula; numbers stay."""
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
    """Return a text that HTML shows as it is, in elements and in quoted attributes."""
    return html.escape(printable(text), quote=True)
