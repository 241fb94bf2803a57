"""Escapes control characters in text from files before it is printed or logged."""

import logging


def printable(text: str) -> str:
    r"""Return a text with every unprintable character escaped.

    Control characters, terminal escapes and marks that change the direction of writing become
    ``\x1b`` and the like; newlines and tabs stay. ``results.plain_text`` does the same.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class Formatter(logging.Formatter):
    """Log formatter that escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record."""
        return printable(super().format(record))
