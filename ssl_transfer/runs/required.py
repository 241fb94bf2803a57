"""Reads what the evaluations that a run requires have left."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.models.heads import load_head
from ssl_transfer.protocols.required import Evaluated, Predictions
from ssl_transfer.runs import products
from ssl_transfer.runs.finished import final_encoder
from ssl_transfer.runs.run import Run
from ssl_transfer.system import inputs
from ssl_transfer.system.files import Unreadable

PREDICTIONS = "test_predictions.npz"


def required_evaluations(run: Run) -> dict[str, Evaluated]:
    """Return what the evaluations that a run requires have left, by role.

    A run that averages class scores reads the predictions of its members' evaluations, every other
    run their encoders and heads.

    Raises:
        ValueError: if an encoder or a head cannot be read.
        OSError: if a file is damaged.
    """
    return {
        role: _predictions_of(one) if run.averages_scores else _classifier_of(one)
        for role, one in run.evaluations.items()
    }


def _classifier_of(run: Run) -> Evaluated:
    record = run.record()
    products.verify(run.folder, record)
    encoder = final_encoder(run, record, run.folder)
    head = load_head(run.folder, encoder.feature_dim) or encoder.head
    return Evaluated(run.describe(), run.id, record["weights_sha256"], encoder, head)


def _predictions_of(run: Run) -> Evaluated:
    record = run.record()
    path = run.folder / PREDICTIONS
    products.verify(run.folder, record, only=path.name)
    predictions = _read(path)
    return Evaluated(run.describe(), run.id, record["weights_sha256"], predictions=predictions)


def _read(path: Path) -> Predictions:
    inputs.note_file(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
        classes = tuple(map(str, arrays["classes"]))
        return Predictions(arrays["files"], arrays["targets"], arrays["scores"], classes)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Unreadable(
            f"`{path}` must hold the class scores of the test images, but cannot be read "
            f"({error}); compute its run again with force=true."
        ) from error
