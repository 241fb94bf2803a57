"""Noisy views of random images: training data for tests of methods."""

import os
import signal
from collections.abc import Sequence

import torch

from ssl_transfer.datasets.transforms import Batch

SAMPLES = 48


class NoisyViews:
    """Views of 48 images in four classes, pure functions of (epoch, index).

    Args:
        sizes: side of each view in pixels, at most 8.
        interrupt_at: number of the batch at which the process gets SIGTERM (``None``: never).
        dtype: type in which the images are drawn.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (8,),
        interrupt_at: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(SAMPLES, 3, 8, 8, generator=generator, dtype=dtype)
        self.noise = torch.randn(97, 3, 8, 8, generator=generator, dtype=dtype)
        self.sizes, self.interrupt_at, self.served = sizes, interrupt_at, 0

    def __len__(self) -> int:
        return SAMPLES

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        if self.served == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.served += 1
        epochs, indices = torch.tensor(items).unbind(1)
        views = []
        for view, size in enumerate(self.sizes):
            noise = self.noise[(31 * epochs + 7 * indices + 13 * view) % 97]
            views.append((self.images[indices] + 0.3 * noise)[:, :, :size, :size].float())
        return Batch(tuple(views), indices % 4, indices)
