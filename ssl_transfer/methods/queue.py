"""A first-in, first-out queue of embeddings of earlier batches."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.system.counts import Count


class Queue(nn.Module):
    """The latest ``size`` embeddings; the newest overwrite the oldest.

    It starts with random directions, as MoCo's does (He et al. 2020, released code), is the same on
    all processes as long as all push the same rows, and is saved and resumed as a buffer.

    Args:
        size: number of rows.
        dim: width of a row.

    Raises:
        ValueError: if the size is not positive.
    """

    rows: Float[Tensor, "size dim"]

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"`method.queue_size` must be at least 1, but is {size}.")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim)))
        self.count = Count(self, "pushed")

    @property
    def is_full(self) -> bool:
        """Whether all rows hold pushed embeddings; otherwise some are still random."""
        return int(self.count) >= len(self.rows)

    @torch.no_grad()
    def push(self, rows: Float[Tensor, "batch dim"]) -> None:
        """Add rows to the queue; the last row is the newest.

        The number of rows may be any number up to the queue's size; it need not divide the size.

        Raises:
            ValueError: if there are more rows than the queue has.
        """
        if len(rows) > len(self.rows):
            raise ValueError(
                f"`method.queue_size` must be at least {len(rows)}, the embeddings of one step, "
                f"but is {len(self.rows)}; raise it, or lower `method.batch_size`."
            )
        first = int(self.count) % len(self.rows)
        until_end = min(len(rows), len(self.rows) - first)
        self.rows[first : first + until_end] = rows[:until_end]
        self.rows[: len(rows) - until_end] = rows[until_end:]
        self.count.add(len(rows))
