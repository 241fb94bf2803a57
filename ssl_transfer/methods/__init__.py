"""Pre-training objectives, one per file; each file starts with the loss as a pure function.

An option of ``conf/method`` names a ``Method`` by ``_target_``. It is called as
``_target_(encoder, num_classes, views, **own keys)``; the node's remaining keys are the options
of the training (``TRAINING_KEYS``), which the trainer reads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssl_transfer.config import locate
from ssl_transfer.config.roles import REFERENCES
from ssl_transfer.datasets.transforms import View, views
from ssl_transfer.methods.base import Method
from ssl_transfer.models import Encoder
from ssl_transfer.training.options import TrainingOptions

__all__ = ["TRAINING_KEYS", "Method", "augmentations", "build", "own_keys"]

TRAINING_KEYS = (
    "optimizer",
    "pretrain_on",
    "seed",
    "epochs",
    "batch_size",
    "warmup_epochs",
    "schedule",
    "clip_grad_norm",
    "bn_groups",
    "snapshots",
    "snapshot",
    "resources",
)


def own_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a method's node that its constructor receives, without ``views``."""
    # Some training keys are in no file, but users may add them: +method.schedule_per=epoch.
    training = {field.name for field in dataclasses.fields(TrainingOptions)}
    others = {"name", "_target_", "views", *REFERENCES, *TRAINING_KEYS, *training}
    return {key: value for key, value in config.items() if key not in others}


def augmentations(config: Mapping[str, Any]) -> tuple[View, ...]:
    """Return the views that a method's node describes.

    Raises:
        ValueError: for an unknown field or a value out of its range.
    """
    return views(config["views"])


def build(
    config: Mapping[str, Any],
    encoder: Encoder,
    num_classes: int | None,
    **referenced: Encoder | list[Encoder],
) -> Method:
    """Return the method that a resolved, plain node of ``conf/method`` describes.

    Its initial parameters are drawn from torch's global generator.

    Args:
        config: the node.
        encoder: the encoder, trained in place.
        num_classes: number of classes of the pre-training set (``None``: without labels).
        **referenced: the encoders that the node refers to, such as ``teacher``.

    Raises:
        ValueError: if the node trains nothing (``as_is``) or its values do not fit.
    """
    if config["_target_"] is None:
        raise ValueError(
            f"`method={config['name']}` does not change the model's weights, so that there is "
            "nothing to pre-train; choose another method."
        )
    described = augmentations(config)
    target, keys = locate(config["_target_"]), own_keys(config)
    method = target(encoder, num_classes, described, **keys, **referenced)
    assert isinstance(method, Method), config["_target_"]
    return method
