"""A set of 1.3 million image files: the start of a run, against torchvision's listing.

    python -m benchmarks.large_set FOLDER [--images 1300000] [--verify full]

The files, tiny JPEGs in 1,000 class folders of ``train`` and ``test``, are made if they are missing
(5.3 GB of 4 KiB blocks). Each side runs in a process of its own, twice: the first time of ours
checks all images. Then ours keeps the list of the files, as a finished run does, and compares it
with the disk, as the same command sent again does. The other side is what users write today:
``torchvision.datasets.ImageFolder`` of both splits, and one ``stat`` per file, without which no
change is noticed. The system has the folders in its cache. Memory is the growth of the process over
its imports; ``workers`` is that of two processes of a loader that read 20,000 images.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 1000
TEST = 26
"""One of so many images of a class is a test image, as in ImageNet."""
READ, BATCH = 20_000, 200


def make_files(folder: Path, images: int) -> None:
    """Write the files: 300 pictures of 32x32 px, each file with a comment of its own."""
    chance = np.random.default_rng(0)
    pictures = []
    for _ in range(300):
        small = Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((32, 32)).save(file, "JPEG")
        pictures.append(file.getvalue())
    for number in range(CLASSES):
        of_class = range(images // CLASSES)
        for index in of_class:
            split = "test" if index % TEST == 0 else "train"
            place = folder / split / f"n{number:08d}"
            if index < 2:
                place.mkdir(parents=True, exist_ok=True)
            picture, comment = pictures[(7 * number + index) % 300], f"{number} {index}".encode()
            segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            name = f"{place}/n{number:08d}_{index:05d}.JPEG"
            with open(name, "wb") as file:  # noqa: PTH123 - faster than Path
                file.write(picture[:2] + segment + picture[2:])


def used() -> tuple[float, float, float]:
    """Return the seconds of CPU and of the clock, and the largest memory so far in MiB."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return cpu, time.perf_counter(), usages[0].ru_maxrss / 1024


def report(what: str, before: tuple[float, float, float]) -> None:
    """Print what was used since then."""
    cpu, seconds, memory = (now - then for now, then in zip(used(), before, strict=True))
    print(f"{what}: {cpu:.1f} s of CPU, {seconds:.1f} s, {memory:.0f} MiB", flush=True)


def ours(folder: Path, verify: str) -> None:
    """Build the data set as a run does, and read some images in processes."""
    from ssl_transfer.context import Context
    from ssl_transfer.datasets.decoded import decode_once
    from ssl_transfer.datasets.folder import image_folder
    from ssl_transfer.datasets.loading import load
    from ssl_transfer.datasets.transforms import Pipeline, ViewDataset
    from ssl_transfer.preprocessing import Preprocessing
    from ssl_transfer.system import manifests

    before = used()
    dataset = image_folder(name="large", root=str(folder), verify=verify)
    dataset = decode_once(dataset, folder.parent / "decoded", "never")
    report(f"ours, verify={verify}", before)
    before_list, outputs = used(), folder.parent / "outputs"
    identity = manifests.save(dataset.inputs, outputs)
    report("  its files listed for the record", before_list)
    before_list = used()
    assert not manifests.Comparer(outputs).compare(identity).stale
    report("  the list compared with the disk", before_list)
    data = ViewDataset(dataset["train"], [Pipeline(Preprocessing(size=32, resize=None))], seed=0)
    picked = range(min(READ, len(data)))
    batches = [[(0, index) for index in picked[start : start + BATCH]] for start in picked[::BATCH]]
    memories = [private_memory() for _ in load(data, batches, Context(Path(), Path(), workers=2))]
    print(f"  workers: {max(memories):.0f} MiB of their own at most", flush=True)


def private_memory() -> float:
    """Return the largest memory in MiB that a child shares with no other process."""
    largest = 0
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in children:
        rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
        lines = [line.split() for line in rollup.splitlines() if line.startswith("Private_")]
        largest = max(largest, sum(int(line[1]) for line in lines))
    return largest / 1024


def theirs(folder: Path) -> None:
    """List the images with torchvision, and look at each file."""
    from torchvision.datasets import ImageFolder

    before = used()
    samples: Iterable[list[tuple[str, int]]] = [
        ImageFolder(str(folder / split)).samples for split in ("train", "test")
    ]
    for part in samples:
        for path, _ in part:
            os.stat(path)  # noqa: PTH116 - faster than Path
    report("torchvision and a stat per file", before)


def main() -> None:
    """Measure each side in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_300_000)
    parser.add_argument("--verify", default="full")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.folder / "images"
    if options.side == "ours":
        ours(root, options.verify)
    elif options.side == "theirs":
        theirs(root)
    else:
        if not root.exists():
            make_files(root, options.images)
            time.sleep(3)  # folders that changed just now are listed again
        command = [sys.executable, "-m", "benchmarks.large_set", str(options.folder)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(options.folder / "cache")}
        for side in ("ours", "theirs", "ours", "theirs"):
            arguments = ["--side", side, "--verify", options.verify]
            subprocess.run([*command, *arguments], check=True, env=environment)


if __name__ == "__main__":
    main()
