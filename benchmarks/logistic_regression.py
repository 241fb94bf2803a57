"""``logistic_regression`` over its 45 values of C, against the scikit-learn loop of the 2021 code.

    python benchmarks/logistic_regression.py [--cifar10 cifar10.tar.gz] [--published]

Both choose C on validation features, refit on train + validation and predict the test features, on
the same float32 features. The loop is that of Ericsson et al. 2021 run on today's scikit-learn: one
warm-started L-BFGS, C from 1e6 down. As published it stops after at most 100 iterations per value,
far from many optima; therefore it also runs until its gradient is as small as ours at every value,
and this is what the ratio compares. The gradient is that of ``mean CE + |W|^2 / (2 C N)`` for
weights and intercepts, in float64, and its norm the largest entry, by which scikit-learn stops. In
float32 scikit-learn may give up earlier; the norms that it reached are shown. Each method is timed
with one BLAS thread and with one per core, in turn, and the faster setting counts.

Features are those of a layer of random patches (Coates and Ng 2012, without k-means) on CIFAR-10
images (an archive of ``cifar10/{train,test}/CLASS/*.jpg``), and synthetic ones with a decaying
spectrum cut off at zero, as after a ReLU.
"""

import argparse
import dataclasses
import io
import os
import sys
import tarfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as ScikitLearn
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from ssl_transfer import metrics
from ssl_transfer.estimators.softmax_regression import fit_path
from ssl_transfer.protocols.logistic_regression import LogisticRegression, Search

PATCH = 6  # pixels
SIZES = {"train": 3000, "val": 1000, "test": 4000}

Samples = tuple[torch.Tensor, torch.Tensor]
Splits = dict[str, Samples]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One method on one set of features.

    Args:
        seconds: with the refit.
        chosen: index of C.
        val: validation accuracy.
        test: test accuracy.
        gradients: norm at every C that was reached.
    """

    seconds: float
    chosen: int
    val: float
    test: float
    gradients: list[float]


Method = Callable[[Splits], Result]
GRID = LogisticRegression().grid()


def main() -> None:
    """Print one table and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", type=Path, help="archive with the images")
    parser.add_argument(
        "--repeats", type=int, default=1, help="of every measurement; fastest counts"
    )
    parser.add_argument(
        "--published", action="store_true", help="also the loop with the tolerance of 2021 (slow)"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}), help="to try"
    )
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="`cpu` on a loaded machine (--threads 1)"
    )
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds after which a loop starts no other C"
    )
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    warm_up()
    show(
        "features", "method", "threads", "seconds", "C", "val %", "test %",
        "gradient norm at C", "median", "largest", "at"
    )  # fmt: skip
    summary = []
    for name, splits in feature_sets(options.cifar10):

        def fastest(key: str, method: Method, name: str = name, splits: Splits = splits) -> Result:
            return measure(name, key, method, splits, options.threads, options.repeats)

        ours = fastest("batched", lambda splits: batched(splits, clock))
        early = fastest("loop as published", lambda splits: loop(splits, clock, options.limit))
        if options.published:
            fastest("loop, tolerance of 2021", lambda splits: published(splits, clock))
        tols = ours.gradients
        equal = fastest(
            "loop to our gradient norms",
            lambda splits, tols=tols: loop(splits, clock, options.limit, tols),
        )
        reached = len(equal.gradients)
        larger = np.greater(early.gradients, ours.gradients[: len(early.gradients)]).sum()
        summary.append(
            f"{name}: {equal.seconds / ours.seconds:.1f} times faster than the loop to our "
            f"gradient norms, which reached {reached} of {len(GRID)} values in time "
            f"({100 * (ours.test - equal.test):+.2f} points in test accuracy); "
            f"{early.seconds / ours.seconds:.1f} times faster than the loop as published, whose "
            f"gradient is the larger one at {larger} values "
            f"({100 * (ours.test - early.test):+.2f} points)"
        )
    print("\n".join(summary))


def show(*cells: object) -> None:
    """Print one row of the table."""
    widths = (30, 28, 8, 9, 9, 8, 8, 20, 9, 9, 8)
    print(
        "".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True)), flush=True
    )


