"""Which callable each part of an axis's node belongs to, so that its keys can be checked."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ssl_transfer.preprocessing import Preprocessing

PROTOCOL_LABELS = frozenset({"_target_", "name", "resources"})
"""Keys of a protocol's node that say what it is called and what it asks of a cluster."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Keys of a node and the callable that will receive them."""

    path: str
    target: Any  # a callable or its dotted name, unless the user wrote something else
    keys: Any  # a mapping, likewise
    supplied: frozenset[str] = frozenset()
    built: bool = False  # whether calling it with the keys checks their values, and no more


def parts(path: str, node: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the callables that a node's keys belong to."""
    axis = path.rpartition(".")[2]
    yield from {
        "model": _model,
        "method": _method,
        "dataset": _dataset,
        "pretrain_on": _dataset,
        "protocol": _protocol,
    }[axis](path, dict(node))


def _without(node: Any, *keys: str) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {key: value for key, value in node.items() if key not in {"_target_", *keys}}


def _target(node: Any) -> Any:
    return node.get("_target_") if isinstance(node, Mapping) else None


def _dataset(path: str, node: Any) -> Iterator[Part]:
    yield Part(path, _target(node), _without(node))


def _model(path: str, node: dict[str, Any]) -> Iterator[Part]:
    from ssl_transfer.models.weights import load_weights

    yield Part(path, _target(node), _without(node, "name", "weights", "preprocessing", "facts"))
    if node.get("weights"):
        yield Part(f"{path}.weights", load_weights, node["weights"], frozenset({"encoder"}))
    if node.get("preprocessing"):
        yield Part(f"{path}.preprocessing", Preprocessing, node["preprocessing"])


def _method(path: str, node: dict[str, Any]) -> Iterator[Part]:
    from ssl_transfer.datasets.transforms import Augmentation
    from ssl_transfer.methods import own_keys
    from ssl_transfer.methods.projector import Projector
    from ssl_transfer.trainer import Recipe

    if node.get("_target_") is None:  # as_is: nothing is trained
        yield Part(path, _untrained, _without(node))
        return
    yield Part(
        path, node["_target_"], own_keys(node), frozenset({"encoder", "num_classes", "views"})
    )
    if "projector" in node:
        yield Part(f"{path}.projector", Projector, node["projector"], frozenset({"in_dim"}))
    views = node.get("views")
    if not isinstance(views, list) or not views:
        yield Part(path, _views, {"views": views or None})
    else:
        for number, view in enumerate(views):
            yield Part(f"{path}.views[{number}]", Augmentation, view)
    recipe = {field.name: node[field.name] for field in dataclasses.fields(Recipe)
              if field.name in node}  # fmt: skip
    yield Part(path, Recipe, recipe, built=True)
    yield _optimizer(f"{path}.optimizer", node.get("optimizer"))
    yield from _dataset(f"{path}.pretrain_on", node.get("pretrain_on"))


def _untrained(*, name: str, seed: int = 0) -> None:
    """Take the keys of ``as_is``."""


def _protocol(path: str, node: dict[str, Any]) -> Iterator[Part]:
    yield Part(path, _target(node), _without(node, *PROTOCOL_LABELS), built=True)
    if node.get("preprocessing"):
        yield Part(f"{path}.preprocessing", Preprocessing, node["preprocessing"])
    if "optimizer" in node:
        optimizer = node["optimizer"]
        if isinstance(optimizer, Mapping):
            optimizer = {**optimizer, **_grid_values(node)}
        yield _optimizer(f"{path}.optimizer", optimizer)


def _grid_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the grid's keys with one of their values each: the optimizer must know them."""
    grid = node.get("grid")
    if not isinstance(grid, Mapping):
        return {}  # the protocol's own signature says what it must be
    return {
        key: values[0]
        for key, values in grid.items()
        if isinstance(values, list) and values and key != "encoder_lr"  # the protocol's own
    }


def _optimizer(path: str, node: Any) -> Part:
    from ssl_transfer.optim import OPTIMIZERS

    if not isinstance(node, Mapping):
        return Part(path, _known_optimizer, node)
    if node.get("name") not in OPTIMIZERS:
        return Part(path, _known_optimizer, {"name": node.get("name")})
    return Part(path, OPTIMIZERS[node["name"]], _without(node, "name"), frozenset({"groups"}))


def _known_optimizer(*, name: Literal["sgd", "adam", "adamw", "lars"]) -> None:
    """Take an optimizer's name."""


def _views(*, views: list[dict[str, Any]]) -> None:
    """Take a method's views: at least one mapping."""
