"""The scores of runs on resamples of their test images, kept beside the records.

A run's replicates are computed from its ``test_predictions.npz``, or from the ``episodes.npz`` of a
few-shot run. Their seed is a function of the names and targets of the test images: runs with the
same test images share their resamples, and other runs never change them.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from results.errors import ResultsError
from results.records import episodes, predictions
from results.records.reading import Results
from results.statistics import bootstrap
from results.statistics.prediction_metrics import METRICS, SEVERAL_CLASSES

Unit = Literal["images", "groups", "episodes"]
"""What a resample draws."""

CACHE = ".score_replicates.npz"
_VERSION = "1"
"""Changes when the same predictions give other replicates."""
_EQUAL = 1e-5
"""Largest difference between a record's score and that of its predictions: rounding errors."""


@dataclasses.dataclass(frozen=True)
class Replicates:
    """A score on resamples of its test images.

    Args:
        value: the score.
        deviations: the score of each resample minus their mean ``[RESAMPLES]``; NaN if undefined.
        unit: what a resample draws.
        units: how many of them there are.
        seed: equal for runs with the same test images, which share their resamples.
    """

    value: float
    deviations: NDArray[np.float32]
    unit: Unit
    units: int
    seed: int

    @property
    def variance(self) -> float:
        """Variance of the score over test sets of this size."""
        return float(np.nanvar(self.deviations, ddof=1, dtype=np.float64))


def replicates(results: Results, run_id: str, metric: str) -> Replicates | None:
    """Return the replicates of a run's score on its test split.

    None if the run left neither predictions nor episodes from which the metric follows, if these
    are missing or differ from those that the record names, or if they give another score.

    Args:
        results: the results that hold the run.
        run_id: id of the run.
        metric: name of the metric.
    """
    folder, document = results.folders.get(run_id), results.documents.get(run_id)
    if folder is None or document is None:
        return None
    recorded = [
        score["value"]
        for score in document.get("scores") or ()
        if score["metric"] == metric and score.get("split") in (None, "test")
    ]
    stated = document.get("files")
    files = stated if isinstance(stated, dict) else {}
    name = next((one for one in (predictions.FILE, episodes.FILE) if one in files), None)
    if name is None or not recorded:
        return None
    every = _of_run(folder, name, str(files[name]))
    one = every.get(metric)
    return one if one is not None and abs(one.value - float(recorded[0])) <= _EQUAL else None


@functools.lru_cache(maxsize=16_384)
def _of_run(folder: Path, name: str, sha256: str) -> Mapping[str, Replicates]:
    """Return the replicates of all metrics of a run, from the cache if it is up to date."""
    path, key = folder / CACHE, f"{_VERSION} {name} {sha256}"
    kept = _load(path, key)
    if kept is not None:
        return kept
    read = _from_predictions if name == predictions.FILE else _from_episodes
    try:
        every = read(folder, {"files": {name: sha256}})
    except ResultsError:  # missing or damaged: the score has no interval
        return {}
    with contextlib.suppress(OSError):  # the folder may be read-only
        _keep(path, key, every)
    return every


def _from_predictions(folder: Path, document: Mapping[str, Any]) -> dict[str, Replicates]:
    left = predictions.read_predictions(folder, document)
    if left is None:
        return {}
    groups = None if left.groups is None else np.unique(left.groups, return_inverse=True)[1]
    images, classes = left.scores.shape
    units, arrays = images, [left.files, left.targets]
    if groups is not None:
        units, arrays = int(groups.max()) + 1, [*arrays, groups]
    every, seed = {}, bootstrap.seed_of(*arrays)
    for name in _fitting(left.several_classes, classes):
        statistic = METRICS[name](left.scores, left.targets)
        value = float(statistic(np.ones((1, images)))[0])
        if np.isfinite(value):
            values = bootstrap.replicates(statistic, images, seed, groups)
            unit: Unit = "images" if groups is None else "groups"
            every[name] = _centred(value, values, unit, units, seed)
    return every


def _fitting(several: bool, classes: int) -> list[str]:
    """Return the metrics that are defined for these targets."""
    needed = {"auc": classes == 2, "f1": classes == 2, "top5": classes > 5}
    return [
        name for name in METRICS if (name in SEVERAL_CLASSES) == several and needed.get(name, True)
    ]


def _from_episodes(folder: Path, document: Mapping[str, Any]) -> dict[str, Replicates]:
    left = episodes.read_episodes(folder, document)
    units, accuracies = len(left.accuracies), left.accuracies
    seed = bootstrap.seed_of(np.array([left.drawn]))
    values = bootstrap.replicates(lambda weights: weights @ accuracies / units, units, seed)
    return {"top1": _centred(float(accuracies.mean()), values, "episodes", units, seed)}


def _centred(
    value: float, values: NDArray[np.float64], unit: Unit, units: int, seed: int
) -> Replicates:
    mean = np.nanmean(values) if np.isfinite(values).any() else 0.0
    return Replicates(value, (values - mean).astype(np.float32), unit, units, seed)


def _load(path: Path, key: str) -> dict[str, Replicates] | None:
    """Return what was kept for the same predictions; None if there is nothing, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            names, values, deviations = (archive[n] for n in ("names", "values", "deviations"))
            unit, units, seed = str(archive["unit"]), int(archive["units"]), int(archive["seed"])
    except (OSError, KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile):
        return None
    expected = (len(names), bootstrap.RESAMPLES)
    if deviations.shape != expected or values.shape != names.shape or unit not in _UNITS:
        return None
    return {
        str(name): Replicates(float(value), row, _UNITS[unit], units, seed)
        for name, value, row in zip(names, values, deviations, strict=True)
    }


_UNITS: Mapping[str, Unit] = {"images": "images", "groups": "groups", "episodes": "episodes"}


def _keep(path: Path, key: str, every: Mapping[str, Replicates]) -> None:
    """Write replicates through a temporary file, so that a reader never sees half of them."""
    if not every:
        return
    first = next(iter(every.values()))
    number, name = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            np.savez(
                file,
                key=np.array(key),
                names=np.array(list(every)),
                values=np.array([one.value for one in every.values()]),
                deviations=np.stack([one.deviations for one in every.values()]),
                unit=np.array(first.unit),
                units=np.array(first.units),
                seed=np.array(first.seed, dtype=np.uint64),
            )
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def independent_seed(*names: str) -> int:
    """Return a seed that is a function of names alone, e.g. of those of a cell."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode(errors="replace")).digest()[:8])
