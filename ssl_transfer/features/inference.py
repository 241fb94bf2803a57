"""Inference over a split: every sample once, with rows in the order of sample indices."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssl_transfer.context import Context
from ssl_transfer.datasets.loading import TrainingData, load
from ssl_transfer.features.array_file import Rows
from ssl_transfer.features.partial_array import Indices, collect

Function = Callable[..., Float[Tensor, "batch *rest"]]
"""From the views of a batch, on the context's device, to one row per sample."""


def in_batches(
    function: Function, data: TrainingData, context: Context, indices: Indices, *, label: str
) -> Iterator[tuple[Indices, Rows]]:
    """Yield batches of samples and ``function`` of their views.

    The rows do not depend on the number of loader workers.

    Args:
        function: see ``Function``.
        data: the samples.
        context: the run's context.
        indices: the samples wanted.
        label: label of the progress bar.
    """
    size = context.batch_size_eval
    chunks = [indices[start : start + size].tolist() for start in range(0, len(indices), size)]
    batches = load(data, [[(0, index) for index in chunk] for chunk in chunks], context)
    for batch in context.progress(batches, total=len(chunks), label=label):
        with torch.no_grad():
            views = [v.to(context.device, context.dtype, non_blocking=True) for v in batch.views]
            rows = function(*views).cpu().numpy()
        yield batch.indices.numpy(), rows


def map_samples(
    function: Function, data: TrainingData, context: Context, *, label: str
) -> Float[np.ndarray, "samples *rest"]:
    """Return ``function`` of every sample's views, with row i for sample i.

    Each process computes its share of the samples; all processes get the whole result. The rows do
    not depend on the number of processes or loader workers.

    Args:
        function: see ``Function``.
        data: the samples.
        context: the run's context.
        label: label of the progress bar.
    """
    return collect(
        lambda indices: in_batches(function, data, context, indices, label=label), len(data)
    )
