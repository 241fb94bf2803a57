"""iNaturalist 2018: photographs of species, named by JSON files."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ssl_transfer.datasets.annotations import reading
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.layout import pairs_listing, published, require
from ssl_transfer.datasets.reader import Options, reader, some

SIZES = {"train": 437_513, "test": 24_426, "classes": 8142}
ARCHIVE, TORCHVISION = "train_val2018", "2018"
"""The folder of the images in the archive, and as torchvision renames it."""


class _Annotations(NamedTuple):
    """One file of annotations.

    Args:
        categories: number of each category -> its name.
        images: name of each image -> the number of its category.
    """

    categories: Mapping[int, str]
    images: Mapping[str, int]


@reader
def inaturalist18(options: Options, root: str, download: bool = False) -> Dataset:
    """Return iNaturalist 2018: photographs of 8,142 species, top-1.

    The official validation images are the test split, as in published tables (labels of the test
    images are not public); a seeded, stratified share of the training images validates. A class is
    a category of the JSON files, in the order of their numbers; both files must list the same
    categories. Van Horn et al. 2018, https://arxiv.org/abs/1707.06642;
    https://github.com/visipedia/inat_comp/tree/master/2018

    The code of rich representations (https://github.com/TjuJianyu/RRL) numbers the folders of the
    images instead, sorted as text, for both files independently. Each category has a folder of its
    own, which is checked here, so that this only permutes the classes.

    Args:
        options: shared options.
        root: folder that holds ``train2018.json``, ``val2018.json``, and the images in
            ``train_val2018`` or, as torchvision unpacks them, in ``2018``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    renamed = (Path(root).expanduser() / TORCHVISION).is_dir()
    folder = TORCHVISION if renamed else ARCHIVE
    source = "https://github.com/visipedia/inat_comp/tree/master/2018"
    needed = ["train2018.json", "val2018.json", folder]
    base = require(options, root, needed, download=download, source=source)
    places = {"train": base / "train2018.json", "test": base / "val2018.json"}
    parts = {key: _annotations(path) for key, path in places.items()}
    categories = parts["train"].categories
    _require_same(places, categories, parts["test"].categories)
    _require_own_folders(base, parts)
    position = {number: label for label, number in enumerate(sorted(categories))}
    listings = {
        key: pairs_listing(
            base / folder,
            [
                (name.removeprefix(f"{ARCHIVE}/"), position[number])
                for name, number in part.images.items()
            ],
        )
        for key, part in parts.items()
    }
    count = Counter(categories.values())
    classes = [
        categories[number] if count[categories[number]] == 1 else f"{categories[number]} ({number})"
        for number in sorted(categories)
    ]
    return published(options, classes, listings, expected=SIZES)


def _annotations(path: Path) -> _Annotations:
    """Return the categories and the images of a file in COCO's format.

    Raises:
        ValueError: if the file is damaged, or an image has no category of the file.
    """
    with reading(path, "annotations with `images`, `categories` and `annotations`"):
        content = json.loads(path.read_text(encoding="utf-8"))
        categories = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        names = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
        pairs = [(int(a["image_id"]), int(a["category_id"])) for a in content["annotations"]]
        images = {names[image]: category for image, category in pairs}
        if bare := sorted(set(names) - {image for image, _ in pairs}):
            raise ValueError(f"image {bare[0]} has no category")
        if unknown := sorted(set(images.values()) - set(categories)):
            raise ValueError(f"images are of the unknown category {unknown[0]}")
    return _Annotations(categories, images)


def _require_same(
    places: Mapping[str, Path], train: Mapping[int, str], test: Mapping[int, str]
) -> None:
    """Refuse files that do not list the same categories."""
    differing = sorted(number for number, _ in set(train.items()) ^ set(test.items()))
    if differing:
        raise ValueError(
            f"`{places['train']}` and `{places['test']}` must list the same categories, but "
            f"category {differing[0]} differs; unpack both archives again."
        )


def _require_own_folders(base: Path, parts: Mapping[str, _Annotations]) -> None:
    """Refuse images of one category in several folders, or of several categories in one."""
    pairs = {
        (str(Path(name).parent), number)
        for part in parts.values()
        for name, number in part.images.items()
    }
    for side, noun in ((0, "folder"), (1, "category")):
        shared = [str(key) for key, n in Counter(pair[side] for pair in pairs).items() if n > 1]
        if shared:
            raise ValueError(
                f"each category of `{base}` must have its images in one folder of its own, but the "
                f"{noun} {some(sorted(shared), 3)} does not fit; unpack the archives again."
            )
