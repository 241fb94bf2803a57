"""A first-in, first-out queue of embeddings of earlier batches."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


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
    pushed: Int64[Tensor, ""]

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"`method.queue_size` must be at least 1, but is {size}.")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim)))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> int:
        """Number of rows that hold pushed embeddings; the others are still random."""
        return min(int(self.pushed), len(self.rows))

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
        # Compute the positions on the device; a copy to the CPU would synchronise.
        places = (self.pushed + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows[places] = rows.to(self.rows.dtype)
        self.pushed += len(rows)
