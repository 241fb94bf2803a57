"""Preprocessing that a file beside weights states, as part of a run's configuration.

The file is read when the run is made, so that the id of the run and its frozen configuration
contain what the file said; two different preprocessings never share an id.
"""

import contextlib
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config import resolve
from ssl_transfer.config.roles import REFERENCES
from ssl_transfer.preprocessing import TIMM_FILE, TRANSFORMERS_FILE
from ssl_transfer.system import hub


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
    """Return a model's node with its folder's weights, and what a file there states of images."""
    if isinstance(model, Mapping):
        model = hub.with_weights(model)
    weights = model.get("weights") if isinstance(model, Mapping) else None
    path = weights.get("path") if isinstance(weights, Mapping) else None
    if not isinstance(path, str) or not path:
        return model
    with contextlib.suppress(OmegaConfBaseException, ValueError, OSError):
        file = _file(path, json.dumps(paths))
        if file is None:  # the path contains other keys of the model
            file = Path(resolve({"paths": paths, "model": model})["model"]["weights"]["path"])
        if os.path.isdir(file):  # noqa: PTH112
            file = hub.weights_in(file) or file
        # Called for each run of a large sweep: building paths would cost more than the look-ups.
        folder = os.path.dirname(file)  # noqa: PTH120
        if not any(os.path.isfile(f"{folder}/{name}") for name in (TRANSFORMERS_FILE, TIMM_FILE)):  # noqa: PTH113
            return model
        if not os.path.isfile(file):  # noqa: PTH113
            return model
        # It loads torch, which a sweep of finished runs does without.
        from ssl_transfer.models.published_preprocessing import stated_preprocessing

        resolved = resolve({"paths": paths, "model": model})["model"]
        own = resolved.get("preprocessing") or {}
        if added := stated_preprocessing(Path(file), own, str(resolved.get("name"))):
            return {**model, "preprocessing": {**(model.get("preprocessing") or {}), **added}}
    return model


@functools.lru_cache(maxsize=1024)
def _file(path: str, paths: str) -> Path | None:
    """Return a path without interpolations; None if it contains other keys than ``paths``.

    Args:
        path: the path of the weights, as configured.
        paths: the node ``paths`` as JSON.
    """
    try:
        return Path(resolve({"paths": json.loads(paths), "path": path})["path"]).expanduser()
    except OmegaConfBaseException:
        return None
