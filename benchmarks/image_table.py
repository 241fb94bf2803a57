"""A table of a million images, read and checked: seconds and memory of each form.

The files are hard links to small images, 60,000 to each. They are stat'ed, not decoded: what
follows the check of the table reads each image once, and is known from then on.

    python -m benchmarks.image_table FOLDER [--rows 1000000] [--forms csv jsonl parquet]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

PER_INODE = 60_000  # ext4 allows 65,000 links
PER_FOLDER = 10_000
CLASSES = 1000


def make_files(folder: Path, rows: int) -> list[str]:
    """Return the names of ``rows`` files below a folder; they are made if they are missing."""
    names = [f"{row // PER_FOLDER:04d}/image_{row:08d}.png" for row in range(rows)]
    chance = np.random.default_rng(0)
    for start in range(0, rows, PER_INODE):
        part = names[start : start + PER_INODE]
        if (folder / part[-1]).exists():
            continue
        seed = folder / f"seed_{start}.png"
        pixels = chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(seed)
        for name in part:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).unlink(missing_ok=True)
            os.link(seed, folder / name)
    return names


def make_table(folder: Path, names: list[str], form: str) -> Path:
    """Return a table of these files with columns of labels, splits and groups."""
    path = folder / f"table.{form}"
    splits = ("train", "train", "train", "val", "test")
    # Links to one file must have one label.
    rows = [
        {"path": name, "label": f"class {row // PER_INODE % CLASSES:04d}", "split": splits[row % 5],
         "group": f"object {row // 7}"}
        for row, name in enumerate(names)
    ]  # fmt: skip
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


def measure(path: Path) -> None:
    """Print the seconds and the memory of reading and checking a table, in a process of its own."""
    from ssl_transfer.datasets import named_files
    from ssl_transfer.datasets.image_table import rows_of

    before = peak()
    start, cpu = time.perf_counter(), time.process_time()
    problems: list[str] = []
    rows = rows_of(path, path.parent, {}, None, ";", problems)
    named_files.refuse("the rows", problems)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"{path.suffix[1:]}: {len(rows.names):,} rows read and checked in {seconds:.1f} s "
        f"({cpu:.1f} s of CPU), {peak():.0f} MiB at most, of which {before:.0f} before"
    )


def peak() -> float:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure each form in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--forms", nargs="+", default=["csv", "jsonl", "parquet"])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    names = make_files(options.folder, options.rows)
    for form in options.forms:
        table = make_table(options.folder, names, form)
        command = [sys.executable, "-m", "benchmarks.image_table", str(options.folder)]
        subprocess.run([*command, "--measure", str(table)], check=True)


if __name__ == "__main__":
    main()
