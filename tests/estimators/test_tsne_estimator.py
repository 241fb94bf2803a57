"""t-SNE of features, judged by scikit-learn itself and by the definition of trustworthiness."""

import numpy as np
import pytest
import sklearn.decomposition
import sklearn.manifold
from scipy.spatial.distance import cdist, pdist, squareform

from ssl_transfer.estimators import tsne
from ssl_transfer.estimators.tsne import embed, trustworthiness


def clusters(per_cluster: int = 12, clusters: int = 4, dim: int = 60) -> np.ndarray:
    chance = np.random.default_rng(0)
    centres = np.repeat(3 * chance.normal(size=(clusters, dim)), per_cluster, axis=0)
    lengths = chance.uniform(0.5, 3, (len(centres), 1))
    return (lengths * (centres + chance.normal(size=centres.shape))).astype(np.float32)


def unit(features: np.ndarray) -> np.ndarray:
    rows = features.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_clusters_stay_apart_whatever_the_lengths_of_features() -> None:
    features = clusters()
    embedding = embed(features, perplexity=8, iterations=300, seed=1)
    labels = np.repeat(np.arange(4), 12)
    nearest = cdist(embedding.points, embedding.points) + np.diag([np.inf] * 48)
    assert (labels[nearest.argmin(axis=1)] == labels).all()
    again = embed(2 * features, perplexity=8, iterations=300, seed=1)
    assert embedding.points == pytest.approx(again.points, rel=1e-3, abs=1e-3)


def test_distances_before_t_sne_are_those_of_scikit_learns_principal_components() -> None:
    rows = unit(clusters())
    judge = sklearn.decomposition.PCA(10, svd_solver="full").fit_transform(rows)
    assert pdist(tsne._principal(rows, 10)) == pytest.approx(pdist(judge))
    assert pdist(tsne._principal(rows, 60)) == pytest.approx(pdist(rows))


def test_trustworthiness_is_its_definition() -> None:
    features, points = unit(clusters()), np.random.default_rng(1).normal(size=(48, 2))
    n, k = 48, tsne.NEIGHBOURS
    ranks = squareform(pdist(features)).argsort(axis=1).argsort(axis=1)  # 0: the point itself
    near = squareform(pdist(points)).argsort(axis=1)[:, 1 : k + 1]
    penalty = sum(max(0, ranks[i, j] - k) for i in range(n) for j in near[i])
    expected = 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty
    assert trustworthiness(features, points) == pytest.approx(expected)
    assert trustworthiness(features[:, :2], features[:, :2]) == 1


def test_features_of_one_direction_have_no_t_sne() -> None:
    one = np.tile(np.arange(1.0, 9.0, dtype=np.float32), (20, 1)) * np.arange(1, 21)[:, None]
    with pytest.raises(ValueError, match="those of all 20 images have the same direction"):
        embed(one.astype(np.float32), perplexity=3)
    with pytest.raises(ValueError, match="those of 20 of 20 images are zero"):
        embed(0 * one.astype(np.float32), perplexity=3)
