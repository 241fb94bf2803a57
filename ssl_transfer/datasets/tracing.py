"""Record the files that a data set was built from."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.images import in_files
from ssl_transfer.system import inputs


def traced(build: Callable[[], Dataset], keys: Mapping[str, Any]) -> Dataset:
    """Return what ``build`` returns, with the files that it was built from as its ``inputs``.

    Args:
        build: reads the files; readers record their files with ``ssl_transfer.system.inputs``.
        keys: its keyword arguments; files below a path among them are also recorded when Python
            opens them.
    """
    with inputs.collected(set(_places(keys))) as files:
        dataset = build()
        if not isinstance(dataset, Dataset):  # the caller raises the error
            return dataset  # type: ignore[unreachable]
        for split in dataset.splits.values():
            for images in in_files(split.images):
                if not images.recorded:
                    for path in dict.fromkeys(images.paths):
                        inputs.note_file(path)
    return dataclasses.replace(dataset, inputs=files)


def _places(node: Any) -> Iterator[str]:
    """Yield the absolute paths of files and folders that a node of the configuration names."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            named = isinstance(value, str) and (key == "root" or os.sep in value)
            path = Path(value).expanduser() if named else None
            if path is not None and path.exists():
                yield str(path.absolute())
            yield from _places(value) if isinstance(value, Mapping | list) else ()
    elif isinstance(node, list):
        for value in node:
            yield from _places(value if isinstance(value, Mapping | list) else {"": value})
