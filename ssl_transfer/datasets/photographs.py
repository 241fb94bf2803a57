"""Photographs with published lists of splits: aircraft, birds, cars, flowers, food and so on."""

import itertools
import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int64

from ssl_transfer.config.ranges import Range
from ssl_transfer.datasets.annotations import (
    lines_of,
    lists_by_class,
    numbers_of,
    read_mat,
    rows_of,
    whole_numbers,
)
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.layout import (
    Boxes,
    class_numbers,
    listing,
    pairs_listing,
    published,
    require,
    torchvision_fetch,
)
from ssl_transfer.datasets.reader import Options, ValRule, reader, some
from ssl_transfer.system import inputs

# Layouts: fgvc_aircraft.py, stanford_cars.py, flowers102.py, food101.py, oxford_iiit_pet.py and
# sun397.py of torchvision/datasets at v0.19.0,
# https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets


PETS = 37
SplitRule = Literal["mix_bt"]
"""Published splits of Oxford Flowers that are not the official ones."""
BirdSplitRule = Literal["few_shot"]
"""Published splits of CUB-200-2011 that are not the official one."""


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
        ValueError: if files are missing or damaged, or an image does not decode.
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
    numbers = numbers_of(classes)

    def parse(line: str) -> tuple[str, int]:
        # "1025794 707-320": the variant's name may hold blanks, the image's does not.
        image, variant = line.split(maxsplit=1)
        return f"{image}.jpg", numbers[variant]

    form = "`image variant`, the variant being a line of variants.txt"
    listings = {
        key: pairs_listing(
            base / data / "images",
            rows_of(base / data / f"images_variant_{key}.txt", form, parse),
        )
        for key in keys
    }
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

    def parse(line: str) -> tuple[str, tuple[int, int, int, int]]:
        name, *edges = line.split()
        left, top, right, bottom = map(int, edges)
        return f"{name}.jpg", (left - 1, top - 1, right, bottom)

    return dict(rows_of(path, "`image left top right bottom` in whole pixels", parse))


