"""Which pre-trained vision model is best for a task, and which cheap score tells so.

The four axes of the command line are the packages ``models``, ``methods``, ``datasets`` and
``protocols``. For one's own scripts, ``evaluate`` scores any encoder and ``load_classifier``
returns the classifier of a finished run. Importing this package is cheap: torch is loaded when
something is trained or evaluated.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_transfer.classifier import load_classifier
    from ssl_transfer.evaluation import evaluate

__all__ = ["evaluate", "load_classifier"]

_MODULES = {"evaluate": "ssl_transfer.evaluation", "load_classifier": "ssl_transfer.classifier"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module `ssl_transfer` has no attribute `{name}`")
