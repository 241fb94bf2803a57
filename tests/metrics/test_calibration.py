import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from ssl_transfer.metrics import ece
from ssl_transfer.metrics.calibration import COLDEST, HOTTEST, ece_by_folds, fit_temperature


def overconfident(samples=400, classes=5, seed=0, factor=4.0):
    """Logits ``factor`` times those that the labels were drawn from."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return factor * logits, labels


@pytest.mark.parametrize("factor", [0.2, 1.0, 4.0, 50.0])
def test_the_temperature_minimises_the_cross_entropy(factor):
    logits, labels = overconfident(factor=factor)
    judge = minimize_scalar(
        lambda log_t: float(F.cross_entropy(logits * np.exp(-log_t), labels)),
        bounds=(-6, 6),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(judge.x), rel=1e-6)


def test_labels_drawn_from_the_softmax_give_back_the_factor_and_calibrate():
    logits, labels = overconfident(20_000, factor=4.0)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(4.0, rel=0.05)
    assert ece(logits / temperature, labels) < 0.02 < ece(logits, labels)


def test_temperatures_have_ends():
    labels = torch.tensor([0, 1])
    assert fit_temperature(torch.eye(2), labels) == COLDEST
    assert fit_temperature(-torch.eye(2), labels) == HOTTEST


def test_equal_scores_leave_the_temperature_at_one():
    labels = torch.tensor([0, 1, 1])
    constant = torch.full((3, 2), 7.0)
    assert fit_temperature(constant, labels) == 1
    unseen = torch.cat([constant, torch.full((3, 1), -torch.inf)], dim=1)
    assert fit_temperature(unseen, labels) == 1
    assert ece_by_folds(constant.repeat(5, 1), labels.repeat(5)) < 0.5


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_have_no_temperature(odd):
    with pytest.raises(ValueError, match="class scores that are numbers"):
        fit_temperature(torch.tensor([[odd, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))


def test_classes_that_were_never_seen_say_nothing():
    logits, labels = overconfident(100, 3)
    wider = torch.cat([logits, torch.full((100, 1), -torch.inf, dtype=torch.float64)], dim=1)
    expected = fit_temperature(logits, labels)
    assert fit_temperature(wider, labels) == pytest.approx(expected, rel=1e-9)
    more = torch.cat([wider, wider[:7]]), torch.cat([labels, torch.full((7,), 3)])
    assert fit_temperature(*more) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="at least one sample of a known class"):
        fit_temperature(wider, torch.full((100,), 3))


def test_the_published_folds_are_fifths_in_the_order_of_seed_0():
    logits, labels = overconfident(103)
    indices = list(range(103))
    np.random.RandomState(0).shuffle(indices)
    folds = [indices[20 * i : 20 * (i + 1)] for i in range(5)]
    errors = []
    for i, fold in enumerate(folds):
        rest = [index for j in range(5) if j != i for index in folds[j]]
        errors.append(ece(logits[rest] / fit_temperature(logits[fold], labels[fold]), labels[rest]))
    assert ece_by_folds(logits, labels) == pytest.approx(np.mean(errors), abs=1e-12)
    assert ece_by_folds(logits, labels) < ece(logits, labels)


def test_fewer_samples_than_folds_are_refused():
    with pytest.raises(ValueError, match="at least 5 samples, but has 4"):
        ece_by_folds(torch.eye(4), torch.arange(4))
