"""Metrics as functions of weights, judged by those of runs."""

import numpy as np
import pytest
import torch

from results.statistics.prediction_metrics import METRICS, SEVERAL_CLASSES, TWO_CLASSES
from ssl_transfer.metrics.classification import CLASSIFICATION

CASES = [(name, rounded) for name in METRICS for rounded in (False, True)]


def example(name: str, rounded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return scores, some of them equal if they are rounded, and targets, some of them unknown."""
    chance = np.random.default_rng(len(name) + rounded)
    classes = 2 if name in TWO_CLASSES else 8
    if name in SEVERAL_CLASSES:
        targets = chance.integers(-1, 2, (90, classes))
        targets[:, 3] = np.minimum(targets[:, 3], 0)  # no image shows this class
        scores = chance.normal(size=(90, classes)) + targets
    else:
        targets = np.minimum(chance.integers(0, classes, 90), 6)  # no image of the last class
        scores = chance.normal(size=(90, classes)) + 2 * np.eye(classes)[targets]
    return scores.round(1) if rounded else scores, targets


def test_every_metric_of_runs_is_restated() -> None:
    assert METRICS.keys() == CLASSIFICATION.keys()


@pytest.mark.parametrize(("name", "rounded"), CASES)
def test_equal_weights_give_the_score_of_the_record(name: str, rounded: bool) -> None:
    scores, targets = example(name, rounded)
    expected = CLASSIFICATION[name](torch.from_numpy(scores), torch.from_numpy(targets))
    value = METRICS[name](scores, targets)(np.ones((90, 1)))
    assert value == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize(("name", "rounded"), CASES)
def test_a_weight_counts_an_image_several_times(name: str, rounded: bool) -> None:
    scores, targets = example(name, rounded)
    weights = np.random.default_rng(3).multinomial(90, np.full(90, 1 / 90), size=5).T
    values = METRICS[name](scores, targets)(weights.astype(np.float32))
    for value, counts in zip(values, weights.T, strict=True):
        again = np.repeat(np.arange(90), counts)
        expected = CLASSIFICATION[name](
            torch.from_numpy(scores[again]), torch.from_numpy(targets[again])
        )
        assert value == pytest.approx(expected, abs=1e-6)


def test_a_resample_without_a_needed_class_is_undefined() -> None:
    scores, targets = example("auc", rounded=False)
    assert np.isnan(METRICS["auc"](scores, targets)((targets == 0)[:, None] * 1.0)).all()
    scores, targets = example("map_11_point", rounded=False)
    none = (targets < 1).all(axis=1)[:, None] * 1.0
    assert np.isnan(METRICS["map_11_point"](scores, targets)(none)).all()


def test_an_unknown_class_has_no_probability() -> None:
    scores = np.array([[0.0, -np.inf, 1.0], [2.0, -np.inf, 1.0]])
    targets = np.array([2, 2])
    expected = CLASSIFICATION["ece"](torch.from_numpy(scores), torch.from_numpy(targets))
    assert METRICS["ece"](scores, targets)(np.ones((2, 1))) == pytest.approx([expected])
