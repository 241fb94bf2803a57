"""Photographs with published lists of splits: aircraft, birds, cars, flowers, food and so on."""

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.layout import (
    Boxes,
    class_numbers,
    lines_of,
    listing,
    published,
    read_mat,
    require,
    torchvision_fetch,
)
from ssl_transfer.datasets.reader import Options, ValRule, reader

# Layouts: fgvc_aircraft.py, stanford_cars.py, flowers102.py, food101.py, oxford_iiit_pet.py and
# sun397.py of torchvision/datasets at v0.19.0,
# https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets


SplitRule = Literal["mix_bt"]
"""Published splits of Oxford Flowers that are not the official ones."""


@reader
def aircraft(
    options: Options, root: str, download: bool = False, bounding_box: bool = False
) -> Dataset:
    """Return FGVC-Aircraft: photographs of 100 variants of aircraft, mean per class.

    Official splits. Maji et al. 2013, https://arxiv.org/abs/1306.5151

    Args:
        options: shared options.
        root: folder that holds ``fgvc-aircraft-2013b/data``.
        download: whether torchvision may fetch what is missing.
        bounding_box: whether to cut each image to the aircraft, which also takes off the banner
            with the photographer's name.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    data = "fgvc-aircraft-2013b/data"
    keys = ("train", "val", "test")
    needed = [f"{data}/images", f"{data}/variants.txt"]
    needed += [f"{data}/images_variant_{key}.txt" for key in keys]
    needed += [f"{data}/images_box.txt"] * bounding_box
    base = require(
        options, root, needed, download=download, fetch=torchvision_fetch("FGVCAircraft")
    )
    classes = lines_of(base / data / "variants.txt")
    listings = {}
    for key in keys:
        file = base / data / f"images_variant_{key}.txt"
        # "1025794 707-320": the variant's name may hold blanks, the image's does not.
        rows = [line.partition(" ") for line in lines_of(file)]
        labels = class_numbers((row[2] for row in rows), classes, file)
        listings[key] = listing(base / data / "images", [f"{row[0]}.jpg" for row in rows], labels)
    return published(
        options,
        classes,
        listings,
        expected={"train": 3334, "val": 3333, "test": 3333, "classes": 100},
        metric="mean_per_class",
        boxes=_aircraft_boxes(base / data / "images_box.txt") if bounding_box else None,
        facts={"bounding_box": bounding_box},
    )


def _aircraft_boxes(path: Path) -> Boxes:
    """Return the boxes of "1025794 3 144 998 431": first and last pixels, counted from 1."""
    rows = (line.split() for line in lines_of(path))
    return {
        f"{name}.jpg": (int(left) - 1, int(top) - 1, int(right), int(bottom))
        for name, left, top, right, bottom in rows
    }


@reader
def cub200(options: Options, root: str, bounding_box: bool = False) -> Dataset:
    """Return Caltech-UCSD Birds-200-2011: photographs of 200 species of birds, top-1.

    Official training and test images. Wah et al. 2011,
    https://www.vision.caltech.edu/datasets/cub_200_2011/

    Args:
        options: shared options.
        root: folder that holds ``CUB_200_2011``, as the archive unpacks.
        bounding_box: whether to cut each image to the bird.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    home = "CUB_200_2011"
    lists = ("classes", "images", "image_class_labels", "train_test_split")
    needed = [f"{home}/images", *(f"{home}/{name}.txt" for name in lists)]
    needed += [f"{home}/bounding_boxes.txt"] * bounding_box
    source = "CUB_200_2011.tgz of https://www.vision.caltech.edu/datasets/cub_200_2011/"
    base = require(options, root, needed, source=source) / home
    # "1 001.Black_footed_Albatross/….jpg", "1 1", "1 0": an image's number, then what it has.
    columns = {
        name: dict(line.split(maxsplit=1) for line in lines_of(base / f"{name}.txt"))
        for name in lists
    }
    names, species = columns["images"], columns["classes"]
    numbers = {label: position for position, label in enumerate(species)}
    listings = {}
    for key, sign in (("train", "1"), ("test", "0")):
        ids = [one for one, kind in columns["train_test_split"].items() if kind == sign]
        labels = [numbers[columns["image_class_labels"][one]] for one in ids]
        listings[key] = listing(base / "images", [names[one] for one in ids], labels)
    boxes = _cub_boxes(base / "bounding_boxes.txt", names) if bounding_box else None
    return published(
        options,
        list(species.values()),
        listings,
        expected={"train": 5994, "test": 5794, "classes": 200},
        boxes=boxes,
        facts={"bounding_box": bounding_box},
    )