def measure(
    name: str, key: str, method: Method, splits: Splits, settings: list[int], repeats: int
) -> Result:
    """Print the fastest of each thread setting; return the fastest of all."""
    results = []
    for threads in settings:
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            fastest = min((method(splits) for _ in range(repeats)), key=lambda r: r.seconds)
        norms = fastest.gradients
        show(
            name, key, threads, f"{fastest.seconds:.2f}", f"{GRID[fastest.chosen]:.3g}",
            f"{100 * fastest.val:.2f}", f"{100 * fastest.test:.2f}", f"{norms[fastest.chosen]:.1e}",
            f"{np.median(norms):.1e}", f"{max(norms):.1e}", f"{len(norms)} C"
        )  # fmt: skip
        results.append(fastest)
    return min(results, key=lambda result: result.seconds)


def batched(splits: Splits, clock: Callable[[], float]) -> Result:
    """The protocol as it runs by default."""
    result = timed(lambda search: search.batched, splits, clock)
    path = fit_path(*splits["train"], C=GRID, classes=classes(splits))
    gradients = [
        gradient_norm(splits["train"], C, weights, intercepts)
        for C, weights, intercepts in zip(GRID, path.weights, path.intercepts, strict=True)
    ]
    return dataclasses.replace(result, gradients=gradients)


def published(splits: Splits, clock: Callable[[], float]) -> Result:
    """The protocol's ``solver: sklearn_2021``, whose gradients are not looked at."""
    return timed(lambda search: search.one_by_one, splits, clock)


def timed(
    choose: Callable[[Search], Callable[[torch.Tensor], Any]],
    splits: Splits,
    clock: Callable[[], float],
) -> Result:
    """Run one of the protocol's two ways through the grid."""
    dataset: Any = SimpleNamespace(classes=range(classes(splits)), metric="top1")
    began = clock()
    search = Search(LogisticRegression(), splits["train"], splits["val"], dataset)
    result = choose(search)(splits["test"][0])
    seconds = clock() - began
    test = metrics.top1(result.test_logits, splits["test"][1])
    return Result(
        seconds=seconds,
        chosen=result.best,
        val=result.scores[result.best],
        test=test,
        gradients=[float("nan")] * len(GRID),
    )


def loop(
    splits: Splits,
    clock: Callable[[], float],
    limit: float,
    tols: Sequence[float] | None = None,
) -> Result:
    """The loop of linear.py (github.com/linusericsson/ssl-transfer), on what is installed.

    Args:
        splits: features and labels.
        clock: seconds so far.
        limit: seconds after which no other C is started.
        tols: largest entry of the gradient at each C (``None``: scikit-learn's default, and at most
            100 iterations, as published).
    """
    (train, train_y), (val, val_y), (test, test_y) = (
        (features.numpy(), labels.numpy()) for features, labels in splits.values()
    )
    model = ScikitLearn(solver="lbfgs", warm_start=True)
    if tols is not None:
        model.set_params(max_iter=100_000)
    scores: list[float] = []
    gradients: list[float] = []
    seconds = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for number, C in enumerate(GRID):
            began = clock()
            model.set_params(C=C, tol=model.tol if tols is None else tols[number])
            scores.append(model.fit(train, train_y).score(val, val_y))
            seconds += clock() - began
            weights, intercepts = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
            gradients.append(gradient_norm(splits["train"], C, weights, intercepts))
            if seconds > limit:
                break
        began = clock()
        chosen = int(np.argmax(scores))
        both = np.concatenate([train, val]), np.concatenate([train_y, val_y])
        model.set_params(C=GRID[chosen], tol=model.tol if tols is None else tols[chosen])
        accuracy = model.fit(*both).score(test, test_y)
        seconds += clock() - began
    return Result(
        seconds=seconds, chosen=chosen, val=scores[chosen], test=accuracy, gradients=gradients
    )


def gradient_norm(
    samples: Samples, C: float, weights: torch.Tensor, intercepts: torch.Tensor
) -> float:
    """Return the largest entry of the gradient of ``mean CE + |W|^2 / (2 C N)``, in float64."""
    features, labels = samples[0].double(), samples[1]
    weights = weights.double()
    logits = torch.addmm(intercepts.double(), features, weights.T)
    residuals = (logits.softmax(1) - F.one_hot(labels, len(weights))) / len(labels)
    by_weights = residuals.T @ features + weights / (C * len(labels))
    return float(torch.cat([by_weights.abs().flatten(), residuals.sum(0).abs()]).max())


def classes(splits: Splits) -> int:
    """Return the number of classes."""
    return int(splits["train"][1].max()) + 1


