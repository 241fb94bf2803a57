"""What the checks of ``scripts/gpu_check.py`` share: rows of the table, data and methods."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_transfer import methods, models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets.base import Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.transforms import Batch

VIT = (
    "model=timm", "model.arch=vit_tiny_patch16_224",
    "model.options={img_size:32,patch_size:8,depth:4,embed_dim:48}",
    "model.preprocessing={size:32,resize:null}",
)  # fmt: skip
"""Overrides of a vision transformer that is small enough for a CPU."""


@dataclasses.dataclass
class Row:
    """One line of the table: a check if it has a limit, else a measurement."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is at most the limit; a value that is not a number never is."""
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        verdict = (
            "" if self.limit is None else f"{'ok' if self.passed else 'FAILED'} (≤ {self.limit:g})"
        )
        return f"{self.name:<46}{self.value:>12.4g} {self.unit:<12}{verdict:<18}{self.note}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the checks run on.

    Args:
        device: a torch device.
        small: whether sizes are those of a test rather than of a measurement.
    """

    device: Any
    small: bool

    @property
    def batch_size(self) -> int:
        """Images per step of the checks of methods."""
        return 32 if self.small else 128


def node_of(method: str, *overrides: str) -> dict[str, Any]:
    """Return the resolved configuration of a method on ``small_resnet``."""
    own = {
        "seed": ["method.teacher=small_resnet", "method.teacher_output=features"],
        "w_mse": ["method.sub_batch=32", "method.projector.dims=[64,16]"],
        "distill": ["method.teachers=[{method:supervised,seed:0},{method:supervised,seed:1}]"],
    }.get(method, [])
    return resolve(plain(compose([f"method={method}", *own, *overrides])))


class DrawnViews:
    """Training data that are one batch of drawn views, again and again.

    Args:
        learner: a method; it says how many views of which size it takes.
        samples: number of images.
        size: of the encoder's images, in pixels.
    """

    def __init__(self, learner: Any, samples: int, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        sizes = [view.size or size for view in learner.views]
        sizes *= 1 + len(learner.other_preprocessing)
        # Views of one image are alike, as a method expects.
        images = torch.randn(samples, 3, size, size, generator=generator)
        self.views = tuple(
            images[:, :, :side, :side]
            + 0.3 * torch.randn(samples, 3, side, side, generator=generator)
            for side in sizes
        )
        self.targets = torch.arange(samples) % 10

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, items: list[tuple[int, int]]) -> Any:
        """Return the samples of these (epoch, index) pairs."""
        rows = torch.tensor([index for _, index in items])
        return Batch(tuple(view[rows] for view in self.views), self.targets[rows], rows)


def context_of(folder: str | Path, device: Any, precision: str = "fp32", **options: Any) -> Any:
    """Return the surroundings of a check."""
    place = Path(folder)
    options.setdefault("progress_bar", False)
    return Context(place, place / "features", device=device, precision=precision, **options)


def learner_of(config: dict[str, Any], device: Any) -> Any:
    """Return a method with its encoder, the same weights at each call."""
    encoder = models.build(config["model"], seed=0)
    others = {
        "seed": lambda: {"teacher": models.build(config["model"], seed=1)},
        "distill": lambda: {"teachers": [models.build(config["model"], seed=i) for i in (1, 2)]},
    }.get(config["method"]["name"], dict)()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return methods.build(config["method"], encoder, 10, **others).to(device)


def difference(vector: Any, reference: Any) -> float:
    """Return the norm of the difference of two vectors over the norm of the second."""
    return float((vector - reference).norm() / reference.norm())


def drawn_split(samples: int, size: int) -> Any:
    """Return images of a few patterns with noise, in memory."""
    generator = np.random.default_rng(0)
    targets = np.arange(samples, dtype=np.int64) % 10
    patterns = generator.integers(40, 216, (10, 8, 8, 3)).repeat(-(-size // 8), 1)
    patterns = patterns.repeat(-(-size // 8), 2)[:, :size, :size]
    pixels = np.empty((samples, size, size, 3), np.uint8)
    for number, target in enumerate(targets):
        noise = generator.normal(0, 30, (size, size, 3))
        pixels[number] = (patterns[target] + noise).clip(0, 255)
    return Split(ArrayImages(pixels), targets, [str(number) for number in range(samples)])
