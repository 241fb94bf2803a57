import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ssl_transfer.datasets import Dataset, reader, tracing

READER = sys.modules[reader.__module__]
FLIPPED = 8  # files of each miniature


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep verdicts on files out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def inputs_are_complete(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """After every test of a reader: no file changes the data set but those it calls its inputs."""
    built: list[tuple[Callable[[], Dataset], Mapping[str, Any]]] = []

    def noting(build: Callable[[], Dataset], keys: Mapping[str, Any]) -> Dataset:
        dataset = tracing.traced(build, keys)
        built[:] = [(build, keys)]
        return dataset

    monkeypatch.setattr(READER, "traced", noting)
    yield
    for build, keys in built:
        root = Path(str(keys.get("root", ""))).absolute()
        if not root.is_relative_to(tmp_path):
            continue
        try:
            dataset = tracing.traced(build, keys)
        except ValueError:
            continue  # the test damaged it on purpose
        places = [Path(place) for place in tracing._places(keys)]
        files = [path for place in places for path in sorted(place.rglob("*")) if path.is_file()]
        noted = {_number(path) for path in map(Path, dataset.inputs.paths) if path.exists()}
        assert noted & {_number(path) for path in files}
        # A link is the file that it leads to.
        for path in [path for path in files if _number(path) not in noted][:FLIPPED]:
            content = path.read_bytes()
            middle = len(content) // 2
            other = bytes([content[middle] ^ 1]) if content else b"x"
            path.write_bytes(content[:middle] + other + content[middle + 1 :])
            assert tracing.traced(build, keys).fingerprint == dataset.fingerprint, path
            path.write_bytes(content)


def _number(path: Path) -> tuple[int, int]:
    """Return what a file and all links to it have in common."""
    about = path.stat()
    return about.st_dev, about.st_ino
