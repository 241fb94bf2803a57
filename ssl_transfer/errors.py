"""Kinds of errors, and keys that are rejected under their former name."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

FORMER_KEYS = {"also": "extra_metrics", "published": "solver"}
"""Former names of keys and keyword arguments -> their present names."""


class NotApplicable(ValueError):  # a result rather than an error
    """A measurement makes no sense for this encoder or dataset; its cell is empty, not failed."""


UserError = (ValueError, OSError)
"""Errors whose message is a sentence for the user; others are bugs, shown with a traceback."""


def last_line(error: Exception) -> str:
    """Return the type and the first line of an error, as at the end of a traceback."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def refuse_former_keys(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function with a check that rejects keyword arguments with former names.

    Raises:
        ValueError: from the returned function; the message has the new name.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **keys: P.kwargs) -> T:
        for key in FORMER_KEYS.keys() & keys.keys():
            raise ValueError(f"`{key}` has another name now; use `{FORMER_KEYS[key]}`.")
        return function(*args, **keys)

    return checked
