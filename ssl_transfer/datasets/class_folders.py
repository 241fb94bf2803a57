"""Published sets in class folders: EuroSAT, plant diseases, traffic signs, ImageNets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from ssl_transfer.config.ranges import ProperFraction, Range
from ssl_transfer.datasets.annotations import lines_of, numbers_of, rows_of, table_of
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.folder import class_listing, known_folders
from ssl_transfer.datasets.layout import (
    by_lists,
    keep_named,
    pairs_listing,
    published,
    require,
    torchvision_fetch,
)
from ssl_transfer.datasets.reader import Options, check_sizes, reader, some
from ssl_transfer.datasets.splitting import hold_out
from ssl_transfer.datasets.walk import subfolders

TINY_IMAGENET = {"train": 100_000, "test": 10_000, "classes": 200}
IMAGENET = {"train": 1_281_167, "test": 50_000, "classes": 1000}
IMAGENET_100 = (
    "n01558993 n01692333 n01729322 n01735189 n01749939 n01773797 n01820546 n01855672 "
    "n01978455 n01980166 n01983481 n02009229 n02018207 n02085620 n02086240 n02086910 "
    "n02087046 n02089867 n02089973 n02090622 n02091831 n02093428 n02099849 n02100583 "
    "n02104029 n02105505 n02106550 n02107142 n02108089 n02109047 n02113799 n02113978 "
    "n02114855 n02116738 n02119022 n02123045 n02138441 n02172182 n02231487 n02259212 "
    "n02326432 n02396427 n02483362 n02488291 n02701002 n02788148 n02804414 n02859443 "
    "n02869837 n02877765 n02974003 n03017168 n03032252 n03062245 n03085013 n03259280 "
    "n03379051 n03424325 n03492542 n03494278 n03530642 n03584829 n03594734 n03637318 "
    "n03642806 n03764736 n03775546 n03777754 n03785016 n03787032 n03794056 n03837869 "
    "n03891251 n03903868 n03930630 n03947888 n04026417 n04067472 n04099969 n04111531 "
    "n04127249 n04136333 n04229816 n04238763 n04336792 n04418357 n04429376 n04435653 "
    "n04485082 n04493381 n04517823 n04589890 n04592741 n07714571 n07715103 n07753275 "
    "n07831146 n07836838 n13037406 n13040303"
)
"""The classes of ``imagenet100.txt`` of https://github.com/HobbitLong/CMC, sorted."""


@reader
def eurosat(
    options: Options,
    root: str,
    lists: str | None = None,
    split: Annotated[int, Range(0, cap=10**6)] = 0,
    test_fraction: ProperFraction = 0.2,
    download: bool = False,
) -> Dataset:
    """Return EuroSAT: 64x64 satellite images (RGB) of ten kinds of land use, top-1.

    27,000 images and no official split: the test split is a seeded, stratified share, or given by
    lists. Helber et al. 2019, https://arxiv.org/abs/1709.00029

    Args:
        options: shared options.
        root: folder that holds ``eurosat/2750``.
        lists: folder with annotation lists (see ``by_lists``) (``None``: a seeded split).
        split: which of the lists.
        test_fraction: share of every class that is tested, without lists.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if the folder is missing or an image does not decode.
    """
    base = require(
        options, root, ["eurosat/2750"], download=download, fetch=torchvision_fetch("EuroSAT")
    )
    classes, everything = _class_folders(base / "eurosat" / "2750")
    return published(
        options,
        classes,
        by_lists(options, everything, lists, split),
        expected={"classes": 10} if lists else {"all": 27_000, "classes": 10},
        test_fraction=test_fraction,
        facts={"lists": lists and split},
    )


@reader
def cropdiseases(
    options: Options, root: str, test_fraction: ProperFraction = 0.2, download: bool = False
) -> Dataset:
    """Return CropDiseases: leaves of crops, healthy or ill in 38 classes, top-1.

    The 43,456 training images of PlantVillage's copy at Kaggle, which the cross-domain few-shot
    benchmark uses (Guo et al. 2020, https://arxiv.org/abs/1912.07200); a seeded, stratified share
    is tested. Mohanty et al. 2016, https://arxiv.org/abs/1604.03169

    Args:
        options: shared options.
        root: folder that holds ``dataset/train``.
        test_fraction: share of every class that is tested.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if the folder is missing or an image does not decode.
    """
    source = "https://www.kaggle.com/datasets/saroz014/plant-disease"
    base = require(options, root, ["dataset/train"], download=download, source=source)
    return _untested(options, base / "dataset/train", {"all": 43_456, "classes": 38}, test_fraction)


