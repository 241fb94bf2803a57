import numpy as np
import pytest
import torch
from judging import assert_same_classes
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from ssl_transfer.estimators import logistic_solver
from ssl_transfer.estimators.logistic_losses import Multinomial
from ssl_transfer.estimators.softmax_regression import fit_path, principal_axes


def problem(samples=80, dim=12, classes=4, *, noise=1.5, seed=0, dtype=torch.float64):
    """Correlated, shifted features of overlapping classes, on which columns differ in scale."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    centres = torch.randn(classes, dim, generator=generator)
    features = centres[labels] + noise * torch.randn(samples, dim, generator=generator)
    mix = torch.randn(dim, dim, generator=generator) / dim**0.5
    scales = torch.logspace(0.5, -1.5, dim)
    return (features @ mix * scales + 3).to(dtype), labels


def objective(features, labels, C, weights, intercepts):
    """scikit-learn's, as its documentation has it."""
    logits = features.double() @ weights.double().T + intercepts.double()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return float(C * loss + 0.5 * weights.double().square().sum())


def judge(features, labels, C):
    # Newton's method needs a hundredth of the iterations of L-BFGS here.
    model = LogisticRegression(C=C, tol=1e-10, max_iter=1000, solver="newton-cg")
    return model.fit(features.double().numpy(), labels.numpy())


