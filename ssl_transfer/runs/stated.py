"""Preprocessing that a file beside weights states, as part of a run's configuration.

The file is read when the run is made, so that the id of the run and its frozen configuration
contain what the file said; two different preprocessings never share an id.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config import resolve
from ssl_transfer.config.references import REFERENCES

FILES = ("preprocessor_config.json", "config.json")
"""Names of the files, which ``models.published_preprocessing`` reads."""


def with_stated(config: dict[str, Any]) -> dict[str, Any]:
    """Return a plain configuration whose models have the preprocessing that files state.

    Values of a model's own are kept. A file that cannot be read changes nothing here; the
    pre-flight check reports it.

    Args:
        config: the whole configuration, interpolations unresolved; not changed.
    """
    paths = config.get("paths")
    changed = {"model": _completed(config.get("model"), paths)}
    method = config.get("method")
    if isinstance(method, Mapping):
        references = {
            key: _of_reference(method[key], paths) for key in REFERENCES if method.get(key)
        }
        if any(value is not method[key] for key, value in references.items()):
            changed["method"] = {**method, **references}
    if all(value is config.get(key) for key, value in changed.items()):
        return config
    return {**config, **changed}


def _of_reference(value: Any, paths: Any) -> Any:
    """Return an encoder reference, or a list of them, with completed models."""
    if isinstance(value, list):
        items = [_of_reference(item, paths) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if not isinstance(value, Mapping):
        return value
    model = _completed(value.get("model"), paths)
    return value if model is value.get("model") else {**value, "model": model}


def _completed(model: Any, paths: Any) -> Any:
    """Return a model's node with what a file beside its weights states of images."""
    weights = model.get("weights") if isinstance(model, Mapping) else None
    path = weights.get("path") if isinstance(weights, Mapping) else None
    if not isinstance(path, str) or not path:
        return model
    with contextlib.suppress(OmegaConfBaseException, ValueError, OSError):
        file = _file(model, paths)
        if not any(file.with_name(name).is_file() for name in FILES) or not file.is_file():
            return model
        # It loads torch, which a sweep of finished runs does without.
        from ssl_transfer.models.published_preprocessing import stated_preprocessing

        resolved = resolve({"paths": paths, "model": model})["model"]
        own = resolved.get("preprocessing") or {}
        if added := stated_preprocessing(file, own, str(resolved.get("name"))):
            return {**model, "preprocessing": {**(model.get("preprocessing") or {}), **added}}
    return model


def _file(model: Mapping[str, Any], paths: Any) -> Path:
    """Return the path of a model's weights."""
    path = model["weights"]["path"]
    try:  # the path alone first: resolving a whole configuration takes 20 ms
        return Path(resolve({"paths": paths, "path": path})["path"]).expanduser()
    except OmegaConfBaseException:  # it contains other keys of the model
        return Path(resolve({"paths": paths, "model": model})["model"]["weights"]["path"])
