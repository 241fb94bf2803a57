"""Caltech-101, with the split of Ericsson et al. 2021."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssl_transfer.datasets.annotations import rows_of
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.layout import listing, published, require, torchvision_fetch
from ssl_transfer.datasets.reader import Options, ValRule, reader, some
from ssl_transfer.datasets.walk import subfolders
from ssl_transfer.system import inputs

# Layout: caltech.py of torchvision/datasets at v0.19.0; lists:
# https://github.com/linusericsson/ssl-transfer/tree/416913f/caltech101-splits
DRAWS = 30


@reader
def caltech101(
    options: Options,
    root: str,
    lists: str | None = None,
    download: bool = False,
    val_rule: ValRule | None = None,
) -> Dataset:
    """Return Caltech-101 with its background class: 102 classes, mean per class.

    There is no official split. Ericsson et al. 2021 (https://arxiv.org/abs/2011.13377) drew 30
    images per class with replacement; since 2023 their lists name repeated images once: 2,416 to
    train and validate, the other 6,728 to test. ``draw_with_replacement`` draws the same images.
    Fei-Fei et al. 2004, https://data.caltech.edu/records/mzrjq-6wc02

    Args:
        options: shared options.
        root: folder that holds ``caltech101/101_ObjectCategories``.
        lists: folder with other ``train.txt`` and ``test.txt``, one ``class/image_0001.jpg label``
            per line, labels counting the sorted class folders from 0 (``None``: the split of
            ``draw_with_replacement``).
        download: whether torchvision may fetch what is missing.
        val_rule: how validation images are chosen.

    Raises:
        ValueError: if files are missing, or a line's label does not fit its folder.
    """
    home = "caltech101/101_ObjectCategories"
    fetch = torchvision_fetch("Caltech101")
    needed = [f"{home}/BACKGROUND_Google"]
    folder = require(options, root, needed, download=download, fetch=fetch) / home
    classes = [path.name for path in subfolders(folder)]
    if lists is not None:
        base = Path(lists).expanduser()
        named = {key: _listed(base / f"{key}.txt", classes) for key in ("train", "test")}
        both = set(named["train"]) & set(named["test"])
        if both:
            raise ValueError(
                f"an image of `{options.name}` must be in train.txt or in test.txt, but "
                f"{some(sorted(both))} {'is' if len(both) == 1 else 'are'} in both; remove one."
            )
    else:
        for name in classes:
            inputs.note_folder(folder / name, (".jpg",))
        files = {n: sorted(path.name for path in (folder / n).glob("*.jpg")) for n in classes}
        if empty := [str(folder / name) for name in classes if not files[name]]:
            raise ValueError(
                f"every class folder of `{options.name}` must have an image (.jpg), but "
                f"{some(empty)} {'has' if len(empty) == 1 else 'have'} none; unpack the archive "
                "again."
            )
        named = draw_with_replacement(files)
    listings = {
        key: listing(folder, names, [classes.index(name.partition("/")[0]) for name in names])
        for key, names in named.items()
    }
    return published(
        options,
        classes,
        listings,
        expected={"train": 2416, "test": 6728, "classes": 102},
        metric="mean_per_class",
        val_rule=val_rule,
        facts={"split": lists or "30 draws per class with replacement, seed 0"},
    )


def draw_with_replacement(files: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return names ``class/file`` of the training and the test images of Caltech-101.

    numpy's legacy generator, seeded with 0 once, draws 30 files of each class with replacement,
    classes in the order of their code points; files that are never drawn form the test split.

    Args:
        files: each class's file names, sorted.
    """
    generator = np.random.RandomState(0)
    split: dict[str, list[str]] = {"train": [], "test": []}
    for name in sorted(files):
        drawn = set(generator.choice(len(files[name]), DRAWS).tolist())
        for position, file in enumerate(files[name]):
            split["train" if position in drawn else "test"].append(f"{name}/{file}")
    return split


def _listed(path: Path, classes: list[str]) -> list[str]:
    """Return the distinct names in a file of ``name label`` lines."""

    def parse(line: str) -> str:
        name, _, label = line.rpartition(" ")
        if label != str(classes.index(name.partition("/")[0])):
            raise ValueError("another class's label")
        return name

    form = "`class/image_0001.jpg label`, labels counting the sorted class folders from 0"
    return list(dict.fromkeys(rows_of(path, form, parse)))
