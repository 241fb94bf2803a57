"""The identity of a run: the part of its configuration that can change a score, and its hash.

Every key has an owner. The project itself reads some keys of an axis's node for every ``_target_``
(``_READ_HERE``): these keys and everything inside them belong to the axis. All other keys are
keyword arguments of the node's ``_target_`` and belong to it. Nodes inside a node (``optimizer``,
``views``, ``weights``, ``grid``, …) have no owner of their own; a key inside one is named by its
path from the axis's node. Only the pre-training set, the set of a protocol's statistics and the
encoders that a method refers to are nodes of an axis themselves (``_AXES_INSIDE``).

The tables name keys by owner and path, never by name alone. Nothing is known about code outside of
this project, so all its keyword arguments count, including those that are null.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config import AXES, resolve
from ssl_transfer.config.roles import REFERENCES
from ssl_transfer.config.stages import STAGES

_TUNING = "ssl_transfer.protocols.tuning.Tuning"
_TUNINGS = (
    _TUNING,
    "ssl_transfer.protocols.stages.TwoStageFinetune",
    "ssl_transfer.protocols.stages.LinearProbeThenFinetune",
)
_KNN = "ssl_transfer.protocols.knn.KNN"
_PROTOCOLS = "ssl_transfer.protocols"
_LOGISTIC = "ssl_transfer.protocols.logistic_regression.LogisticRegression"
_BACKBONES = "ssl_transfer.models.backbones"
_PROJECT = "ssl_transfer."

# Keys that the project reads in every node of an axis.
_READ_HERE: dict[str, frozenset[str]] = {
    "model": frozenset(
        {"_target_", "name", "weights", "preprocessing", "features", "columns", "facts"}
    ),
    "method": frozenset(
        {
            *(
                "_target_",
                "name",
                "seed",
                "resources",
                "pretrain_on",
                "views",
                "projector",
                *REFERENCES,
            ),
            *("epochs", "steps", "batch_size", "bn_groups", "drop_last", "clip_grad_norm"),
            *("snapshots", "snapshot"),
            *("optimizer", "warmup_epochs", "schedule", "schedule_per"),
            *("milestones", "step_factor", "final_factor", "cycles"),
        }
    ),
    "dataset": frozenset({"_target_"}),
    "protocol": frozenset({"_target_", "name", "resources", *STAGES}),
}

# Nodes of an axis inside a node of an axis.
_AXES_INSIDE: dict[tuple[str, str], str] = {
    ("method", "pretrain_on"): "dataset",
    ("protocol", "statistics"): "dataset",
    **{("protocol", key): "protocol" for key in STAGES},
    **{
        ("method", f"{key}.*.{axis}" if reference.several else f"{key}.{axis}"): axis
        for key, reference in REFERENCES.items()
        for axis in ("model", "method")
    },
}

# The tables: owner -> paths. An owner is an axis, a `_target_`, or a package of targets.

# Keys that do not change what is computed; they are not part of an id.
_OUTSIDE: dict[str, frozenset[str]] = {
    "model": frozenset(
        {
            "facts",
            *("weights.url", "weights.download", "weights.obtain", "weights.terms"),
            "weights.package",
        }
    ),
    "method": frozenset({"resources", "snapshots"}),
    "protocol": frozenset({"resources"}),
    "ssl_transfer.datasets": frozenset({"download", "verify"}),
    **{tuning: frozenset({"keep_encoder"}) for tuning in _TUNINGS},
}


def _weights_place(path: Any) -> Any:
    """Return the folder of a weights file ``encoder.safetensors``; both mean the same weights."""
    return re.sub("(/encoder.safetensors)?/*$", "", path) or path if type(path) is str else path


def _check_of_sizes(value: Any) -> Any:
    """Return one value for all settings that check sizes without changing data."""
    return "strict" if value == "warn" else value


def _check_of_copies(value: Any) -> Any:
    """Return one value for all settings that check duplicates without changing data."""
    return "error" if value == "warn" else value


# Normalisation of values that compute the same, so that they give the same id.
_SAME: dict[str, dict[str, Callable[[Any], Any]]] = {
    "model": {"weights.path": _weights_place},
    "ssl_transfer.datasets": {"sizes": _check_of_sizes, "on_duplicates": _check_of_copies},
}

# Keys that were added after the first ids, with their default, which leaves an id unchanged.
_NEUTRAL: dict[str, dict[str, Any]] = {
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
    _PROTOCOLS: {"representation": "features", "feature_precision": "fp32"},
    _KNN: {"metric": "cosine", "weighting": "exp", "space": "original", "selection": "val"},
    _LOGISTIC: {"selection": "val", "folds": 5, "stratified": True},
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

# Keys for which null differs from a missing key. A null of any other key is left out of the id,
# because it is the default of every key of this project that accepts null.
_NULL_COUNTS: dict[str, frozenset[str]] = {
    "model": frozenset({"preprocessing"}),
    "method": frozenset({"views"}),
    f"{_BACKBONES}.timm_backbone": frozenset({"options"}),
    f"{_BACKBONES}.torchvision_backbone": frozenset({"options"}),
    "ssl_transfer.models.joint.joint": frozenset({"options"}),
    "ssl_transfer.models.small_networks.small_network": frozenset({"options"}),
    "ssl_transfer.models.vision_transformers.vision_transformer": frozenset({"options"}),
    _PROTOCOLS: frozenset({"preprocessing", "settings", "statistics_preprocessing", "views"}),
    **{tuning: frozenset({"augmentation"}) for tuning in _TUNINGS},
}


class _Rules(NamedTuple):
    """The entries of the tables for the keys of one node, by path."""

    outside: frozenset[str]
    same: dict[str, Callable[[Any], Any]]
    neutral: dict[str, Any]
    null_counts: frozenset[str]
    foreign: bool
    """Whether the target is outside of this project."""


@functools.lru_cache(maxsize=1024)
def _rules(axis: str, target: str | None) -> _Rules:
    foreign = target is not None and not target.startswith(_PROJECT)
    owners = [axis]
    if target is not None and not foreign:
        owners += [".".join(target.split(".")[:2]), target]

    def union(table: dict[str, frozenset[str]]) -> frozenset[str]:
        return frozenset().union(*(table.get(owner, frozenset()) for owner in owners))

    return _Rules(
        outside=union(_OUTSIDE),
        same={path: same for owner in owners for path, same in _SAME.get(owner, {}).items()},
        neutral={path: v for owner in owners for path, v in _NEUTRAL.get(owner, {}).items()},
        null_counts=union(_NULL_COUNTS),
        foreign=foreign,
    )


# Identities of nodes by axis and text: the runs of a sweep have equal nodes.
_IDENTITIES: dict[tuple[str, str], Any] = {}
_MOST_IDENTITIES = 4096


def identity_of(axis: str, node: Any) -> Any:
    """Return the part of an axis's node that identifies it, without neutral and default keys.

    Args:
        axis: ``model``, ``method``, ``dataset`` or ``protocol``.
        node: plain dictionaries and lists; anything but a dictionary is returned unchanged.

    Returns:
        A dictionary that is shared by equal nodes and must not be changed.
    """
    if not isinstance(node, dict):
        return node
    key = axis, repr(node)
    if key not in _IDENTITIES:
        if len(_IDENTITIES) == _MOST_IDENTITIES:
            _IDENTITIES.clear()
        _IDENTITIES[key] = _identity_of(axis, node)
    return _IDENTITIES[key]


def _identity_of(axis: str, node: dict[str, Any]) -> dict[str, Any]:
    target = node.get("_target_")
    rules = _rules(axis, target if isinstance(target, str) else None)
    if not rules.foreign:
        return _entering(node, axis, rules)
    axis_keys = _READ_HERE[axis]
    own = {key: value for key, value in node.items() if key in axis_keys}
    return {key: v for key, v in node.items() if key not in axis_keys} | _entering(own, axis, rules)


def _entering(
    node: dict[str, Any], axis: str, rules: _Rules, prefix: str = "", *, null_counts: bool = False
) -> dict[str, Any]:
    """Return the keys of a mapping that are part of an id."""
    entering: dict[str, Any] = {}
    for key, value in node.items():
        if value is None:
            if null_counts:
                entering[key] = None
            continue
        path = f"{prefix}{key}"
        if path in rules.same:
            value = rules.same[path](value)
        if path in rules.outside or (path in rules.neutral and rules.neutral[path] == value):
            continue
        if path not in rules.same and type(value) in (dict, list, tuple):
            value = _inside(value, axis, rules, path, null_counts=null_counts)
        entering[key] = value
    return entering


def _inside(value: Any, axis: str, rules: _Rules, path: str, *, null_counts: bool) -> Any:
    """Return the part of a nested dictionary or list that belongs to an id."""
    null_counts = null_counts or path in rules.null_counts
    if type(value) is dict:
        if (axis, path) in _AXES_INSIDE:
            return identity_of(_AXES_INSIDE[axis, path], value)
        return _entering(value, axis, rules, f"{path}.", null_counts=null_counts)
    if all(type(item) not in (dict, list, tuple) for item in value):
        return value
    return [
        _inside(item, axis, rules, f"{path}.*", null_counts=null_counts)
        if type(item) in (dict, list, tuple)
        else item
        for item in value
    ]


def digest(*parts: Any) -> str:
    """Return 16 hex digits that identify plain JSON values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Interpolations that mean the same on every computer and in every run that contains the node:
