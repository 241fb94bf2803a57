"""``pretrain``: train the method's objective and stop once its weights exist."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ssl_transfer import methods, randomness
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Pipeline, ViewDataset
from ssl_transfer.models import Encoder
from ssl_transfer.trainer import Recipe, fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train ``method`` on ``method.pretrain_on``; all its numbers stand in the method's node."""

    def run(
        self, encoder: Encoder, dataset: Dataset, context: Context, method: Mapping[str, Any]
    ) -> Encoder:
        """Return the encoder, trained in place on the training split.

        Args:
            encoder: as ``model`` built it.
            dataset: the pre-training set.
            context: the run's surroundings.
            method: the resolved ``method`` node.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(randomness.derive(context.seed, "projector"))
            learner = methods.build(method, encoder, len(dataset.classes))
        learner = learner.to(context.device, context.dtype)
        views = [view if dataset.flip else view.without_flip() for view in learner.views]
        pipelines = [
            Pipeline(encoder.preprocessing, view, view=number) for number, view in enumerate(views)
        ]
        # An image must not meet itself as a negative at the seam of two epochs.
        recipe = Recipe.of(method, drop_last=True)
        data = ViewDataset(dataset["train"], pipelines, context.seed)
        fit(learner, data, recipe, context, name="pretrain")
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
