"""Extraction of features into the store, against the encoder's own forward passes.

    python benchmarks/extraction.py [--images 256] [--workers 1] [--memory]

Speed: ResNet-18 with random weights at 224 px on photographs of 500x375 px, from memory and from
JPEG files, beside forward passes of prepared batches; images per second of wall time, the best of
all rounds. Memory: anonymous memory (RssAnon) while 200,000 rows of 2,048 features are written,
above that before it.
"""

import argparse
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssl_transfer import models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages, FileImages
from ssl_transfer.features import FeatureStore, FrozenFeatures
from ssl_transfer.features.array_file import Rows
from ssl_transfer.features.partial_array import Indices

BATCH = 64
SIDES = (375, 500)


def photographs(count: int) -> np.ndarray:
    """Return smooth random images, which compress as photographs do."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
    resized = (Image.fromarray(c).resize(SIDES[::-1], Image.Resampling.BICUBIC) for c in coarse)
    return np.stack([np.asarray(image) for image in resized])


def best(work: Callable[[], None], rounds: int) -> float:
    """Return the shortest time of a call in seconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def speed(count: int, workers: int, rounds: int) -> None:
    """Print images per second of forward passes and of extraction."""
    node = resolve(plain(compose(["model=resnet18"])))["model"]
    encoder = models.build(node).eval()
    pixels = photographs(count)
    batch = torch.randn(BATCH, 3, 224, 224)

    def forward() -> None:
        with torch.no_grad():
            for _ in range(count // BATCH):
                encoder(batch)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{number}.jpg" for number in range(count)]
        for path, image in zip(paths, pixels, strict=True):
            Image.fromarray(image).save(path, quality=90)
        sources = {
            "decoded images": ArrayImages(pixels),
            "JPEG files": FileImages([str(path) for path in paths]),
        }
        own = count / best(forward, rounds)
        print(f"{'forward passes':20}{own:8.1f} images/s")
        for source, images in sources.items():
            targets = np.zeros(count, dtype=np.int64)
            split = Split(images, targets, [str(i) for i in range(count)])
            dataset = Dataset("photos", ("a",), "class", "top1", {"test": split}, True, source, {})
            number = iter(range(rounds))

            def extract(dataset: Dataset = dataset, number: Iterator[int] = number) -> None:
                store = folder / f"{dataset.fingerprint} {next(number)}"
                context = Context(
                    folder, store, workers=workers, batch_size_eval=BATCH, progress_bar=False
                )
                FrozenFeatures(encoder, dataset, context).rows("test")

            rate = count / best(extract, rounds)
            print(f"{source:20}{rate:8.1f} images/s{100 * rate / own:7.1f} % of the forward speed")


def anonymous() -> int:
    """Return this process's anonymous memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def memory(rows: int, dim: int) -> None:
    """Print how much anonymous memory grows while an array is written and read."""
    peak, stop = [anonymous()], threading.Event()
    before = peak[0]

    def watch() -> None:
        while not stop.wait(0.02):
            peak.append(anonymous())

    def compute(indices: Indices) -> Iterator[tuple[Indices, Rows]]:
        for start in range(0, len(indices), 256):
            picked = indices[start : start + 256]
            values = np.random.default_rng(start).random((len(picked), dim), dtype=np.float32)
            yield picked, values

    thread = threading.Thread(target=watch)
    thread.start()
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        array, _ = FeatureStore(Path(name)).get({"benchmark": rows}, rows, compute)
        total = sum(float(part.mean()) for part in np.array_split(array, 100))
        took = time.perf_counter() - began
    stop.set()
    thread.join()
    assert abs(total / 100 - 0.5) < 0.01
    growth = (max(peak) - before) / 2**20
    print(f"{rows} x {dim}: {growth:.0f} MiB of anonymous memory above the start, {took:.1f} s")


def main() -> None:
    """Measure speed, or memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="memory instead of speed")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if options.memory:
        memory(200_000, 2048)
    else:
        speed(options.images, options.workers, options.rounds)


if __name__ == "__main__":
    main()
