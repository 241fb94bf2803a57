"""Describe the folder that a run of this project left, and how its encoder is used."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from ssl_transfer import randomness
from ssl_transfer.config import CONF, compose, options, plain, resolve
from ssl_transfer.config.arguments import argument, quoted
from ssl_transfer.models.factory import build
from ssl_transfer.models.facts import read_preprocessing, read_yaml
from ssl_transfer.models.heads import HEAD_FILE, load_head
from ssl_transfer.models.weights import FACTS_FILE, WEIGHTS_FILE
from ssl_transfer.system.files import Unreadable, read_json

_RECORDS = ("record.json", "failure.json")
_NOT_OF_THE_ARCHITECTURE = ("name", "_target_", "weights", "preprocessing", "facts")


def describe_run(folder: Path) -> Iterator[str]:
    """Yield the lines of a description of a folder that a run left.

    Raises:
        ValueError: if it holds neither a record nor an encoder nor a head.
    """
    has_encoder, has_head = ((folder / name).is_file() for name in (WEIGHTS_FILE, HEAD_FILE))
    document = _document(folder)
    if not (has_encoder or has_head or document):
        raise ValueError(
            f"the folder must be that of a run, with record.json, {WEIGHTS_FILE} or {HEAD_FILE}, "
            f"but `{folder}` has none of them; name a file of weights, or a run's folder."
        )
    yield f"folder        {folder}, of a run of this project"
    if document:
        yield from _describe_record(folder, document)
    if has_encoder:
        yield from _describe_encoder(folder)
    if has_head:
        head = load_head(folder)
        assert head is not None
        names = ", ".join((head.classes or ())[:5]) + (", …" * (len(head.classes or ()) > 5))
        yield f"classifier    {head.kind}, {head.outputs} classes" + (f" ({names})" * bool(names))
        yield f"in Python     ssl_transfer.load_classifier({str(folder)!r})"
    if not (has_encoder or has_head):
        yield "encoder       none was left; protocol.keep_encoder=true of a tuning leaves it"


def _document(folder: Path) -> dict[str, Any] | None:
    """Return a folder's record, else its failure; None if it has none that is readable."""
    for name in _RECORDS:
        try:
            if document := read_json(folder / name):
                return document
        except Unreadable:
            continue
    return None


def _describe_record(folder: Path, document: Mapping[str, Any]) -> Iterator[str]:
    encoder = document.get("encoder") or {}
    protocol = (
        "pre-training" if document.get("protocol") == "pretrain" else document.get("protocol")
    )
    what = f"{protocol} of {encoder.get('label') or document.get('model')}"
    if document.get("dataset"):
        what += f" on {document['dataset']}"
    yield f"run           {what}, seed {document.get('seed')}, {document.get('status', 'failed')}"
    yield f"scores        python -m results run {folder}"


def _describe_encoder(folder: Path) -> Iterator[str]:
    content = read_yaml(folder / FACTS_FILE)
    facts: dict[str, Any] = content if isinstance(content, dict) else {}
    yield f"encoder       {facts.get('name')}, {facts.get('feature_dim')} features"
    yield f"from          {', '.join(map(str, facts.get('parents') or ())) or 'unknown'}"
    yield f"preprocessing {json.dumps(facts.get('preprocessing'))}"
    node = facts.get("model")
    keys = _keys(folder, node) if isinstance(node, dict) else None
    weights = argument("model.weights.path", str(folder))
    if keys is None:
        yield f"use           model=<the option it was trained with> {weights}"
    else:
        yield f"use           {' '.join([*keys, weights])}"


@randomness.preserved()
def _keys(folder: Path, node: Mapping[str, Any]) -> list[str] | None:
    """Return the arguments that build the architecture of an encoder; None if no option does.

    Args:
        folder: folder of the run.
        node: the node ``model`` that the encoder was built from.
    """
    name = _option(node)
    if name is None:
        return None
    keys = [f"model={name}", *_differing(_node([f"model={name}"]), node)]
    try:
        composed = _node(keys)
        own = build({**composed, "weights": None}).preprocessing
        trained = read_preprocessing(folder / FACTS_FILE)
    except (ValueError, OSError, HydraException):
        return None
    values = {key: _listed(value) for key, value in vars(trained).items()}
    written = composed.get("preprocessing") or {}
    return keys + [
        _argument(f"{'' if key in written else '+'}model.preprocessing.{key}", value)
        for key, value in values.items()
        if _listed(getattr(own, key)) != value
    ]


def _node(overrides: list[str]) -> dict[str, Any]:
    node: dict[str, Any] = resolve(plain(compose(overrides)))["model"]
    return node


def _option(node: Mapping[str, Any]) -> str | None:
    """Return the option that a node was composed from: that of its name, else the closest one."""
    known = options("model")
    if (
        node.get("name") in known
        and _node([f"model={node['name']}"])["_target_"] == node["_target_"]
    ):
        return str(node["name"])
    # Composing all options takes long; those that name the target themselves are the plain ones.
    plain_options = [option for option in known if _names(option, str(node.get("_target_")))]
    alike = {}
    for option in plain_options or known:
        composed = plain(compose([f"model={option}"]))["model"]
        if composed["_target_"] == node.get("_target_"):
            alike[option] = sum(composed.get(key) != value for key, value in node.items())
    return min(alike, key=lambda option: alike[option]) if alike else None


def _names(option: str, target: str) -> bool:
    """Return whether an option's own file names a target."""
    file = CONF / "model" / f"{option}.yaml"
    return file.is_file() and f"_target_: {target}\n" in file.read_text(encoding="utf-8")


def _differing(composed: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    """Return the arguments for the keys of a node that an option sets otherwise, or not at all."""
    return [
        _argument(f"{'' if key in composed else '+'}model.{key}", value)
        for key, value in node.items()
        if key not in _NOT_OF_THE_ARCHITECTURE and composed.get(key) != value
    ]


def _argument(key: str, value: Any) -> str:
    """Return ``key=value`` as it is typed in a shell."""
    if isinstance(value, str):
        return argument(key, value)
    if isinstance(value, dict):
        pairs = ",".join(f"{name}:{_text(item)}" for name, item in value.items())
        return f"'{key}={{{pairs}}}'"
    return f"{key}={_text(value)}"


def _text(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
