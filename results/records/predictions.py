"""The class scores of a run's test images, and what follows from them for each class and image.

They lie in ``test_predictions.npz``; a protocol that classifies images leaves this file.
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from results.errors import ResultsError

FILE = "test_predictions.npz"
_KINDS = {"files": "U", "targets": "iu", "scores": "f", "classes": "U"}
"""The arrays and the kinds of their data; ``groups`` may follow."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The class scores of the test images.

    Args:
        files: names of the images, relative to the root of the data set ``[N]``.
        targets: class numbers ``[N]``; or, with several classes per image, rows ``[N, C]`` of
            1 (shown), 0 (not shown) and -1 (not known).
        scores: class scores ``[N, C]``.
        classes: names of the classes ``[C]``.
        groups: number of the group of each image ``[N]``, e.g. of the object that its frames show;
            None where the data set has no groups, and in files that do not name them.
    """

    files: NDArray[np.str_]
    targets: NDArray[np.int64]
    scores: NDArray[np.float64]
    classes: NDArray[np.str_]
    groups: NDArray[np.int64] | None = None

    @property
    def several_classes(self) -> bool:
        """Whether an image may show several classes."""
        return self.targets.ndim == 2

    @property
    def are_shares(self) -> bool:
        """Whether scores are probabilities, as the votes of nearest neighbours are."""
        sums = self.scores.sum(axis=1)
        return bool((self.scores >= 0).all() and np.allclose(sums, 1, rtol=0, atol=1e-4))

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class of the highest score of each image; of equal scores the first ``[N]``."""
        highest: NDArray[np.int64] = self.scores.argmax(axis=1)
        return highest


class ClassScores(NamedTuple):
    """Scores of one class, as fractions; None where a score is a division by zero."""

    name: str
    n: int
    recall: float | None
    precision: float | None
    f1: float | None


class ClassRanking(NamedTuple):
    """Average precision of one class, a fraction; None where no image shows the class.

    ``n`` images show the class, ``others`` do not, and of ``unknown`` it is not known.
    ``average_precision`` is over all levels of recall, ``eleven_points`` that of ``map_11_point``.
    """

    name: str
    n: int
    others: int
    unknown: int
    average_precision: float | None
    eleven_points: float | None


class WrongImage(NamedTuple):
    """A test image whose predicted class is wrong; ``probability`` is that of this class."""

    file: str
    true: str
    predicted: str
    probability: float
    probability_of_true: float


class WrongEntry(NamedTuple):
    """A class with a high score in an image that does not show it."""

    file: str
    absent: str
    score: float


