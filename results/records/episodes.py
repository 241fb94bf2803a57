"""The accuracies of few-shot episodes, which a run of ``few_shot`` leaves beside its record."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.errors import ResultsError

FILE = "episodes.npz"


@dataclasses.dataclass(frozen=True)
class EpisodeAccuracies:
    """The accuracies of one run.

    Args:
        label: what tables call the run.
        accuracies: one per episode, as fractions ``[episodes]``.
        drawn: hash of the images of all episodes.
    """

    label: str
    accuracies: NDArray[np.float64]
    drawn: str


def read_episodes(folder: Path, document: Mapping[str, Any]) -> EpisodeAccuracies:
    """Return the accuracies of a run's episodes.

    Args:
        folder: the folder of the run.
        document: its record.

    Raises:
        ResultsError: if the run left none, or the file is damaged.
    """
    path = folder / FILE
    encoder, run_id = document.get("encoder") or {}, str(document.get("run_id") or folder.name)
    label = f"{encoder.get('label', '?')} {document.get('dataset', '?')} {run_id[:8]}"
    stated = (document.get("files") or {}).get(FILE)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ResultsError(
            f"`{folder}` must hold `{FILE}`, which a finished run of few_shot leaves, but it "
            f"cannot be read ({error.strerror}); name another run, or compute it with `force=true`."
        ) from error
    if stated not in (None, hashlib.sha256(content).hexdigest()):
        raise ResultsError(
            f"`{path}` must be the file that the run's record names, but its sha256 differs; "
            "compute the run again with `force=true`."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            accuracies, drawn = archive["accuracies"].astype(np.float64), str(archive["drawn"])
        if accuracies.ndim != 1 or not len(accuracies) or not np.isfinite(accuracies).all():
            raise ValueError("accuracies are not a list of numbers")
    except (KeyError, ValueError, EOFError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise ResultsError(
            f"`{path}` must hold the arrays accuracies and drawn, but is damaged ({error}); "
            "compute the run again with `force=true`."
        ) from error
    return EpisodeAccuracies(label, accuracies, drawn)
