"""Every estimator of transferability against its formula, written down literally."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.mixture
import sklearn.neighbors
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from ssl_transfer.estimators import blocks, transferability
from ssl_transfer.estimators.transferability import (
    NotDefined,
    alpha_req,
    balanced_subset,
    decay_exponent,
    distances,
    gbc,
    h_score,
    h_score_shrinkage,
    knn_loo,
    leep,
    lidar,
    logme,
    moments,
    n_leep,
    nce,
    parc,
    rankme,
    sfda,
    transrate,
)

SHAPES = [(70, 6), (24, 40)]  # more samples than dimensions, and fewer
shapes = pytest.mark.parametrize(("samples", "dim"), SHAPES)
WITH_LABELS = {
    "logme": logme,
    "h_score": h_score,
    "h_score_shrinkage": h_score_shrinkage,
    "n_leep": lambda features, labels: n_leep(features, labels, components_per_class=2),
    "transrate": transrate,
    "gbc": gbc,
    "sfda": sfda,
    "parc": parc,
    "knn_loo": knn_loo,
}
LABEL_FREE = {
    "rankme": lambda rows, _: rankme(rows),
    "alpha_req": lambda rows, _: alpha_req(rows, first=1),
}
EVERY = WITH_LABELS | LABEL_FREE


def data(samples, dim, classes=3, seed=0, apart=1.0):
    """Return features of overlapping classes of unequal sizes, and their labels."""
    chance = np.random.default_rng(seed)
    sizes = 2 + chance.multinomial(samples - 2 * classes, chance.dirichlet([2] * classes))
    labels = np.repeat(np.arange(classes), sizes)
    means = chance.normal(size=(classes, dim)) * apart
    features = (
        0.5 + means[labels] + chance.normal(size=(samples, dim)) * chance.uniform(0.5, 2, dim)
    )
    order = chance.permutation(samples)
    return features[order], labels[order]


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


def value(estimator, *arrays, **keys):
    return estimator(*tensors(*arrays), **keys)


# LogME


def log_evidence(features, y, alpha, beta):
    """Equation 2 of You et al. 2021 with dense matrices."""
    n, d = features.shape
    A = alpha * np.eye(d) + beta * features.T @ features
    m = beta * np.linalg.solve(A, features.T @ y)
    return (
        n / 2 * np.log(beta)
        + d / 2 * np.log(alpha)
        - n / 2 * np.log(2 * np.pi)
        - beta / 2 * ((features @ m - y) ** 2).sum()
        - alpha / 2 * (m**2).sum()
        - np.linalg.slogdet(A)[1] / 2
    )


def most_evidence(features, y):
    """The maximum of the evidence by a general optimiser."""

    def loss(logs):
        return -log_evidence(features, y, *np.exp(np.clip(logs, -40, 40)))

    starts = ((-2.0, 0.0), (3.0, 1.0))
    ends = [scipy.optimize.minimize(loss, start, method="Nelder-Mead", tol=1e-9,
                                    options={"maxiter": 4000}) for start in starts]  # fmt: skip
    return -min(end.fun for end in ends) / len(y)


@shapes
def test_logme_is_the_maximum_of_the_dense_evidence(samples, dim):
    features, labels = data(samples, dim)
    expected = [most_evidence(features, (labels == c).astype(float)) for c in range(3)]
    assert value(logme, features, labels) == pytest.approx(np.mean(expected), abs=1e-6)


@shapes
def test_logme_satisfies_the_fixed_point_in_alpha_and_beta(samples, dim):
    features, labels = data(samples, dim)
    y = (labels == 1).astype(float)
    alpha = beta = 1.0
    for _ in range(500):
        A = alpha * np.eye(dim) + beta * features.T @ features
        m = beta * np.linalg.solve(A, features.T @ y)
        squares = np.linalg.svd(features, compute_uv=False) ** 2
        gamma = (beta * squares / (alpha + beta * squares)).sum()
        alpha, beta = gamma / (m @ m), (samples - gamma) / ((features @ m - y) ** 2).sum()
    expected = log_evidence(features, y, alpha, beta) / samples
    assert value(logme, features, y[:, None]) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@shapes
def test_logme_finds_the_highest_of_many_ratios_at_any_scale_of_the_features(samples, dim, scale):
    features, labels = data(samples, dim)
    y = (labels == 1).astype(float)
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    squares, x2 = values**2, (left.T @ y) ** 2
    rest = max(y @ y - x2.sum(), 0) if samples > dim else 0.0
    ratios = np.logspace(-11, 11, 3000)[:, None] * squares.max()
    beta = samples / (rest + (x2 * ratios / (squares + ratios)).sum(1))
    evidence = samples * np.log(beta / (2 * np.pi * np.e)) - np.log1p(squares / ratios).sum(1)
    highest = evidence.max() / (2 * samples)
    found = value(logme, scale * features, y[:, None])
    assert highest - 1e-6 < found < highest + 1e-4  # the grid may miss the maximum slightly


def test_logme_counts_the_dimensions_beyond_the_samples():
    features, labels = data(24, 40)
    y = (labels == 1).astype(float)
    # The program of arXiv 2110.10545 has log det A without the d - n eigenvalues alpha.
    s, x2 = np.linalg.svd(features)[1] ** 2, (np.linalg.svd(features)[0].T @ y) ** 2
    t = 1.0
    for _ in range(500):
        gamma, m2 = (s / (s + t)).sum(), (s * x2 / (t + s) ** 2).sum()
        residual = (x2 / (1 + s / t) ** 2).sum()
        alpha, beta = gamma / m2, (24 - gamma) / residual
        t = alpha / beta
    published = (
        20 * np.log(alpha) + 12 * np.log(beta) - np.log(alpha + beta * s).sum() / 2
        - beta / 2 * residual - alpha / 2 * m2 - 12 * np.log(2 * np.pi)
    ) / 24  # fmt: skip
    ours = value(logme, features, y[:, None])
    assert ours == pytest.approx(published - 16 / 2 * np.log(alpha) / 24, rel=1e-6)
    assert abs(ours - published) > 0.05


def test_logme_decomposes_the_features_once_for_all_classes(monkeypatch):
    calls = []
    decompose = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: calls.append(0) or decompose(matrix))
    value(logme, *data(90, 7, classes=9))
    assert len(calls) == 1


def test_logme_of_regression_targets_is_the_mean_over_outputs():
    features, _ = data(50, 5)
    chance = np.random.default_rng(1)
    outputs = features @ chance.normal(size=(5, 2)) + chance.normal(size=(50, 2)) * [0.5, 3]
    expected = np.mean([most_evidence(features, y) for y in outputs.T])
    assert value(logme, features, outputs) == pytest.approx(expected, abs=1e-6)


def test_logme_of_several_classes_leaves_out_unknown_entries():
    features, _ = data(60, 5)
    chance = np.random.default_rng(2)
    shown = chance.integers(0, 2, (60, 4))
    shown[chance.random((60, 4)) < [0, 0, 0.3, 0.2]] = -1
    expected = [most_evidence(features[k], column[k].astype(float))
                for column in shown.T for k in [column >= 0]]  # fmt: skip
    never = np.zeros((60, 1), dtype=np.int64)  # a class without an image is left out
    found = value(logme, features, np.concatenate([shown, never], axis=1))
    assert found == pytest.approx(np.mean(expected), abs=1e-6)


def test_logme_stays_finite_if_the_features_determine_the_targets():
    features, labels = data(60, 5)
    onehot = np.eye(3)[labels]
    found = value(logme, np.concatenate([features, onehot], axis=1), labels)
    assert math.isfinite(found)
    assert found > value(logme, features, labels) + 1


def test_logme_stays_finite_if_the_features_say_nothing():
    features = np.tile(np.random.default_rng(0).normal(size=(20, 3)), (2, 1))
    labels = np.repeat([0, 1], 20)
    found = value(logme, features, labels)
    assert found == pytest.approx(-0.5 * (1 + np.log(2 * np.pi * 0.5)), abs=0.1)


# H-score


def covariance_of_means(features, labels, divisor):
    expected = np.stack([features[labels == y].mean(0) for y in labels])
    deviations = expected - expected.mean(0)
    return deviations.T @ deviations / divisor


def test_h_score_is_the_trace_of_the_definition():
    features, labels = data(70, 6)
    inverse = np.linalg.pinv(np.cov(features.T))
    expected = np.trace(inverse @ covariance_of_means(features, labels, 69))
    assert value(h_score, features, labels) == pytest.approx(expected, rel=1e-9)


def test_h_score_saturates_at_classes_minus_one_and_the_shrunk_one_does_not():
    for seed in (0, 1):
        features, labels = data(24, 40, seed=seed)
        assert value(h_score, features, labels) == pytest.approx(2, abs=1e-8)
    good, bad = (value(h_score_shrinkage, *data(24, 40, apart=apart)) for apart in (3.0, 0.3))
    assert 2 > good > bad + 0.2


def test_h_score_ignores_directions_that_are_only_rounding():
    features, labels = data(70, 6)
    noise = 1e-14 * np.random.default_rng(0).normal(size=(70, 6))
    twice = np.concatenate([features, features[:, ::-1] + noise], axis=1)
    assert value(h_score, twice, labels) == pytest.approx(value(h_score, features, labels))


@shapes
def test_the_shrunk_h_score_is_that_of_scikit_learns_ledoit_wolf(samples, dim):
    features, labels = data(samples, dim)
    model = LedoitWolf().fit(features)
    means = covariance_of_means(features, labels, samples)
    expected = (1 - model.shrinkage_) * np.trace(np.linalg.inv(model.covariance_) @ means)
    assert value(h_score_shrinkage, features, labels) == pytest.approx(expected, rel=1e-8)


# SFDA


def published_sfda(features, labels, largest, log):
    """The program of Shao et al. on a copy of the features, with the given largest eigenvalue."""
    X, y, priors = features.copy(), labels, np.bincount(labels) / len(labels)

    def probabilities(X, strength):
        means = np.stack([X[y == c].mean(0) for c in range(3)])
        within = sum(p * np.cov(X[y == c].T, bias=True) for c, p in enumerate(priors))
        if strength is None:
            strength = max(np.exp(-5 * largest(within)), 1e-10)

        def shrunk(S):
            return (1 - strength) * S + strength * np.trace(S) / len(S) * np.eye(len(S))

        total, within = shrunk(np.cov(X.T, bias=True)), shrunk(within)
        values, vectors = scipy.linalg.eigh(total - within, within)
        vectors = vectors[:, np.argsort(values)[::-1]]
        coefficients = means @ vectors @ vectors.T
        intercepts = -0.5 * np.diag(means @ coefficients.T) + np.log(priors)
        return scipy.special.softmax(X @ coefficients.T + intercepts, axis=1), strength

    first, strength = probabilities(X, None)
    soft = np.exp(first) / np.exp(first).sum(axis=1, keepdims=True)
    means = np.stack([X[y == c].mean(0) for c in range(3)])
    others = (means.sum(0) - means) / 2
    for c in range(3):
        rows = np.flatnonzero(y == c)
        p = soft[rows, c][:, None]
        X[rows] = p * X[rows] + (1 - p) * others[c]
    second, _ = probabilities(X, strength)
    own = second[np.arange(len(y)), y]
    return np.log(own).mean() if log else own.mean()


@shapes
@pytest.mark.parametrize("log", [True, False])
def test_sfda_is_the_published_program_with_the_largest_eigenvalue(samples, dim, log):
    features, labels = data(samples, dim)
    features *= 0.4  # so that the regularisation lies between its bounds
    expected = published_sfda(features, labels, lambda S: np.linalg.eigvalsh(S)[-1], log)
    assert value(sfda, features, labels, log=log) == pytest.approx(expected, rel=1e-6)


# LEEP and NCE


def predictions(samples=40, source=5, seed=3):
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 3, samples)
    logits = chance.normal(size=(samples, source)) + 2 * np.eye(source)[labels]
    return scipy.special.softmax(logits, axis=1), labels


def literal_leep(theta, labels, log=True):
    n, total = len(labels), 0.0
    joint = np.zeros((labels.max() + 1, theta.shape[1]))
    for y, row in zip(labels, theta, strict=True):
        for z, p in enumerate(row):
            joint[y, z] += p / n
    for y, row in zip(labels, theta, strict=True):
        chance = sum(joint[y, z] / joint[:, z].sum() * p for z, p in enumerate(row))
        total += np.log(chance) if log else chance
    return total / n


def conditional_entropy(of, given):
    """Return ``H(of | given)`` by counting."""
    total = 0.0
    for z in set(given.tolist()):
        members = of[given == z]
        for y in set(members.tolist()):
            share = (members == y).mean()
            total -= (given == z).mean() * share * np.log(share)
    return total


def test_leep_is_the_published_formula_by_loops():
    theta, labels = predictions()
    assert value(leep, theta, labels) == pytest.approx(literal_leep(theta, labels), rel=1e-12)


def test_leep_has_its_logarithm():
    theta, labels = predictions()
    without = literal_leep(theta, labels, log=False)
    found = value(leep, theta, labels)
    assert found < 0 < without
    assert math.exp(found) != pytest.approx(without, abs=1e-3)


def test_leep_of_certain_predictions_is_nce():
    theta, labels = predictions()
    certain = np.eye(5)[theta.argmax(1)]
    assert value(leep, certain, labels) == pytest.approx(value(nce, theta.argmax(1), labels))


def test_leep_of_uninformative_predictions_is_the_entropy_of_the_labels():
    _, labels = predictions()
    shares = np.bincount(labels) / len(labels)
    uniform = np.full((len(labels), 4), 0.25)
    assert value(leep, uniform, labels) == pytest.approx((shares * np.log(shares)).sum())


def test_leep_refuses_scores_that_are_no_probabilities():
    theta, labels = predictions()
    for wrong in (np.log(theta), 2 * theta):
        with pytest.raises(ValueError, match="must hold a distribution"):
            value(leep, wrong, labels)


def test_nce_is_minus_the_entropy_of_the_target_given_the_source():
    theta, labels = predictions()
    source = theta.argmax(1)
    found = value(nce, source, labels)
    assert found == pytest.approx(-conditional_entropy(labels, source), rel=1e-12)
    # With exchanged arguments it would be another figure.
    assert found != pytest.approx(-conditional_entropy(source, labels), abs=0.05)


# TransRate


def rate(Z, scale):
    return np.linalg.slogdet(np.eye(Z.shape[1]) + scale / len(Z) * Z.T @ Z)[1] / 2


@shapes
def test_transrate_is_a_difference_of_log_determinants(samples, dim):
    features, labels = data(samples, dim)
    Z = features - features.mean(0)
    classes = [Z[labels == c] for c in range(3)]
    expected = rate(Z, dim / 1e-4) - sum(len(c) / samples * rate(c, dim / 1e-4) for c in classes)
    assert value(transrate, features, labels) == pytest.approx(expected, rel=1e-8)
    listing = rate(Z, 1 / 0.01) - sum(rate(c, 1 / 0.01) for c in classes) / 3
    found = value(transrate, features, labels, epsilon=0.01, form="listing")
    assert found == pytest.approx(listing, rel=1e-8)


# Gaussians


@pytest.mark.parametrize("gaussian", ["spherical", "diagonal", "spherical_published"])
@shapes
def test_gbc_is_the_sum_over_pairs_of_classes(samples, dim, gaussian):
    features, labels = data(samples, dim)
    scores = PCA(4, svd_solver="full").fit_transform(features)
    total = 0.0
    for a, b in itertools.permutations(range(3), 2):
        (m, v), (n, w) = ((r.mean(0), np.maximum(r.var(0), 1e-4))
                          for r in (scores[labels == a], scores[labels == b]))  # fmt: skip
        if gaussian != "diagonal":
            v, w = (np.full(4, variances.mean()) for variances in (v, w))
        S = np.diag((v + w) / 2)
        spread = np.log(np.linalg.det(S) / np.sqrt(np.prod(v) * np.prod(w))) / 2
        spread /= 4 if gaussian == "spherical_published" else 1
        total += np.exp(-((m - n) @ np.linalg.inv(S) @ (m - n) / 8 + spread))
    found = value(gbc, features, labels, components=4, gaussian=gaussian)
    assert found == pytest.approx(-total, rel=1e-7)


def test_the_coefficient_of_two_gaussians_is_the_integral_of_their_geometric_mean():
    x = np.linspace(-30, 30, 20001)
    densities = [scipy.stats.norm(m, s).pdf(x) for m, s in ((0, 1), (1.5, 2))]
    expected = scipy.integrate.trapezoid(np.sqrt(densities[0] * densities[1]), x)
    means, variances = tensors(np.array([[0.0], [1.5]]), np.array([[1.0], [4.0]]))
    gaussians = transferability.gaussians._coefficients(means, variances, slice(0, 2), 1.0)
    assert float(gaussians[0, 1]) == pytest.approx(expected, rel=1e-6)


def test_n_leep_is_leep_of_scikit_learns_mixture():
    features, labels = data(70, 6)
    scores = PCA(0.8, svd_solver="full").fit_transform(features)
    mixture = sklearn.mixture.GaussianMixture(15, random_state=7).fit(scores)
    expected = literal_leep(mixture.predict_proba(scores), labels)
    assert value(n_leep, features, labels, seed=7) == pytest.approx(expected, rel=1e-5)


@shapes
@pytest.mark.parametrize("components", [3, 0.8, 0.99])
def test_principal_components_are_scikit_learns(samples, dim, components):
    features, _ = data(samples, dim)
    expected = PCA(components, svd_solver="full").fit_transform(features)
    found = moments.principal(torch.from_numpy(features), components).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-6, atol=1e-8)


# Distances


@shapes
def test_parc_is_spearmans_correlation_of_distances(samples, dim):
    features, labels = data(samples, dim)
    pairs = np.triu_indices(samples, 1)
    of_features = 1 - np.corrcoef(StandardScaler().fit_transform(features))
    of_labels = np.round(1 - np.corrcoef(np.eye(3)[labels]), 10)
    expected = scipy.stats.spearmanr(of_features[pairs], of_labels[pairs]).statistic
    assert value(parc, features, labels) == pytest.approx(expected, abs=1e-10)


def test_parc_of_several_classes_uses_the_images_whose_labels_are_known():
    features, _ = data(40, 6)
    shown = np.random.default_rng(4).integers(0, 2, (40, 5))
    shown[3, 2], shown[5], shown[8] = -1, 0, 1
    kept = np.setdiff1d(np.arange(40), [3, 5, 8])
    kept = kept[np.ptp(shown[kept], axis=1) > 0]
    pairs = np.triu_indices(len(kept), 1)
    of_features = 1 - np.corrcoef(StandardScaler().fit_transform(features[kept]))
    of_labels = np.round(1 - np.corrcoef(shown[kept]), 10)
    expected = scipy.stats.spearmanr(of_features[pairs], of_labels[pairs]).statistic
    assert value(parc, features, shown) == pytest.approx(expected, abs=1e-10)


def test_parc_takes_a_balanced_seeded_subset_of_many_images():
    features, labels = data(400, 6)
    assert len(set(np.bincount(labels).tolist())) == 3
    picked = balanced_subset(torch.from_numpy(labels), 30, 5)
    assert sorted(np.bincount(labels[picked]).tolist()) == [10, 10, 10]
    assert not np.array_equal(picked, balanced_subset(torch.from_numpy(labels), 30, 6))
    found = value(parc, features, labels, max_samples=30, seed=5)
    assert found == pytest.approx(value(parc, features[picked], labels[picked]))


def test_a_class_with_few_images_enters_a_balanced_subset_as_a_whole():
    labels = np.repeat([4, 7, 9], [50, 3, 40])
    picked = balanced_subset(torch.from_numpy(labels), 21, 0)
    assert np.bincount(labels[picked], minlength=10)[[4, 7, 9]].tolist() == [9, 3, 9]
    assert balanced_subset(torch.from_numpy(labels), 1000, 0).tolist() == list(range(93))


@shapes
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 4])
def test_knn_loo_is_scikit_learns_vote_of_the_other_images(samples, dim, metric, k, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_ELEMENTS", 11 * dim)  # several blocks
    features, labels = data(samples, dim)
    judge = sklearn.neighbors.NearestNeighbors(n_neighbors=k, metric=metric).fit(features)
    votes = labels[judge.kneighbors(return_distance=False)]  # without the image itself
    predicted = [np.bincount(row, minlength=3).argmax() for row in votes]
    expected = np.mean(np.array(predicted) == labels)
    assert value(knn_loo, features, labels, k=k, metric=metric) == pytest.approx(expected)


def test_an_image_does_not_vote_on_itself_even_if_it_has_duplicates():
    features = np.array([[0.0, 1], [0, 1], [1, 0], [1, 0], [1, 1]])
    labels = np.array([0, 1, 2, 2, 0])
    assert value(knn_loo, features, labels, k=1) == pytest.approx(2 / 5)


# Spectra


def powers(samples, dim, exponent, seed=0):
    """Return centred features whose covariance has the eigenvalues ``rank ** -exponent``."""
    chance = np.random.default_rng(seed)
    left = chance.normal(size=(samples, dim))
    left = np.linalg.qr(left - left.mean(0))[0]
    right = np.linalg.qr(chance.normal(size=(dim, dim)))[0]
    return left * np.arange(1, dim + 1) ** (-exponent / 2) @ right


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.5])
def test_the_exponent_of_a_known_spectrum_is_found(exponent):
    features = 3 + 7 * powers(150, 120, exponent)
    assert value(decay_exponent, features) == pytest.approx(exponent, rel=1e-6)
    assert value(alpha_req, features) == pytest.approx(-abs(exponent - 1), abs=1e-6)


@shapes
def test_the_exponent_is_the_weighted_line_of_the_authors_code(samples, dim):
    features, _ = data(samples, dim)
    values = np.linalg.eigvalsh(np.cov(features.T))[::-1]
    indices = np.arange(1, 5)
    ranks = indices + 1
    x = np.stack([-np.log(ranks), np.ones(4)], axis=1)
    w = 1 / ranks[:, None]
    b = np.linalg.solve(x.T @ (x * w), (w * x).T @ np.log(values[indices])[:, None]).ravel()
    found = value(decay_exponent, features, first=2, last=5)
    assert found == pytest.approx(b[0], rel=1e-8)


@shapes
def test_rankme_is_the_effective_rank_of_the_features(samples, dim, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 11 * dim)
    features, _ = data(samples, dim)
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / values.sum() + 1e-7
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert value(rankme, features) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("images", "dim"), [(30, 5), (6, 12)])
def test_lidar_is_the_effective_rank_of_the_dense_discriminant_matrix(images, dim, monkeypatch):
    monkeypatch.setattr(transferability.spectra, "BLOCK_ELEMENTS", 8 * dim)
    chance = np.random.default_rng(0)
    views = chance.normal(size=(images, 1, dim)) + 0.3 * chance.normal(size=(images, 4, dim))
    means = views.mean(1)
    within = np.mean([np.cov(image.T, bias=True) for image in views], axis=0) + 1e-4 * np.eye(dim)
    root = np.linalg.inv(scipy.linalg.sqrtm(within))
    values = np.linalg.eigvalsh(root @ np.cov(means.T, bias=True) @ root).clip(0)
    shares = values / values.sum() + 1e-7
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert value(lidar, views) == pytest.approx(expected, rel=1e-7)


# What all have in common


@shapes
@pytest.mark.parametrize("name", sorted(set(EVERY) - {"n_leep"}))  # a mixture starts from images
def test_the_order_of_the_images_does_not_matter(name, samples, dim):
    features, labels = data(samples, dim)
    order = np.random.default_rng(5).permutation(samples)
    expected = value(EVERY[name], features, labels)
    assert value(EVERY[name], features[order], labels[order]) == pytest.approx(expected, rel=1e-7)


@shapes
@pytest.mark.parametrize("name", sorted(set(EVERY) - {"parc"}))  # it standardises dimensions
def test_a_rotation_of_the_features_does_not_matter(name, samples, dim):
    features, labels = data(samples, dim)
    rotation = scipy.stats.ortho_group.rvs(dim, random_state=6)
    expected = value(EVERY[name], features, labels)
    assert value(EVERY[name], features @ rotation, labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_neither_features_nor_labels_are_changed(name):
    features, labels = data(70, 6)
    for kind in (np.float64, np.float32):
        rows, numbers = tensors(features.astype(kind), labels)
        EVERY[name](rows, numbers)
        assert np.array_equal(rows.numpy(), features.astype(kind))
        assert np.array_equal(numbers.numpy(), labels)


@shapes
@pytest.mark.parametrize("name", sorted(set(EVERY) - {"n_leep"}))
def test_blocks_of_rows_do_not_matter(name, samples, dim, monkeypatch):
    features, labels = data(samples, dim)
    expected = value(EVERY[name], features, labels)
    for module in (blocks, distances, transferability.gaussians):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", 7 * dim)
    assert value(EVERY[name], features, labels) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_single_precision_features_are_computed_in_double(name):
    features, labels = data(70, 6)
    single = features.astype(np.float32)
    expected = value(EVERY[name], single.astype(np.float64), labels)
    assert value(EVERY[name], single, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", WITH_LABELS)
def test_numbers_of_classes_may_have_gaps(name):
    features, labels = data(70, 6)
    expected = value(EVERY[name], features, labels)
    assert value(EVERY[name], features, labels * 10 + 3) == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(set(WITH_LABELS) - {"h_score"}))
def test_separated_classes_score_higher(name):
    good, bad = (value(EVERY[name], *data(60, 4, apart=apart)) for apart in (4.0, 0.1))
    assert good > bad


@pytest.mark.parametrize("name", EVERY)
def test_constant_features_have_no_score(name):
    _, labels = data(70, 6)
    with pytest.raises(NotDefined, match="the same for every image"):
        value(EVERY[name], np.full((70, 6), 0.1, dtype=np.float32), labels)


@pytest.mark.parametrize("name", WITH_LABELS)
def test_one_class_has_no_score(name):
    features, labels = data(70, 6)
    with pytest.raises(NotDefined, match="fewer than two classes"):
        value(EVERY[name], features, np.zeros_like(labels))


@pytest.mark.parametrize("estimator", [leep, nce])
def test_one_class_has_no_score_by_source_predictions(estimator):
    theta, labels = predictions()
    with pytest.raises(NotDefined, match="fewer than two classes"):
        value(estimator, theta if estimator is leep else theta.argmax(1), np.zeros_like(labels))


def test_what_an_estimator_lacks_is_its_reason():
    features, labels = data(24, 40)
    alone = labels.copy()
    alone[0] = 9
    with pytest.raises(NotDefined, match=r"at least 2 images, but 1 of 4 .* class 9"):
        value(gbc, features, alone)
    with pytest.raises(NotDefined, match="24 images are fewer than the 30 Gaussians"):
        value(n_leep, features, labels, components_per_class=10)
    with pytest.raises(NotDefined, match="the same value in every dimension"):
        value(parc, features[:, :1], labels)
    with pytest.raises(NotDefined, match="the features of all pairs of images are equally"):
        value(parc, np.eye(3), np.array([0, 1, 1]))
    with pytest.raises(NotDefined, match="the labels of all pairs of images are equally"):
        value(parc, features[:3], np.array([4, 5, 6]))
    with pytest.raises(NotDefined, match="fewer than 5 eigenvalues"):
        value(decay_exponent, features[:, :4])
    with pytest.raises(NotDefined, match="no column of the targets"):
        value(logme, features, np.ones((24, 2)))
    with pytest.raises(NotDefined, match="the same features"):
        value(sfda, np.eye(3)[labels], labels)
    with pytest.raises(NotDefined, match="two views each"):
        value(lidar, features[:, None])
    with pytest.raises(NotDefined, match=r"do not vary|is the same"):
        value(lidar, np.stack([features[:2], features[:2][::-1]], axis=1))
