"""Layout: torchvision/datasets/caltech.py at v0.19.0; split: the files of Ericsson et al. 2021.

https://github.com/linusericsson/ssl-transfer/tree/416913f/caltech101-splits
"""

from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import draw, labels, write

from ssl_transfer.datasets.caltech import caltech101, draw_with_replacement

# Images per class of the published archive, in the order of code points: 9,144 together.
COUNTS = np.fromstring(
    "467 435 435 200 798 55 800 42 42 47 54 46 33 128 98 43 85 91 50 43 123 47 59 62 107 47 69 73 "
    "70 50 51 57 67 52 65 68 75 64 53 64 85 67 67 45 34 34 51 99 100 42 54 88 80 31 64 86 114 61 "
    "81 78 41 66 43 40 87 32 76 55 35 39 47 38 45 53 34 57 82 59 49 40 63 39 84 57 35 64 45 86 59 "
    "64 35 85 49 86 75 239 37 59 34 56 39 60",
    dtype=int,
    sep=" ",
)


def test_the_published_split_is_drawn_again() -> None:
    files = {
        f"{number:03d}": [f"image_{i:04d}.jpg" for i in range(1, count + 1)]
        for number, count in enumerate(COUNTS)
    }
    split = draw_with_replacement(files)
    assert COUNTS.sum() == 9144
    assert (len(split["train"]), len(split["test"])) == (2416, 6728)
    assert not set(split["train"]) & set(split["test"])
    # Lines of the published train.txt: the classes BACKGROUND_Google, accordion, and the last one,
    # yin_yang, which is right only if every draw before it is.
    published = {
        "000": "10 26 40 48 71 73 88 89 118 166 173 175 193 194 196 212 243 252 266 278 293 315 "
        "324 334 338 360 397 405",
        "005": "1 3 4 9 12 14 17 20 23 25 31 32 33 35 39 41 43 44 47 49 52 55",
        "101": "1 2 3 7 8 9 11 14 19 20 21 22 26 27 34 38 41 42 47 52 56 57 59 60",
    }
    for name, numbers in published.items():
        drawn = [int(line[-8:-4]) for line in split["train"] if line.startswith(name)]
        assert drawn == [int(number) for number in numbers.split()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "caltech101" / "101_ObjectCategories"
    for name in ("BACKGROUND_Google", "Faces", "accordion"):
        draw(folder / name, *(f"image_{number:04d}.jpg" for number in range(1, 36)))
    (folder / "BACKGROUND_Google" / "tmp").write_bytes(b"")  # a file of the archive
    return tmp_path


def test_classes_are_torchvisions_and_the_background(root: Path) -> None:
    dataset = caltech101(root=str(root), name="caltech101", sizes="warn")
    judge = torchvision.datasets.Caltech101(str(root))
    assert dataset.classes == ("BACKGROUND_Google", *judge.categories)
    assert dataset.metric == "mean_per_class"
    found = labels(dataset, "train", "val", "test")
    assert len(found) == 3 * 35
    assert all(dataset.classes[label] == name.split("/")[0] for name, label in found.items())


def test_other_lists_are_taken(root: Path, tmp_path: Path) -> None:
    for key, numbers in (("train", (3, 1, 3)), ("test", (8, 9, 8))):
        lines = [
            f"{name}/image_{number:04d}.jpg {label}"
            for label, name in enumerate(("BACKGROUND_Google", "Faces", "accordion"))
            for number in numbers
        ]
        write(tmp_path / "lists" / f"{key}.txt", *lines)
    keys = {"root": str(root), "name": "caltech101", "lists": str(tmp_path / "lists")}
    dataset = caltech101(**keys, sizes="warn")
    assert dataset.facts["sizes"] == {"train": 3, "val": 3, "test": 6}  # each line once
    assert dataset["test"].names[2:4] == ["Faces/image_0008.jpg", "Faces/image_0009.jpg"]
    with pytest.raises(ValueError, match=r"'train': 2416, 'test': 6728.* has {'train': 6, 'test'"):
        caltech101(**keys)
    write(tmp_path / "lists" / "test.txt", "Faces/image_0002.jpg 1", "Faces/image_0003.jpg 1")
    with pytest.raises(ValueError, match=r"`Faces/image_0003\.jpg` is in both"):
        caltech101(**keys, sizes="warn")
    write(tmp_path / "lists" / "test.txt", "Faces/image_0002.jpg 2")
    with pytest.raises(ValueError, match=r"line 1 of .* is 'Faces/image_0002\.jpg 2'"):
        caltech101(**keys, sizes="warn")
