"""Images that are the same in every epoch, decoded and resized in the first one alone."""

import torch
from torch import Tensor

from ssl_transfer.datasets.loading import Items, TrainingData
from ssl_transfer.datasets.transforms import Batch, ViewDataset

MOST_BYTES = 2**28
"""Views that take more memory than this are prepared in every epoch."""


def prepared_once(data: ViewDataset) -> TrainingData:
    """Return the same batches, whose views are kept if no part of them is random and they fit."""
    constant = all(pipeline.augmentation is None for pipeline in data.pipelines)
    values = sum(3 * pipeline.preprocessing.size**2 for pipeline in data.pipelines)
    return KeptViews(data) if constant and 4 * values * len(data) <= MOST_BYTES else data


class KeptViews(torch.utils.data.Dataset[Batch]):
    """Batches of a data set without augmentation; each image is prepared when it is first drawn.

    A process of a loader keeps what it prepares for itself.

    Args:
        data: the images, with pipelines that have no augmentation.
    """

    def __init__(self, data: ViewDataset) -> None:
        self.data = data
        self._rows: dict[int, tuple[Tensor, ...]] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, items: Items) -> Batch:
        """Return the batch of these (epoch, sample index) pairs."""
        indices = [index for _, index in items]
        missing = sorted(set(indices) - set(self._rows))
        if missing:
            prepared = self.data.__getitems__([(0, index) for index in missing])
            for row, index in enumerate(missing):
                self._rows[index] = tuple(view[row].clone() for view in prepared.views)
        return Batch(
            views=tuple(
                torch.stack([self._rows[index][number] for index in indices])
                for number in range(len(self.data.pipelines))
            ),
            targets=torch.from_numpy(self.data.split.targets[indices]),
            indices=torch.tensor(indices),
        )
