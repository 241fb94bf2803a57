"""Exact uniformity of many features beside the full product of all pairs of them.

    python benchmarks/uniformity.py [--images 50000] [--dim 128] [--rounds 3] [--device cpu]

The product is the plain ``features @ features.T`` in chunks of rows, without the exponential and
the sum that uniformity takes of it; ours computes each pair once. Target: at most 0.75 of its time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.metrics.alignment import uniformity

CHUNK = 2**25
"""Similarities in memory at once."""


def full_product(features: Tensor) -> None:
    """Compute the cosines of all ordered pairs, some rows at a time."""
    unit = F.normalize(features)
    for rows in torch.split(unit, max(1, CHUNK // len(unit))):
        rows @ unit.T


def by_chunks(features: Tensor) -> float:
    """Return the uniformity from the full product, in double precision where sums are taken."""
    unit = F.normalize(features)
    total = torch.zeros((), dtype=torch.float64, device=unit.device)
    for rows in torch.split(unit, max(1, CHUNK // len(unit))):
        total += (rows @ unit.T).mul_(4).sub_(4).exp_().sum(dtype=torch.float64)
    pairs = len(unit) * (len(unit) - 1)
    return float(((total - len(unit)) / pairs).log())


def seconds(work: Callable[[Tensor], object], features: Tensor) -> float:
    """Return how long one call takes."""
    if features.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work(features)
    if features.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure both sides in turn, and print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    features = torch.randn(options.images, options.dim, device=options.device)
    small = features[:3000]
    ours, judge = uniformity(small), by_chunks(small)
    assert abs(ours - judge) < 1e-5, (ours, judge)
    sides = {"ours": uniformity, "full product": full_product}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, work in sides.items():
            taken[name].append(seconds(work, features))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ratio = medians["ours"] / medians["full product"]
    shown = ", ".join(f"{name} {median:.2f} s" for name, median in medians.items())
    print(f"{options.images} x {options.dim}, {torch.get_num_threads()} threads: {shown}")
    print(f"ratio {ratio:.2f} (target: at most 0.75)")


if __name__ == "__main__":
    main()
