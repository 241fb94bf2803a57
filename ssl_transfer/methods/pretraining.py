"""Pre-training: train an encoder with a method's objective."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ssl_transfer import datasets, methods, randomness
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.loading import TrainingData
from ssl_transfer.datasets.transforms import Augmentation, Pipeline, ViewDataset
from ssl_transfer.features import FrozenFeatures, WithFeatures
from ssl_transfer.methods.monitors import Monitor, Monitoring
from ssl_transfer.methods.snapshots import SnapshotKeys, Snapshots, SnapshotStore
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.training import trainer
from ssl_transfer.training.learner import Observer
from ssl_transfer.training.options import SampleOrder, TrainingOptions


def train(
    encoder: Encoder,
    dataset: Dataset,
    context: Context,
    method: Mapping[str, Any],
    snapshots: SnapshotStore | None = None,
    **referenced: Encoder | list[Encoder],
) -> Encoder:
    """Train an encoder in place on the training split; return it with its projector and classifier.

    Args:
        encoder: the encoder with its initial weights.
        dataset: the pre-training set.
        context: the run's context.
        method: the resolved ``method`` node.
        snapshots: where the encoder is kept after further epochs, with its projector.
        **referenced: the encoders that the node refers to, such as ``teacher``.
    """
    learner = untrained(encoder, dataset, method, context.seed, **referenced)
    learner.check(dataset)
    learner = learner.to(context.device, context.dtype)
    data = training_data(learner, dataset, context)
    options = options_of(method)
    with monitored(learner, dataset, context) as monitor:
        observer: Observer | None = monitor
        if snapshots is not None and snapshots.epochs:
            store = _with_layers(snapshots, encoder, learner, dataset)
            observer = Snapshots(store, monitor, shortened=context.max_steps is not None)
        trainer.fit(learner, data, options, context, name="pretrain", observer=observer)
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
    encoder.head = learner.trained_head(dataset)
    return encoder


def _with_layers(
    snapshots: SnapshotStore, encoder: Encoder, learner: methods.Method, dataset: Dataset
) -> SnapshotStore:
    """Return a store that saves the encoder together with its projector and its classifier."""

    def save(epoch: int) -> None:
        encoder.projector, encoder.head = learner.projection, learner.trained_head(dataset)
        snapshots.save(epoch)
        encoder.projector = None  # as part of the learner, it has its own place

    return dataclasses.replace(snapshots, save=save)


def training_data(learner: methods.Method, dataset: Dataset, context: Context) -> TrainingData:
    """Return the training split with the views that a method learns from.

    The features of encoders that it only reads are computed once if the views are constant.
    """
    split, own = dataset["train"], learner.encoder.preprocessing
    drawn = pipelines(learner.views, dataset, own)
    if learner.frozen and len(drawn) == 1 and _is_constant(drawn[0].augmentation):
        (view,) = learner.views
        rows = [
            FrozenFeatures(encoder, dataset, context, image_size=view.size).rows("train")
            for encoder in learner.frozen
        ]
        return WithFeatures(ViewDataset(split, drawn, context.seed), rows)
    for preprocessing in learner.other_preprocessing:
        drawn += pipelines(learner.views, dataset, preprocessing)
    return ViewDataset(split, drawn, context.seed)


def _is_constant(view: Augmentation | None) -> bool:
    """Return whether an image always gives the same view."""
    if view is None:
        return True
    names = [field.name for field in dataclasses.fields(Augmentation)]
    chances = [getattr(view, name) for name in names if name.endswith("_probability")]
    return view.crop_scale is None and not any(chances)


def check(
    encoder: Encoder,
    dataset: Dataset,
    method: Mapping[str, Any],
    *,
    accumulate: int,
    **referenced: Encoder | list[Encoder],
) -> None:
    """Refuse a method that does not fit the encoder or the dataset, without training anything.

    Args:
        encoder: see ``train``; the check only uses ``feature_dim``, ``preprocessing`` and the
            layers of a ``projector`` and of a ``head`` of this and of the referenced encoders.
        dataset: see ``train``.
        method: see ``train``.
        accumulate: micro-batches per step.
        **referenced: see ``train``.

    Raises:
        ValueError: if the method does not fit.
    """
    learner = untrained(encoder, dataset, method, 0, **referenced)
    if learner.needs_classes and dataset.target != "class":
        descriptions = {"none": "images without labels", "classes": "several classes per image"}
        raise ValueError(
            f"`method.pretrain_on` must have one class per image for {type(learner).__name__}, "
            f"but `{dataset.name}` has {descriptions[dataset.target]}; choose another set or "
            "method."
        )
    learner.check(dataset)
    options, samples = options_of(method), len(dataset["train"])
    trainer.check(learner, samples, options, accumulate)
    stream = SampleOrder(samples, options.batch_size, options.drop_last, 0)
    SnapshotKeys.of(method).check(options.length(stream) / stream.steps_per_epoch)


def options_of(method: Mapping[str, Any]) -> TrainingOptions:
    """Return the options of a pre-training."""
    # Drop incomplete batches: a batch across two epochs could hold an image twice, which would
    # become its own negative.
    return TrainingOptions.of(method, drop_last=True)


def planned(
    encoder: Encoder,
    dataset: Dataset,
    method: Mapping[str, Any],
    **referenced: Encoder | list[Encoder],
) -> tuple[torch.nn.Module | None, Head | None]:
    """Return untrained stand-ins of the projector and the classifier that ``train`` leaves.

    Args:
        encoder: only ``feature_dim`` and ``preprocessing`` are used.
        dataset: the pre-training set; only its classes are used.
        method: the resolved ``method`` node.
        **referenced: see ``check``.

    Raises:
        ValueError: if the method does not fit.
    """
    learner = untrained(encoder, dataset, method, 0, **referenced)
    return learner.projection, learner.trained_head(dataset)


def untrained(
    encoder: Encoder,
    dataset: Dataset,
    method: Mapping[str, Any],
    seed: int,
    **referenced: Encoder | list[Encoder],
) -> methods.Method:
    """Return the learner that ``train`` trains; its parameters depend on ``seed``.

    Args:
        encoder: see ``train``.
        dataset: see ``train``; only the number of classes is used.
        method: see ``train``.
        seed: seed of the initial parameters.
        **referenced: see ``train``.

    Raises:
        ValueError: if the method does not fit.
    """
    with randomness.seeded(randomness.derive(seed, "projector")):
        return methods.build(method, encoder, len(dataset.classes), **referenced)


@contextmanager
def monitored(
    method: methods.Method, dataset: Dataset, context: Context
) -> Iterator[Monitor | None]:
    """Attach the monitors that ``context.monitor`` selects, inside of the context."""
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
    """Return each view's pipeline, without flips if these change the class."""
    allowed = [view if dataset.flip else view.without_flip() for view in views]
    return [Pipeline(preprocessing, view, view=number) for number, view in enumerate(allowed)]
