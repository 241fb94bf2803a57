"""``python -m ssl_transfer.features list|verify``: the contents of the feature store."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssl_transfer.config import compose, resolve
from ssl_transfer.features.array_file import opened, verified
from ssl_transfer.features.store import PARTIAL
from ssl_transfer.system import claims
from ssl_transfer.system.files import read_json


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of the store, or of an extraction that is not complete.

    Args:
        path: its file or folder.
        identity: identity of the array; empty if the file is damaged.
        shape: rows and columns; ``None`` if unknown.
        size: in bytes.
        state: ``stored``, ``damaged: …``, ``being extracted``, or the share that is done.
    """

    path: Path
    identity: dict[str, Any]
    shape: tuple[int, ...] | None
    size: int
    state: str

    def line(self) -> str:
        """Return the entry as one line of text."""
        facts = self.identity
        view = f" view {facts['view'] + 1}" if "view" in facts else ""
        shape = "x".join(map(str, self.shape)) if self.shape else "?"
        return (
            f"{self.path.stem[:8]}  {self.size / 2**20:9.1f} MiB  {shape:>14}  "
            f"{facts.get('dataset', '?')}/{facts.get('split', '?')}{view}, weights "
            f"{str(facts.get('weights', '?'))[:8]}, {facts.get('precision', '?')}  [{self.state}]"
        )


def entries(folder: Path) -> Iterator[Entry]:
    """Yield what lies in a store, sorted by dataset, split and weights."""
    found = [_stored(path) for path in sorted(folder.glob("*.npy"))]
    found += [_partial(path) for path in sorted(folder.glob(f"*{PARTIAL}"))]
    order = ("dataset", "split", "weights", "view")
    yield from sorted(found, key=lambda entry: [str(entry.identity.get(key)) for key in order])


def _stored(path: Path) -> Entry:
    try:
        rows, facts = opened(path)
    except (OSError, ValueError, EOFError) as error:
        return Entry(path, {}, None, path.stat().st_size, f"damaged: {error}")
    return Entry(path, facts, rows.shape, path.stat().st_size, "stored")


def _partial(folder: Path) -> Entry:
    try:
        identity = dict(read_json(folder / "identity.json") or {})
        done = np.fromfile(folder / "done", dtype=np.uint8)
    except OSError:
        identity, done = {}, np.zeros(0, dtype=np.uint8)
    size = sum(path.stat().st_size for path in folder.iterdir())
    share = f"{int((done > 0).sum())} of {len(done)} images"
    working = ", being extracted" if claims.is_alive(folder / claims.NAME) else ", interrupted"
    return Entry(folder, identity, None, size, share + working)


def verify(folder: Path) -> list[str]:
    """Return one sentence for each damaged array of a store; the contents of all are read."""
    sentences = []
    for path in tqdm(sorted(folder.glob("*.npy")), desc="verifying", delay=2.0, leave=False):
        try:
            rows, facts = opened(path)
            verified(path, rows, facts["sha256"], doubt=True)
        except (OSError, ValueError, EOFError, KeyError) as error:
            sentences.append(
                f"`{path}` is damaged ({error}); remove it, or let the next run do so."
            )
    return sentences


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m ssl_transfer.features", description=__doc__)
    parser.add_argument("command", choices=["list", "verify"], help="what to do with the store")
    parser.add_argument("--folder", type=Path, help="the store (default: paths.features)")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(resolve(compose([]))["paths"]["features"])
    if not folder.is_dir():
        print(
            f"`{folder}` must be the folder of a feature store, but does not exist; give --folder."
        )
        return 1
    if options.command == "verify":
        sentences = verify(folder)
        print("\n".join(sentences) or f"all {len(list(folder.glob('*.npy')))} arrays are intact")
        return 1 if sentences else 0
    listed = list(entries(folder))
    for entry in listed:
        print(entry.line())
    print(
        f"{len(listed)} arrays, {sum(entry.size for entry in listed) / 2**30:.3g} GiB in {folder}"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