def warm_up() -> None:
    """Load and start everything once, so that no measurement pays for it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    tiny = {name: (torch.randn(60, 5, generator=generator), labels) for name in SIZES}
    batched(tiny, time.perf_counter)
    loop(tiny, time.perf_counter, 60)


def feature_sets(cifar10: Path | None) -> Iterator[tuple[str, Splits]]:
    """Yield the sets of features."""
    if cifar10 is not None:
        images, labels = read_cifar10(cifar10)
        for filters in (128, 512):
            features = patch_features(images, filters)
            yield f"CIFAR-10, 10 classes, D={4 * filters}", divide(features, labels)
    else:
        print("no --cifar10: synthetic features only")
    for dim in (512, 2048):
        features, labels = synthetic(dim, 47)
        # DTD's sizes: 1,880 images per split, fewer than features.
        yield f"synthetic, 47 classes, D={dim}", divide(features, labels, 1880, 1880)


def divide(
    features: torch.Tensor, labels: torch.Tensor, train: int = 3000, val: int = 1000
) -> Splits:
    """Cut the rows into the three splits."""
    ends = (0, train, train + val, len(labels))
    return {name: (features[a:b].contiguous(), labels[a:b])
            for name, a, b in zip(SIZES, ends, ends[1:], strict=False)}  # fmt: skip


def read_cifar10(archive: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return equally many images per class in a fixed random order: train and val, then test."""
    wanted = {"train": (SIZES["train"] + SIZES["val"]) // 10, "test": SIZES["test"] // 10}
    pixels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[str]] = {"train": [], "test": []}
    taken: Counter[tuple[str, str]] = Counter()
    with tarfile.open(archive) as members:
        for member in members:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) != 4:
                continue
            split, label = parts[1:3]
            taken[split, label] += 1
            if taken[split, label] <= wanted[split]:
                file = members.extractfile(member)
                assert file is not None
                pixels[split].append(np.array(Image.open(io.BytesIO(file.read()))))
                labels[split].append(label)
    order = np.random.default_rng(0).permutation(len(labels["train"]))
    images = np.concatenate([np.stack(pixels["train"])[order], np.stack(pixels["test"])])
    names = np.concatenate([np.array(labels["train"])[order], labels["test"]])
    numbers = np.unique(names, return_inverse=True)[1]
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(numbers)


def patch_features(images: torch.Tensor, filters: int) -> torch.Tensor:
    """Return rectified responses to random whitened patches, averaged over quadrants."""
    generator = torch.Generator().manual_seed(0)

    def patches(images: torch.Tensor) -> torch.Tensor:
        rows = F.unfold(images, PATCH).transpose(1, 2)
        return (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, keepdim=True) + 0.01).sqrt()

    sample = patches(images[:1000]).flatten(0, 1)
    sample = sample[torch.randint(len(sample), (20_000,), generator=generator)]
    mean = sample.mean(0)
    values, axes = torch.linalg.eigh(torch.cov((sample - mean).T))
    whiten = axes @ torch.diag((values + 0.1).rsqrt()) @ axes.T
    bank = F.normalize((sample[:filters] - mean) @ whiten)
    side = images.shape[-1] - PATCH + 1
    parts = []
    for chunk in torch.split(images, 200):
        response = ((patches(chunk) - mean) @ (whiten @ bank.T) - 0.5).clamp(min=0)
        maps = response.transpose(1, 2).unflatten(2, (side, side))
        parts.append(F.adaptive_avg_pool2d(maps, 2).flatten(1))
    return torch.cat(parts)


def synthetic(dim: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return overlapping classes whose variances fall along rotated axes."""
    generator = torch.Generator().manual_seed(1)

    def normal(rows: int) -> torch.Tensor:
        return torch.randn(rows, dim, generator=generator)

    samples = 2 * 1880 + SIZES["test"]
    labels = torch.randint(number, (samples,), generator=generator)
    spread = torch.arange(1, dim + 1) ** -0.5
    rotation = torch.linalg.qr(normal(dim)).Q
    overlap = {512: 0.3, 2048: 0.2}[dim]
    rows = (overlap * normal(number)[labels] + 1.6 * normal(samples)) * spread @ rotation
    return (0.3 + 0.4 * rows / rows.std()).clamp(min=0), labels


if __name__ == "__main__":
    main()
