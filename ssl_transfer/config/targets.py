"""Import of the function or class that a ``_target_`` names."""

import importlib
import typing
from collections.abc import Callable
from typing import Any


def locate(target: str) -> Callable[..., Any]:
    """Return the function or class that ``package.module.name`` names.

    Raises:
        ValueError: if it cannot be imported; the sentence says which part is missing.
    """
    module_name, _, attribute = target.rpartition(".")
    try:
        value = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        package = module_name.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        raise ValueError(
            f"`_target_` must name something that can be imported as package.module.name, "
            f"but `{target}` cannot ({error})"
            f"{'; PYTHONPATH must name the folder that holds it' * missing}."
        ) from error
    if not callable(value):
        raise ValueError(f"`_target_` must name a function or class, but `{target}` is neither.")
    return typing.cast("Callable[..., Any]", value)
