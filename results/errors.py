"""Errors of the commands that are shown to the user."""

from collections.abc import Iterable


class ResultsError(ValueError):
    """A request that cannot be answered; the message is one sentence for the user."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ResultsError:
    """Return the error for an unknown name; its message lists the known names."""
    names = ", ".join(f"`{option}`" for option in known) or "none"
    return ResultsError(f"{kind} must be one of the known ({names}), but is `{name}` instead.")
