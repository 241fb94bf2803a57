import numpy as np
import pytest
import scipy.spatial.distance
import sklearn.covariance
import torch

from ssl_transfer.metrics import invariance
from ssl_transfer.metrics.invariance import (
    cosine_similarities,
    feature_statistics,
    mahalanobis_distances,
    whitening,
)


def features(samples=200, dim=6, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(dim, dim))
    return generator.normal(size=(samples, dim)) @ mixing + generator.normal(size=dim)


def pairs(seed=1):
    a, b = features(10, seed=seed), features(10, seed=seed + 1)
    return torch.from_numpy(a), torch.from_numpy(b)


def test_statistics_are_the_sample_mean_and_covariance_however_many_chunks(monkeypatch):
    rows = features().astype(np.float32)
    monkeypatch.setattr(invariance, "CHUNK_ELEMENTS", 6 * 33)
    statistics = feature_statistics(rows)
    np.testing.assert_allclose(statistics.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    expected = np.cov(rows.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-9, atol=1e-12)
    assert (statistics.samples, statistics.rank) == (200, 6)


def test_the_statistics_of_a_memory_mapped_file_are_those_of_the_array(tmp_path):
    np.save(tmp_path / "rows.npy", features())
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    a, b = feature_statistics(mapped), feature_statistics(features())
    assert torch.equal(a.covariance, b.covariance)
    assert torch.equal(a.mean, b.mean)


@pytest.mark.parametrize(("samples", "dim"), [(200, 6), (20, 30), (5000, 3)])
def test_the_shrinkage_is_that_of_scikit_learn(samples, dim):
    rows = features(samples, dim)
    expected = sklearn.covariance.ledoit_wolf_shrinkage(rows)
    assert feature_statistics(rows).ledoit_wolf == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("factorisation", "tolerance"), [("eigen", 1e-9), ("published", 1e-5)])
def test_the_covariance_of_whitened_features_is_the_identity(factorisation, tolerance):
    rows = features()
    white = whitening(feature_statistics(rows), factorisation=factorisation)
    whitened = white(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(6), atol=tolerance)
    np.testing.assert_allclose(whitened.mean(0), np.zeros(6), atol=tolerance)
    assert (white.shrinkage, white.ridge, white.rank, white.samples) == (0, 0, 6, 200)


@pytest.mark.parametrize("factorisation", ["eigen", "published"])
def test_distances_of_whitened_features_are_mahalanobis_distances(factorisation):
    rows = features()
    white = whitening(feature_statistics(rows), factorisation=factorisation)
    a, b = pairs()
    precision = np.linalg.inv(np.cov(rows, rowvar=False))
    expected = [
        scipy.spatial.distance.mahalanobis(x, y, precision) for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(mahalanobis_distances(white(a), white(b)), expected, rtol=1e-5)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_the_published_factor_is_the_cholesky_factor_of_the_inverse(ridge):
    rows = features()
    mean, covariance = rows.mean(0), np.cov(rows, rowvar=False)
    factor = np.linalg.cholesky(np.linalg.inv(covariance + ridge * np.eye(6)))
    white = whitening(feature_statistics(rows), ridge=ridge, factorisation="published")
    np.testing.assert_allclose(white.factor, factor, rtol=1e-5, atol=1e-6)
    a, b = (((mean - x.numpy()) @ factor) for x in pairs())
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    x, y = (white(features) for features in pairs())
    np.testing.assert_allclose(cosine_similarities(x, y), expected, atol=1e-5)
    sound = whitening(feature_statistics(rows), ridge=ridge)
    x, y = (sound(features) for features in pairs())
    np.testing.assert_allclose(cosine_similarities(x, y), expected, atol=1e-9)


def test_an_invertible_affine_map_of_the_features_changes_no_score():
    rows = features()
    generator = np.random.default_rng(5)
    matrix, shift = generator.normal(size=(6, 6)), generator.normal(size=6)
    plain, mapped = (whitening(feature_statistics(r)) for r in (rows, rows @ matrix + shift))
    a, b = pairs()
    moved = [x @ torch.from_numpy(matrix) + torch.from_numpy(shift) for x in (a, b)]
    for score in (cosine_similarities, mahalanobis_distances):
        expected = score(plain(a), plain(b))
        np.testing.assert_allclose(score(*map(mapped, moved)), expected, rtol=1e-8)


def test_equal_features_have_similarity_one_and_distance_zero():
    white = whitening(feature_statistics(features()))
    a, _ = pairs()
    np.testing.assert_allclose(cosine_similarities(white(a), white(a)), np.ones(10), rtol=1e-12)
    assert torch.equal(mahalanobis_distances(white(a), white(a)), torch.zeros(10).double())
    assert cosine_similarities(white(white.mean), white(a[0])).isnan()


@pytest.mark.parametrize(
    ("rows", "rank"),
    [
        (features(20, 30), 19),  # fewer images than dimensions
        (np.maximum(features(200, 6), [0, 0, 0, 0, 0, 1e6]), 5),  # a unit that is always equal
        (np.tile(features(200, 3), 2).astype(np.float32), 3),  # duplicated units
    ],
)
def test_a_singular_covariance_is_refused_or_shrunk(rows, rank):
    statistics = feature_statistics(rows)
    dim = rows.shape[1]
    more = f"use more than {dim} images, or " if len(rows) <= dim else ""
    message = f"has rank {rank} of {dim} dimensions .{len(rows)} images.; {more}set `shrinkage`"
    with pytest.raises(ValueError, match=message):
        whitening(statistics, shrinkage=0.0)
    white = whitening(statistics)
    assert white.shrinkage == statistics.ledoit_wolf > 0
    assert white.rank == rank
    judge = np.cov(rows.astype(np.float64), rowvar=False)
    shrunk = (1 - white.shrinkage) * judge + white.shrinkage * np.trace(judge) / dim * np.eye(dim)
    factor = white.factor.numpy()
    np.testing.assert_allclose(factor.T @ shrunk @ factor, np.eye(dim), atol=1e-6)
    assert whitening(statistics, ridge=1e-3).shrinkage == 0


def test_features_without_any_spread_and_single_images_are_refused():
    with pytest.raises(ValueError, match="all 3 images have the same features"):
        feature_statistics(np.full((3, 2), 0.1))
    with pytest.raises(ValueError, match="at least two images, but there are 1"):
        feature_statistics(np.ones((1, 2)))
