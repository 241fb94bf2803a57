"""The estimators of transferability against a plain loop over classes, in one run.

    python benchmarks/transferability.py [--sizes small medium] [--skip n_leep]

The plain versions are the published formulas in numpy, scipy and scikit-learn as one writes them
first: LogME with a singular value decomposition per class, a determinant of full size per class for
TransRate, a loop over pairs of classes for GBC, over images for LEEP, and so on. Both read
the same float32 features and use one thread; what is compared is the processor's time. The last
column shows that both have the same value.
"""

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ssl_transfer.estimators import transferability as estimators

SIZES = {"small": (1000, 256, 10), "medium": (4000, 512, 50)}  # images, dimensions, classes
SOURCE_CLASSES = 200
LIDAR = (200, 5)  # images, views
Array = np.ndarray


def main() -> None:
    """Print one table per size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--skip", nargs="*", default=[], help="estimators to leave out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for size in options.sizes:
            images, dim, classes = SIZES[size]
            print(f"{size}: {images} images, {dim} dimensions, {classes} classes")
            table(*data(images, dim, classes), set(options.skip))


def data(images: int, dim: int, classes: int) -> tuple[Array, Array, Array, Array]:
    """Return features with a decaying spectrum, labels, source probabilities and views."""
    chance = np.random.default_rng(0)
    labels = chance.integers(0, classes, images)
    spread = np.arange(1, dim + 1) ** -0.5
    means = chance.normal(size=(classes, dim))
    features = (means[labels] + 4 * chance.normal(size=(images, dim))) * spread + 0.1
    logits = chance.normal(size=(images, SOURCE_CLASSES))
    logits += 3 * np.eye(classes, SOURCE_CLASSES)[labels]
    count, views = LIDAR
    noise = 0.3 * chance.normal(size=(count, views, dim)) * spread
    return (
        features.astype(np.float32),
        labels,
        scipy.special.softmax(logits, axis=1).astype(np.float32),
        (features[:count, None] + noise).astype(np.float32),
    )


def table(features: Array, labels: Array, theta: Array, views: Array, skip: set[str]) -> None:
    """Print the seconds of both sides, their ratio and their values."""
    plain = {name: PLAIN[name] for name in PLAIN if name not in skip}
    inputs = {"leep": (theta, labels), "nce": (theta.argmax(1), labels), "lidar": (views,)}
    inputs |= {"rankme": (features,), "alpha_req": (features,)}
    totals = np.zeros(2)
    print(f"{'estimator':20}{'ours s':>9}{'loop s':>9}{'ratio':>8}{'ours':>14}{'loop':>14}")
    for name, loop in plain.items():
        arrays = inputs.get(name, (features, labels))
        ours = getattr(estimators, name)
        seconds, value = timed(ours, *(torch.from_numpy(array) for array in arrays))
        of_loop, expected = timed(loop, *arrays)
        totals += seconds, of_loop
        print(
            f"{name:20}{seconds:9.3f}{of_loop:9.3f}{of_loop / seconds:8.1f}"
            f"{value:14.6f}{expected:14.6f}",
            flush=True,
        )
    print(f"{'all':20}{totals[0]:9.2f}{totals[1]:9.2f}{totals[1] / totals[0]:8.1f}\n")


def timed(function: Callable[..., float], *arguments: object) -> tuple[float, float]:
    """Return the processor's seconds of a call, and its value."""
    began = time.process_time()
    value = function(*arguments)
    return time.process_time() - began, value


