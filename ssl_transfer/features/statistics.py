"""Mean and covariance of a split's features: computed once, kept beside the features."""

import hashlib
import json
import logging
import math
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_transfer.features.extraction import FrozenFeatures
from ssl_transfer.metrics.invariance import FeatureStatistics, feature_statistics
from ssl_transfer.system import distributed
from ssl_transfer.system.files import replace_atomically

log = logging.getLogger(__name__)

VERSION = 1
"""Part of every key; raise it when the same features would give other statistics."""


def split_statistics(features: FrozenFeatures, split: str) -> FeatureStatistics:
    """Return mean and covariance of a split's features, from the store or computed and stored.

    The key is the identity of the features: weights, network, preprocessing, data and precision.
    Weights or images that have changed therefore never get the statistics of others. With several
    processes, all processes call this function, and the first one computes.

    Args:
        features: the stored features.
        split: name of the split.

    Raises:
        ValueError: if the features do not vary.
    """
    identity = {"statistics": VERSION, **features.identity(split)}
    path = _path(features.context.features, identity)
    stored = _read(path, identity)
    if not distributed.any_true(stored is None):
        assert stored is not None
        features.note_use(split)
        _note(features, path, *stored, reused=True)
        return stored[0]
    rows, began = features.rows(split), time.monotonic()
    seconds: float | None = None
    computed: FeatureStatistics | str | None = None
    if distributed.is_main():
        try:
            computed = feature_statistics(rows, device=_device(features.context.device))
        except ValueError as error:  # raised on every process below
            computed = str(error)
        else:
            seconds = round(time.monotonic() - began, 3)
            _write(path, identity, computed, seconds)
    computed = distributed.broadcast_object(computed)
    if isinstance(computed, str):
        raise ValueError(computed)
    assert computed is not None
    _note(features, path, computed, seconds, reused=False)
    return computed


def _note(
    features: FrozenFeatures,
    path: Path,
    statistics: FeatureStatistics,
    seconds: float | None,
    *,
    reused: bool,
) -> None:
    """Add to the record what the statistics cost, like an array of features."""
    features.context.note_features(
        {
            "key": path.stem,
            "images": statistics.samples,
            "seconds": seconds,
            "device": _device(features.context.device).type,
            "spent": 0.0 if reused else seconds or 0.0,
            "reused": reused,
        }
    )


def _device(device: torch.device) -> torch.device:
    """Return the device of double precision: GPUs of Apple have none."""
    return device if device.type == "cuda" else torch.device("cpu")


def _path(folder: Path, identity: Mapping[str, Any]) -> Path:
    text = json.dumps(identity, sort_keys=True)
    return folder / "statistics" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def statistics_identity(path: Path) -> dict[str, Any]:
    """Return the identity of the features that a file of statistics belongs to.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds no statistics.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(json.loads(str(file["identity"])))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"`{path}` holds no statistics ({error})") from error


def _write(
    path: Path, identity: Mapping[str, Any], statistics: FeatureStatistics, seconds: float
) -> None:
    arrays = {
        "identity": np.array(json.dumps(identity, sort_keys=True)),
        "mean": statistics.mean.numpy(),
        "eigenvalues": statistics.eigenvalues.numpy(),
        "eigenvectors": statistics.eigenvectors.numpy(),
        "samples": np.array(statistics.samples),
        "ledoit_wolf": np.array(statistics.ledoit_wolf),
        "seconds": np.array(seconds),
    }
    try:
        replace_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    except OSError as error:
        log.warning("statistics are not kept, and are computed whenever needed: %s", error)


def _read(path: Path, identity: Mapping[str, Any]) -> tuple[FeatureStatistics, float | None] | None:
    """Return the statistics in an intact file, and the seconds they took if it holds them.

    The file is a zip file, which checks its own contents.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if json.loads(str(file["identity"])) != json.loads(json.dumps(identity)):
                raise ValueError("it holds the statistics of other features")
            seconds = float(file["seconds"]) if "seconds" in file else math.nan
            statistics = FeatureStatistics(
                torch.from_numpy(file["mean"]),
                torch.from_numpy(file["eigenvalues"]),
                torch.from_numpy(file["eigenvectors"]),
                int(file["samples"]),
                float(file["ledoit_wolf"]),
            )
            return statistics, seconds if math.isfinite(seconds) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("`%s` is damaged (%s) and will be computed again", path, error)
        return None
