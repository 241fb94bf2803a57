"""Pre-training: train an encoder by a method's objective, until its weights exist."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ssl_transfer import datasets, methods, randomness
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Augmentation, Pipeline, ViewDataset
from ssl_transfer.methods.monitors import Monitor, Monitoring
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.training import trainer
from ssl_transfer.training.options import TrainingOptions


def train(
    encoder: Encoder,
    dataset: Dataset,
    context: Context,
    method: Mapping[str, Any],
    **referenced: Encoder | list[Encoder],
) -> Encoder:
    """Train an encoder in place on the training split, and return it with its projector.

    Args:
        encoder: as ``model`` built it.
        dataset: the pre-training set.
        context: the run's surroundings.
        method: the resolved ``method`` node.
        **referenced: the encoders that its references stand for, such as ``teacher``.
    """
    learner = _learner(encoder, dataset, method, context.seed, **referenced)
    learner = learner.to(context.device, context.dtype)
    prepared = (encoder.preprocessing, *learner.other_preprocessing)
    drawn = [pipe for p in prepared for pipe in pipelines(learner.views, dataset, p)]
    options = options_of(method)
    data = ViewDataset(dataset["train"], drawn, context.seed)
    with monitored(learner, dataset, context) as monitor:
        trainer.fit(learner, data, options, context, name="pretrain", observer=monitor)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    total = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    context.note(
        selection={"split": None, "chosen": {}, "scores": []},
        trainable={
            "parameters": total,
            "encoder_trained": trained,
            "encoder_parameters": trained,
            "share": 1.0,
            "head_parameters": total - trained,
        },
    )
    encoder.projector = learner.projection
    return encoder


def check(
    encoder: Encoder,
    dataset: Dataset,
    method: Mapping[str, Any],
    *,
    accumulate: int,
    **referenced: Encoder | list[Encoder],
) -> None:
    """Refuse a method that does not fit, without training anything.

    Args:
        encoder: see ``train``; of it and of the others only ``feature_dim``,
            ``preprocessing`` and the layers of a ``projector`` are used.
        dataset: see ``train``.
        method: see ``train``.
        accumulate: micro-batches per step.
        **referenced: see ``train``.

    Raises:
        ValueError: in one sentence.
    """
    learner = _learner(encoder, dataset, method, 0, **referenced)
    if learner.needs_classes and dataset.target != "class":
        found = {"none": "images without labels", "classes": "several classes per image"}
        raise ValueError(
            f"`method.pretrain_on` must have one class per image for {type(learner).__name__}, "
            f"but `{dataset.name}` has {found[dataset.target]}; choose another set or method."
        )
    trainer.check(learner, len(dataset["train"]), options_of(method), accumulate)


def options_of(method: Mapping[str, Any]) -> TrainingOptions:
    """Return the options of a pre-training."""
    # An image must not meet itself as a negative at the seam of two epochs.
    return TrainingOptions.of(method, drop_last=True)


def planned_projector(
    encoder: Encoder, method: Mapping[str, Any], **referenced: Encoder | list[Encoder]
) -> torch.nn.Module | None:
    """Return a projector like the one with which ``train`` will return the encoder, untrained.

    Args:
        encoder: only ``feature_dim`` and ``preprocessing`` are used.
        method: the resolved ``method`` node.
        **referenced: see ``train``, and use of them as of the encoder.

    Raises:
        ValueError: if the method does not fit.
    """
    with randomness.preserved():
        # The number of classes is without effect on a projector.
        return methods.build(method, encoder, 2, **referenced).projection


def _learner(
    encoder: Encoder,
    dataset: Dataset,
    method: Mapping[str, Any],
    seed: int,
    **referenced: Encoder | list[Encoder],
) -> methods.Method:
    with randomness.seeded(randomness.derive(seed, "projector")):
        return methods.build(method, encoder, len(dataset.classes), **referenced)


@contextmanager
def monitored(
    method: methods.Method, dataset: Dataset, context: Context
) -> Iterator[Monitor | None]:
    """Let what ``context.monitor`` asks for look on, while inside."""
    if context.monitor is None:
        yield None
        return
    options = Monitoring(**context.monitor)
    judged = dataset if options.dataset is None else datasets.build(options.dataset)
    with Monitor(options, method, dataset, judged, context).attached() as monitor:
        yield monitor


def pipelines(
    views: Sequence[Augmentation], dataset: Dataset, preprocessing: Preprocessing
) -> list[Pipeline]:
    """Return what draws each view of an image, without flips where these change the class."""
    allowed = [view if dataset.flip else view.without_flip() for view in views]
    return [Pipeline(preprocessing, view, view=number) for number, view in enumerate(allowed)]