@reader
def plantvillage(
    options: Options, root: str, test_fraction: ProperFraction = 0.2, download: bool = False
) -> Dataset:
    """Return PlantVillage: leaves of crops, healthy or ill in 38 classes, top-1.

    The colour photographs of the authors' repository, with a seeded, stratified share tested, as
    there is no official split of images. Copies differ by a few images, so that only the classes
    are checked. Mohanty et al. 2016, https://arxiv.org/abs/1604.03169

    Args:
        options: shared options.
        root: folder that holds ``raw/color``.
        test_fraction: share of every class that is tested.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if the folder is missing or an image does not decode.
    """
    source = "https://github.com/spMohanty/PlantVillage-Dataset"
    base = require(options, root, ["raw/color"], download=download, source=source)
    return _untested(options, base / "raw/color", {"classes": 38}, test_fraction)


@reader
def gtsrb(options: Options, root: str, download: bool = False) -> Dataset:
    """Return the German Traffic Sign Recognition Benchmark: 43 signs, top-1.

    26,640 training and 12,630 test images, as torchvision fetches them; the training images are
    tracks of 30 pictures of one sign each (``<class>/<track>_<picture>.ppm``), which validation
    images never divide. Stallkamp et al. 2012, https://benchmark.ini.rub.de

    Args:
        options: shared options.
        root: folder that holds ``gtsrb``.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home = "gtsrb"
    base = require(
        options,
        root,
        [
            f"{home}/GTSRB/Training",
            f"{home}/GTSRB/Final_Test/Images",
            f"{home}/GT-final_test.csv",
        ],
        download=download,
        fetch=torchvision_fetch("GTSRB", {"split": "train"}, {"split": "test"}),
    )
    training = base / home / "GTSRB" / "Training"
    classes, train = _class_folders(training)
    table = base / home / "GT-final_test.csv"
    numbers = numbers_of(classes)

    def parse(row: dict[str, str]) -> tuple[str, int]:
        # The folders are numbers of five digits.
        return row["Filename"], numbers[f"{int(row['ClassId']):05d}"]

    form = f"an image and a class out of the folders {some(classes)}"
    pairs = table_of(table, ("Filename", "ClassId"), form, parse, delimiter=";")
    tested = pairs_listing(base / home / "GTSRB" / "Final_Test" / "Images", pairs)
    listings = {"train": train, "test": tested}
    expected = {"train": 26_640, "test": 12_630, "classes": 43}
    return published(options, classes, listings, expected=expected, groups=r"^(.*)_\d+\.[^.]*$")


@reader
def imagenet(
    options: Options,
    root: str,
    share: ProperFraction | None = None,
    subset: str | None = None,
    download: bool = False,
) -> Dataset:
    """Return ImageNet (ILSVRC 2012) in class folders: 1,000 classes, top-1.

    The official 50,000 validation images are the test split, as in published tables; validation
    images are a seeded, stratified share of the training images. Russakovsky et al. 2015,
    https://arxiv.org/abs/1409.0575

    Args:
        options: shared options.
        root: folder that holds ``train/<wnid>`` and ``val/<wnid>``.
        share: share of every class's training images to use for training and validation together
            (``None``: all); chosen by seed, rounded to the nearest whole number in every class.
        subset: file that names the training images to use instead, one per line, e.g.
            ``n01440764_10026.JPEG`` in the lists of Chen et al. 2020
            (https://arxiv.org/abs/2002.05709); ``share`` is then ignored.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if a folder is missing, a list names unknown images, or an image does not
            decode.
    """
    classes, train, test = _imagenet_folders(options, root, download)
    sizes = {"train": len(train.paths), "test": len(test.paths), "classes": len(classes)}
    check_sizes(options, sizes, IMAGENET)
    facts: Mapping[str, object] = {"subset": None}
    if subset is not None:
        train = _named(options, train, Path(subset).expanduser())
        facts = {"subset": Path(subset).name}
    elif share is not None:
        _, chosen = hold_out(train.targets, share, options.split_seed, "subset")
        train, facts = train.keep(chosen), {"subset": f"seeded, {share}"}
    return published(options, classes, {"train": train, "test": test}, expected={}, facts=facts)


@reader
def imagenet100(
    options: Options, root: str, classes: str | None = None, download: bool = False
) -> Dataset:
    """Return ImageNet-100: a hundred classes of ImageNet (ILSVRC 2012), top-1.

    The classes of Tian et al. 2020, https://arxiv.org/abs/1906.05849, whose list is
    ``imagenet100.txt`` of https://github.com/HobbitLong/CMC; others use other classes under this
    name. Splits as ``imagenet``'s: the official validation images are tested.

    Args:
        options: shared options.
        root: folder that holds ``train/<wnid>`` and ``val/<wnid>`` of these classes at least.
        classes: file with other WordNet ids, one per line (``None``: the published list).
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if a folder is missing, or an image does not decode.
    """
    chosen = sorted(IMAGENET_100.split() if classes is None else lines_of(Path(classes)))
    _, train, test = _imagenet_folders(options, root, download, only=chosen)
    expected = {"test": 50 * len(chosen), "classes": len(chosen)}
    facts = {"class_list": "Tian et al. 2020" if classes is None else Path(classes).name}
    return published(
        options, chosen, {"train": train, "test": test}, expected=expected, facts=facts
    )


def _imagenet_folders(
    options: Options, root: str, download: bool, only: Sequence[str] | None = None
) -> tuple[Sequence[str], Listing, Listing]:
    """Return the classes of ImageNet's folders, and their training and validation images.

    Args:
        options: shared options.
        root: folder that holds ``train`` and ``val``.
        download: see ``imagenet``.
        only: the classes to take (``None``: all, which must be the same in both folders).

    Raises:
        ValueError: if a folder is missing.
    """
    source = "https://image-net.org/download.php"
    base = require(options, root, ["train", "val"], download=download, source=source)
    folders = [base / "train", base / "val"]
    classes, other = ([path.name for path in subfolders(folder)] for folder in folders)
    unlike = set(classes) ^ set(other)
    missing = sorted(unlike if only is None else set(only) - (set(classes) & set(other)))
    if missing:
        raise ValueError(
            f"`{folders[0]}` and `{folders[1]}` must have the same class folders, but "
            f"{some(missing)} {'is' if len(missing) == 1 else 'are'} in only one of them"
            f"{' or in none' if only is not None else ''}; sort the validation images into class "
            "folders."
        )
    chosen = tuple(classes if only is None else only)
    train, test = (
        class_listing(folder, chosen, folder, known_folders(options, folder)) for folder in folders
    )
    return chosen, train, test


@reader
def tiny_imagenet(options: Options, root: str, download: bool = False) -> Dataset:
    """Return Tiny ImageNet: 64x64 photographs in 200 classes of ImageNet, top-1.

    Official 500 training images per class; the official 10,000 validation images are the test
    split, as the labels of the test images are not public. Le and Yang 2015,
    http://cs231n.stanford.edu/reports/2015/pdfs/yle_project.pdf

    Args:
        options: shared options.
        root: folder that holds ``tiny-imagenet-200``, with ``val`` as the archive has it (images
            in one folder and ``val_annotations.txt``) or regrouped into class folders.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home = "tiny-imagenet-200"
    source = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    needed = [f"{home}/{name}" for name in ("wnids.txt", "train", "val")]
    base = require(options, root, needed, download=download, source=source) / home
    classes = tuple(sorted(lines_of(base / "wnids.txt")))
    missing = [name for name in classes if not (base / "train" / name).is_dir()]
    if missing:
        raise ValueError(
            f"`{base / 'train'}` must have a folder for every line of wnids.txt, but has none for "
            f"{some(missing)}; unpack the archive again."
        )
    listings = {
        "train": class_listing(base / "train", classes, base / "train"),
        "test": _tiny_imagenet_test(base / "val", classes),
    }
    return published(options, classes, listings, expected=TINY_IMAGENET)


def _tiny_imagenet_test(folder: Path, classes: tuple[str, ...]) -> Listing:
    """Return the validation images, in class folders if there are any, else by the annotations."""
    if (folder / classes[0]).is_dir():
        return class_listing(folder, classes, folder)
    numbers = numbers_of(classes)

    def parse(line: str) -> tuple[str, int]:
        # "val_0.JPEG	n03444034	0	32	44	62": image, class, bounding box.
        image, label = line.split("\t")[:2]
        return image, numbers[label]

    form = "`image class …` between tabs, the class being a line of wnids.txt"
    return pairs_listing(folder / "images", rows_of(folder / "val_annotations.txt", form, parse))


def _named(options: Options, train: Listing, path: Path) -> Listing:
    """Return the training images that a list names."""
    image_names = {Path(line).name for line in lines_of(path)}
    full = {name for name in train.names if Path(name).name in image_names}
    if len(full) != len(image_names):
        unknown = sorted(image_names - {Path(name).name for name in full})
        raise ValueError(
            f"`{path}` must name training images of `{options.name}`, but {some(unknown)} "
            f"{'is' if len(unknown) == 1 else 'are'} unknown; correct dataset.subset."
        )
    return keep_named(train, full)


def _untested(
    options: Options, folder: Path, expected: Mapping[str, int], test_fraction: float
) -> Dataset:
    """Return a set of class folders with a seeded, stratified share as the test split."""
    classes, everything = _class_folders(folder)
    splits = {"train": everything}
    return published(options, classes, splits, expected=expected, test_fraction=test_fraction)


def _class_folders(folder: Path) -> tuple[tuple[str, ...], Listing]:
    """Return the classes, which are folders, and their images."""
    classes = tuple(path.name for path in subfolders(folder))
    if not classes:
        raise ValueError(f"`{folder}` must have a folder per class, but has none; unpack it again.")
    return classes, class_listing(folder, classes, folder)
