"""Encoders for jobs that fail, wait, or train, named by ``model._target_=encoders.…``."""

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class Smooth(nn.Module):
    """A little network whose training is reproducible to the last bit.

    Args:
        seconds: how long a training step takes at least.
    """

    feature_dim = 8

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return features."""
        if self.training:
            time.sleep(self.seconds)
        features: Tensor = self.layers(images).flatten(1)
        return features


class BrokenWhile(Smooth):
    """Fails in its first forward pass as long as a file exists, on one rank alone.

    Args:
        file: that breaks it.
        rank: the process that fails, the others wait for it.
    """

    def __init__(self, file: str, rank: int = 0) -> None:
        super().__init__()
        self.file, self.rank = Path(file), rank

    def forward(self, images: Tensor) -> Tensor:
        """Return features, or fail."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        process = os.environ.get("SLURM_PROCID")  # not before a job, where a sweep is checked
        if process is not None and self.file.exists() and rank == self.rank:
            raise ArithmeticError(f"the encoder is broken on {process}")
        return super().forward(images)
