"""Records of runs with the predictions that they left."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from results.records.predictions import FILE
from results.statistics.prediction_metrics import METRICS


def write_predicted(
    write: Callable[..., Path],
    encoder: str,
    right: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    prefix: str = "image",
    **changes: Any,
) -> Path:
    """Write a record with predictions for two classes.

    Args:
        write: the fixture that writes a record.
        encoder: a digit, the encoder's label.
        right: which images are right ``[N]``.
        groups: their groups.
        prefix: start of the images' names: other names are other test images.
        changes: changes of the record.
    """
    n = len(right)
    targets = np.arange(n) % 2
    scores = np.eye(2, dtype=np.float32)[np.where(right, targets, 1 - targets)]
    names = ("top1", "mean_per_class")
    values = {name: float(METRICS[name](scores, targets)(np.ones((n, 1)))[0]) for name in names}
    recorded = [
        {
            "metric": name,
            "split": "test",
            "value": value,
            "unit": "fraction",
            "higher_is_better": True,
            "primary": name == "top1",
        }
        for name, value in values.items()
    ]
    config = {"method": {"epochs": int(encoder)}}
    changes = {"protocol": "finetune", "config": config, "scores": recorded, **changes}
    folder = write(encoder * 16, **changes)
    further = {} if groups is None else {"groups": groups}
    np.savez(
        folder / FILE,
        files=np.array([f"{prefix}_{number}.png" for number in range(n)]),
        targets=targets,
        scores=scores,
        classes=np.array(["a", "b"]),
        **further,
    )
    path = folder / "record.json"
    document = json.loads(path.read_text())
    document["files"] = {FILE: hashlib.sha256((folder / FILE).read_bytes()).hexdigest()}
    path.write_text(json.dumps(document))
    return folder
