"""Read tensors from untrusted files without executing code in them."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_transfer.models import checkpoints, haiku, numpy_arrays
from ssl_transfer.models.checkpoints import Stored
from ssl_transfer.models.unpickling import DEEPEST, Array, Budget, Inert, Refused, TooMuch
from ssl_transfer.system import inputs, lfs
from ssl_transfer.system.downloads import checksum
from ssl_transfer.system.plain_text import printable

State = dict[str, Tensor]

WRAPPERS = ("state_dict", "model", "resnet", "model_state_dict", "model_state", "module")
"""Keys of the tensors in published checkpoints, beside optimizer and epoch."""

# Keys of a training's state other than networks.
_BESIDE = re.compile(r"(optim|opt$|.*sched|scaler$|amp$|callbacks$|loops$|.*rng|random)")
# Prefixes that torch's wrappers add to names: torch.compile, FSDP, activation checkpointing.
_TRANSPARENT = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
_LONGEST_NAME = 500
_LARGEST_HEADER = 64 << 20  # bytes, of safetensors
_SPARE = 1 << 30


def read_state(
    path: Path, sha256: str | None = None, md5: str | None = None, inside: str | None = None
) -> State:
    """Return the tensors of a weights file by name, on the CPU.

    The file is a safetensors file, a PyTorch checkpoint or a numpy archive (``.npz``).

    Enclosing dictionaries (``WRAPPERS``) are removed; other nested dictionaries become dotted
    names. If a file holds further networks beside the wrapped one, such as an average of the
    weights (``model_ema``), ``further_networks`` returns their keys. A pickle of Haiku's arrays is
    also supported (``ssl_transfer.models.haiku``).

    Args:
        path: an existing file.
        sha256: expected checksum in hexadecimal digits, or its first 8 or more digits.
        md5: likewise, if no SHA-256 is published.
        inside: key of the network to read if a file holds several (``None``: the wrapped one).

    Raises:
        ValueError: if the file is missing, empty, damaged, a pickle that would execute code, asks
            for far more memory than its size warrants, holds no tensors or has another checksum.
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
    lfs.refuse_pointer(path)
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            _check_sum(path, expected, kind)
    content, budget = _content(path)
    try:
        if inside is not None and isinstance(content, Mapping):
            content = content.get(inside)
        state = _read(dict(_tensors(_unwrapped(content, budget), budget)), path)
        state = state or dict(_named_arrays(content, budget))
    except TooMuch as error:
        raise ValueError(_too_much(path, error)) from error
    if not state:
        raise ValueError(
            f"The weights file must hold named tensors, but `{path}` holds none (found: "
            f"{_cut(_kind(content))})."
        )
    return state


def _kind(content: Any) -> str:
    """Return what a file without named tensors holds, for messages."""
    if isinstance(content, Mapping):
        return str(list(content)[:8])
    if isinstance(content, Stored):
        return f"one tensor without a name, of shape {list(content.size)}"
    if isinstance(content, Array):
        return "one array without a name"
    return "an object of a class" if isinstance(content, Inert) else type(content).__name__


def further_networks(path: Path) -> list[str]:
    """Return the keys of the networks that a file holds beside the one that ``read_state`` reads.

    These have most of its tensors' names: an average of its weights, a teacher, a momentum encoder.

    Raises:
        ValueError: if the file cannot be read.
    """
    with path.open("rb") as file:
        if not _is_torch(file.read(64)):
            return []
    content, budget = _content(path)
    try:
        chosen = _unwrapped(content, budget)
        if not isinstance(content, Mapping) or chosen is content:
            return []
        names = _common(name for name, _ in _tensors(chosen, budget))
        return [
            str(key)
            for key, value in content.items()
            if isinstance(value, Mapping) and not _BESIDE.match(str(key))
            and (inner := _unwrapped(value, budget)) is not chosen
            and 2 * len(names & _common(n for n, _ in _tensors(inner, budget))) >= len(names)
        ]  # fmt: skip
    except TooMuch as error:
        raise ValueError(_too_much(path, error)) from error


def _common(names: Iterable[str]) -> set[str]:
    """Return names without the prefix of a wrapper, which an average of weights may lack."""
    return {name.removeprefix("module.") for name in names}


def _is_torch(start: bytes) -> bool:
    return start[:2] == b"PK" or (start[:1] == b"\x80" and checkpoints.MAGIC_BYTES in start)


def _content(path: Path) -> tuple[Any, Budget]:
    """Return the content of a file, and the rest of its budget."""
    budget = Budget(path.stat().st_size)
    with path.open("rb") as file:
        start = file.read(64)
    # The first byte of a safetensors header (its length) may equal the first byte of a pickle.
    has_header = start[4:9] == b"\x00\x00\x00\x00{"
    if not _is_torch(start) and (path.suffix == ".safetensors" or has_header):
        return _read_safetensors(path), budget
    if start[:2] == b"PK" and numpy_arrays.is_archive(path):
        return _arrays(path, budget), budget
    if _is_torch(start) or start[:1] == b"\x80":
        return _unpickled(path, budget, is_torch=_is_torch(start)), budget
    raise ValueError(
        f"The weights file must be a safetensors file, a PyTorch checkpoint or a numpy archive, "
        f"but `{path}` is none (it starts with {start[:16]!r}); download it again, or convert it."
    )


