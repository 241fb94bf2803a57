"""Maps each part of an axis's node to the callable that receives its keys, for checks."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from ssl_transfer.config import locate
from ssl_transfer.config.ranges import Length, Range, Seed, Text
from ssl_transfer.config.references import items
from ssl_transfer.config.roles import REFERENCES, Role
from ssl_transfer.config.stages import stages_of
from ssl_transfer.preprocessing import Preprocessing

PROTOCOL_LABELS = frozenset({"_target_", "name", "resources"})
"""Keys of a protocol's node that its constructor does not receive."""


@dataclasses.dataclass(frozen=True)
class ConfigPart:
    """Keys of a node and the callable that receives them."""

    path: str
    target: Any  # a callable or its dotted name; a user may have written any value
    keys: Any  # a mapping; a user may have written any value
    supplied: frozenset[str] = frozenset()
    built: bool = False  # whether a call with the keys only checks their values


def parts(path: str, node: Mapping[str, Any]) -> Iterator[ConfigPart]:
    """Yield the parts of a node, each with the callable that receives its keys."""
    axis = path.rpartition(".")[2]
    yield from {
        "model": _model,
        "method": _method,
        "dataset": _dataset,
        "pretrain_on": _dataset,
        "protocol": _protocol,
        "monitor": _monitor,
    }[axis](path, dict(node))


def _without(node: Any, *keys: str) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {key: value for key, value in node.items() if key not in {"_target_", *keys}}


def _target(node: Any) -> Any:
    return node.get("_target_") if isinstance(node, Mapping) else None


def _dataset(path: str, node: Any) -> Iterator[ConfigPart]:
    yield ConfigPart(path, _target(node), _without(node))


def _model(path: str, node: dict[str, Any]) -> Iterator[ConfigPart]:
    from ssl_transfer.models.weights import load_weights

    labels = ("name", "weights", "preprocessing", "features", "columns", "facts")
    yield ConfigPart(path, _target(node), _without(node, *labels))
    yield _labels(path, node, "features", "columns")
    if node.get("weights"):
        yield ConfigPart(f"{path}.weights", load_weights, node["weights"], frozenset({"encoder"}))
    if node.get("preprocessing"):
        yield ConfigPart(f"{path}.preprocessing", Preprocessing, node["preprocessing"])


def _method(path: str, node: dict[str, Any]) -> Iterator[ConfigPart]:
    from ssl_transfer.datasets.transforms import View
    from ssl_transfer.methods import own_keys
    from ssl_transfer.methods.projector import Projector
    from ssl_transfer.methods.snapshots import SnapshotKeys
    from ssl_transfer.training.options import TrainingOptions

    if node.get("_target_") is None:  # nothing is trained
        if "members" not in node:
            yield ConfigPart(path, _untrained, _without(node))
            return
        members = node["members"]
        if not isinstance(members, list) or not members:
            yield ConfigPart(f"{path}.members", _several, {"value": members}, built=True)
            return
        averages = "average" in node
        yield ConfigPart(path, _averaged if averages else _fused, _without(node))
        for place, value in items(node).items():
            yield from _reference(f"{path}.{place}", value)
        return
    arguments = [key for key, (role, _) in REFERENCES.items() if role is Role.ARGUMENT]
    encoders = {key: node[key] for key in arguments if node.get(key) is not None}
    accepted = {key for key in encoders if _takes(node["_target_"], key)}
    supplied = frozenset({"encoder", "num_classes", "views", *accepted})
    rejected = {key: value for key, value in encoders.items() if key not in accepted}
    yield ConfigPart(path, node["_target_"], own_keys(node) | rejected, supplied)
    yield _labels(path, node, "seed")
    if "projector" in node:
        yield ConfigPart(f"{path}.projector", Projector, node["projector"], frozenset({"in_dim"}))
    views = node.get("views")
    if not isinstance(views, list) or not views:
        yield ConfigPart(f"{path}.views", _views, {"value": views}, built=True)
    else:
        for number, view in enumerate(views):
            if isinstance(view, Mapping):  # YAML has lists only
                view = {k: tuple(v) if isinstance(v, list) else v for k, v in view.items()}
            yield ConfigPart(f"{path}.views[{number}]", View, view, built=True)
    options = {field.name: node[field.name] for field in dataclasses.fields(TrainingOptions)
              if field.name in node}  # fmt: skip
    yield _with_optimizer(path, TrainingOptions, options)
    keys = {field.name: node[field.name] for field in dataclasses.fields(SnapshotKeys)
            if field.name in node}  # fmt: skip
    yield ConfigPart(path, SnapshotKeys, keys, built=True)
    yield _optimizer(f"{path}.optimizer", node.get("optimizer"))
    yield from _dataset(f"{path}.pretrain_on", node.get("pretrain_on"))
    empty: dict[str, Any] = {key: [] for key in arguments if node.get(key) == []}
    for place, value in (items(node) | empty).items():
        if place in REFERENCES and REFERENCES[place].several:
            yield ConfigPart(f"{path}.{place}", _several, {"value": value}, built=True)
        else:
            yield from _reference(f"{path}.{place}", value)


def _labels(path: str, node: Mapping[str, Any], *others: str) -> ConfigPart:
    """Return a part with a node's name and other keys that no callable receives."""
    keys = {key: node[key] for key in ("name", *others) if key in node}
    return ConfigPart(path, signature_of_labels, keys)


