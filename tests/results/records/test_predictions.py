from pathlib import Path

import numpy as np
import pytest
import torch
from predicted import write_arrays
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

from results.errors import ResultsError
from results.records.predictions import (
    FILE,
    Predictions,
    confusion,
    rankings_by_class,
    read_predictions,
    scores_by_class,
    softmax,
    wrong_entries,
    wrong_images,
)
from ssl_transfer import metrics


def predictions_of(targets: np.ndarray, scores: np.ndarray) -> Predictions:
    files = np.array([f"image_{number}.jpg" for number in range(len(targets))])
    classes = np.array([f"class {number}" for number in range(scores.shape[1])])
    return Predictions(files, targets.astype(np.int64), scores.astype(np.float64), classes)


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    targets, scores = chance.integers(0, 5, 200), chance.normal(size=(200, 5))
    found = predictions_of(targets, scores)
    assert (confusion(found) == confusion_matrix(targets, scores.argmax(1))).all()
    expected = precision_recall_fscore_support(targets, scores.argmax(1))
    for c, row in enumerate(scores_by_class(found)):
        precision, recall, f1, n = (column[c] for column in expected)
        assert (row.name, row.n) == (f"class {c}", n)
        assert (row.precision, row.recall, row.f1) == pytest.approx((precision, recall, f1))


def test_a_score_that_would_divide_by_zero_is_none() -> None:
    scores = np.eye(4)[[0, 1, 1]]
    absent_but_predicted, neither = scores_by_class(predictions_of(np.array([0, 0, 2]), scores))[
        1::2
    ]
    assert absent_but_predicted[1:] == (0, None, 0.0, 0.0)
    assert neither[1:] == (0, None, None, None)


def test_average_precisions_are_scikit_learns_and_have_the_mean_that_the_run_records() -> None:
    chance = np.random.default_rng(1)
    targets = chance.integers(-1, 2, (60, 6))
    targets[:, 5] = np.minimum(targets[:, 5], 0)  # no image shows the last class
    scores = chance.normal(size=(60, 6)).round(1) + targets  # some are equal
    found = rankings_by_class(predictions_of(targets, scores))
    assert found[5][4:] == (None, None)
    assert [sum(row[1:4]) for row in found] == [60] * 6
    for c, row in enumerate(found[:5]):
        known = targets[:, c] >= 0
        judge = average_precision_score(targets[known, c], scores[known, c])
        assert row.average_precision == pytest.approx(judge)
    mean = metrics.map_11_point(torch.from_numpy(scores), torch.from_numpy(targets))
    assert np.mean([row.eleven_points for row in found[:5]]) == pytest.approx(mean)


def test_wrong_images_come_by_their_softmax_probability() -> None:
    scores = np.log([[0.6, 0.4], [0.2, 0.8], [0.1, 0.9]]) + 7
    wrong = wrong_images(predictions_of(np.array([1, 0, 1]), scores))
    assert [(row.file, row.true, row.predicted) for row in wrong] == [
        ("image_1.jpg", "class 0", "class 1"),
        ("image_0.jpg", "class 1", "class 0"),
    ]
    assert [row.probability for row in wrong] == pytest.approx([0.8, 0.6])
    assert [row.probability_of_true for row in wrong] == pytest.approx([0.2, 0.4])


def test_infinite_scores_share_the_probability() -> None:
    scores = np.array([[np.inf, 0, -np.inf], [0, np.inf, np.inf], [np.log(3), -np.inf, 0]])
    assert softmax(scores) == pytest.approx(np.array([[1, 0, 0], [0, 0.5, 0.5], [0.75, 0, 0.25]]))


def test_shares_of_votes_are_probabilities_as_they_are() -> None:
    (wrong,) = wrong_images(predictions_of(np.array([1, 0]), np.array([[0.75, 0.25], [1, 0]])))
    assert wrong.probability == 0.75


def test_wrong_entries_leave_out_what_is_shown_or_not_known() -> None:
    scores = np.array([[9, 8, 7], [6, 5, 4]])
    found = wrong_entries(predictions_of(np.array([[1, -1, 0], [0, 1, 0]]), scores), 2)
    assert found == [("image_0.jpg", "class 2", 7.0), ("image_1.jpg", "class 0", 6.0)]


def test_a_file_is_read_with_its_names(tmp_path: Path) -> None:
    found = read_predictions(tmp_path, write_arrays(tmp_path))
    assert found is not None
    assert list(found.files) == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    assert confusion(found).tolist() == [[1, 1], [0, 1]]
    assert read_predictions(tmp_path / "elsewhere", {}) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": np.array([0, 0, 2])}, "some are not in"),
        ({"targets": np.array([0, 0])}, "the shapes do not fit"),
        ({"scores": np.full((3, 2), np.nan, np.float32)}, "NaN"),
        ({"scores": np.array([[1, 2]] * 3)}, "`scores` is of type int64"),
        ({"files": np.array([{}, {}, {}], dtype=object)}, "allow_pickle"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, np.ndarray], words: str
) -> None:
    record = write_arrays(tmp_path, **changes)
    with pytest.raises(ResultsError, match=words) as caught:
        read_predictions(tmp_path, record)
    assert "force=true" in str(caught.value)


def test_a_file_of_an_older_version_or_of_another_run_is_refused(tmp_path: Path) -> None:
    record = write_arrays(tmp_path)
    np.savez(tmp_path / FILE, np.zeros((3, 2), np.float32))
    with pytest.raises(ResultsError, match="sha256 differs"):
        read_predictions(tmp_path, record)
    with pytest.raises(ResultsError, match="an older version left scores alone"):
        read_predictions(tmp_path, {})
    (tmp_path / FILE).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ResultsError, match="is damaged"):
        read_predictions(tmp_path, {})
    (tmp_path / FILE).unlink()
    with pytest.raises(ResultsError, match="does not exist"):
        read_predictions(tmp_path, record)


def test_groups_are_read_where_a_file_names_them(tmp_path: Path) -> None:
    assert read_predictions(tmp_path, write_arrays(tmp_path)).groups is None
    record = write_arrays(tmp_path, groups=np.array([3, 3, 5], dtype=np.int32))
    assert read_predictions(tmp_path, record).groups.tolist() == [3, 3, 5]
    with pytest.raises(ResultsError, match="`groups` must be a number per image"):
        read_predictions(tmp_path, write_arrays(tmp_path, groups=np.array([3, 5])))
