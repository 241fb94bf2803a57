"""Read PyTorch's checkpoints: their content by name, and the bytes of a tensor on demand.

``torch.save`` writes a zip file with one pickle and a file of bytes per storage; before 1.6 it
wrote several pickles followed by all storages. This module reads both formats. ``torch.load`` with
``weights_only=True`` does not execute code either, but it allocates any size that a file declares,
refuses many values that training scripts store beside the tensors, and only reads old pickle
protocols.
"""

import dataclasses
import functools
import io
import math
import os
import pickle
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ssl_transfer.models.unpickling import Budget, Inert, Refused, TooMuch, product, read_next

_MAGIC = 0x1950A86A20F9469CFC6C
MAGIC_BYTES = _MAGIC.to_bytes(10, "little") + b"."
"""The magic number of old checkpoints, after a few bytes of the pickle protocol."""

_LARGEST_PICKLE = 256 << 20  # bytes, without the tensors

_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64,
}  # fmt: skip
_DTYPES = {str(dtype): dtype for dtype in (*_STORAGES.values(), *(
    getattr(torch, name) for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
))}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Storage:
    """A storage in a checkpoint file.

    Args:
        key: its name in the file.
        dtype: type of its elements.
        count: number of its elements according to the pickle.
    """

    key: str
    dtype: torch.dtype
    count: int

    @property
    def bytes(self) -> int:
        """Its length in bytes."""
        return self.count * self.dtype.itemsize


Fetch = Callable[[Storage], Tensor]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a checkpoint file that has not been read yet.

    Args:
        fetch: returns a storage's bytes as a flat tensor.
        storage: the storage that it is a view of.
        dtype: type of its elements.
        offset: position of its first element in the storage.
        size: its shape.
        stride: elements from one index to the next, per axis.
    """

    fetch: Fetch
    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Length of a contiguous copy in bytes, which may be far longer than the storage."""
        return math.prod(self.size) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Return the tensor, as a view of its storage.

        Raises:
            UnpicklingError: if the tensor exceeds the storage, or the storage is shorter than
                declared.
        """
        flat = self.fetch(self.storage).view(self.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if 0 not in self.size and not 0 <= last < flat.numel():
            raise pickle.UnpicklingError("a tensor reaches beyond its bytes")
        return torch.as_strided(flat, self.size, self.stride, self.offset)


def read(path: Path, budget: Budget) -> Any:
    """Return the content of a checkpoint, with ``Stored`` in place of tensors.

    Args:
        path: an existing file.
        budget: budget of the file.

    Raises:
        Refused: if the file names anything but tensors and harmless values; nothing was executed.
        TooMuch: if the file asks for more memory or time than its size warrants.
        Exception: of any type, if the file is damaged.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    return _read_zip(path, budget) if is_zip else _read_old(path, budget)


# ---- since 1.6 ----------------------------------------------------------------------------------


def _read_zip(path: Path, budget: Budget) -> Any:
    archive = zipfile.ZipFile(path)  # stays open as long as its tensors may be read
    _check_lengths(archive, path.stat().st_size, budget)
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise zipfile.BadZipFile("it holds no file data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise Refused("a TorchScript program")
    if f"{root}byteorder" in names:
        _require_byte_order(archive.read(f"{root}byteorder") == sys.byteorder.encode())

    @functools.cache
    def fetch(storage: Storage) -> Tensor:
        entry = archive.getinfo(f"{root}data/{storage.key}")
        is_plain = entry.compress_type == zipfile.ZIP_STORED
        content = _plain(path, entry) if is_plain else bytearray(archive.read(entry))
        return _flat(content, storage)

    tables = _Tables(fetch)
    return read_next(io.BytesIO(archive.read(pickles[0])), budget, tables.find, tables.load)


def _check_lengths(archive: zipfile.ZipFile, size: int, budget: Budget) -> None:
    """Compare the declared lengths of the entries with the file, before anything is unpacked."""
    entries = archive.infolist()
    kinds = {entry.compress_type for entry in entries}
    if kinds - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} or any(e.flag_bits & 1 for e in entries):
        raise zipfile.BadZipFile("it is packed in an unknown way, or encrypted")
    if sum(e.file_size for e in entries if e.compress_type == zipfile.ZIP_STORED) > size:
        raise zipfile.BadZipFile("its files are longer than itself")
    if any(e.file_size > _LARGEST_PICKLE for e in entries if e.filename.endswith("/data.pkl")):
        raise TooMuch("its pickle is far too long")
    budget.spend(sum(e.file_size for e in entries if e.compress_type != zipfile.ZIP_STORED))


