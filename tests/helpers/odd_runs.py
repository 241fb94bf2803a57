"""Runs of encoders that take their time, fail, or kill their process while a file exists."""

import logging
import os
import signal
import time
from pathlib import Path

import torch
from tiny_runs import DATA, TUNING
from torch import Tensor, nn

from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run
from ssl_transfer.system import provenance

ENVIRONMENT = {
    "PYTHONPATH": provenance.search_path(Path(__file__).parent),
    "OMP_NUM_THREADS": "1",
}
"""Of processes that load these encoders."""
SECONDS = "ODD_SECONDS"
"""Environment variable: how long a training step takes at least."""


class Smooth(nn.Module):
    """A little network whose training is reproducible to the last bit.

    Args:
        notes: folder in which it notes what GPUs its process was given.
    """

    feature_dim = 8

    def __init__(self, notes: str | None = None) -> None:
        super().__init__()
        self.notes = notes
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            time.sleep(float(os.environ.get(SECONDS, "0")))
        if self.notes is not None:
            given = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
            Path(self.notes, f"{given}_{torch.get_num_threads()}").touch()
        features: Tensor = self.layers(images).flatten(1)
        return features


class Broken(Smooth):
    """Raises while the file exists."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def forward(self, images: Tensor) -> Tensor:
        if self.file.exists():
            self.end()
        return super().forward(images)

    def end(self) -> None:
        raise ArithmeticError("the encoder is broken")


class Dies(Broken):
    """Kills its process while the file exists."""

    def __init__(self, file: str, notes: str | None = None) -> None:
        super().__init__(file)
        self.notes = notes

    def end(self) -> None:
        super(Broken, self).forward(torch.zeros(1, 3, 16, 16))
        logging.getLogger(__name__).info("about to die")
        os.kill(os.getpid(), signal.SIGKILL)


def overrides(outputs: Path, encoder: str, *others: str) -> list[str]:
    """Return the command line of a run of such an encoder that lasts a fraction of a second."""
    given = [o for o in others if o.startswith(("protocol=", "method=", "dataset@"))]
    tuned = "protocol=finetune" in others or "protocol=linear_probe" in others
    return [
        "model=custom", *given, f"model._target_=odd_runs.{encoder}",
        "model.preprocessing={size: 16}", *DATA, *(TUNING if tuned else []),
        f"paths.outputs={outputs}", "trainer.progress_bar=false", "trainer.device=cpu",
        *[o for o in others if o not in given],
    ]  # fmt: skip


def odd(outputs: Path, encoder: str, *others: str) -> Run:
    """Return that run."""
    return Run(plain(compose(overrides(outputs, encoder, *others))))
