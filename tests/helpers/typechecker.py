"""What checks every annotation of the package while the tests run (see setup.cfg).

jaxtyping wraps every function so that the axes of all its arrays agree, which takes 0.1 ms per
call: more than most functions take themselves. Only a function whose annotations have axes needs
that; beartype alone checks the others. jaxtyping imports this module when it wraps the first
function.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

# A whole number is a float, too, as it is to mypy. A violation is jaxtyping's TypeError everywhere.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_with_axes = jaxtyping.jaxtyped


def _has_axes(function: Callable[..., Any]) -> bool:
    """Return whether an annotation is or contains one of jaxtyping, or is a text that may."""
    hints = getattr(function, "__annotations__", {}).values()
    return any(isinstance(hint, str) or "jaxtyping" in repr(hint) for hint in hints)


def _jaxtyped(function: Any = None, **options: Any) -> Any:
    """Stand for ``jaxtyping.jaxtyped``."""
    if function is None:
        return lambda function: _jaxtyped(function, **options)
    if inspect.isfunction(function) and not _has_axes(function):
        return _without_axes(function)
    return _with_axes(function, **options)


def _without_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose types are checked unless a test switches that off."""
    typed = checked(function)
    if typed is function:  # it has no annotations
        return function

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else typed)(*args, **kwargs)

    return either


# Its own module calls it for the parts of classes and properties.
jaxtyping.jaxtyped = jaxtyping._decorator.jaxtyped = _jaxtyped
