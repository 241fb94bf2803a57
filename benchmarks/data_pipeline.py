"""Images per CPU-second from files to normalised batches: ours against torchvision's, in one run.

Both read the same files in random order, crop and flip at random, and go through a ``DataLoader``.
Ours is timed twice: decoding every image anew, and from pixels decoded once, whose making is
printed apart. Sides take turns and each is judged by its best epoch; CPU time counts the workers',
so that other work on the machine disturbs the ratio little. Files lie in the system's cache.

    python -m benchmarks.data_pipeline FOLDER [--size 32] [--batch-size 256] [--images 10000]

FOLDER holds ``train/<class>`` and ``test/<class>``.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.decoded import decode_once
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.loading import load
from ssl_transfer.datasets.transforms import CROP_FLIP, Pipeline, ViewDataset
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.training.options import SampleOrder

Epoch = Callable[[int], Iterable[Any]]


def ours(dataset: Dataset, picked: list[int], options: argparse.Namespace, workers: int) -> Epoch:
    """Return what yields the batches of an epoch, as training does."""
    pipeline = Pipeline(Preprocessing(size=options.size, resize=None), CROP_FLIP)
    data = ViewDataset(dataset["train"].subset(picked), [pipeline], seed=0)
    stream = SampleOrder(len(data), options.batch_size, drop_last=True, seed=0)
    context = Context(Path(), Path(), workers=workers)
    steps = len(data) // options.batch_size
    return lambda epoch: load(
        data, (stream.batch(step) for step in range(epoch * steps, (epoch + 1) * steps)), context
    )


def theirs(root: Path, picked: list[int], options: argparse.Namespace, workers: int) -> Epoch:
    """Return what users write today."""
    usual = Preprocessing()
    steps = [T.RandomResizedCrop(options.size), T.RandomHorizontalFlip(), T.ToTensor()]
    transform = T.Compose([*steps, T.Normalize(usual.mean, usual.std)])
    data = Subset(ImageFolder(str(root / "train"), transform), picked)
    loader: DataLoader[Any] = DataLoader(
        data, options.batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    return lambda epoch: loader


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all that it waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(epoch: Iterable[Any]) -> tuple[int, float, float]:
    """Go through an epoch; return its images, CPU seconds and seconds."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    images = sum(len(batch.views[0] if hasattr(batch, "views") else batch[0]) for batch in epoch)
    return images, cpu_seconds() - cpu, time.perf_counter() - wall


def compare(sides: dict[str, Epoch], workers: int, rounds: int) -> None:
    """Time all sides in turn; print the first epoch and the best of the others."""
    first: dict[str, float] = {}
    best = dict.fromkeys(sides, (0.0, 0.0))
    for round_ in range(rounds + 1):
        for name, epoch in sides.items():
            images, cpu, wall = timed(epoch(round_))
            if not round_:
                first[name] = images / cpu
                continue
            best[name] = (max(best[name][0], images / cpu), max(best[name][1], images / wall))
    judge = "torchvision"
    for name, (rate, speed) in best.items():
        print(
            f"{workers:>7}  {name:<22}{first[name]:>9.0f}{rate:>9.0f}{speed:>9.0f}"
            f"{first[name] / first[judge]:>9.2f}{rate / best[judge][0]:>9.2f}"
            f"{speed / best[judge][1]:>9.2f}"
        )


def main() -> None:
    """Print images per second of all sides, and their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    # All training images, in the same order on both sides.
    dataset = image_folder(name="files", root=str(options.folder), val_fraction=1e-9)
    count = len(dataset["train"])
    picked = np.random.default_rng(0).permutation(count)[: options.images].tolist()
    with tempfile.TemporaryDirectory() as temporary:
        cpu, wall = cpu_seconds(), time.perf_counter()
        once = decode_once(dataset, Path(temporary), "always", progress_bar=False)
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        files = sum(len(split) for split in dataset.splits.values())
        auto = decode_once(dataset, Path(temporary)) is not dataset
        print(f"decoding {files} images once: {wall:.1f} s, {files / cpu:.0f} per CPU-second "
              f"(by default: {'yes' if auto else 'no'})")  # fmt: skip
        print(f"{'':>7}  {'':<22}{'images per CPU-s':>18}{'per s':>9}{'ratio to torchvision':>27}")
        print(f"{'workers':>7}  {'side':<22}{'first':>9}{'later':>9}{'later':>9}"
              f"{'first':>9}{'later':>9}{'per s':>9}")  # fmt: skip
        for workers in options.workers:
            sides = {
                "ours, decoded anew": ours(dataset, picked, options, workers),
                "ours, decoded once": ours(once, picked, options, workers),
                "torchvision": theirs(options.folder, picked, options, workers),
            }
            compare(sides, workers, options.rounds)


if __name__ == "__main__":
    main()