def _check_sum(path: Path, expected: str, kind: str) -> None:
    length = 2 * hashlib.new(kind, usedforsecurity=False).digest_size
    if re.fullmatch(f"[0-9a-fA-F]{{8,{length}}}", expected) is None:
        raise ValueError(
            f"`model.weights.{kind}` must be {length} hexadecimal digits, or the first 8 or more "
            f"of them, but is {expected!r}."
        )
    actual = checksum(path, kind)
    if not actual.startswith(expected.lower()):
        raise ValueError(
            f"The {kind} of `{path}` must be {expected}, but is {actual}; the file is damaged or "
            f"another one: fetch it again, or correct `model.weights.{kind}`."
        )


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(_LARGEST_HEADER, path.stat().st_size - 8):
        raise ValueError(_damaged(path, "safetensors file", "its header is longer than it may be"))
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(_damaged(path, "safetensors file", str(error))) from error


def _unpickled(path: Path, budget: Budget, *, is_torch: bool) -> Any:
    try:
        return checkpoints.read(path, budget) if is_torch else haiku.read_arrays(path, budget)
    except Refused as error:
        raise ValueError(
            f"The weights file must hold nothing but tensors and plain values, but `{path}` is a "
            f"pickle that would execute code when loaded ({_cut(str(error))}); load it where you "
            "trust it and save `model.state_dict()` alone."
        ) from error
    except TooMuch as error:
        raise ValueError(_too_much(path, error)) from error
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(_damaged(path, "PyTorch checkpoint", str(error))) from error


def _arrays(path: Path, budget: Budget) -> Any:
    try:
        return numpy_arrays.read_arrays(path, budget)
    except TooMuch as error:
        raise ValueError(_too_much(path, error)) from error
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(_damaged(path, "numpy archive", str(error))) from error


def _damaged(path: Path, kind: str, reason: str) -> str:
    said = _cut((reason.strip().splitlines() or ["it cannot be read"])[0].rstrip("."))
    return (
        f"The weights file must be a whole {kind}, but `{path}` is truncated or damaged "
        f"({said}); copy or download it again."
    )


def _too_much(path: Path, error: TooMuch) -> str:
    return (
        f"The weights file must not ask for far more than its size warrants, but `{path}` does "
        f"({error}); it is damaged or made to do harm: get it from its publisher."
    )


def _cut(text: str) -> str:
    """Return a text from a file, shortened and without control characters for the terminal."""
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def _unwrapped(content: Any, budget: Budget) -> Any:
    """Return the network in a training's checkpoint, without wrappers, optimizers and counters."""
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            return content
        wrapped = (content.get(key) for key in WRAPPERS)
        inner = next((w for w in wrapped if isinstance(w, Mapping) and _holds(w, budget)), None)
        if inner is None:
            return content
        content = inner
    raise TooMuch("it nests too deeply, or holds itself")


def _holds(content: Mapping[Any, Any], budget: Budget) -> bool:
    """Return whether a mapping holds a tensor at any depth."""
    return next(_tensors(content, budget), None) is not None


def _tensors(
    content: Any, budget: Budget, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Tensor | Stored]]:
    """Yield the tensors in nested mappings by dotted name, without those of optimizers."""
    if not isinstance(content, Mapping):
        return
    if depth > DEEPEST:
        raise TooMuch("it nests too deeply, or holds itself")
    for key, value in content.items():
        name = f"{prefix}{key}"
        budget.spend(2_000)  # limits repeated references to one dictionary
        if len(name) > _LONGEST_NAME:
            raise TooMuch("a name in it is far too long")
        if isinstance(value, Tensor | Stored):
            yield name, value
        elif not (depth == 0 and _BESIDE.match(name)):
            yield from _tensors(value, budget, f"{name}.", depth + 1)


def _named_arrays(content: Any, budget: Budget) -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of numpy in a checkpoint without tensors, such as VISSL's conversions."""
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            return
        wrapped = (content.get(key) for key in WRAPPERS)
        inner = next((part for part in wrapped if isinstance(part, Mapping)), None)
        if inner is None:
            break
        content = inner
    for name, array in content.items():
        if isinstance(array, Array) and array.value is not None and len(str(name)) <= _LONGEST_NAME:
            budget.spend(array.value.nbytes)
            native = array.value.dtype.newbyteorder("=")
            yield str(name), torch.from_numpy(array.value.astype(native))


def _read(tensors: Mapping[str, Tensor | Stored], path: Path) -> State:
    """Return the tensors with their values, read from the file.

    Raises:
        TooMuch: if copies of them would be far larger than the file, e.g. through a stride of 0.
        ValueError: if a tensor exceeds its bytes.
    """
    sizes = [t.bytes if isinstance(t, Stored) else t.nbytes for t in tensors.values()]
    if sum(sizes) > _SPARE + 8 * path.stat().st_size:
        raise TooMuch("its tensors repeat few numbers very often")
    names = {name: _TRANSPARENT.sub("", name) for name in tensors}
    if len(set(names.values())) < len(names):
        names = {name: name for name in tensors}
    try:
        return {
            names[name]: t.read() if isinstance(t, Stored) else t.detach()
            for name, t in tensors.items()
        }
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(_damaged(path, "PyTorch checkpoint", str(error))) from error