def plain_logme(features: Array, labels: Array) -> float:
    """One singular value decomposition and one fixed point per class."""
    evidences = []
    for label in np.unique(labels):
        F, y = features.astype(np.float64), (labels == label).astype(np.float64)
        n, d = F.shape
        u, s, _ = np.linalg.svd(F, full_matrices=False)
        squares, x2 = s**2, (u.T @ y) ** 2
        rest, alpha, beta = y @ y - x2.sum(), 1.0, 1.0
        for _ in range(200):
            t = alpha / beta
            gamma = (squares / (squares + t)).sum()
            m2 = (squares * x2 / (t + squares) ** 2).sum()
            residual = (x2 / (1 + squares / t) ** 2).sum() + rest
            alpha, beta = gamma / m2, (n - gamma) / residual
            if abs(alpha / beta - t) <= 1e-8 * t:
                break
        log_det = np.log(alpha + beta * squares).sum() + (d - len(s)) * math.log(alpha)
        evidence = n * math.log(beta / (2 * math.pi)) + d * math.log(alpha) - log_det
        evidences.append((evidence - beta * residual - alpha * m2) / (2 * n))
    return float(np.mean(evidences))


def means_by_image(features: Array, labels: Array) -> Array:
    """Return the mean of each image's class."""
    means = np.zeros_like(features)
    for label in np.unique(labels):
        means[labels == label] = features[labels == label].mean(0)
    return means


def plain_h_score(features: Array, labels: Array) -> float:
    """The trace of the definition."""
    F = features.astype(np.float64)
    inverse = np.linalg.pinv(np.cov(F.T), rcond=1e-12)
    return float(np.trace(inverse @ np.cov(means_by_image(F, labels).T)))


def plain_h_score_shrinkage(features: Array, labels: Array) -> float:
    """scikit-learn's covariance, inverted."""
    F = features.astype(np.float64)
    model = LedoitWolf().fit(F)
    between = np.cov(means_by_image(F, labels).T, bias=True)
    return float((1 - model.shrinkage_) * np.trace(np.linalg.inv(model.covariance_) @ between))


def plain_leep(theta: Array, labels: Array) -> float:
    """A loop over images."""
    theta = theta.astype(np.float64)
    joint = np.zeros((labels.max() + 1, theta.shape[1]))
    for y, row in zip(labels, theta, strict=True):
        joint[y] += row
    conditional = joint / joint.sum(0)
    return float(
        np.mean([np.log(conditional[y] @ row) for y, row in zip(labels, theta, strict=True)])
    )


def plain_nce(source: Array, labels: Array) -> float:
    """A loop over images, then over pairs of classes."""
    joint = np.zeros((labels.max() + 1, source.max() + 1))
    for y, z in zip(labels, source, strict=True):
        joint[y, z] += 1 / len(labels)
    total = 0.0
    for z in range(joint.shape[1]):
        for p in joint[:, z]:
            total += p * math.log(p / joint[:, z].sum()) if p > 0 else 0.0
    return total


def plain_n_leep(features: Array, labels: Array) -> float:
    """scikit-learn's mixture, then LEEP by a loop."""
    scores = PCA(0.8, svd_solver="full").fit_transform(features.astype(np.float64))
    mixture = GaussianMixture(5 * len(np.unique(labels)), random_state=0).fit(scores)
    return plain_leep(mixture.predict_proba(scores), labels)


def plain_transrate(features: Array, labels: Array) -> float:
    """A determinant of full size per class."""
    Z = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    d = Z.shape[1]

    def rate(rows: Array) -> float:
        scale = d / (len(rows) * 1e-4)
        return float(np.linalg.slogdet(np.eye(d) + scale * rows.T @ rows)[1]) / 2

    classes = [Z[labels == label] for label in np.unique(labels)]
    return rate(Z) - sum(len(rows) / len(Z) * rate(rows) for rows in classes)


def plain_gbc(features: Array, labels: Array) -> float:
    """A loop over pairs of classes."""
    scores = PCA(64, svd_solver="full").fit_transform(features.astype(np.float64))
    names, total = np.unique(labels), 0.0
    for a in names:
        for b in names:
            if a == b:
                continue
            one, two = scores[labels == a], scores[labels == b]
            v, w = (np.maximum(rows.var(0), 1e-4).mean() for rows in (one, two))
            between = ((one.mean(0) - two.mean(0)) ** 2).sum() / ((v + w) / 2) / 8
            spread = len(scores[0]) * math.log((v + w) / 2 / math.sqrt(v * w)) / 2
            total += math.exp(-between - spread)
    return -total


