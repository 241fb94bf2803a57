"""Comparisons with a second library, which rounds differently."""

import numpy as np


def clear_decisions(scores, *, margin):
    """Return for each sample whether its two largest class scores differ by more than rounding."""
    largest = np.sort(np.asarray(scores), axis=1)[:, -2:]
    return largest[:, 1] - largest[:, 0] > margin


def assert_same_classes(predicted, scores, *, margin, clear=0.9):
    """Two libraries must predict the same class wherever the judge's decision is clear.

    Args:
        predicted: class numbers by our code.
        scores: class scores of the judge [samples, classes]; the largest is its prediction.
        margin: difference between the two largest scores below which rounding may decide.
        clear: smallest share of samples that must have a clear decision.
    """
    scores = np.asarray(scores)
    decided = clear_decisions(scores, margin=margin)
    assert decided.mean() >= clear
    np.testing.assert_array_equal(np.asarray(predicted)[decided], scores.argmax(1)[decided])
