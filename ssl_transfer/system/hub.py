"""Models as the Hugging Face hub stores them: folders with ``config.json`` beside the weights.

``model.arch=local-dir:FOLDER`` names such a folder on this computer, and ``hf-hub:OWNER/NAME`` one
on the hub, as in timm. This module finds and fetches the files; it does not read weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.system import inputs

LOCAL, REMOTE = "local-dir:", "hf-hub:"
"""Prefixes of ``model.arch``, those of timm."""

CONFIG_FILE = "config.json"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""The file of weights in a folder of the hub; the first one that exists is read."""

_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LARGEST = 1 << 20  # bytes


def with_weights(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a node ``model`` whose weights are those of the folder that its ``arch`` names.

    A node with weights of its own, or of another kind of ``arch``, is returned as it is.

    Args:
        model: the node; ``weights: null`` and ``weights: {}`` stand for none.
    """
    arch, weights = model.get("arch"), model.get("weights", {"path": None})
    if not (isinstance(arch, str) and arch.startswith(LOCAL)):
        return model
    if not isinstance(weights, Mapping) or "path" not in weights or weights["path"] is not None:
        return model
    return {**model, "weights": {**weights, "path": arch.removeprefix(LOCAL)}}


def key_of_weights(model: Mapping[str, Any]) -> str:
    """Return the key by which a user named the place of a model's weights.

    A folder that ``arch`` names stands in ``weights.path``, too.
    """
    path = (model.get("weights") or {}).get("path")
    return "model.arch" if model.get("arch") == f"{LOCAL}{path}" else "model.weights.path"


def on_this_computer(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a node ``model`` with a folder in place of a name on the hub, fetched if it is asked.

    Raises:
        ValueError: if the files would have to be fetched but ``pretrained`` is not set, or if they
            cannot be fetched.
    """
    arch = model.get("arch")
    if not (isinstance(arch, str) and arch.startswith(REMOTE)):
        return with_weights(model)
    name = arch.removeprefix(REMOTE)
    if not model.get("pretrained"):
        raise ValueError(how_to_fetch(arch))
    return with_weights({**model, "arch": f"{LOCAL}{fetched(name)}", "pretrained": False})


def how_to_fetch(arch: str) -> str:
    """Return the sentence for a model on the hub that must not be fetched unless it is asked."""
    return (
        f"The network of `{arch}` is described on the Hugging Face hub, and nothing is fetched "
        "unless it is asked; add model.pretrained=true to download the description and the "
        f"weights, or name a folder that holds them by model.arch={LOCAL}FOLDER."
    )


def fetched(name: str) -> Path:
    """Return the folder of a repository of the hub, downloaded into the cache of its client.

    Args:
        name: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.

    Raises:
        ValueError: if it does not exist, is gated, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    described = [CONFIG_FILE, "preprocessor_config.json", *_INDEX]
    try:
        # Many repositories hold the same weights in several formats; one is fetched.
        for file in WEIGHTS_FILES:
            folder = Path(
                snapshot_download(
                    repository, revision=revision or None, allow_patterns=[*described, file]
                )
            )
            if (folder / file).is_file():
                break
    except GatedRepoError as error:
        raise ValueError(
            f"The licence of `{repository}` must be accepted by your account before it can be "
            f"fetched; accept it at https://huggingface.co/{repository}, log in by `hf auth "
            "login`, and repeat the command."
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"`{repository}` must be a repository of the Hugging Face hub, but is none that your "
            "account can see; correct the name, or log in by `hf auth login` if it is private."
        ) from error
    except (OSError, ValueError) as error:  # no connection, no space, a malformed name
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"`{repository}` must be fetched from the Hugging Face hub, but that fails "
            f"({type(error).__name__}: {reason}); fetch its files elsewhere and name their folder "
            f"by model.arch={LOCAL}FOLDER."
        ) from error
    return folder


def weights_in(folder: Path) -> Path | None:
    """Return the file of weights in a folder of the hub; None if it is no such folder.

    Raises:
        ValueError: if the weights are split into several files.
    """
    if not (folder / CONFIG_FILE).is_file():
        return None
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    if any((folder / name).is_file() for name in _INDEX):
        raise ValueError(
            f"The weights in `{folder}` must be one file, {WEIGHTS_FILES[0]}, but are split into "
            "several; save the model again with a larger `max_shard_size`."
        )
    return None


def config_in(folder: Path) -> dict[str, Any]:
    """Return the content of the ``config.json`` of a folder.

    Raises:
        ValueError: if it is missing or is no JSON object of at most 1 MiB.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"`{folder}` must be a folder with {CONFIG_FILE} and {WEIGHTS_FILES[0]}, as timm and "
            f"transformers save a model, but has no {CONFIG_FILE}; correct the path."
        )
    inputs.note_file(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"`{path}` must describe a model as JSON, but cannot be read "
            f"({type(error).__name__}: {error}); restore the file."
        ) from error
    return content