# paths, and keys of the same node. `{axis}` is replaced by the name of the node's axis.
_MAY_STAY = r"\$\{{(?!paths\.|\.|oc\.select:\.|{axis}\.)"
_MUST_SETTLE = {axis: re.compile(_MAY_STAY.format(axis=axis)) for axis in AXES}


def settled(config: dict[str, Any]) -> dict[str, Any]:
    """Return a plain configuration whose axes refer only to themselves and to ``paths``.

    Interpolations of other nodes or of the environment are replaced by their values, so that the
    id depends on what is computed: ``method.seed=${seed}`` is another pre-training for each seed.
    If an interpolation does not resolve, the configuration is returned unchanged and
    ``config.problems`` reports it.
    """
    loose = [axis for axis in AXES if _MUST_SETTLE[axis].search(repr(config.get(axis)))]
    if not loose and not any("${" in str(config.get(key)) for key in ("seed", "precision")):
        return config
    try:
        resolved = resolve(config)
    except OmegaConfBaseException:
        return config
    nodes = {axis: _settle(config[axis], resolved[axis], _MUST_SETTLE[axis]) for axis in loose}
    others: dict[str, Any] = {k: resolved[k] for k in ("seed", "precision") if k in config}
    return {**config, **others, **nodes}


def _settle(node: Any, resolved: Any, must: "re.Pattern[str]") -> Any:
    if isinstance(node, Mapping):
        return {key: _settle(value, resolved[key], must) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_settle(item, value, must) for item, value in zip(node, resolved, strict=True)]
    return resolved if isinstance(node, str) and must.search(node) else node
