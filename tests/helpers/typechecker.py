"""What checks every annotation of the package while the tests run (see setup.cfg).

jaxtyping's own wrapper checks the parameters of a function twice and binds them by name, for errors
that are easier to read; with it the suite takes a fifth longer. Here beartype checks each value
once. A function whose annotations have axes gets the scope that they must agree in besides.
jaxtyping imports this module when it wraps the first function.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _storage

# A whole number is a float, too, as it is to mypy. A violation is jaxtyping's TypeError everywhere.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_by_jaxtyping = jaxtyping.jaxtyped


def _jaxtyped(function: Any = None, **options: Any) -> Any:
    """Stand for ``jaxtyping.jaxtyped``."""
    if function is None:
        return lambda function: _jaxtyped(function, **options)
    hints = getattr(function, "__annotations__", {}).values()
    # jaxtyping lets a text pass that cannot be evaluated yet, and knows that the values of a
    # generator come after the call.
    if (
        not inspect.isfunction(function)
        or inspect.isgeneratorfunction(function)
        or any(isinstance(hint, str) for hint in hints)
    ):
        return _by_jaxtyping(function, **options)
    typed = checked(function)
    if typed is function:  # it has no annotations
        return function
    has_axes = any("jaxtyping" in repr(hint) for hint in hints)
    return _scoped(function, typed) if has_axes else _either(function, typed)


def _either(function: Callable[..., Any], typed: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose types are checked unless a test switches that off."""

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else typed)(*args, **kwargs)

    return either


def _scoped(function: Callable[..., Any], typed: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same of a function in each call of which equal names of axes are equal sizes."""

    @functools.wraps(function)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        _storage.push_shape_memo({})  # no axis here is named after a parameter
        try:
            return typed(*args, **kwargs)
        finally:
            _storage.pop_shape_memo()

    return scoped


# Its own module calls it for the parts of classes and properties.
jaxtyping.jaxtyped = jaxtyping._decorator.jaxtyped = _jaxtyped
