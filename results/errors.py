"""Errors of the commands that are shown to the user."""

from collections.abc import Iterable, Sequence

_NEAREST = 5
"""Number of names that a message lists where there are many."""


class ResultsError(ValueError):
    """A request that cannot be answered; the message is one sentence for the user."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ResultsError:
    """Return the error for an unknown name; its message lists the known names."""
    names = ", ".join(f"`{option}`" for option in known) or "none"
    return ResultsError(f"{kind} must be one of the known ({names}), but is `{name}` instead.")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return those of many known names that are most like an unknown one, as a list in words."""
    import difflib  # only where it is needed

    ends = [one for one in known if one.split(".")[-1] == name.split(".")[-1]]
    near = difflib.get_close_matches(name, known, n=_NEAREST, cutoff=0.5)
    listed = list(dict.fromkeys([*ends, *near]))[:_NEAREST] or known[:_NEAREST]
    return ", ".join(f"`{one}`" for one in listed) or "none"
