"""What identifies a run: the part of its configuration that can change a score, and its hash.

Every key has an owner. The project itself reads some keys of an axis's node whatever its
``_target_`` is (``_READ_HERE``): they belong to the axis, with everything inside them. All others
are keyword arguments of the node's ``_target_`` and belong to it. Nodes inside a node
(``optimizer``, ``views``, ``weights``, ``grid``, …) have no owner of their own; a key in one is
named by its path from the axis's node. Only the pre-training set and the encoders that a method
refers to are nodes of an axis themselves (``_AXES_INSIDE``).

Tables name keys by owner and path, never by a bare name. Of code outside of this project nothing
is known, so every keyword argument of it counts, null included.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config import AXES, resolve
from ssl_transfer.config.references import REFERENCES

_TUNING = "ssl_transfer.protocols.tuning.Tuning"
_KNN = "ssl_transfer.protocols.knn.KNN"
_BACKBONES = "ssl_transfer.models.backbones"
_PROJECT = "ssl_transfer."

# Keys that the project reads in every node of an axis.
_READ_HERE: dict[str, frozenset[str]] = {
    "model": frozenset({"_target_", "name", "weights", "preprocessing", "facts"}),
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
            *("optimizer", "warmup_epochs", "schedule", "schedule_per"),
            *("milestones", "step_factor", "final_factor"),
        }
    ),
    "dataset": frozenset({"_target_"}),
    "protocol": frozenset({"_target_", "name", "resources"}),
}

# Nodes of an axis inside a node of an axis.
_AXES_INSIDE: dict[tuple[str, str], str] = {
    ("method", "pretrain_on"): "dataset",
    **{
        ("method", f"{key}.*.{axis}" if reference.several else f"{key}.{axis}"): axis
        for key, reference in REFERENCES.items()
        for axis in ("model", "method")
    },
}

# The tables: owner -> paths. An owner is an axis, a `_target_`, or the package of several.

# What says how, not what, or what a run keeps: it enters no id.
_OUTSIDE: dict[str, frozenset[str]] = {
    "model": frozenset({"facts", "weights.url", "weights.download", "weights.obtain"}),
    "method": frozenset({"resources"}),
    "protocol": frozenset({"resources"}),
    "ssl_transfer.datasets": frozenset({"download"}),
    _TUNING: frozenset({"keep_encoder"}),
}


def _weights_place(path: Any) -> Any:
    """Name a folder of weights by itself, not by the file in it (`models.weights`)."""
    return re.sub("(/encoder.safetensors)?/*$", "", path) or path if type(path) is str else path


def _check_of_sizes(value: Any) -> Any:
    """Name what refuses data, or lets them pass, and changes none, by one value."""
    return "strict" if value == "warn" else value


def _check_of_copies(value: Any) -> Any:
    """Name what refuses copies, or lets them pass, and changes none, by one value."""
    return "error" if value == "warn" else value


# Values that compute the same, by the one that stands for them in an id.
_SAME: dict[str, dict[str, Callable[[Any], Any]]] = {
    "model": {"weights.path": _weights_place},
    "ssl_transfer.datasets": {"sizes": _check_of_sizes, "on_duplicates": _check_of_copies},
}

# Keys that came after the first ids, with the value that leaves an id as it was: their default.
_NEUTRAL: dict[str, dict[str, Any]] = {
    "method": {"schedule_per": "step", "step_factor": 0.1, "final_factor": 0.0},
    "ssl_transfer.datasets.folder.image_folder": {"class_depth": 1, "on_duplicates": "error"},
    "ssl_transfer.datasets.lists.image_list": {"on_duplicates": "error"},
    "ssl_transfer.datasets.photographs.aircraft": {"bounding_box": False},
    "ssl_transfer.datasets.photographs.cub200": {"bounding_box": False},
    "ssl_transfer.methods.barlow_twins.BarlowTwins": {"offdiag_target": 0},
    "ssl_transfer.methods.mixed_barlow_twins.MixedBarlowTwins": {"offdiag_target": 0},
    "ssl_transfer.methods.seed.SEED": {"teacher_output": "features"},
    f"{_BACKBONES}.torchvision_resnet": {"padding": "torchvision", "zero_init_residual": False},
    _KNN: {"metric": "cosine", "weighting": "exp"},
    _TUNING: {
        "divide_weight_decay": False,
        "encoder_mode": "eval",
        "epoch_selection": "last",
        "final_factor": 0.0,
        "schedule_per": "step",
        "step_factor": 0.1,
    },
}

# What null means differs from what a missing key means in these; elsewhere a null is left out,
# for it is the default of every key of this project that takes one.
_NULL_COUNTS: dict[str, frozenset[str]] = {
    "model": frozenset({"preprocessing"}),
    "method": frozenset({"views"}),
    f"{_BACKBONES}.timm_backbone": frozenset({"options"}),
    f"{_BACKBONES}.torchvision_backbone": frozenset({"options"}),
    "ssl_transfer.models.small_networks.small_network": frozenset({"options"}),
    "ssl_transfer.protocols": frozenset({"preprocessing"}),
    _TUNING: frozenset({"augmentation"}),
}


class _Rules(NamedTuple):
    """What the tables say of the keys of one node, by path."""

    outside: frozenset[str]
    same: dict[str, Callable[[Any], Any]]
    neutral: dict[str, Any]
    null_counts: frozenset[str]
    foreign: bool
    """Whether keyword arguments go to code outside of this project."""


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


def identity_of(axis: str, node: Any) -> Any:
    """Return what of an axis's node identifies it: without outside, neutral and default keys.

    Args:
        axis: ``model``, ``method``, ``dataset`` or ``protocol``.
        node: plain, of dictionaries and lists; anything but a dictionary stays as it is.
    """
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    rules = _rules(axis, target if isinstance(target, str) else None)
    if not rules.foreign:
        return _entering(node, axis, rules)
    here = _READ_HERE[axis]
    own = {key: value for key, value in node.items() if key in here}
    return {key: v for key, v in node.items() if key not in here} | _entering(own, axis, rules)


def _entering(
    node: dict[str, Any], axis: str, rules: _Rules, prefix: str = "", *, null_counts: bool = False
) -> dict[str, Any]:
    """Return the keys of a mapping that enter an id."""
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
    """Return what of a dictionary or list inside a node enters an id."""
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


# Interpolations that mean the same on every computer and in every run of which the node is part:
# places, and keys of the same node. Those with `{}` among them name an axis.
_MAY_STAY = r"\$\{{(?!paths\.|\.|oc\.select:\.|{axis}\.)"
_MUST_SETTLE = {axis: re.compile(_MAY_STAY.format(axis=axis)) for axis in AXES}


def settled(config: dict[str, Any]) -> dict[str, Any]:
    """Return a plain configuration whose axes refer to nothing outside of themselves but ``paths``.

    A value that another node or the environment gives becomes that value, so that an id holds
    what is computed: ``method.seed=${seed}`` is another pre-training for each seed. What does not
    resolve stays, for ``config.problems`` to say.
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
        return [_settle(one, two, must) for one, two in zip(node, resolved, strict=True)]
    return resolved if isinstance(node, str) and must.search(node) else node
