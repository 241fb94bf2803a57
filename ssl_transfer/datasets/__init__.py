"""Downstream tasks and pre-training sets: readers, splits, and the pipeline from image to batch.

A dataset option is a function named by ``_target_`` in ``conf/dataset/<option>.yaml``: it takes the
file's other keys and returns a ``Dataset``, whose splits decode one RGB image at a time. The
decorator ``reader`` gives every such function the same options (``Options``).
"""

import logging
from collections.abc import Mapping
from typing import Any

from ssl_transfer import randomness
from ssl_transfer.datasets.base import Dataset, Split, concatenate
from ssl_transfer.datasets.in_memory import in_memory
from ssl_transfer.datasets.reader import Options, assemble, reader
from ssl_transfer.datasets.tracing import traced

log = logging.getLogger(__name__)

__all__ = ["Dataset", "Options", "Split", "assemble", "build", "concatenate", "in_memory", "reader"]


@randomness.preserved()
def build(config: Mapping[str, Any]) -> Dataset:
    """Return the dataset that a node of the configuration describes.

    Args:
        config: ``_target_`` and the keyword arguments to call it with, all resolved.

    Raises:
        ValueError: if the data do not fit the description.
    """
    from ssl_transfer.config import locate

    target = locate(config["_target_"])
    keys = {key: value for key, value in config.items() if key != "_target_"}
    # A function decorated with `reader` records its inputs itself.
    is_reader = getattr(target, "is_reader", False)
    dataset = target(**keys) if is_reader else traced(lambda: target(**keys), keys)
    assert isinstance(dataset, Dataset), f"{config['_target_']} must return a Dataset"
    log.info("%s", dataset.summary())
    return dataset
