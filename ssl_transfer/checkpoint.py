"""Atomic save and exact restore of a training.

Rules of resuming:

1. Everything that changes during training is in one dictionary: the learner's state (target
   networks and queues are buffers, so they are in it), the optimizer's, and the step.
2. Nothing else is needed: the order of samples, augmentations and dropout are functions of
   (seed, step), the learning rate is a function of the step.
3. A checkpoint takes its name only when it is whole on disk, so a kill at any moment leaves
   the previous one.
4. A checkpoint carries the name of the training it belongs to; another training of the same run
   (the next grid point, the refit) never takes it for its own.
"""

import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from ssl_transfer import distributed
from ssl_transfer.files import replace_atomically

log = logging.getLogger(__name__)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state from the first process; the others go on at once.

    Raises:
        OSError: in one sentence if the disk is full; the previous checkpoint stays.
    """
    if distributed.is_main():
        replace_atomically(path, lambda file: torch.save(state, file))


def load(path: Path, name: str) -> dict[str, Any] | None:
    """Return the state that was saved for the training called ``name``, or None.

    Every process reads the file itself, but all follow the first one's view of whether it exists.
    """
    exists = distributed.broadcast_object(path.exists())
    if not exists:
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        log.warning("`%s` cannot be read (%s); the training starts anew.", path, error)
        return None
    return dict(state) if state["name"] == name else None