def read_predictions(folder: Path, record: Mapping[str, Any]) -> Predictions | None:
    """Return the predictions of a run; None if its protocol leaves none.

    Args:
        folder: the folder of the run.
        record: its record, which names the file with its sha256.

    Raises:
        ResultsError: if the file is missing, damaged, or of an older version.
    """
    path = folder / FILE
    named = record.get("files")
    stated = named.get(FILE) if isinstance(named, dict) else None
    if not path.is_file():
        if stated is None:
            return None
        raise ResultsError(
            f"scores of classes and images need `{path}`, but it does not exist; copy it from "
            "where the run was computed, or compute the run again with `force=true`."
        )
    if stated is not None and stated != _sha256(path):
        raise ResultsError(
            f"`{path}` must be the file that the run's record names, but its sha256 differs; "
            "compute the run again with `force=true`."
        )
    return _checked(_arrays(path), path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if "scores" not in archive.files and "arr_0" in archive.files:
                raise ResultsError(
                    f"`{path}` must hold the names and targets of the images, but an older version "
                    "left scores alone; compute the run again with `force=true`."
                )
            further = ["groups"] if "groups" in archive.files else []
            return {name: archive[name] for name in (*_KINDS, *further)}
    except ResultsError:
        raise
    except (KeyError, ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, fault: str) -> ResultsError:
    return ResultsError(
        f"`{path}` must hold the arrays files, targets, scores and classes, but is damaged "
        f"({fault}); compute the run again with `force=true`."
    )


def _checked(arrays: Mapping[str, NDArray[Any]], path: Path) -> Predictions:
    """Return the predictions if shapes, kinds and values fit together.

    Raises:
        ResultsError: if they do not.
    """
    files, targets, scores, classes = (arrays[name] for name in _KINDS)
    wrong = [name for name, kinds in _KINDS.items() if arrays[name].dtype.kind not in kinds]
    if wrong:
        raise _damaged(path, f"`{wrong[0]}` is of type {arrays[wrong[0]].dtype}")
    samples, several = len(files) if files.ndim == 1 else -1, targets.ndim == 2
    expected = (samples, classes.size)
    if scores.shape != expected or targets.shape != (expected if several else expected[:1]):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise _damaged(path, f"the shapes do not fit: {shapes}")
    lowest, highest = (-1, 1) if several else (0, classes.size - 1)
    if not samples or not ((targets >= lowest) & (targets <= highest)).all():
        raise _damaged(path, f"there are no targets, or some are not in [{lowest}, {highest}]")
    if np.isnan(scores).any():
        raise _damaged(path, "some scores are NaN")
    groups = arrays.get("groups")
    if groups is not None and (groups.shape != files.shape or groups.dtype.kind not in "iu"):
        raise _damaged(path, f"`groups` must be a number per image, but is {groups.shape}")
    return Predictions(
        files,
        targets.astype(np.int64),
        scores.astype(np.float64),
        classes,
        None if groups is None else groups.astype(np.int64),
    )


def confusion(predictions: Predictions) -> NDArray[np.int64]:
    """Return the number of images of each true class (row) and predicted class ``[C, C]``."""
    classes = len(predictions.classes)
    pairs = predictions.targets * classes + predictions.predicted
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def scores_by_class(predictions: Predictions) -> list[ClassScores]:
    """Return recall, precision and F1 of every class, in the order of class numbers."""
    counts = confusion(predictions)
    hits, shown, chosen = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return [
        ClassScores(
            str(name),
            int(shown[c]),
            _quotient(hits[c], shown[c]),
            _quotient(hits[c], chosen[c]),
            _quotient(2 * hits[c], shown[c] + chosen[c]),
        )
        for c, name in enumerate(predictions.classes)
    ]


def _quotient(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def rankings_by_class(predictions: Predictions) -> list[ClassRanking]:
    """Return the average precisions of every class, in the order of class numbers."""
    rankings = []
    for c, name in enumerate(predictions.classes):
        targets, scores = predictions.targets[:, c], predictions.scores[:, c]
        known, n = targets >= 0, int((targets == 1).sum())
        values = _average_precisions(scores[known], targets[known]) if n else (None, None)
        others, unknown = int((targets == 0).sum()), int((~known).sum())
        rankings.append(ClassRanking(str(name), n, others, unknown, *values))
    return rankings


def _average_precisions(
    scores: NDArray[np.float64], shown: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the average precision of a class over all and over 11 levels of recall.

    Images with equal scores are one point of the curve of precision over recall. The first value
    weighs each precision by the step of recall; the second is the mean over 0, 0.1, …, 1 of the
    best precision at that recall or more.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], shown[order].cumsum()
    last = np.append(scores[1:] != scores[:-1], True)
    hits, retrieved = hits[last], np.arange(1, len(scores) + 1)[last]
    precision, recall = hits / retrieved, hits / hits[-1]
    reached = recall >= np.arange(11)[:, None] / 10
    eleven = np.where(reached, precision, 0.0).max(axis=1).mean()
    return float(precision @ np.diff(recall, prepend=0.0)), float(eleven)


def wrong_images(predictions: Predictions) -> list[WrongImage]:
    """Return the images whose predicted class is wrong, the most confident ones first.

    The probability is the softmax of the scores, or the score itself if scores are shares of votes.
    """
    scores = predictions.scores
    probabilities = scores if predictions.are_shares else softmax(scores)
    predicted, classes = predictions.predicted, predictions.classes
    every = np.arange(len(predicted))
    confidence = probabilities[every, predicted]
    of_true = probabilities[every, predictions.targets]
    wrong = np.flatnonzero(predicted != predictions.targets)
    return [
        WrongImage(
            str(predictions.files[i]),
            str(classes[predictions.targets[i]]),
            str(classes[predicted[i]]),
            float(confidence[i]),
            float(of_true[i]),
        )
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities ``[N, C]``; infinite scores of an image share its probability."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    powers = np.nan_to_num(powers, nan=1.0)  # infinity minus infinity
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def wrong_entries(predictions: Predictions, most: int) -> list[WrongEntry]:
    """Return the ``most`` highest scores of classes that their images do not show."""
    rows, columns = np.nonzero(predictions.targets == 0)
    scores = predictions.scores[rows, columns]
    return [
        WrongEntry(
            str(predictions.files[rows[i]]), str(predictions.classes[columns[i]]), float(scores[i])
        )
        for i in np.argsort(-scores, kind="stable")[:most]
    ]
