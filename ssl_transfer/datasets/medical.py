"""Medical sets with tables of labels: MHIST, ISIC 2018 and NIH ChestX-ray."""

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.layout import (
    by_lists,
    check_fraction,
    class_numbers,
    keep_named,
    lines_of,
    listing,
    published,
    require,
)
from ssl_transfer.datasets.reader import Options, reader, some

MHIST_CLASSES = ("HP", "SSA")
ISIC_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
# The seven of Guo et al. 2020 (https://arxiv.org/abs/1912.07200), whose names they sort.
CHESTX_CLASSES = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax",
)  # fmt: skip
# The newer one corrects patients' ages.
CHESTX_TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")


@reader
def mhist(options: Options, root: str) -> Dataset:
    """Return MHIST: 224x224 patches of colorectal polyps, hyperplastic (HP) or serrated (SSA).

    Official 2,175 training and 977 test images, each labelled by the majority of seven
    pathologists; top-1, and AUC, F1 (of SSA) and mean per class (balanced accuracy). Wei et al.
    2021, https://arxiv.org/abs/2101.12355

    Args:
        options: shared options.
        root: folder that holds ``annotations.csv`` and ``images``.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    base = require(
        options,
        root,
        ["annotations.csv", "images"],
        source="on request at https://bmirds.github.io/MHIST/",
    )
    table = base / "annotations.csv"
    rows = _rows(table, "Image Name", "Majority Vote Label", "Partition")
    listings = {}
    for key in ("train", "test"):
        part = [row for row in rows if row["Partition"] == key]
        labels = class_numbers((row["Majority Vote Label"] for row in part), MHIST_CLASSES, table)
        listings[key] = listing(base / "images", [row["Image Name"] for row in part], labels)
    return published(
        options,
        MHIST_CLASSES,
        listings,
        expected={"train": 2175, "test": 977, "classes": 2},
        also=("auc", "f1", "mean_per_class"),
    )


@reader
def isic(
    options: Options,
    root: str,
    lists: str | None = None,
    split: int = 0,
    test_fraction: float = 0.2,
) -> Dataset:
    """Return ISIC 2018, task 3: dermatoscopic photographs of seven lesions, mean per class.

    10,015 images with public labels and no split; a seeded, stratified share is tested, or lists
    say what is. Codella et al. 2019, https://arxiv.org/abs/1902.03368; Tschandl et al. 2018,
    https://doi.org/10.1038/sdata.2018.161

    Args:
        options: shared options.
        root: folder that holds ``ISIC2018_Task3_Training_Input`` and
            ``ISIC2018_Task3_Training_GroundTruth``.
        lists: folder with annotation lists (see ``by_lists``) (``None``: a seeded split).
        split: which of the lists.
        test_fraction: share of every class that is tested, without lists.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    check_fraction("test_fraction", test_fraction)
    images = "ISIC2018_Task3_Training_Input"
    table = "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
    base = require(
        options, root, [images, table], source="https://challenge.isic-archive.com/data/#2018"
    )
    rows = _rows(base / table, "image", *ISIC_CLASSES)
    # One column is 1.0, the others are 0.0.
    shown = [",".join(name for name in ISIC_CLASSES if float(row[name]) > 0) for row in rows]
    labels = class_numbers(shown, ISIC_CLASSES, base / table)
    everything = listing(base / images, [f"{row['image']}.jpg" for row in rows], labels)
    return published(
        options,
        ISIC_CLASSES,
        by_lists(options, everything, lists, split),
        expected={"classes": 7} if lists else {"all": 10_015, "classes": 7},
        metric="mean_per_class",
        test_fraction=test_fraction,
        facts={"lists": lists and split},
    )


@reader
def chestx(
    options: Options,
    root: str,
    test: Literal["official", "seeded"] = "official",
    lists: str | None = None,
    split: int = 0,
    test_fraction: float = 0.2,
) -> Dataset:
    """Return NIH ChestX-ray with one of seven findings per radiograph, mean per class.

    Of the 112,120 radiographs those with exactly one finding, out of the seven that Guo et al. 2020
    keep (https://arxiv.org/abs/1912.07200). How many these are is published nowhere, so that only
    the classes are checked. Wang et al. 2017, https://arxiv.org/abs/1705.02315

    Args:
        options: shared options.
        root: folder that holds ``Data_Entry_2017.csv`` (or ``Data_Entry_2017_v2020.csv``) and
            ``images`` (or ``images_001/images`` and so on, as the archives unpack).
        test: ``official`` tests the patients of ``test_list.txt``; ``seeded`` a stratified share
            of images, whose patients are trained on, too.
        lists: folder with annotation lists (see ``by_lists``), which then say what is tested.
        split: which of the lists.
        test_fraction: share of every class that is tested if ``test`` is ``seeded``.

    Raises:
        ValueError: if files are missing or an image does not decode.
    """
    check_fraction("test_fraction", test_fraction)
    if test not in ("official", "seeded"):
        raise ValueError(f"`dataset.test` must be one of ['official', 'seeded'], but is {test!r}.")
    official = test == "official" and lists is None
    inside = Path(root).expanduser()
    table = next((name for name in CHESTX_TABLES if (inside / name).is_file()), CHESTX_TABLES[0])
    base = require(
        options,
        root,
        [table, *["test_list.txt"] * official],
        source="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    )
    rows = _rows(base / table, "Image Index", "Finding Labels")
    kept = [row for row in rows if row["Finding Labels"] in CHESTX_CLASSES]
    places = [base / "images", *sorted(base.glob("images_*/images"))]
    where = {path.name: path for place in places if place.is_dir() for path in place.iterdir()}
    lost = [row["Image Index"] for row in kept if row["Image Index"] not in where]
    if lost:
        raise ValueError(
            f"every radiograph of `{options.name}` must lie in `{base / 'images'}` or in "
            f"images_001/images and so on, but {some(lost)} {'does' if len(lost) == 1 else 'do'} "
            "not; unpack all archives."
        )
    everything = Listing(
        paths=[str(where[row["Image Index"]]) for row in kept],
        names=[row["Image Index"] for row in kept],
        targets=np.array([CHESTX_CLASSES.index(row["Finding Labels"]) for row in kept]),
    )
    if official:
        tested = set(lines_of(base / "test_list.txt"))
        listings = {
            "train": keep_named(everything, set(everything.names) - tested),
            "test": keep_named(everything, tested),
        }
    else:
        listings = by_lists(options, everything, lists, split)
    return published(
        options,
        CHESTX_CLASSES,
        listings,
        expected={"classes": 7},
        metric="mean_per_class",
        test_fraction=test_fraction,
        facts={"lists": lists and split} if lists else {"test": test},
    )


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Return the rows of a table that has these columns."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        missing = [name for name in columns if name not in (table.fieldnames or ())]
        if missing:
            raise ValueError(
                f"`{path}` must have the columns {list(columns)}, but lacks {some(missing)}; "
                "download it again."
            )
        return list(table)