def signature_of_labels(
    *,
    name: Text | int | float,
    seed: Seed = 0,
    resources: Mapping[str, Any] | None = None,
    features: Literal["pooled", "cls", "mean", "cls_mean", "last4"] = "pooled",
    columns: Annotated[Sequence[Annotated[int, Range(0)]], Length(2)] | None = None,
) -> None:
    """Signature of the keys that no callable receives: name, seed, resources, features, columns."""


def _takes(target: Any, key: str) -> bool:
    """Return whether a method's target has a parameter named like a reference's key."""
    try:
        return key in inspect.signature(locate(target)).parameters
    except (ValueError, AttributeError):
        return False  # the check of the target reports the error


def _reference(path: str, node: Any) -> Iterator[ConfigPart]:
    yield ConfigPart(path, _encoder, node)
    if isinstance(node, Mapping):
        if isinstance(node.get("model"), Mapping):
            yield from _model(f"{path}.model", dict(node["model"]))
        if isinstance(node.get("method"), Mapping):
            yield from _method(f"{path}.method", dict(node["method"]))


def _several(*, value: Any) -> None:
    """Raise ValueError: the value must be a list of encoder references."""
    what = "an empty list" if value == [] else repr(value)
    if isinstance(value, Mapping):
        what = "a single one"
    raise ValueError(
        f"there must be a list of encoders, but is {what}; write [A,B], or {{…,seeds:[0,1]}}."
    )


def _encoder(*, model: Mapping[str, Any], method: Mapping[str, Any]) -> None:
    """Signature of an encoder reference."""


def _untrained(*, name: Text, seed: Seed = 0) -> None:
    """Signature of the keys of ``as_is``."""


def _fused(
    *,
    name: Text,
    members: Sequence[Any],
    fuse: Literal["concatenate", "add", "mean"],
    seed: Seed = 0,
) -> None:
    """Signature of the keys of ``cat``."""


def _averaged(
    *,
    name: Text,
    members: Sequence[Any],
    average: Literal["probabilities", "logits"],
    seed: Seed = 0,
) -> None:
    """Signature of the keys of ``cat_sub``."""


def _protocol(path: str, node: dict[str, Any]) -> Iterator[ConfigPart]:
    if node.get("name") == "pretrain" and node.get("_target_") is None:  # it has no callable
        yield ConfigPart(path, signature_of_labels, _without(node))
        return
    yield _with_optimizer(path, _target(node), _without(node, *PROTOCOL_LABELS))
    yield _labels(path, node, "resources")
    if node.get("preprocessing"):
        yield ConfigPart(f"{path}.preprocessing", Preprocessing, node["preprocessing"])
    if isinstance(node.get("statistics"), Mapping):  # another data set's
        yield from _dataset(f"{path}.statistics", node["statistics"])
    for key, _, stage in stages_of(node):
        yield from _protocol(f"{path}.{key}", stage)
    if "optimizer" in node:
        optimizer = node["optimizer"]
        yield _optimizer(f"{path}.optimizer", optimizer, grid=node.get("grid"))


def _monitor(path: str, node: dict[str, Any]) -> Iterator[ConfigPart]:
    from ssl_transfer.methods.monitors import Monitoring

    yield ConfigPart(path, Monitoring, node, built=True)
    if node.get("dataset") is not None:
        yield from _dataset(f"{path}.dataset", node["dataset"])


def _optimizer(path: str, node: Any, *, grid: Any = None) -> ConfigPart:
    """Return the part for an optimizer's keys, to which those of a search grid belong, too."""
    from ssl_transfer.protocols.grid import NO_OPTIMIZER_KEYS
    from ssl_transfer.training.optim import OPTIMIZERS

    if not isinstance(node, Mapping):
        return ConfigPart(path, _whole_optimizer, {"path": path, "value": node}, built=True)
    if node.get("name") not in OPTIMIZERS:
        return ConfigPart(path, _known_optimizer, {"name": node.get("name")})
    function = OPTIMIZERS[node["name"]]
    # The protocol's own signature checks the type and the values of the grid.
    axes = grid if isinstance(grid, Mapping) else {}
    swept = {key for key, values in axes.items() if values is not None} - NO_OPTIMIZER_KEYS
    known = swept & set(inspect.signature(function).parameters)
    keys = {**_without(node, "name", *known), **dict.fromkeys(swept - known)}
    return ConfigPart(path, function, keys, frozenset({"groups", *known}))


def _with_optimizer(path: str, target: Any, keys: dict[str, Any]) -> ConfigPart:
    """Return a part that receives an optimizer's node; ``_optimizer`` checks a wrong node."""
    if isinstance(keys.get("optimizer", {}), Mapping):
        return ConfigPart(path, target, keys, built=True)
    return ConfigPart(path, target, _without(keys, "optimizer"), frozenset({"optimizer"}))


def _whole_optimizer(*, path: str, value: Any) -> None:
    """Raise ValueError: the value is not an optimizer's node."""
    raise ValueError(
        f"there must be a mapping of keys, but is {value!r}; an option of `optimizer` is chosen by "
        f"`optimizer@{path}={value if isinstance(value, str) else 'NAME'}`."
    )


def _known_optimizer(*, name: Literal["sgd", "adam", "adamw", "lars"]) -> None:
    """Signature of an optimizer's name."""


def _views(*, value: Any) -> None:
    """Raise ValueError: a method's views must be a list of mappings that is not empty."""
    from ssl_transfer.config import options

    raise ValueError(
        f"there must be a list of one mapping or more, but is {value!r}; a list that has a name is "
        f"chosen by `views@method=NAME`, among {options('views')}."
    )
