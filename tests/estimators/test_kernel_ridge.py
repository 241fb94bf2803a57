"""Kernel ridge regression, against scikit-learn and the normal equations."""

import numpy as np
import pytest
import torch
from sklearn import kernel_ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_transfer.estimators.kernel_ridge import (
    KernelRidge,
    bytes_needed,
    held_out_r2,
    predictions,
    squared_distances,
)

ALPHAS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
GAMMAS = (1e-3, 1e-2, 1e-1, 1.0)


def problem(samples: int = 60, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of different scales, some of them constant, and three smooth outputs."""
    generator = np.random.default_rng(0)
    features = generator.normal(2, np.geomspace(0.1, 10, dim), (samples, dim))
    outputs = np.stack(
        [np.sin(features[:, 0] * 20), features[:, 1] + 3, np.cos(features[:, 2])], axis=1
    )
    features = np.column_stack([features, np.zeros(samples), np.full(samples, 0.1)])
    noise = generator.normal(0, 0.1, outputs.shape)
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(outputs + noise)


def judge(alpha: float = 1.0, gamma: float = 1.0) -> object:
    return make_pipeline(
        StandardScaler(), kernel_ridge.KernelRidge(kernel="rbf", alpha=alpha, gamma=gamma)
    )


def test_predictions_of_every_penalty_and_output_are_scikit_learns() -> None:
    features, targets = problem()
    queries = features[:20] + 0.3
    model = KernelRidge(features, targets)
    for gamma in GAMMAS:
        found = model.predict(queries, gamma, model.coefficients(gamma, ALPHAS))
        for alpha, of_alpha in zip(ALPHAS, found, strict=True):
            fitted = judge(alpha, gamma).fit(features.double().numpy(), targets.numpy())
            expected = fitted.predict(queries.double().numpy())
            np.testing.assert_allclose(of_alpha.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_scores_of_folds_are_those_of_a_grid_search() -> None:
    features, targets = problem()
    parts = list(KFold(5, shuffle=True, random_state=0).split(features))
    values = torch.tensor([0, 1, 1])
    scores = np.stack([
        np.stack([
            scores.numpy()
            for scores in held_out_r2(
                features, targets, held, alphas=ALPHAS, gammas=GAMMAS, values=values
            )
        ])
        for _, held in parts
    ])  # fmt: skip
    assert scores.shape == (5, len(GAMMAS), len(ALPHAS), 2)
    grid = {"kernelridge__alpha": ALPHAS, "kernelridge__gamma": GAMMAS}
    search = GridSearchCV(judge(), grid, cv=parts, refit=False)
    search.fit(features.double().numpy(), targets[:, 0].numpy())
    # The last key of the grid runs fastest.
    expected = search.cv_results_["mean_test_score"].reshape(len(ALPHAS), len(GAMMAS))
    np.testing.assert_allclose(scores[..., 0].mean(0).T, expected, rtol=1e-6, atol=1e-8)


def test_coefficients_solve_the_normal_equations() -> None:
    features, targets = problem(30)
    model = KernelRidge(features, targets)
    kernel = (-0.05 * model.squared).exp()
    assert model.squared.diagonal().abs().max() < 1e-12
    for alpha, solution in zip(ALPHAS, model.coefficients(0.05, ALPHAS), strict=True):
        system = kernel + alpha * torch.eye(30, dtype=torch.float64)
        torch.testing.assert_close(system @ solution, targets, rtol=1e-7, atol=1e-7)


def test_a_small_penalty_interpolates_and_a_large_one_predicts_zero() -> None:
    features, targets = problem(40)
    model = KernelRidge(features, targets)
    exact, zero = model.predict(features, 1.0, model.coefficients(1.0, (1e-9, 1e12)))
    torch.testing.assert_close(exact, targets, rtol=1e-5, atol=1e-5)
    assert zero.abs().max() < 1e-9


def test_a_kernel_that_is_singular_in_float64_gives_no_number() -> None:
    features = torch.ones(20, 3)
    features[0] = 2
    model = KernelRidge(features, torch.rand(20, 1))
    singular, regular = model.coefficients(1.0, (1e-18, 1e-2))
    assert singular.isnan().all()
    assert regular.isfinite().all()


def test_chunks_do_not_change_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = problem()
    model = KernelRidge(features, targets)
    coefficients = model.coefficients(0.1, ALPHAS)
    whole = predictions(model.distances(features), 0.1, coefficients)
    monkeypatch.setattr("ssl_transfer.estimators.kernel_ridge.CHUNK_ELEMENTS", 7 * len(features))
    torch.testing.assert_close(model.predict(features, 0.1, coefficients), whole)


def test_distances_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.randn(count, 4, generator=generator, dtype=torch.float64) for count in (6, 9)
    )
    expected = (rows[:, None] - columns[None]).square().sum(-1)
    torch.testing.assert_close(squared_distances(rows, columns), expected)
    assert (squared_distances(rows, rows) >= 0).all()


def test_the_stated_memory_is_that_of_three_square_matrices() -> None:
    assert bytes_needed(20_480, 2048, 25_200) == pytest.approx(3 * 8 * 20_480**2, rel=0.25)
    assert bytes_needed(100, 8, 50) < 2**20
