"""scikit-learn is the judge of R² and of the mean squared error."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from ssl_transfer.metrics.landmarks import (
    box_side,
    constant_among,
    distance_between,
    distances,
    mean_r2,
    mse,
    nme,
    normalised_errors,
    pck,
    r2_by_output,
)

NAN = float("nan")


def numbers(seed: int, samples: int = 40, outputs: int = 6) -> torch.Tensor:
    chance = np.random.default_rng(seed)
    return torch.from_numpy(chance.normal(3, 2, (samples, outputs)))


def test_r2_and_mse_are_those_of_scikit_learn() -> None:
    targets = numbers(0)
    for predictions in (targets + 0.3 * numbers(1), numbers(2)):
        judged = sklearn.metrics.r2_score(targets, predictions, multioutput="raw_values")
        assert r2_by_output(predictions, targets).tolist() == pytest.approx(judged.tolist())
        whole = sklearn.metrics.r2_score(targets, predictions)
        assert mean_r2(predictions, targets) == pytest.approx(whole)
        judge = sklearn.metrics.mean_squared_error(targets, predictions)
        assert mse(predictions, targets) == pytest.approx(judge)


def test_r2_of_the_mean_is_zero_and_of_the_truth_one() -> None:
    targets = numbers(0)
    assert mean_r2(targets.clone(), targets) == 1
    assert mean_r2(targets.mean(0).expand_as(targets), targets) == pytest.approx(0, abs=1e-12)


def test_unknown_targets_are_left_out_of_each_output_alone() -> None:
    targets, predictions = numbers(0), numbers(1)
    targets[::3, 2] = NAN
    known = ~targets[:, 2].isnan()
    judge = [
        sklearn.metrics.r2_score(targets[rows, number], predictions[rows, number])
        for number in range(6)
        for rows in [known if number == 2 else slice(None)]
    ]
    assert r2_by_output(predictions, targets).tolist() == pytest.approx(judge)
    assert mean_r2(predictions, targets) == pytest.approx(np.mean(judge))
    everywhere = ~targets.isnan()
    squares = (predictions - targets)[everywhere].square()
    assert mse(predictions, targets) == pytest.approx(float(squares.mean()))


def test_constant_outputs_are_named_and_left_out_of_r2() -> None:
    targets, predictions = numbers(0, outputs=4), numbers(1, outputs=4)
    targets[:, 1] = 0.1  # its mean in floating point is not exactly 0.1
    targets[1:, 3] = NAN
    assert constant_among(["a", "b", "c", "d"], targets) == ["b", "d"]
    by_output = r2_by_output(predictions, targets)
    assert by_output.isnan().tolist() == [False, True, False, True]
    assert mean_r2(predictions, targets) == pytest.approx(float(by_output[[0, 2]].mean()))


def test_scores_without_a_known_target_are_refused() -> None:
    nothing = torch.full((3, 2), NAN)
    with pytest.raises(ValueError, match="every output is constant or unknown"):
        mean_r2(torch.zeros(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="needs a known target"):
        mse(torch.zeros(3, 2), nothing)
    errors = normalised_errors(torch.zeros(3, 2), nothing, torch.ones(3))
    for score in (nme, lambda errors: pck(errors, 0.1)):
        with pytest.raises(ValueError, match="needs a known landmark in a sample"):
            score(errors)


@pytest.mark.parametrize(
    "score", [mean_r2, mse, lambda p, t: normalised_errors(p, t, torch.ones(40))]
)
def test_predictions_that_are_not_finite_are_refused(score) -> None:
    predictions, targets = numbers(0), numbers(1)
    predictions[3, 1], predictions[4, 2] = NAN, float("inf")
    with pytest.raises(ValueError, match="must be finite, but 2 of 240 are NaN or infinite"):
        score(predictions, targets)


def test_unknown_places_may_have_any_prediction() -> None:
    predictions, targets = numbers(0), numbers(1)
    predictions[3, 1], targets[3, 1] = NAN, NAN
    assert np.isfinite([mean_r2(predictions, targets), mse(predictions, targets)]).all()


# Three samples of three landmarks.
TRUE = torch.tensor([
    [0.0, 0.0, 3.0, 4.0, 0.0, 4.0],
    [0.0, 0.0, 6.0, 8.0, NAN, NAN],
    [1.0, 1.0, NAN, 1.0, 1.0, 3.0],
])  # fmt: skip
GUESS = TRUE + torch.tensor([
    [0.5, 0.0, 0.0, 1.0, 0.0, 0.0],
    [3.0, 4.0, 0.0, 0.0, 0.0, 0.0],
    [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
])  # fmt: skip


def test_distances_and_normalisers_have_their_closed_forms() -> None:
    expected = [[0.5, 1, 0], [5, 0, NAN], [1, NAN, 0]]
    np.testing.assert_allclose(distances(GUESS, TRUE), expected)
    np.testing.assert_allclose(distance_between(TRUE, 0, 1), [5, 10, NAN])
    # A landmark is unknown if its x or its y is.
    np.testing.assert_allclose(box_side(TRUE), [12**0.5, 48**0.5, 0], atol=1e-12)


def test_nme_is_the_mean_over_samples_of_the_mean_over_their_landmarks() -> None:
    errors = normalised_errors(GUESS, TRUE, distance_between(TRUE, 0, 1))
    np.testing.assert_allclose(errors, [[0.1, 0.2, 0], [0.5, 0, NAN], [NAN] * 3])
    assert nme(errors) == pytest.approx((0.1 + 0.25) / 2)


def test_pck_is_the_share_of_known_landmarks_within_the_threshold() -> None:
    errors = normalised_errors(GUESS, TRUE, distance_between(TRUE, 0, 1))
    assert pck(errors, 0.05) == pytest.approx(2 / 5)
    assert pck(errors, 0.2) == pytest.approx(4 / 5)  # exactly at the threshold is correct
    assert pck(errors, 0.5) == 1


def test_a_normaliser_of_zero_leaves_the_sample_out() -> None:
    errors = normalised_errors(GUESS, TRUE, box_side(TRUE))
    assert errors[2].isnan().all()
    assert nme(errors) == pytest.approx((1.5 / 3 / 12**0.5 + 2.5 / 48**0.5) / 2)
