"""Pointers of Git LFS are named wherever files of a user are read."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_transfer.datasets.annotations import lines_of
from ssl_transfer.datasets.columns import read_table
from ssl_transfer.datasets.decoding import read_header, read_rgb
from ssl_transfer.datasets.lists import _read
from ssl_transfer.models.reading import read_state

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"

READERS: dict[str, Callable[[Path], object]] = {
    "weights.safetensors": read_state,
    "weights.pth": read_state,
    "train.txt": lambda path: _read(path, "dataset.train"),
    "lines.txt": lines_of,
    "table.csv": lambda path: read_table("dataset.table", path, list, []),
    "table.parquet": lambda path: read_table("dataset.table", path, list, []),
    "image.jpg": read_rgb,
    "header.png": lambda path: read_header(str(path)),
    "member.png": lambda path: read_header(io.BytesIO(path.read_bytes())),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pointer_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"a pointer of Git LFS, .*`git lfs pull`"):
        READERS[name](path)
