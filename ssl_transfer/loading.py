"""From samples to batches: the one place that makes a ``DataLoader``."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader

from ssl_transfer.context import Context
from ssl_transfer.datasets.transforms import Batch, collate
from ssl_transfer.stopping import shield_worker

Items = list[tuple[int, int]]
"""(epoch, sample index) pairs."""


@runtime_checkable
class TrainingData(Protocol):
    """What a loader reads: whole batches by (epoch, index), such as a ``ViewDataset``."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitems__(self, items: Items) -> Batch:
        """Return the batch of these samples, a pure function of ``items``."""
        ...


def load(data: TrainingData, batches: Iterable[Items], context: Context) -> Iterable[Batch]:
    """Return the batches of these items in order; the loader's processes change nothing."""
    dataset: Any = data  # torch's stubs know single samples only
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,  # type: ignore[arg-type]
        num_workers=context.workers,
        worker_init_fn=shield_worker,
        generator=torch.Generator(),  # the global one stays untouched
        pin_memory=context.device.type == "cuda",
    )
    return loader
