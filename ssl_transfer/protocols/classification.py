"""What classification protocols end with: predictions of the test split and their scores."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssl_transfer import metrics
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.protocols.base import Score


def scores_on_test(
    logits: Float[Tensor, "samples classes"], dataset: Dataset, context: Context
) -> Iterator[Score]:
    """Yield the dataset's metric (primary) and top-1 on the test split; keep the predictions."""
    predictions = logits.argmax(1).cpu().numpy().astype(np.int16)
    context.save_predictions("test_predictions", predictions)
    labels = torch.from_numpy(dataset["test"].targets)
    for name in sorted({dataset.metric, "top1"}):
        value = metrics.CLASSIFICATION[name](logits, labels)
        yield Score(metric=name, value=value, primary=name == dataset.metric)
