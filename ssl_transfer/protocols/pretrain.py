"""``pretrain``: train the method's objective and stop once its weights exist."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ssl_transfer import datasets, methods, randomness
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Augmentation, Pipeline, ViewDataset
from ssl_transfer.models import Encoder
from ssl_transfer.monitors import Monitor, Monitoring
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.recipe import Recipe
from ssl_transfer.trainer import fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train ``method`` on ``method.pretrain_on``; all its numbers stand in the method's node."""

    def run(
        self,
        encoder: Encoder,
        dataset: Dataset,
        context: Context,
        method: Mapping[str, Any],
        **referenced: Encoder,
    ) -> Encoder:
        """Return the encoder, trained in place on the training split.

        Args:
            encoder: as ``model`` built it.
            dataset: the pre-training set.
            context: the run's surroundings.
            method: the resolved ``method`` node.
            **referenced: the encoders that its references stand for, such as ``teacher``.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(randomness.derive(context.seed, "projector"))
            learner = methods.build(method, encoder, len(dataset.classes), **referenced)
        learner = learner.to(context.device, context.dtype)
        prepared = (encoder.preprocessing, *learner.other_preprocessing)
        drawn = [pipe for p in prepared for pipe in pipelines(learner.views, dataset, p)]
        # An image must not meet itself as a negative at the seam of two epochs.
        recipe = Recipe.of(method, drop_last=True)
        data = ViewDataset(dataset["train"], drawn, context.seed)
        with monitored(learner, dataset, context) as monitor:
            fit(learner, data, recipe, context, name="pretrain", observer=monitor)
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
        return encoder


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