@reader
def cub200(
    options: Options,
    root: str,
    bounding_box: bool = False,
    download: bool = False,
    split_rule: BirdSplitRule | None = None,
) -> Dataset:
    """Return Caltech-UCSD Birds-200-2011: photographs of 200 species of birds, top-1.

    Official training and test images. Wah et al. 2011,
    https://www.vision.caltech.edu/datasets/cub_200_2011/

    Args:
        options: shared options.
        root: folder that holds ``CUB_200_2011``, as the archive unpacks.
        bounding_box: whether to cut each image to the bird.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.
        split_rule: ``few_shot``: splits with species of their own, of all images (see
            ``few_shot_parts``; ``None``: the official split).

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home = "CUB_200_2011"
    lists = ("classes", "images", "image_class_labels", "train_test_split")
    needed = [f"{home}/images", *(f"{home}/{name}.txt" for name in lists)]
    needed += [f"{home}/bounding_boxes.txt"] * bounding_box
    source = "CUB_200_2011.tgz of https://www.vision.caltech.edu/datasets/cub_200_2011/"
    base = require(options, root, needed, download=download, source=source) / home
    # "1 001.Black_footed_Albatross/….jpg", "1 1", "1 0": an image's number, then its value.
    names = dict(rows_of(base / "images.txt", "`number path`", _pair))
    species = dict(rows_of(base / "classes.txt", "`number class`", _pair))
    label_of = _by_image(
        base / "image_class_labels.txt", "class by its number in classes.txt", names, list(species)
    )
    # 0 is a test image, 1 a training image.
    trained = _by_image(base / "train_test_split.txt", "0 or 1", label_of, ["0", "1"])
    classes = list(species.values())
    if split_rule is None:
        part_of = {image_id: ("test", "train")[kind] for image_id, kind in trained.items()}
        expected = {"train": 5994, "test": 5794, "classes": 200}
    else:
        parts = few_shot_parts(classes)
        part_of = {image_id: parts[classes[label]] for image_id, label in label_of.items()}
        expected = {"all": 11_788, "classes": 200}
    listings = {}
    for key in ("train", "test") if split_rule is None else ("train", "val", "test"):
        ids = [image_id for image_id, part in part_of.items() if part == key]
        labels = [label_of[image_id] for image_id in ids]
        listings[key] = listing(base / "images", [names[image_id] for image_id in ids], labels)
    boxes = _cub_boxes(base / "bounding_boxes.txt", names) if bounding_box else None
    facts: dict[str, object] = {"bounding_box": bounding_box}
    return published(
        options,
        classes,
        listings,
        expected=expected,
        boxes=boxes,
        disjoint=split_rule is not None,
        facts=facts if split_rule is None else {**facts, "split_rule": split_rule},
    )


def few_shot_parts(classes: Sequence[str]) -> dict[str, str]:
    """Return the split of each class: half of them train, a quarter validates, a quarter is tested.

    In the order of names, every second class trains (base), and the others alternate between
    validation and test (novel): ``filelists/CUB/write_CUB_filelist.py`` of
    github.com/wyharveychen/CloserLookFewShot, for Chen et al. 2019,
    https://arxiv.org/abs/1904.04232.
    """
    parts = itertools.cycle(("train", "val", "train", "test"))
    return dict(zip(sorted(classes), parts, strict=False))


def _pair(line: str) -> tuple[str, str]:
    number, value = line.split(maxsplit=1)
    return number, value


def _by_image(path: Path, what: str, images: Container[str], values: list[str]) -> dict[str, int]:
    """Return the position of each image's value among ``values``, by the image's number."""

    def parse(line: str) -> tuple[str, int]:
        image, value = line.split()
        if image not in images:
            raise KeyError(image)
        return image, values.index(value)

    return dict(rows_of(path, f"`number value`, an image by its number and {what}", parse))


def _cub_boxes(path: Path, names: dict[str, str]) -> Boxes:
    """Return the boxes of "1 60.0 27.0 325.0 304.0": left, top, width and height in pixels."""

    def parse(line: str) -> tuple[str, tuple[int, int, int, int]]:
        number, *values = line.split()
        left, top, width, height = map(float, values)
        right, bottom = math.ceil(left + width), math.ceil(top + height)
        return names[number], (math.floor(left), math.floor(top), right, bottom)

    form = "`number left top width height`, an image by its number and its box in pixels"
    return dict(rows_of(path, form, parse))


@reader
def cars(
    options: Options, root: str, val_rule: ValRule | None = None, download: bool = False
) -> Dataset:
    """Return Stanford Cars: photographs of 196 makes, models and years, top-1.

    Official training and test images. Krause et al. 2013,
    https://ai.stanford.edu/~jkrause/papers/3drr13.pdf. The address that torchvision downloads
    from is dead.

    Args:
        options: shared options.
        root: folder that holds ``stanford_cars``.
        val_rule: how validation images are chosen.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
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
        download=download,
        source="the authors' address is dead; mirrors exist",
    )
    classes = [str(name) for name in read_mat(base / home / "devkit/cars_meta.mat", "class_names")]
    listings = {}
    for key, file in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = read_mat(base / home / file, "annotations", "fname", "class")
        listings[key] = listing(
            base / home / f"cars_{key}",
            [str(name) for name in rows["fname"]],
            whole_numbers(base / home / file, rows["class"], 1, len(classes)) - 1,
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
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home = "flowers-102"
    needed = [f"{home}/jpg", f"{home}/imagelabels.mat", f"{home}/setid.mat"]
    base = require(options, root, needed, download=download, fetch=torchvision_fetch("Flowers102"))
    numbered, sets = base / home / "imagelabels.mat", base / home / "setid.mat"
    labels = whole_numbers(numbered, read_mat(numbered, "labels"), 1, 102) - 1
    expected = {"all": 8189, "classes": 102}
    if split_rule is None:
        parts = {
            key: whole_numbers(sets, read_mat(sets, field), 1, len(labels)) - 1
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
    """Return the training and test positions of transfer_datasets in github.com/wgcban/mix-bt.

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
    wrong, as published. Images are listed class by class in the order of ``meta/train.json``; with
    ``val_rule``, in the order of ``meta/classes.txt``, as in Ericsson et al. 2021. Bossard et al.
    2014, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/

    Args:
        options: shared options.
        root: folder that holds ``food-101``.
        download: whether torchvision may fetch what is missing.
        val_rule: how validation images are chosen.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home = "food-101"
    needed = [f"{home}/images", f"{home}/meta/train.json", f"{home}/meta/test.json"]
    needed += [f"{home}/meta/classes.txt"] * (val_rule is not None)
    base = require(options, root, needed, download=download, fetch=torchvision_fetch("Food101"))
    named = {key: lists_by_class(base / home / "meta" / f"{key}.json") for key in ("train", "test")}
    classes = sorted(named["train"])
    if val_rule is not None:
        named["train"] = _in_order(named["train"], base / home / "meta" / "classes.txt")
    listings = {}
    for key, by_class in named.items():
        names = [f"{name}.jpg" for group in by_class.values() for name in group]
        by_image = (label for label, group in by_class.items() for _ in group)
        labels = class_numbers(by_image, classes, base / home / "meta" / f"{key}.json")
        listings[key] = listing(base / home / "images", names, labels)
    expected = {"train": 75_750, "test": 25_250, "classes": 101}
    return published(options, classes, listings, expected=expected, val_rule=val_rule)


def _in_order(by_class: dict[str, list[str]], path: Path) -> dict[str, list[str]]:
    """Return lists by class in the order of a file of the classes' names."""
    order = lines_of(path)
    if sorted(order) != sorted(by_class):
        raise ValueError(
            f"`{path}` must list the {len(by_class)} classes of train.json, but "
            f"{some(sorted(set(order) ^ set(by_class)))} are in only one of both; unpack the "
            "archive again."
        )
    return {name: by_class[name] for name in order}


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
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home = "oxford-iiit-pet"
    needed = [f"{home}/images"] + [f"{home}/annotations/{key}.txt" for key in ("trainval", "test")]
    base = require(
        options, root, needed, download=download, fetch=torchvision_fetch("OxfordIIITPet")
    )
    listings = {}
    names_of: dict[int, str] = {}
    form = f"`image class species breed`, with a class from 1 to {PETS}"
    for key, file in (("train", "trainval.txt"), ("test", "test.txt")):
        rows = rows_of(base / home / "annotations" / file, form, _pet)
        listings[key] = pairs_listing(base / home / "images", rows)
        names_of |= {label: name.rpartition("_")[0] for name, label in rows}
    classes = [names_of[label].replace("_", " ") for label in sorted(names_of)]
    expected = {"train": 3680, "test": 3669, "classes": PETS}
    return published(
        options, classes, listings, expected=expected, metric="mean_per_class", val_rule=val_rule
    )


def _pet(line: str) -> tuple[str, int]:
    """Return file and class number of "Abyssinian_100 1 1 1"."""
    image, number = line.split()[:2]
    return f"{image}.jpg", range(1, PETS + 1).index(int(number))


@reader
def sun397(
    options: Options,
    root: str,
    split: Annotated[int, Range(1, 10)] = 1,
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
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    places = ("Partitions", "SUN397", "SUN397/Partitions")
    inside = Path(root).expanduser()
    beside = next((p for p in places if inputs.is_file(inside / p / "Training_01.txt")), places[0])
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
    numbers = numbers_of(folders)

    def parse(line: str) -> tuple[str, int]:
        return line.lstrip("/"), numbers[line.rpartition("/")[0]]

    form = "`/folder/image`, the folder being a line of ClassName.txt"
    listings = {
        key: pairs_listing(
            base / home, rows_of(base / beside / f"{stem}_{split:02d}.txt", form, parse)
        )
        for key, stem in (("train", "Training"), ("test", "Testing"))
    }
    return published(
        options,
        [folder[3:] for folder in folders],
        listings,
        expected={"train": 19_850, "test": 19_850, "classes": 397},
        val_rule=val_rule,
        facts={"official_split": split},
    )