def _plain(path: Path, entry: zipfile.ZipInfo) -> bytearray:
    """Return the bytes of a file that is not compressed, ten times faster than ``ZipFile.read``."""
    content = bytearray(entry.file_size)
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        head = file.read(30)
        if head[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("one of its files has no head")
        name, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
        file.seek(name + extra, os.SEEK_CUR)
        if file.readinto(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
            raise zipfile.BadZipFile("one of its files has another checksum")
    return content


def _flat(content: bytearray, storage: Storage) -> Tensor:
    if len(content) < storage.bytes:
        raise pickle.UnpicklingError("a tensor has fewer bytes than it says")
    if not storage.count:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(content, dtype=storage.dtype, count=storage.count)


def _require_byte_order(is_same: bool) -> None:
    if not is_same:
        raise pickle.UnpicklingError("its numbers have another byte order than this computer's")


# ---- before 1.6 ---------------------------------------------------------------------------------


def _read_old(path: Path, budget: Budget) -> Any:
    """Read the pickles of magic number, version, system, content and names; then the storages."""
    storages: dict[str, Storage] = {}
    places: dict[str, tuple[int, int]] = {}

    @functools.cache
    def fetch(storage: Storage) -> Tensor:
        place, count = places[storage.key]
        if count != storage.count:
            raise pickle.UnpicklingError("a tensor has other bytes than it says")
        with path.open("rb") as file:
            file.seek(place)
            return _flat(bytearray(file.read(storage.bytes)), storage)

    tables = _Tables(fetch, storages)
    with path.open("rb") as file:
        stream = _Pickles(file)
        if stream.next(budget, tables) != _MAGIC:
            raise pickle.UnpicklingError("it is a pickle, but no checkpoint")
        stream.next(budget, tables)
        system = stream.next(budget, tables)
        if isinstance(system, dict):
            little = sys.byteorder == "little"
            _require_byte_order(system.get("little_endian", little) == little)
        content = stream.next(budget, tables)
        place, size = stream.position, path.stat().st_size
        names = stream.next(budget, tables)
        place = stream.position
        for name in names if isinstance(names, list) else []:
            storage = storages[str(name)]
            file.seek(place)
            count = int.from_bytes(file.read(8), sys.byteorder)
            places[storage.key] = (place + 8, count)
            place += 8 + count * storage.dtype.itemsize
            if place > size:
                raise pickle.UnpicklingError("it ends before its tensors do")
    return content


class _Pickles:
    """The consecutive pickles at the beginning of a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.stream = io.BytesIO(file.read(_LARGEST_PICKLE))

    @property
    def position(self) -> int:
        """Position of the next pickle."""
        return self.stream.tell()

    def next(self, budget: Budget, tables: "_Tables") -> Any:
        """Return the content of the next pickle."""
        return read_next(self.stream, budget, tables.find, tables.load)


# ---- substitutes for torch's names --------------------------------------------------------------


class _Tables:
    """Substitutes for the names of torch in one file.

    Args:
        fetch: returns a storage's bytes.
        storages: filled with the storages that the file refers to, by name.
    """

    def __init__(self, fetch: Fetch, storages: dict[str, Storage] | None = None) -> None:
        self.fetch, self.storages = fetch, {} if storages is None else storages

    def find(self, module: str, name: str) -> Any:
        """Return the substitute of a name of torch, None if it is not known to be harmless."""
        if module == "torch._utils":
            return {
                "_rebuild_tensor": self._tensor,
                "_rebuild_tensor_v2": self._tensor,
                "_rebuild_tensor_v3": self._tensor_of_type,
                "_rebuild_parameter": _first,
                "_rebuild_parameter_with_state": _first,
                # Types of tensors that no encoder has: they are left out.
                **dict.fromkeys(("_rebuild_sparse_tensor", "_rebuild_qtensor",
                                 "_rebuild_meta_tensor_no_storage"), Inert),
            }.get(name)  # fmt: skip
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return _as_plain
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            dtype = _STORAGES.get(name.removesuffix("Storage"))
            return _Kind(dtype or torch.uint8) if dtype or name[:5] in ("Untyp", "Typed") else None
        if module == "torch" and f"torch.{name}" in _DTYPES:
            return _Kind(_DTYPES[f"torch.{name}"])
        if module == "torch" and name in ("Tensor", "strided", "sparse_coo", "per_tensor_affine",
                                          "per_channel_affine"):  # fmt: skip
            return Inert
        if (module, name) in (("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer"),
                              ("torch.serialization", "_get_layout")):  # fmt: skip
            return Inert
        return None

    def load(self, pid: Any) -> Storage:
        """Return the storage that a persistent id names.

        Raises:
            UnpicklingError: if it names something else.
        """
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        _, kind, key, _, count = pid[:5]
        view = pid[5] if len(pid) > 5 else None
        if not isinstance(kind, _Kind) or view is not None:
            raise pickle.UnpicklingError("a storage is of an unknown kind")
        if isinstance(key, int):
            key = str(key)
        if not isinstance(key, str) or "/" in key or len(key) > 100:
            raise pickle.UnpicklingError("a storage has a damaged name")
        storage = Storage(key, kind.dtype, product((count,)))
        return self.storages.setdefault(key, storage)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Stored:
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor has no storage")
        return self._tensor_of_type(storage, offset, size, stride, None, None, _Kind(storage.dtype))

    def _tensor_of_type(
        self, storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, kind: Any,
        *___: Any,
    ) -> Stored:  # fmt: skip
        size = size.arguments[0] if isinstance(size, Inert) and size.arguments else size
        if not isinstance(storage, Storage) or not isinstance(kind, _Kind):
            raise pickle.UnpicklingError("a tensor is damaged")
        product((offset,))
        product(size)
        product(stride)
        if len(size) != len(stride):
            raise pickle.UnpicklingError("a shape is damaged")
        return Stored(self.fetch, storage, kind.dtype, offset, size, stride)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """Substitute for a class of storages, or for a type of elements."""

    dtype: torch.dtype


def _first(tensor: Any, *_: Any) -> Any:
    return tensor


def _as_plain(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Return the tensor of a subclass of tensors."""
    named = getattr(function, "__name__", "")
    if isinstance(arguments, tuple) and named in ("_tensor", "_tensor_of_type", "_first"):
        return function(*arguments)
    return Inert()
