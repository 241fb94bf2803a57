"""Images in Arrow and Parquet files: where the bytes of each lie, and the columns beside them.

An Arrow file holds the bytes of an image unchanged, so that they are read from their place in it.
Parquet compresses them; a Parquet file is therefore converted once to an Arrow file in the user's
cache folder (``$XDG_CACHE_HOME/ssl_transfer/arrow``), which counts as the Parquet file everywhere.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int64

from ssl_transfer.datasets.columns import pyarrow
from ssl_transfer.datasets.images import Spans
from ssl_transfer.system import claims, inputs, lfs, staging
from ssl_transfer.system.files import own_folder, replace_atomically

log = logging.getLogger(__name__)

SUFFIXES = (".parquet", ".arrow")
_BATCH = 256  # rows that are converted at a time
_FEATURES = b"huggingface"  # key of the metadata in which `datasets` describes its columns

Choose = Callable[[Path, list[str], Mapping[str, Any]], Mapping[str, str]]
"""Returns the columns to read by role, ``image`` among them, from the user's file, the names of all
its columns and their features (see ``Stored``)."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """The rows of one file.

    Args:
        path: the Arrow file, which may have been made from a Parquet file.
        source: the user's file.
        spans: first byte and number of bytes of each image.
        files: the name of each image's own file (``None``: not stored).
        columns: the values of the further columns, by role.
        features: how ``datasets`` describes these columns, by role (empty: it does not).
    """

    path: str
    source: Path
    spans: Spans
    files: list[str | None]
    columns: dict[str, list[Any]]
    features: Mapping[str, Any]


def read_arrow(source: Path, choose: Choose) -> Stored:
    """Return the rows of an Arrow or a Parquet file with an image in each.

    Args:
        source: the file.
        choose: called with what the file has.

    Raises:
        ValueError: if the file is damaged, or does not hold images as bytes.
    """
    inputs.note_file(source)
    lfs.refuse_pointer(source)
    arrow = pyarrow("", source)
    try:
        path = source
        if source.suffix.lower() == ".parquet":
            path = _converted(source, choose)
            staging.made_from(os.path.abspath(path), os.path.abspath(source))  # noqa: PTH100
        return _read(path, source, choose)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(
            f"`{source}` must be a whole {source.suffix.lower()[1:]} file, but cannot be read "
            f"({' '.join(str(error).split())}); copy it again."
        ) from error


def _read(path: Path, source: Path, choose: Choose) -> Stored:
    arrow = pyarrow("", source)
    with arrow.memory_map(str(path)) as file:
        whole = file.read_buffer(file.size())
        is_file = bytes(whole[:6]) == b"ARROW1"
        reader = arrow.ipc.open_file(whole) if is_file else arrow.ipc.open_stream(whole)
        features = _features(reader.schema.metadata)
        names_of = dict(choose(source, list(reader.schema.names), features))
        image = names_of.pop("image")
        spans: list[Spans] = []
        files: list[str | None] = []
        columns: dict[str, list[Any]] = {role: [] for role in names_of}
        rows = map(reader.get_batch, range(reader.num_record_batches)) if is_file else iter(reader)
        for batch in rows:
            stored, names = _bytes_and_names(batch.column(image), source, image)
            spans.append(_spans(stored, whole, source, len(files)))
            files += names
            for role, values in columns.items():
                values += batch.column(names_of[role]).to_pylist()
    joined = np.concatenate(spans) if spans else np.zeros((0, 2), dtype=np.int64)
    of_columns = {role: features[name] for role, name in names_of.items() if name in features}
    return Stored(str(path), source, joined, files, columns, of_columns)


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """Return how ``datasets`` describes the columns."""
    try:
        return dict(json.loads((metadata or {})[_FEATURES])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def _bytes_and_names(column: Any, source: Path, image: str) -> tuple[Any, list[str | None]]:
    """Return the binary array of a column of images, and the names of their files."""
    arrow = pyarrow("", source)
    names: list[str | None] = [None] * len(column)
    kind = column.type
    if arrow.types.is_struct(kind) and "bytes" in {field.name for field in kind}:
        if "path" in {field.name for field in kind}:
            names = column.field("path").to_pylist()
        column = column.field("bytes")
    if arrow.types.is_binary(column.type) or arrow.types.is_large_binary(column.type):
        return column, names
    raise ValueError(
        f"the column `{image}` of `{source}` must hold the bytes of images, but holds {kind}; save "
        "the images themselves (`datasets`: the feature `Image`), or name another column by "
        "dataset.columns.image."
    )


def _spans(column: Any, whole: Any, source: Path, first: int) -> Spans:
    """Return where the bytes of each value lie in the file."""
    if column.null_count:
        row = first + int(np.flatnonzero(np.array(column.is_null()))[0])
        raise ValueError(
            f"every row of `{source}` must hold the bytes of an image, but row {row + 1} does not; "
            "save the images themselves, not only their paths."
        )
    if not len(column):
        return np.zeros((0, 2), dtype=np.int64)
    _, places, data = column.buffers()
    width = np.dtype(np.int32 if column.type == pyarrow("", source).binary() else np.int64)
    ends: Int64[np.ndarray, " ends"] = np.frombuffer(
        places, width, count=len(column) + 1, offset=column.offset * width.itemsize
    ).astype(np.int64)
    start = data.address - whole.address
    if not 0 <= start <= whole.size - data.size:
        raise ValueError(
            f"`{source}` must be an Arrow file without compression, but is compressed; save it "
            "again by `save_to_disk`."
        )
    return np.stack([start + ends[:-1], np.diff(ends)], axis=1)


def _converted(source: Path, choose: Choose) -> Path:
    """Return the Arrow file with the chosen columns of a Parquet file; it is made once."""
    parquet = pyarrow("parquet", source)
    with source.open("rb") as opened:
        stored = parquet.ParquetFile(opened)
        schema = stored.schema_arrow
        names = choose(source, list(schema.names), _features(schema.metadata))
        columns = list(dict.fromkeys(names.values()))
        place = os.path.abspath(source)  # noqa: PTH100
        key = json.dumps([staging.original(place), inputs.stamp_of(place), columns])
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
        path = (
            own_folder("XDG_CACHE_HOME", ".cache")
            / "ssl_transfer"
            / "arrow"
            / digest
            / "rows.arrow"
        )
        if path.is_file():
            return path

        def write(file: IO[bytes]) -> None:
            _write(file, stored.iter_batches(_BATCH, columns=columns), source)

        with claims.claimed(
            path.parent,
            finished=path.is_file,
            waiting=lambda owner: log.info("waiting for %s", claims.describe(owner)),
            alone=True,
        ) as ours:
            if ours:
                log.info("the images of `%s` are copied once, to `%s`", source, path)
                replace_atomically(path, write)
    return path


def _write(file: IO[bytes], batches: Iterator[Any], source: Path) -> None:
    ipc, writer = pyarrow("ipc", source), None
    for batch in batches:
        writer = writer or ipc.new_stream(file, batch.schema)
        writer.write_batch(batch)
    if writer is None:
        raise OSError("it has no rows")
    writer.close()
