"""Values of keys that ids leave out, so that a key that was added later changes no id.

``results`` does not import the library, so the table is that of ``ssl_transfer/runs/identity.py``
once more; a test compares both.
"""

from collections.abc import Mapping
from typing import Any

_BACKBONES = "ssl_transfer.models.backbones"
_TUNING = "ssl_transfer.protocols.tuning.Tuning"
_STAGES = "ssl_transfer.protocols.stages."

# Owner (an axis, a `_target_`, or a package of targets) -> key of the node -> value.
LEFT_OUT: dict[str, dict[str, Any]] = {
    "model": {"features": "pooled"},
    "method": {"schedule_per": "step", "step_factor": 0.1, "final_factor": 0.0},
    "ssl_transfer.datasets": {"label_fraction": 1.0},
    "ssl_transfer.datasets.folder.image_folder": {"class_depth": 1, "on_duplicates": "error"},
    "ssl_transfer.datasets.lists.image_list": {"on_duplicates": "error"},
    "ssl_transfer.datasets.photographs.aircraft": {"bounding_box": False},
    "ssl_transfer.datasets.photographs.cub200": {"bounding_box": False},
    "ssl_transfer.methods.barlow_twins.BarlowTwins": {"offdiag_target": 0},
    "ssl_transfer.methods.mixed_barlow_twins.MixedBarlowTwins": {"offdiag_target": 0},
    "ssl_transfer.methods.seed.SEED": {"teacher_output": "features"},
    "ssl_transfer.methods.supervised.Supervised": {"head": "linear"},
    f"{_BACKBONES}.torchvision_resnet": {"padding": "torchvision", "zero_init_residual": False},
    "ssl_transfer.protocols": {"representation": "features", "feature_precision": "fp32"},
    "ssl_transfer.protocols.knn.KNN": {
        "metric": "cosine",
        "weighting": "exp",
        "space": "original",
        "selection": "val",
    },
    "ssl_transfer.protocols.logistic_regression.LogisticRegression": {
        "selection": "val",
        "folds": 5,
        "stratified": True,
    },
    _TUNING: {
        "divide_weight_decay": False,
        "encoder_mode": "eval",
        "epoch_selection": "last",
        "final_factor": 0.0,
        "penalty_from_step": 0,
        "penalty_variance": "population",
        "schedule_per": "step",
        "step_factor": 0.1,
    },
}


def left_out(axis: str, node: Any) -> Mapping[str, Any]:
    """Return the keys of an axis's node that may be missing in an identity, with their defaults."""
    if not isinstance(node, Mapping):
        return {}
    target = str(node.get("_target_", ""))
    owners = [target]
    if not target.startswith((_TUNING, _STAGES)):  # these have no stored features
        owners.append(".".join(target.split(".")[:2]))
    if axis != "method" or "epochs" in node:  # a method that trains nothing has no schedule
        owners.append(axis)
    return {key: value for owner in owners for key, value in LEFT_OUT.get(owner, {}).items()}
