"""Medical sets with tables of labels: MHIST, ISIC 2018 and NIH ChestX-ray."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from ssl_transfer.config.ranges import ProperFraction, Range
from ssl_transfer.datasets.annotations import lines_of, numbers_of, table_of
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.layout import (
    by_lists,
    keep_named,
    pairs_listing,
    published,
    require,
)
from ssl_transfer.datasets.reader import Options, reader, some
from ssl_transfer.system import inputs

MHIST_CLASSES = ("HP", "SSA")
ISIC_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
# The seven findings of Guo et al. 2020 (https://arxiv.org/abs/1912.07200), sorted by name.
CHESTX_CLASSES = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax",
)  # fmt: skip
# The newer table corrects patients' ages.
CHESTX_TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")


@reader
def mhist(options: Options, root: str, download: bool = False) -> Dataset:
    """Return MHIST: 224x224 patches of colorectal polyps, hyperplastic (HP) or serrated (SSA).

    Official 2,175 training and 977 test images, each labelled by the majority of seven
    pathologists; top-1, and AUC, F1 (of SSA) and mean per class (balanced accuracy). Wei et al.
    2021, https://arxiv.org/abs/2101.12355

    Args:
        options: shared options.
        root: folder that holds ``annotations.csv`` and ``images``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    base = require(
        options,
        root,
        ["annotations.csv", "images"],
        download=download,
        source="on request at https://bmirds.github.io/MHIST/",
    )
    columns = ("Image Name", "Majority Vote Label", "Partition")
    numbers, parts = numbers_of(MHIST_CLASSES), ("train", "test")

    def parse(row: dict[str, str]) -> tuple[str, tuple[str, int]]:
        name, label, part = (row[column] for column in columns)
        return parts[parts.index(part)], (name, numbers[label])

    form = f"an image, a class out of {some(MHIST_CLASSES)}, and `train` or `test`"
    rows = table_of(base / "annotations.csv", columns, form, parse)
    listings = {
        key: pairs_listing(base / "images", [pair for part, pair in rows if part == key])
        for key in parts
    }
    return published(
        options,
        MHIST_CLASSES,
        listings,
        expected={"train": 2175, "test": 977, "classes": 2},
        extra_metrics=("auc", "f1"),
    )


@reader
def isic(
    options: Options,
    root: str,
    lists: str | None = None,
    split: Annotated[int, Range(0, cap=10**6)] = 0,
    test_fraction: ProperFraction = 0.2,
    download: bool = False,
) -> Dataset:
    """Return ISIC 2018, task 3: dermatoscopic photographs of seven lesions, mean per class.

    10,015 images with public labels and no split; the test split is a seeded, stratified share, or
    given by lists. Codella et al. 2019, https://arxiv.org/abs/1902.03368; Tschandl et al. 2018,
    https://doi.org/10.1038/sdata.2018.161

    Args:
        options: shared options.
        root: folder that holds ``ISIC2018_Task3_Training_Input`` and
            ``ISIC2018_Task3_Training_GroundTruth``.
        lists: folder with annotation lists (see ``by_lists``) (``None``: a seeded split).
        split: which of the lists.
        test_fraction: share of every class that is tested, without lists.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    images = "ISIC2018_Task3_Training_Input"
    table = "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
    base = require(
        options,
        root,
        [images, table],
        download=download,
        source="https://challenge.isic-archive.com/data/#2018",
    )
    form = f"an image and 0.0 for all of {some(ISIC_CLASSES, 7)} but one, which is 1.0"
    pairs = table_of(base / table, ("image", *ISIC_CLASSES), form, _lesion)
    everything = pairs_listing(base / images, pairs)
    return published(
        options,
        ISIC_CLASSES,
        by_lists(options, everything, lists, split),
        expected={"classes": 7} if lists else {"all": 10_015, "classes": 7},
        metric="mean_per_class",
        test_fraction=test_fraction,
        facts={"lists": lists and split},
    )


def _lesion(row: dict[str, str]) -> tuple[str, int]:
    """Return file and class number of a row of the table."""
    marks = [float(row[name]) for name in ISIC_CLASSES]
    if sorted(marks) != [0.0] * (len(marks) - 1) + [1.0]:
        raise ValueError("there is not exactly one class")
    return f"{row['image']}.jpg", marks.index(1.0)


@reader
def chestx(
    options: Options,
    root: str,
    test: Literal["official", "seeded"] = "official",
    lists: str | None = None,
    split: Annotated[int, Range(0, cap=10**6)] = 0,
    test_fraction: ProperFraction = 0.2,
    download: bool = False,
) -> Dataset:
    """Return NIH ChestX-ray with one of seven findings per radiograph, mean per class.

    The set has those of the 112,120 radiographs with exactly one finding, out of the seven findings
    that Guo et al. 2020 keep (https://arxiv.org/abs/1912.07200). Their number is not published, so
    that only the classes are checked. Wang et al. 2017, https://arxiv.org/abs/1705.02315

    Args:
        options: shared options.
        root: folder that holds ``Data_Entry_2017.csv`` (or ``Data_Entry_2017_v2020.csv``) and
            ``images`` (or ``images_001/images`` and so on, as the archives unpack).
        test: ``official`` tests the patients of ``test_list.txt``; ``seeded`` tests a stratified
            share of the images, whose patients also have training images.
        lists: folder with annotation lists (see ``by_lists``), which then define the test split.
        split: which of the lists.
        test_fraction: share of every class that is tested if ``test`` is ``seeded``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    if test not in ("official", "seeded"):
        raise ValueError(f"`dataset.test` must be one of ['official', 'seeded'], but is {test!r}.")
    official = test == "official" and lists is None
    inside = Path(root).expanduser()
    table = next(
        (name for name in CHESTX_TABLES if inputs.is_file(inside / name)), CHESTX_TABLES[0]
    )
    base = require(
        options,
        root,
        [table, *["test_list.txt"] * official],
        download=download,
        source="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    )
    columns, form = ("Image Index", "Finding Labels"), "an image and its findings"
    rows = table_of(base / table, columns, form, _radiograph)
    single_findings = [(name, finding) for name, finding in rows if finding in CHESTX_CLASSES]
    places = [base / "images", *sorted(base.glob("images_*/images"))]
    where = {path.name: path for place in places if place.is_dir() for path in place.iterdir()}
    lost = [name for name, _ in single_findings if name not in where]
    if lost:
        raise ValueError(
            f"every radiograph of `{options.name}` must lie in `{base / 'images'}` or in "
            f"images_001/images and so on, but {some(lost)} {'does' if len(lost) == 1 else 'do'} "
            "not; unpack all archives."
        )
    everything = Listing(
        paths=[str(where[name]) for name, _ in single_findings],
        names=[name for name, _ in single_findings],
        targets=np.array(
            [CHESTX_CLASSES.index(finding) for _, finding in single_findings], dtype=np.int64
        ),
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


def _radiograph(row: dict[str, str]) -> tuple[str, str]:
    """Return image and findings of a row of the table."""
    name, findings = row.values()
    if not (name and findings):
        raise ValueError("an empty cell")
    return name, findings