def _cub_boxes(path: Path, names: dict[str, str]) -> Boxes:
    """Return the boxes of "1 60.0 27.0 325.0 304.0": left, top, width and height in pixels."""
    boxes = {}
    for line in lines_of(path):
        number, *values = line.split()
        left, top, width, height = map(float, values)
        right, bottom = math.ceil(left + width), math.ceil(top + height)
        boxes[names[number]] = (math.floor(left), math.floor(top), right, bottom)
    return boxes


@reader
def cars(options: Options, root: str, val_rule: ValRule | None = None) -> Dataset:
    """Return Stanford Cars: photographs of 196 makes, models and years, top-1.

    Official training and test images. Krause et al. 2013,
    https://ai.stanford.edu/~jkrause/papers/3drr13.pdf. The address that torchvision downloads
    from is dead.

    Args:
        options: shared options.
        root: folder that holds ``stanford_cars``.
        val_rule: how validation images are chosen.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    home = "stanford_cars"
    base = require(
        options,
        root,
        [
            f"{home}/devkit/cars_meta.mat",
            f"{home}/devkit/cars_train_annos.mat",
            f"{home}/cars_test_annos_withlabels.mat",
            f"{home}/cars_train",
            f"{home}/cars_test",
        ],
        source="the authors' address is dead; mirrors exist",
    )
    classes = [str(name) for name in read_mat(base / home / "devkit/cars_meta.mat", "class_names")]
    listings = {}
    for key, file in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = read_mat(base / home / file, "annotations")
        listings[key] = listing(
            base / home / f"cars_{key}",
            [str(name) for name in rows["fname"]],
            np.array(rows["class"], dtype=np.int64) - 1,
        )
    expected = {"train": 8144, "test": 8041, "classes": 196}
    return published(options, classes, listings, expected=expected, val_rule=val_rule)


@reader
def flowers(
    options: Options, root: str, download: bool = False, split_rule: SplitRule | None = None
) -> Dataset:
    """Return Oxford Flowers: photographs of 102 species, mean per class.

    Official splits: 10 training and 10 validation images per class. Nilsback and Zisserman 2008,
    https://www.robots.ox.ac.uk/~vgg/data/flowers/102/

    Args:
        options: shared options.
        root: folder that holds ``flowers-102``.
        download: whether torchvision may fetch what is missing.
        split_rule: ``mix_bt`` tests on the fifth of every class that github.com/wgcban/mix-bt
            drew, and trains and validates on the rest (``None``: the official splits).

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    home = "flowers-102"
    needed = [f"{home}/jpg", f"{home}/imagelabels.mat", f"{home}/setid.mat"]
    base = require(options, root, needed, download=download, fetch=torchvision_fetch("Flowers102"))
    labels = np.array(read_mat(base / home / "imagelabels.mat", "labels"), dtype=np.int64) - 1
    expected = {"all": 8189, "classes": 102}
    if split_rule is None:
        parts = {
            key: np.array(read_mat(base / home / "setid.mat", field), dtype=np.int64) - 1
            for key, field in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
        }
        expected |= {"train": 1020, "val": 1020, "test": 6149}
    else:
        parts = mix_bt_split(labels)
    listings = {
        key: listing(
            base / home / "jpg", [f"image_{i + 1:05d}.jpg" for i in part.tolist()], labels[part]
        )
        for key, part in parts.items()
    }
    # The archive does not name the species.
    classes = [str(number) for number in range(1, int(labels.max()) + 2)]
    return published(
        options,
        classes,
        listings,
        expected=expected,
        metric="mean_per_class",
        facts={"split_rule": split_rule},
    )


def mix_bt_split(
    labels: Int64[np.ndarray, " images"],
) -> dict[str, Int64[np.ndarray, " part"]]:
    """Return the positions that transfer_datasets of github.com/wgcban/mix-bt trains and tests on.

    numpy's legacy generator with seed 42 shuffles one class after another, in the order in which
    classes first appear; the first ``int(0.8 · n)`` of a class's ``n`` train.
    """
    chance = np.random.RandomState(42)
    parts: dict[str, list[Int64[np.ndarray, " part"]]] = {"train": [], "test": []}
    first = np.sort(np.unique(labels, return_index=True)[1])
    for label in labels[first]:
        members = np.flatnonzero(labels == label)
        order = np.arange(len(members))
        chance.shuffle(order)
        cut = int(0.8 * len(members))
        parts["train"].append(members[order[:cut]])
        parts["test"].append(members[order[cut:]])
    return {key: np.concatenate(part) for key, part in parts.items()}


