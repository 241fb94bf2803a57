"""Texts out of files as a terminal may show them: with nothing that it, or a reader, obeys."""

import logging


def printable(text: str) -> str:
    r"""Return a text with every character escaped that does not show itself.

    Control characters, escapes of terminals and marks that turn the direction of writing become
    ``\x1b`` and the like; ends of lines and tabs stay. ``results.plain_text`` does the same.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class Formatter(logging.Formatter):
    """Lines of a log without anything that a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return printable(super().format(record))
