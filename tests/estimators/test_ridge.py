"""scikit-learn's Ridge is the judge."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Judge
from sklearn.model_selection import PredefinedSplit, cross_val_score

from ssl_transfer.estimators import ridge
from ssl_transfer.metrics.landmarks import r2_by_output

ALPHAS = [1e-3, 1.0, 1e4]
NAN = float("nan")
SHAPES = pytest.mark.parametrize("dim", [5, 30, 80], ids=["tall", "square", "wide"])


def samples(dim: int, count: int = 30, outputs: int = 3, seed: int = 0):
    chance = np.random.default_rng(seed)
    features = chance.normal(2, 1, (count, dim)) * np.linspace(0.1, 3, dim)
    targets = features @ chance.normal(0, 1, (dim, outputs)) + chance.normal(5, 3, (count, outputs))
    return torch.from_numpy(features).float(), torch.from_numpy(targets)


@SHAPES
def test_every_penalty_has_the_solution_of_scikit_learn(dim: int) -> None:
    features, targets = samples(dim)
    unseen, _ = samples(dim, seed=1)
    found = ridge.fit(features, targets, ALPHAS)
    predictions = found.predict(unseen)
    for number, alpha in enumerate(ALPHAS):
        judge = Judge(alpha=alpha, solver="svd").fit(features.double(), targets)
        np.testing.assert_allclose(found.weights[number].T, judge.coef_, atol=1e-6)
        np.testing.assert_allclose(found.intercepts[number], judge.intercept_, atol=1e-5)
        np.testing.assert_allclose(
            predictions[number], judge.predict(unseen.double()), rtol=1e-6, atol=1e-6
        )


@SHAPES
def test_cross_validation_fits_without_the_fold_and_scores_on_it(dim: int) -> None:
    features, targets = samples(dim)
    folds = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(30) % 4))
    scores = ridge.cross_validate(features, targets, ALPHAS, folds, r2_by_output)
    assert scores.shape == (3, 4, 3)
    for number, alpha in enumerate(ALPHAS):
        judged = cross_val_score(
            Judge(alpha=alpha, solver="svd"), features.double(), targets,
            cv=PredefinedSplit(folds.numpy()), scoring="r2",
        )  # fmt: skip
        np.testing.assert_allclose(scores[number].mean(1), judged, rtol=1e-5, atol=1e-6)


@SHAPES
def test_an_output_is_fitted_on_the_samples_for_which_it_is_known(dim: int) -> None:
    features, targets = samples(dim, outputs=4)
    targets[::4, 1], targets[::4, 3], targets[:11, 2] = NAN, NAN, NAN
    folds = torch.arange(30) % 3
    found = ridge.fit(features, targets, [2.0])
    scores = ridge.cross_validate(features, targets, [2.0], folds, r2_by_output)
    for column in range(4):
        known = ~targets[:, column].isnan()
        judge = Judge(alpha=2.0, solver="svd")
        judge.fit(features[known].double(), targets[known, column])
        np.testing.assert_allclose(found.weights[0, :, column], judge.coef_, atol=1e-6)
        judged = cross_val_score(
            judge, features[known].double(), targets[known, column],
            cv=PredefinedSplit(folds[known].numpy()), scoring="r2",
        )  # fmt: skip
        np.testing.assert_allclose(scores[0, :, column], judged, rtol=1e-5, atol=1e-6)


def test_a_fold_without_a_known_target_has_no_score() -> None:
    features, targets = samples(5)
    folds = torch.arange(30) // 10
    targets[:10, 0] = NAN  # unknown in the first fold
    targets[10:, 1] = NAN  # known in the first fold alone
    scores = ridge.cross_validate(features, targets, [1.0], folds, r2_by_output)[0]
    assert scores[:, 0].isnan().tolist() == [True, False, False]
    assert scores[:, 1].isnan().all()
    assert not scores[:, 2].isnan().any()


@pytest.mark.parametrize("dim", [5, 80])
def test_dead_features_and_a_large_mean_change_nothing(dim: int) -> None:
    features, targets = samples(dim)
    padded = torch.cat([features, torch.full((30, 2), 7.0)], dim=1)
    found = ridge.fit(padded, targets, [1e-6])
    plain = ridge.fit(features, targets, [1e-6])
    np.testing.assert_allclose(found.weights[:, :dim], plain.weights, atol=1e-5)
    assert found.weights[:, dim:].abs().max() < 1e-6
    shifted = features.double() + 1e6
    moved = ridge.fit(shifted, targets, [1.0])
    np.testing.assert_allclose(
        moved.predict(shifted), ridge.fit(features, targets, [1.0]).predict(features), atol=1e-4
    )


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = samples(5)
    whole = ridge.fit(features, targets, ALPHAS)
    monkeypatch.setattr(ridge, "CHUNK_ROWS", 7)
    parts = ridge.fit(features, targets, ALPHAS)
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-9)
    np.testing.assert_allclose(parts.predict(features), whole.predict(features), rtol=1e-9)


def test_a_huge_penalty_predicts_the_mean() -> None:
    features, targets = samples(5)
    predictions = ridge.fit(features, targets, [1e15]).predict(features)[0]
    np.testing.assert_allclose(predictions, targets.mean(0).expand(30, 3), atol=1e-6)


def test_what_cannot_be_fitted_is_refused() -> None:
    features, targets = samples(5)
    with pytest.raises(ValueError, match=r"must be positive, but are \[1.0, 0\]"):
        ridge.fit(features, targets, [1.0, 0])
    targets[:, 1] = NAN
    with pytest.raises(ValueError, match="but 1 of 3 outputs have none"):
        ridge.cross_validate(features, targets, [1.0], torch.arange(30) % 3, r2_by_output)