@reader
def food101(
    options: Options, root: str, download: bool = False, val_rule: ValRule | None = None
) -> Dataset:
    """Return Food-101: photographs of 101 dishes, top-1.

    Official 750 training and 250 test images per class; labels of the training images are partly
    wrong, as published. Bossard et al. 2014, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/

    Args:
        options: shared options.
        root: folder that holds ``food-101``.
        download: whether torchvision may fetch what is missing.
        val_rule: how validation images are chosen.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    home = "food-101"
    needed = [f"{home}/images", f"{home}/meta/train.json", f"{home}/meta/test.json"]
    base = require(options, root, needed, download=download, fetch=torchvision_fetch("Food101"))
    named = {
        key: json.loads((base / home / "meta" / f"{key}.json").read_text())
        for key in ("train", "test")
    }
    classes = sorted(named["train"])
    listings = {}
    for key, by_class in named.items():
        names = [f"{name}.jpg" for group in by_class.values() for name in group]
        by_image = (label for label, group in by_class.items() for _ in group)
        labels = class_numbers(by_image, classes, base / home / "meta" / f"{key}.json")
        listings[key] = listing(base / home / "images", names, labels)
    expected = {"train": 75_750, "test": 25_250, "classes": 101}
    return published(options, classes, listings, expected=expected, val_rule=val_rule)


@reader
def pets(
    options: Options, root: str, download: bool = False, val_rule: ValRule | None = None
) -> Dataset:
    """Return Oxford-IIIT Pets: photographs of 37 breeds of cats and dogs, mean per class.

    Official training (``trainval``) and test images. Parkhi et al. 2012,
    https://www.robots.ox.ac.uk/~vgg/data/pets/

    Args:
        options: shared options.
        root: folder that holds ``oxford-iiit-pet``.
        download: whether torchvision may fetch what is missing.
        val_rule: how validation images are chosen.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    home = "oxford-iiit-pet"
    needed = [f"{home}/images"] + [f"{home}/annotations/{key}.txt" for key in ("trainval", "test")]
    base = require(
        options, root, needed, download=download, fetch=torchvision_fetch("OxfordIIITPet")
    )
    listings = {}
    names_of: dict[int, str] = {}
    for key, file in (("train", "trainval.txt"), ("test", "test.txt")):
        # "Abyssinian_100 1 1 1": image, class from 1, species, breed within the species.
        rows = [line.split() for line in lines_of(base / home / "annotations" / file)]
        labels = [int(row[1]) - 1 for row in rows]
        listings[key] = listing(base / home / "images", [f"{row[0]}.jpg" for row in rows], labels)
        names_of |= {
            label: row[0].rpartition("_")[0] for row, label in zip(rows, labels, strict=True)
        }
    classes = [names_of[label].replace("_", " ") for label in sorted(names_of)]
    expected = {"train": 3680, "test": 3669, "classes": 37}
    return published(
        options, classes, listings, expected=expected, metric="mean_per_class", val_rule=val_rule
    )


@reader
def sun397(
    options: Options,
    root: str,
    split: int = 1,
    download: bool = False,
    val_rule: ValRule | None = None,
) -> Dataset:
    """Return SUN397: photographs of 397 kinds of places, top-1.

    Official partitions of 50 training and 50 test images per class. Xiao et al. 2010,
    https://vision.princeton.edu/projects/2010/SUN/

    Args:
        options: shared options.
        root: folder that holds ``SUN397``, and in it or beside it ``Partitions`` (a second archive,
            which torchvision does not fetch; its files may lie in ``SUN397``, too).
        split: which of the ten official partitions; published results mostly use the first.
        download: whether torchvision may fetch the images.
        val_rule: how validation images are chosen.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    if split not in range(1, 11):
        raise ValueError(f"`dataset.split` must be one of 1 to 10, but is {split}.")
    places = ("Partitions", "SUN397", "SUN397/Partitions")
    inside = Path(root).expanduser()
    beside = next((p for p in places if (inside / p / "Training_01.txt").is_file()), places[0])
    home = "SUN397"
    base = require(
        options,
        root,
        [f"{home}/ClassName.txt", f"{beside}/Training_{split:02d}.txt"],
        download=download,
        fetch=torchvision_fetch("SUN397"),
        source="partitions: Partitions.zip of https://vision.princeton.edu/projects/2010/SUN/",
    )
    folders = lines_of(base / home / "ClassName.txt")  # "/a/abbey", "/c/church/indoor"
    listings = {}
    for key, stem in (("train", "Training"), ("test", "Testing")):
        file = base / beside / f"{stem}_{split:02d}.txt"
        names = lines_of(file)
        labels = class_numbers((name.rpartition("/")[0] for name in names), folders, file)
        listings[key] = listing(base / home, [name.lstrip("/") for name in names], labels)
    return published(
        options,
        [folder[3:] for folder in folders],
        listings,
        expected={"train": 19_850, "test": 19_850, "classes": 397},
        val_rule=val_rule,
        facts={"official_split": split},
    )