@pytest.mark.parametrize("shape", [(80, 12), (30, 60)], ids=["tall", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_problem_of_a_path_reaches_scikit_learns_optimum(shape, dtype):
    features, labels = problem(*shape, dtype=dtype)
    test, _ = problem(200, shape[1], seed=1, dtype=dtype)
    grid = [100.0, 10.0, 3.0, 1.0, 0.1, 0.03, 0.01]
    found = fit_path(
        features, labels, C=grid, classes=4, tol=1e-13 if dtype.itemsize == 8 else 1e-7
    )
    for i, C in enumerate(grid):
        model = judge(features, labels, C)
        expected = objective(
            features, labels, C, *map(torch.from_numpy, (model.coef_, model.intercept_))
        )
        ours = objective(features, labels, C, found.weights[i], found.intercepts[i])
        assert ours == pytest.approx(expected, rel=1e-6)
        predicted = found.logits(i, test).argmax(1).numpy()
        scores = model.decision_function(test.double().numpy())
        # An objective that is equal to 1e-6 leaves the logits to about their square root.
        assert_same_classes(predicted, scores, margin=1e-3 * np.ptp(scores))


def test_the_gradient_of_the_published_objective_vanishes():
    features, labels = problem()
    C = 2.0
    found = fit_path(features, labels, C=[C], classes=4, tol=1e-14)
    weights, intercepts = found.weights[0], found.intercepts[0]
    residuals = found.logits(0, features).softmax(1) - F.one_hot(labels, 4)
    torch.testing.assert_close(
        C * residuals.T @ features, -weights, rtol=0, atol=1e-5 * float(weights.abs().max())
    )
    torch.testing.assert_close(residuals.sum(0), torch.zeros_like(intercepts), rtol=0, atol=1e-5)


def test_with_an_overwhelming_penalty_the_intercepts_are_the_log_frequencies():
    features, _ = problem(60, 5)
    labels = torch.tensor([0] * 30 + [1] * 20 + [2] * 10)
    found = fit_path(features, labels, C=[1e-9], classes=3, tol=1e-12)
    shares = found.logits(0, features).softmax(1)
    expected = torch.tensor([30, 20, 10], dtype=torch.float64) / 60
    torch.testing.assert_close(shares, expected.expand(60, 3), rtol=0, atol=1e-5)


def test_problems_fitted_together_are_those_fitted_alone():
    features, labels = problem()
    grid = [0.01 * 3.0**i for i in range(9)]
    together = fit_path(features, labels, C=grid, classes=4, tol=1e-12)
    for i, C in enumerate(grid):
        alone = fit_path(features, labels, C=[C], classes=4, tol=1e-12)
        torch.testing.assert_close(together.weights[i], alone.weights[0], rtol=1e-3, atol=1e-4)


def test_the_order_of_the_grid_and_repeated_values_do_not_matter():
    features, labels = problem()
    one = fit_path(features, labels, C=[0.1, 10.0, 1.0, 10.0], classes=4)
    two = fit_path(features, labels, C=[10.0, 1.0, 0.1], classes=4)
    assert torch.equal(one.weights, two.weights[[2, 0, 1, 0]])
    assert torch.equal(one.weights[1], one.weights[3])


def test_small_batches_give_the_same_optima(monkeypatch):
    features, labels = problem()
    grid = [0.01 * 2.0**i for i in range(12)]
    large = fit_path(features, labels, C=grid, classes=4, tol=1e-12)
    monkeypatch.setattr(logistic_solver, "MEMORY_ELEMENTS", 1)
    small = fit_path(features, labels, C=grid, classes=4, tol=1e-12)
    torch.testing.assert_close(large.weights, small.weights, rtol=1e-3, atol=1e-4)


def test_the_scale_of_the_features_only_rescales_c():
    features, labels = problem()
    plain = fit_path(features, labels, C=[1.0, 100.0], classes=4)
    tiny = fit_path(features * 1e-3, labels, C=[1e6, 1e8], classes=4)
    torch.testing.assert_close(tiny.weights * 1e-3, plain.weights, rtol=1e-3, atol=1e-5)


def test_separable_classes_converge_in_single_precision_at_every_c_of_the_published_grid():
    features, labels = problem(60, 80, noise=0.3, dtype=torch.float32)
    grid = (1 / np.logspace(-6, 5, 45)).tolist()
    found = fit_path(features, labels, C=grid, classes=4)
    assert bool(found.converged.all())
    losses = [objective(features, labels, C, found.weights[i], found.intercepts[i]) / C
              for i, C in enumerate(grid)]  # fmt: skip
    assert losses == sorted(losses)  # the value of the optimum grows with the weight decay
    assert losses[0] < 1e-3
    double = fit_path(features.double(), labels, C=[grid[0]], classes=4, tol=1e-8)
    best = objective(features, labels, grid[0], double.weights[0], double.intercepts[0]) / grid[0]
    assert losses[0] == pytest.approx(best, rel=2e-3)


def test_a_start_at_the_optimum_stays_there():
    features, labels = problem()
    found = fit_path(features, labels, C=[1.0], classes=4, tol=1e-10)
    again = fit_path(features, labels, C=[1.0], classes=4, tol=1e-8, start=found[0:1])
    assert int(again.iterations[0]) <= 2
    torch.testing.assert_close(again.weights, found.weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("noise", [0.3, 1.5], ids=["separable", "overlapping"])
def test_a_start_from_a_path_of_other_samples_reaches_the_same_optimum(noise):
    features, labels = problem(60, 40, noise=noise)
    start = fit_path(features[:30], labels[:30], C=[1e4, 1e3, 1e2, 1.0], classes=4)
    warm = fit_path(features, labels, C=[1e4], classes=4, tol=1e-13, start=start)
    cold = fit_path(features, labels, C=[1e4], classes=4, tol=1e-13)
    assert bool(warm.converged.all())
    torch.testing.assert_close(warm.logits(0, features), cold.logits(0, features), rtol=0, atol=0.1)
    ours, expected = (
        objective(features, labels, 1e4, found.weights[0], found.intercepts[0])
        for found in (warm, cold)
    )
    assert ours == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(80, 12), (30, 60)], ids=["tall", "wide"])
def test_the_axes_of_more_samples_give_the_same_optimum(shape):
    features, labels = problem(*shape)
    part = slice(0, len(labels) * 2 // 3)
    one, two = (
        fit_path(features[part], labels[part], C=[10.0, 0.1], classes=4, tol=1e-13, basis=basis)
        for basis in (None, principal_axes(features))
    )
    torch.testing.assert_close(one.weights, two.weights, rtol=1e-4, atol=1e-6)


def test_a_rotation_of_the_features_rotates_the_weights():
    features, labels = problem()
    generator = torch.Generator().manual_seed(2)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    plain = fit_path(features, labels, C=[1.0], classes=4, tol=1e-13)
    turned = fit_path(features @ rotation, labels, C=[1.0], classes=4, tol=1e-13)
    torch.testing.assert_close(turned.weights, plain.weights @ rotation, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(turned.intercepts, plain.intercepts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_probabilities_and_losses_of_large_logits_are_exact_in_single_precision(size):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 5
    logits = size * torch.randn(1, 5, 20, generator=generator)
    loss = Multinomial(labels, 5)
    margins = loss.margins(logits.clone())
    loss.exclude(margins)
    p, doubt = loss.probabilities(margins)
    expected = logits.double().softmax(1) - F.one_hot(labels).T
    cross_entropy = F.cross_entropy(logits[0].T.double(), labels)
    torch.testing.assert_close(
        loss.residuals(p, doubt).double(), expected, rtol=0, atol=1e-6 * size
    )
    assert float(loss.mean(doubt)) == pytest.approx(float(cross_entropy), rel=1e-5)


def test_a_start_that_knows_nothing_of_a_class_reaches_the_same_optimum():
    features, labels = problem()
    known = labels < 3
    start = fit_path(features[known], labels[known], C=[1.0], classes=4)
    assert bool(start.intercepts[0, 3].isinf())
    warm = fit_path(features, labels, C=[1.0], classes=4, tol=1e-13, start=start)
    cold = fit_path(features, labels, C=[1.0], classes=4, tol=1e-13)
    torch.testing.assert_close(warm.weights, cold.weights, rtol=1e-4, atol=1e-6)


def test_a_class_without_a_sample_is_never_predicted_and_changes_nothing():
    features, labels = problem(classes=3)
    with_gap = fit_path(features, torch.tensor([0, 2, 4])[labels], C=[1.0], classes=6)
    without = fit_path(features, labels, C=[1.0], classes=3)
    logits = with_gap.logits(0, features)
    torch.testing.assert_close(logits[:, [0, 2, 4]], without.logits(0, features))
    assert bool((logits[:, [1, 3, 5]] == -torch.inf).all())


def test_two_classes_have_two_weight_vectors_and_so_half_of_scikit_learns_binary_penalty():
    features, labels = problem(classes=2)
    found = fit_path(features, labels, C=[0.5], classes=2, tol=1e-12)
    model = judge(features, labels, 1.0)
    difference = found.weights[0, 1] - found.weights[0, 0]
    torch.testing.assert_close(difference, torch.from_numpy(model.coef_[0]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("features", [torch.ones(6, 3), torch.zeros(6, 3)])
def test_features_without_information_leave_the_frequencies(features):
    found = fit_path(features, torch.tensor([0, 0, 0, 0, 1, 1]), C=[1.0, 100.0], classes=2)
    shares = found.logits(1, features).softmax(1)
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3]).expand(6, 2))


def test_a_single_class_is_always_predicted():
    found = fit_path(torch.randn(5, 3), torch.full((5,), 2), C=[1.0], classes=4)
    assert found.logits(0, torch.randn(7, 3)).argmax(1).tolist() == [2] * 7


def test_too_few_iterations_are_told():
    features, labels = problem()
    found = fit_path(features, labels, C=[100.0], classes=4, max_iter=3)
    assert (int(found.iterations[0]), bool(found.converged[0])) == (3, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.full((4, 2), torch.nan)}, "features must be finite"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, r"labels must lie in \[0, 3\)"),
        ({"C": [1.0, 0.0]}, "every C must be a positive number"),
        ({"C": []}, "at least one"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    good = {"features": torch.randn(4, 2), "labels": torch.tensor([0, 1, 2, 0]), "C": [1.0]}
    with pytest.raises(ValueError, match=message):
        fit_path(**{**good, **change}, classes=3)
