"""What a user can get wrong."""

from collections.abc import Iterable


class ResultsError(ValueError):
    """A request that cannot be answered; the message is one sentence for the user."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ResultsError:
    """Return the error for a name that does not exist, which lists those that do."""
    names = ", ".join(f"`{one}`" for one in known) or "none"
    return ResultsError(f"{kind} must be one of the known ({names}), but is `{name}` instead.")
