"""Reading tensors from other people's files without executing what they contain."""

import argparse
import hashlib
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_transfer import inputs
from ssl_transfer.downloads import checksum
from ssl_transfer.models import haiku

State = dict[str, Tensor]

WRAPPERS = ("state_dict", "model", "resnet", "model_state_dict")
"""Keys under which published checkpoints keep the tensors, beside optimizer and epoch."""

# Values without behaviour that training scripts leave beside the tensors: their arguments, and
# numpy's numbers and arrays (which old and new numpy name differently).
_SCALAR = np.float64(0.0).__reduce__()[0]
_ARRAY = np.zeros(1).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")},
    _SCALAR,
    _ARRAY,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_ARRAY, "numpy.core.multiarray._reconstruct"),
]


def read_state(path: Path, sha256: str | None = None, md5: str | None = None) -> State:
    """Return the tensors of a safetensors file or a PyTorch checkpoint by name, on the CPU.

    What surrounds them (``WRAPPERS``) is taken off; other nested dictionaries become dotted names.
    A pickle of Haiku's arrays is read, too (``ssl_transfer.models.haiku``).

    Args:
        path: an existing file.
        sha256: expected checksum in hexadecimal digits, or its first 8 or more digits.
        md5: likewise, where no other is published.

    Raises:
        ValueError: in one sentence that names the file, if it is missing, empty, damaged, a
            pickle that would execute code, holds no tensors or has another checksum.
    """
    if not path.is_file():
        raise ValueError(
            f"The weights file must exist, but `{path}` does not; correct `model.weights.path` "
            f"(relative paths start at `{Path.cwd()}`)."
        )
    inputs.note_file(path)
    if path.stat().st_size == 0:
        raise ValueError(
            f"The weights file must hold tensors, but `{path}` is empty; copy it again."
        )
    for kind, wanted in (("sha256", sha256), ("md5", md5)):
        if wanted is not None:
            _check_sum(path, wanted, kind)
    with path.open("rb") as file:
        start = file.read(64)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        content = _read_torch(path, start)
    elif path.suffix == ".safetensors" or start[8:9] == b"{":
        content = _read_safetensors(path)
    else:
        raise ValueError(
            f"The weights file must be a safetensors file or a PyTorch checkpoint, but `{path}` is "
            f"neither (it starts with {start[:16]!r}); download it again, or convert it."
        )
    state = dict(_tensors(_unwrapped(content)))
    if not state:
        keys = list(content)[:8] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"The weights file must hold named tensors, but `{path}` holds none (found: {keys})."
        )
    return state


def _check_sum(path: Path, wanted: str, kind: str) -> None:
    length = 2 * hashlib.new(kind, usedforsecurity=False).digest_size
    if re.fullmatch(f"[0-9a-fA-F]{{8,{length}}}", wanted) is None:
        raise ValueError(
            f"`model.weights.{kind}` must be {length} hexadecimal digits, or the first 8 or more "
            f"of them, but is {wanted!r}."
        )
    found = checksum(path, kind)
    if not found.startswith(wanted.lower()):
        raise ValueError(
            f"The {kind} of `{path}` must be {wanted}, but is {found}; the file is damaged or "
            f"another one: fetch it again, or correct `model.weights.{kind}`."
        )


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(_damaged(path, "safetensors file", error)) from error


def _read_torch(path: Path, start: bytes) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch's readers fail in many ways
        if start[:1] == b"\x80" and (arrays := _arrays(path)):
            return arrays
        culprit = _code_in(str(error)) or (_code_in_pickle(path) if start[:1] == b"\x80" else None)
        if culprit is None:
            raise ValueError(_damaged(path, "PyTorch checkpoint", error)) from error
        raise ValueError(
            f"The weights file must hold nothing but tensors and plain values, but `{path}` is a "
            f"pickle that would execute code when loaded ({culprit}); load it where you trust it "
            "and save `model.state_dict()` alone."
        ) from error


def _arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a pickle of Haiku's; none if it is something else."""
    try:
        return haiku.read_arrays(path)
    except ValueError:
        return {}  # torch's reader, which failed before, knows better why


def _code_in(message: str) -> str | None:
    """Return what torch's restricted reader refused to call, None if it failed otherwise."""
    if "TorchScript" in message:
        return "a TorchScript program"
    found = re.search(r"GLOBAL (\S+)", message)
    return found.group(1) if found else None


def _code_in_pickle(path: Path) -> str | None:
    """Return what a pickle imports first, found without executing it.

    torch's restricted reader gives up on newer pickle protocols before it meets an import.
    """
    words: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(words[-2:])
                if isinstance(argument, str):
                    words.append(argument)
    except (ValueError, pickle.UnpicklingError):
        return None  # cut off before any import
    return None


def _damaged(path: Path, kind: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, pickle.UnpicklingError):
        reason = "its pickle cannot be read"  # torch's own text advises to execute it
    return (
        f"The weights file must be a whole {kind}, but `{path}` is truncated or damaged "
        f"({reason}); copy or download it again."
    )


def _unwrapped(content: Any) -> Any:
    while isinstance(content, Mapping) and not any(isinstance(v, Tensor) for v in content.values()):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping | OrderedDict):
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value.detach()
        else:
            yield from _tensors(value, f"{prefix}{key}.")