def plain_sfda(features: Array, labels: Array) -> float:
    """The published program with all Fisher components."""
    X, names = features.astype(np.float64), np.unique(labels)
    priors = np.bincount(labels)[names] / len(labels)

    def fitted(X: Array, strength: float | None) -> tuple[Array, float]:
        means = np.stack([X[labels == c].mean(0) for c in names])
        within = sum(
            p * np.cov(X[labels == c].T, bias=True) for c, p in zip(names, priors, strict=True)
        )
        strength = strength or max(math.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)

        def shrunk(S: Array) -> Array:
            return (1 - strength) * S + strength * np.trace(S) / len(S) * np.eye(len(S))

        total, within = shrunk(np.cov(X.T, bias=True)), shrunk(within)
        vectors = scipy.linalg.eigh(total - within, within)[1]
        weights = means @ vectors @ vectors.T
        logits = X @ weights.T - np.diag(means @ weights.T) / 2 + np.log(priors)
        return logits, strength

    logits, strength = fitted(X, None)
    soft = scipy.special.softmax(scipy.special.softmax(logits, axis=1), axis=1)
    means = np.stack([X[labels == c].mean(0) for c in names])
    for number, label in enumerate(names):
        rows = labels == label
        p = soft[rows, number][:, None]
        other = (means.sum(0) - means[number]) / (len(names) - 1)
        X[rows] = p * X[rows] + (1 - p) * other
    logits, _ = fitted(X, strength)
    logs = scipy.special.log_softmax(logits, axis=1)
    return float(logs[np.arange(len(X)), np.searchsorted(names, labels)].mean())


def plain_parc(features: Array, labels: Array) -> float:
    """Use scipy's rank correlation of both matrices of distances."""
    F = StandardScaler().fit_transform(features.astype(np.float64))
    pairs = np.triu_indices(len(F), 1)
    onehot = np.eye(labels.max() + 1)[labels]
    distances = (1 - np.corrcoef(rows)[pairs] for rows in (F, onehot))
    return float(scipy.stats.spearmanr(*(np.round(d, 12) for d in distances)).statistic)


def plain_knn_loo(features: Array, labels: Array) -> float:
    """scikit-learn's neighbours, then a vote per image."""
    judge = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features.astype(np.float64))
    votes = labels[judge.kneighbors(return_distance=False)]
    return float(np.mean([np.bincount(row).argmax() for row in votes] == labels))


def plain_rankme(features: Array) -> float:
    """A singular value decomposition of the features."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def plain_alpha_req(features: Array) -> float:
    """Use numpy's covariance and fit of a line."""
    values = np.linalg.eigvalsh(np.cov(features.T.astype(np.float64)))[::-1]
    ranks = np.arange(4, 101)
    slope = np.polyfit(np.log(ranks), np.log(values[3:100]), 1, w=ranks**-0.5)[0]
    return -abs(-float(slope) - 1)


def plain_lidar(views: Array) -> float:
    """A covariance per image, and the dense discriminant matrix."""
    views = views.astype(np.float64)
    within = np.mean([np.cov(image.T, bias=True) for image in views], axis=0)
    root = np.linalg.inv(scipy.linalg.sqrtm(within + 1e-4 * np.eye(len(within))))
    between = np.cov(views.mean(1).T, bias=True)
    values = np.linalg.eigvalsh(root @ between @ root).clip(0)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


PLAIN = {
    "logme": plain_logme,
    "h_score": plain_h_score,
    "h_score_shrinkage": plain_h_score_shrinkage,
    "leep": plain_leep,
    "nce": plain_nce,
    "n_leep": plain_n_leep,
    "transrate": plain_transrate,
    "gbc": plain_gbc,
    "sfda": plain_sfda,
    "parc": plain_parc,
    "knn_loo": plain_knn_loo,
    "rankme": plain_rankme,
    "alpha_req": plain_alpha_req,
    "lidar": plain_lidar,
}


if __name__ == "__main__":
    main()
