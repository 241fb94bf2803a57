"""Kernel ridge regression of ten factors over the published grid, against scikit-learn.

    python benchmarks/kernel_ridge.py [--samples 1000] [--dim 256] [--factors 10] [--repeats 1]

Both choose alpha and gamma out of 5 x 8 values for each factor by the mean R2 of five folds, with
features that are standardised on the fitted part of every fold. scikit-learn does it as the
published code: one ``GridSearchCV`` of ``make_pipeline(StandardScaler(), KernelRidge("rbf"))`` per
factor. A second row gives scikit-learn one search for all factors together, which is not the same
task, since all factors then share one point of the grid. Times are CPU seconds of one thread, so
that other work on the machine does not count. Features are normal with a decaying
spectrum, factors are smooth functions of them with noise. The script also prints the largest
difference of the mean scores, and whether all choices agree.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ssl_transfer.datasets.splitting import cross_validation_folds
from ssl_transfer.estimators.kernel_ridge import held_out_r2
from ssl_transfer.protocols.factor_regression import FactorRegression

PROTOCOL = FactorRegression()
Features = Float32[np.ndarray, "samples dim"]
Factors = Float64[np.ndarray, "samples factors"]
Held = Int64[np.ndarray, " _"]
Scores = Float64[np.ndarray, "points factors"]


def main() -> None:
    """Print one table and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1000, help="of train + validation")
    parser.add_argument("--dim", type=int, default=256, help="of the features")
    parser.add_argument("--factors", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1, help="the fastest counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Time the three ways."""
    features, factors = data(options.samples, options.dim, options.factors)
    folds = cross_validation_folds(options.samples, PROTOCOL.folds, 0)
    ours, scores = timed(lambda: shared(features, factors, folds), options.repeats)
    theirs, judged = timed(lambda: searches(features, factors, folds), options.repeats)
    joint, _ = timed(lambda: search(features, factors, folds), options.repeats)
    print(f"{options.samples} samples, {options.dim} features, {options.factors} factors")
    print(f"{'factor_regression, all factors':45} {ours:8.2f} s")
    print(f"{'scikit-learn, a search per factor':45} {theirs:8.2f} s   {theirs / ours:6.1f} times")
    print(f"{'scikit-learn, one search for all':45} {joint:8.2f} s   {joint / ours:6.1f} times")
    agree = (scores.argmax(axis=0) == judged.argmax(axis=0)).all()
    print(f"largest difference of a mean score {np.abs(scores - judged).max():.1e}; all factors "
          f"have the same alpha and gamma: {'yes' if agree else 'no'}")  # fmt: skip


def data(samples: int, dim: int, count: int) -> tuple[Features, Factors]:
    """Return features with a decaying spectrum, and factors that are smooth functions of them."""
    generator = np.random.default_rng(0)
    latent = generator.normal(size=(samples, count))
    mixed = np.tanh(latent @ generator.normal(size=(count, dim)) / np.sqrt(count))
    features = mixed + generator.normal(0, 0.1, (samples, dim))
    factors = np.sin(latent) + generator.normal(0, 0.1, latent.shape)
    return features.astype(np.float32), factors


def timed(run: Callable[[], Scores], repeats: int) -> tuple[float, Scores]:
    """Return the shortest duration in seconds, and the result."""
    durations = []
    for _ in range(repeats):
        began = time.process_time()
        result = run()
        durations.append(time.process_time() - began)
    return min(durations), result


def shared(features: Features, factors: Factors, folds: list[Held]) -> Scores:
    """Return the mean R2 of every point of the grid, by our estimator."""
    rows, targets = torch.from_numpy(features), torch.from_numpy(factors)
    grid = {"alphas": PROTOCOL.alphas, "gammas": PROTOCOL.gammas}
    by_fold = [torch.stack(list(held_out_r2(rows, targets, held, **grid))) for held in folds]
    mean = torch.stack(by_fold).mean(dim=0).transpose(0, 1)  # alphas, gammas, factors
    return mean.flatten(0, 1).numpy()


def searches(features: Features, factors: Factors, folds: list[Held]) -> Scores:
    """Return the same by one search of scikit-learn per factor."""
    each = [search(features, column, folds)[:, 0] for column in factors.T]
    return np.stack(each, axis=1)


def search(
    features: Features, targets: Float64[np.ndarray, "samples *factors"], folds: list[Held]
) -> Scores:
    """Return the mean R2 of every point of the grid, by one search of scikit-learn."""
    everything = np.arange(len(features))
    pipeline = make_pipeline(StandardScaler(), KernelRidge(kernel="rbf"))
    keys = {"kernelridge__alpha": PROTOCOL.alphas, "kernelridge__gamma": PROTOCOL.gammas}
    parts = [(np.setdiff1d(everything, held), held) for held in folds]
    found = GridSearchCV(pipeline, keys, cv=parts, refit=False).fit(features, targets)
    return np.asarray(found.cv_results_["mean_test_score"])[:, None]


if __name__ == "__main__":
    main()
