"""Errors that mean more than a wrong value, and what is refused under its former name."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

FORMER_KEYS = {"also": "extra_metrics", "published": "solver"}
"""Keys and keyword arguments that were renamed, with the name they have now."""


class NotApplicable(ValueError):  # an answer rather than an error
    """A measurement makes no sense for this encoder or dataset; its cell is empty, not failed."""


UserError = (ValueError, OSError)
"""Errors whose message is a sentence for the user; anything else is a bug and shows its trace."""


def last_line(error: Exception) -> str:
    """Return what an error other than a user's says, as a traceback ends with it."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def refuse_former_keys(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function refuse a keyword argument under its former name, naming the new one.

    Raises:
        ValueError: by the function that is returned.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **keys: P.kwargs) -> T:
        for key in FORMER_KEYS.keys() & keys.keys():
            raise ValueError(f"`{key}` has another name now; use `{FORMER_KEYS[key]}`.")
        return function(*args, **keys)

    return checked
