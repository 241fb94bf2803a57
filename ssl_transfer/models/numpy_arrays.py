"""Read numpy archives (``.npz``), in which vision transformers written in JAX are published."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.models.unpickling import Budget

_MEMBER = ".npy"


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive of numpy arrays alone; PyTorch's hold a pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return bool(names) and all(name.endswith(_MEMBER) for name in names)


def read_arrays(path: Path, budget: Budget) -> dict[str, Tensor]:
    """Return the arrays of an archive by name; other types than numbers are left out.

    Args:
        path: the archive.
        budget: what the arrays may take in memory.

    Raises:
        TooMuch: if the arrays would be far larger than the file.
        ValueError: if an array holds pickled objects or is damaged.
        zipfile.BadZipFile: if the archive is damaged.
    """
    tensors = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            budget.spend(member.file_size)
            array = _array(archive.read(member))
            if array.dtype.kind in "fiub":
                name = member.filename.removesuffix(_MEMBER)
                tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
    return tensors


def _array(member: bytes) -> np.ndarray:
    """Return one array; its header may not promise more than the member holds."""
    file = io.BytesIO(member)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read_header:
        raise ValueError(f"the version {version} of an array is unknown")
    shape, is_fortran, dtype = read_header[version](file)
    content = file.read()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError("an array holds objects, or other bytes than its header says")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape[::-1]).T.copy() if is_fortran else array.reshape(shape).copy()
