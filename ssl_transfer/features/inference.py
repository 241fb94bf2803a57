"""Inference over a split: every sample once, with rows in the order of sample indices."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssl_transfer.context import Context
from ssl_transfer.datasets.loading import TrainingData, load
from ssl_transfer.system import distributed


@torch.no_grad()
def map_samples(
    function: Callable[[Tensor], Float[Tensor, "batch *rest"]],
    data: TrainingData,
    context: Context,
    *,
    label: str,
) -> Float[np.ndarray, "samples *rest"]:
    """Return ``function`` of every sample's first view, with row i for sample i.

    Each process computes its share of the samples; all processes get the whole result. The rows do
    not depend on the number of processes or loader workers.

    Args:
        function: function from a batch of views on the context's device to one row per sample.
        data: the samples.
        context: the run's context.
        label: label of the progress bar.
    """
    local_indices = list(range(len(data)))[distributed.rank() :: distributed.world_size()]
    size = context.batch_size_eval
    chunks = [local_indices[start : start + size] for start in range(0, len(local_indices), size)]
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    batches = load(data, [[(0, index) for index in chunk] for chunk in chunks], context)
    for batch in context.progress(batches, total=len(chunks), label=label):
        view = batch.views[0].to(context.device, context.dtype, non_blocking=True)
        pairs.append((batch.indices.numpy(), function(view).cpu().numpy()))
    shares = [pair for share in distributed.gather_objects(pairs) for pair in share]
    rows = np.empty((len(data), *shares[0][1].shape[1:]), dtype=shares[0][1].dtype)
    for indices, values in shares:
        rows[indices] = values
    return rows
