import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ssl_transfer.estimators import logistic_solver
from ssl_transfer.estimators.softmax_regression import fit_path


def problem(samples=90, dim=10, classes=4, *, unknown=0.1, seed=0, dtype=torch.float64):
    """Classes of different frequency, of which some entries do not count."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, dim, generator=generator, dtype=torch.float64)
    weights = torch.randn(dim, classes, generator=generator, dtype=torch.float64)
    noise = 2 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    targets = (features @ weights + noise > torch.linspace(-2, 3, classes)).long()
    targets[torch.rand(samples, classes, generator=generator) < unknown] = -1
    scales = torch.logspace(0.5, -1.0, dim, dtype=torch.float64)
    return (features * scales + 3).to(dtype), targets


def judge(features, targets, C):
    """scikit-learn's binary problem of one class, without what does not count."""
    kept = targets >= 0
    model = LogisticRegression(C=C, tol=1e-10, max_iter=1000, solver="newton-cg")
    return model.fit(features[kept].double().numpy(), targets[kept].numpy())


@pytest.mark.parametrize("shape", [(90, 10), (30, 60)], ids=["tall", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_class_and_c_has_scikit_learns_binary_optimum(shape, dtype):
    features, targets = problem(*shape, dtype=dtype)
    queries, _ = problem(50, shape[1], seed=1, dtype=dtype)
    grid = [100.0, 3.0, 1.0, 0.1, 0.01]
    tol = 1e-13 if dtype.itemsize == 8 else 1e-8
    found = fit_path(features, targets, C=grid, classes=4, tol=tol)
    for i, C in enumerate(grid):
        expected = np.stack(
            [
                judge(features, column, C).decision_function(queries.double().numpy())
                for column in targets.T
            ],
            axis=1,
        )
        rtol = 1e-4 if dtype.itemsize == 8 else 3e-2
        np.testing.assert_allclose(found.logits(i, queries).numpy(), expected, rtol, rtol)


def test_entries_that_do_not_count_change_nothing():
    features, targets = problem(unknown=0.0)
    extra = torch.cat([features, features[:20] - 5]), torch.cat([targets, targets[:20] * 0 - 1])
    plain = fit_path(features, targets, C=[1.0], classes=4, tol=1e-13)
    more = fit_path(*extra, C=[1.0], classes=4, tol=1e-13)
    torch.testing.assert_close(plain.weights, more.weights, rtol=1e-4, atol=1e-6)


def test_classes_fitted_together_are_those_fitted_alone(monkeypatch):
    features, targets = problem()
    grid = [0.01 * 3.0**i for i in range(7)]
    together = fit_path(features, targets, C=grid, classes=4, tol=1e-13)
    monkeypatch.setattr(logistic_solver, "MEMORY_ELEMENTS", 1)
    for c in range(4):
        alone = fit_path(features, targets[:, c : c + 1], C=grid, classes=1, tol=1e-13)
        torch.testing.assert_close(
            together.weights[:, c], alone.weights[:, 0], rtol=1e-3, atol=1e-5
        )


def test_a_start_at_the_optimum_stays_there():
    features, targets = problem()
    found = fit_path(features, targets, C=[1.0], classes=4, tol=1e-10)
    again = fit_path(features, targets, C=[1.0], classes=4, tol=1e-8, start=found[0:1])
    assert int(again.iterations[0]) <= 2


def test_a_start_that_had_nothing_to_learn_of_a_class_reaches_the_same_optimum():
    features, targets = problem()
    earlier = targets.clone()
    earlier[:, 0], earlier[:, 1] = 0, 1
    start = fit_path(features, earlier, C=[1.0], classes=4)
    assert start.intercepts[0, :2].tolist() == [-torch.inf, torch.inf]
    warm = fit_path(features, targets, C=[1.0], classes=4, tol=1e-13, start=start)
    cold = fit_path(features, targets, C=[1.0], classes=4, tol=1e-13)
    torch.testing.assert_close(warm.weights, cold.weights, rtol=1e-4, atol=1e-6)


def test_classes_with_nothing_to_learn_have_constant_scores_and_change_nothing():
    features, targets = problem()
    wider = torch.zeros(len(targets), 7, dtype=torch.int64)
    wider[:, [0, 2, 3, 5]] = targets
    wider[:, 4], wider[:, 6] = 1, -1
    found = fit_path(features, wider, C=[1.0], classes=7, tol=1e-12).logits(0, features)
    plain = fit_path(features, targets, C=[1.0], classes=4, tol=1e-12).logits(0, features)
    torch.testing.assert_close(found[:, [0, 2, 3, 5]], plain)
    assert bool((found[:, [1, 6]] == -torch.inf).all())
    assert bool((found[:, 4] == torch.inf).all())


def test_separable_classes_converge_in_single_precision_at_every_c_of_the_published_grid():
    features, targets = problem(40, 80, dtype=torch.float32)
    found = fit_path(features, targets, C=(1 / np.logspace(-6, 5, 45)).tolist(), classes=4)
    assert bool(found.converged.all())
    right = (found.logits(0, features) > 0) == (targets == 1)
    assert bool(right[targets >= 0].all())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([[1, 2], [0, 0]]), "rows of 2 numbers out of -1, 0 and 1"),
        (torch.tensor([[1, 0, 1], [0, 1, 0]]), "rows of 2 numbers .* are of 3"),
        (torch.tensor([[1, 0], [1, -1]]), "a class that some samples show and others do not"),
    ],
)
def test_what_cannot_be_fitted_is_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        fit_path(torch.randn(2, 3), targets, C=[1.0], classes=2)
