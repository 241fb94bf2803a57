"""Which pre-trained vision model is best for a task, and which cheap score tells so.

The four axes of the command line are the packages ``models``, ``methods``, ``datasets`` and
``protocols``; ``evaluate`` is the door for one's own scripts. Importing this package is cheap:
torch is loaded when something is trained or evaluated.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_transfer.evaluation import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        from ssl_transfer.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module `ssl_transfer` has no attribute `{name}`")
