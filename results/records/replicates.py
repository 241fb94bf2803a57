"""The scores of runs on resamples of their test images, kept beside the records.

A run's replicates are computed from its ``test_predictions.npz``, or from the ``episodes.npz`` of a
few-shot run. Their seed is a function of the names and targets of the test images: runs with the
same test images share their resamples, and other runs never change them.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from results.errors import ResultsError
from results.records import episodes, predictions
from results.records.reading import Results
from results.statistics import bootstrap
from results.statistics.prediction_metrics import METRICS, SEVERAL_CLASSES, TWO_CLASSES

Unit = Literal["images", "groups", "episodes"]
"""What a resample draws."""
_UNITS: Mapping[str, Unit] = {"images": "images", "groups": "groups", "episodes": "episodes"}
_EPISODE_METRICS = ("top1",)

CACHE = ".score_replicates"
"""The folder below the outputs with a file per predictions and metric; it may be deleted."""
_VERSION = "1"
"""Changes when the same predictions give other replicates."""
_SHA256 = re.compile("[0-9a-f]{64}")
_EQUAL = 1e-5
"""Largest difference between a record's score and that of its predictions: rounding errors."""


@dataclasses.dataclass(frozen=True)
class Replicates:
    """A score on resamples of its test images.

    Args:
        value: the score.
        deviations: the score of each resample minus their mean ``[RESAMPLES]``; 0 if undefined.
        unit: what a resample draws.
        units: how many of them there are.
        seed: equal for runs with the same test images, which share their resamples.
    """

    value: float
    deviations: NDArray[np.float32]
    unit: Unit
    units: int
    seed: int


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
    name = next((one for one in (predictions.FILE, episodes.FILE) if _stated(document, one)), None)
    if name is None or not recorded:
        return None
    kept = _of_run(folder, name, _stated(document, name), metric)
    same = kept is not None and abs(kept.value - float(recorded[0])) <= _EQUAL
    return kept if same else None


def _stated(document: Mapping[str, Any], name: str) -> str:
    """Return the sha256 of a file that a record names; empty if it names none."""
    files = document.get("files")
    text = str(files.get(name) or "") if isinstance(files, dict) else ""
    return text if _SHA256.fullmatch(text) else ""


@functools.lru_cache(maxsize=16_384)
def _of_run(folder: Path, name: str, sha256: str, metric: str) -> Replicates | None:
    """Return the replicates of a run's score: those that were kept, or computed and kept."""
    read = _from_predictions if name == predictions.FILE else _from_episodes
    if metric not in (METRICS if name == predictions.FILE else _EPISODE_METRICS):
        return None
    path = folder.parent.parent / CACHE / f"{sha256}_{metric}"
    key = f"{_VERSION} {name} {sha256} {metric}"
    if (kept := _load(path, key)) is not None:
        return kept
    try:
        computed = read(folder, {"files": {name: sha256}}, metric)
    except ResultsError:  # missing or damaged: the score has no interval
        return None
    if computed is not None:
        with contextlib.suppress(OSError):  # the outputs may be read-only
            _keep(path, key, computed)
    return computed


def _from_predictions(folder: Path, document: Mapping[str, Any], metric: str) -> Replicates | None:
    left = predictions.read_predictions(folder, document)
    if left is None or not _fits(metric, left):
        return None
    images, arrays, groups = len(left.files), [left.files, left.targets], None
    if left.groups is not None:
        groups = np.unique(left.groups, return_inverse=True)[1]
        arrays.append(groups)
    statistic, seed = METRICS[metric](left.scores, left.targets), bootstrap.seed_of(*arrays)
    units = images if groups is None else int(groups.max()) + 1
    value = float(statistic(np.ones((images, 1)))[0])
    if units < 2 or not math.isfinite(value):
        return None
    values = bootstrap.replicates(statistic, images, seed, groups)
    return _centred(value, values, "images" if groups is None else "groups", units, seed)


def _fits(metric: str, left: predictions.Predictions) -> bool:
    """Return whether a metric is defined for the targets of predictions."""
    if (metric in SEVERAL_CLASSES) != left.several_classes:
        return False
    return len(left.classes) == 2 if metric in TWO_CLASSES else True


def _from_episodes(folder: Path, document: Mapping[str, Any], metric: str) -> Replicates:
    assert metric in _EPISODE_METRICS, metric
    left = episodes.read_episodes(folder, document)
    units, accuracies = len(left.accuracies), left.accuracies
    seed = bootstrap.seed_of(np.array([left.drawn]))
    values = bootstrap.replicates(lambda weights: accuracies @ weights / units, units, seed)
    return _centred(float(accuracies.mean()), values, "episodes", units, seed)


def _centred(
    value: float, values: NDArray[np.float64], unit: Unit, units: int, seed: int
) -> Replicates:
    """Return replicates with deviations from their mean; undefined ones count as this mean.

    The variance of a resample of groups is too small by a factor of ``1 - 1 / groups``.
    """
    defined = np.isfinite(values)
    deviations = np.where(defined, values - values[defined].mean() if defined.any() else 0.0, 0.0)
    scale = math.sqrt(units / (units - 1)) if unit == "groups" else 1.0
    return Replicates(value, (scale * deviations).astype(np.float32), unit, units, seed)


def _load(path: Path, key: str) -> Replicates | None:
    """Return what was kept for the same predictions; None if there is nothing, or it is damaged."""
    try:
        header, _, content = path.read_bytes().partition(b"\n")
        facts = json.loads(header)
        if facts["key"] != key or facts["checksum"] != zlib.crc32(content):
            return None
        deviations = np.frombuffer(content, dtype="<f4").astype(np.float32)
        if len(deviations) != bootstrap.RESAMPLES:
            return None
        unit, units, seed = _UNITS[facts["unit"]], int(facts["units"]), int(facts["seed"])
        return Replicates(float(facts["value"]), deviations, unit, units, seed)
    except (OSError, KeyError, ValueError, TypeError, RecursionError):
        return None


def _keep(path: Path, key: str, computed: Replicates) -> None:
    """Write replicates: a line of JSON, then the deviations as little-endian float32.

    They go through a temporary file, so that a reader never sees half of them.
    """
    content = computed.deviations.astype("<f4").tobytes()
    facts = {"key": key, "checksum": zlib.crc32(content), "value": computed.value}
    facts |= {"unit": computed.unit, "units": computed.units, "seed": computed.seed}
    path.parent.mkdir(exist_ok=True)
    number, name = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(json.dumps(facts).encode() + b"\n" + content)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def independent_seed(*names: str) -> int:
    """Return a seed that is a function of names alone, e.g. of those of a cell."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode(errors="replace")).digest()[:8])
