"""Sets of the benchmark WILDS, read without its package: Camelyon17."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ssl_transfer.datasets.annotations import table_of
from ssl_transfer.datasets.base import Dataset, Split
from ssl_transfer.datasets.layout import pairs_listing, read_images, require
from ssl_transfer.datasets.reader import Options, assemble, check_sizes, reader

CAMELYON17 = {"train": 302_436, "val": 33_560, "ood_val": 34_904, "test": 85_054}
CENTRES = 5
TEST_CENTRE, OOD_VAL_CENTRE = 2, 1
_COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split")


class _Patch(NamedTuple):
    """A row of the table of patches."""

    name: str
    tumour: int
    centre: int
    split: str


@reader
def camelyon17(options: Options, root: str, download: bool = False) -> Dataset:
    """Return Camelyon17 of WILDS: patches of 96x96 px with tumour or without, of five hospitals.

    The official split: hospital 2 is tested, hospital 1 is ``ood_val``, and the patches of the
    other three are ``train`` and ``id_val`` as the table's column ``split`` says (0 and 1). The
    domains are the hospitals; top-1. Koh et al. 2021, https://arxiv.org/abs/2012.07421; Bandi et
    al. 2018, https://doi.org/10.1109/TMI.2018.2867350

    Args:
        options: shared options.
        root: folder that holds ``camelyon17_v1.0`` with ``metadata.csv`` and ``patches``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home = "camelyon17_v1.0"
    needed = [f"{home}/metadata.csv", f"{home}/patches"]
    source = "camelyon17_v1.0.tar.gz of https://wilds.stanford.edu/datasets/#camelyon17"
    base = require(options, root, needed, download=download, source=source) / home
    form = "a patch, its class 0 or 1, its centre from 0 to 4 and its split 0 or 1"
    patches = table_of(base / "metadata.csv", _COLUMNS, form, _patch)
    listings = {
        key: pairs_listing(base, [(p.name, p.tumour) for p in patches if p.split == key])
        for key in CAMELYON17
    }
    sizes = {key: len(part.paths) for key, part in listings.items()}
    check_sizes(options, sizes, CAMELYON17)
    files = read_images(options, listings, upright=False)
    centres = {patch.name: patch.centre for patch in patches}
    splits = {key: _with_domains(split, centres) for key, split in files.splits.items()}
    return assemble(
        options,
        classes=("normal", "tumour"),
        train=splits["train"],
        val=splits["val"],
        ood_val=splits["ood_val"],
        test=splits["test"],
        content=files.content,
        domains=[f"hospital {number}" for number in range(CENTRES)],
        facts=files.facts,
    )


def _patch(row: dict[str, str]) -> _Patch:
    """Return the file, class, hospital and split of a patch; the patient is text such as 004."""
    node, x, y = (int(row[key]) for key in ("node", "x_coord", "y_coord"))
    stem = f"patient_{row['patient']}_node_{node}"
    tumour, centre = ("0", "1").index(row["tumor"]), range(CENTRES).index(int(row["center"]))
    official = {TEST_CENTRE: "test", OOD_VAL_CENTRE: "ood_val"}
    split = official.get(centre) or ("train", "val")[("0", "1").index(row["split"])]
    return _Patch(f"patches/{stem}/patch_{stem}_x_{x}_y_{y}.png", tumour, centre, split)


def _with_domains(split: Split, centres: Mapping[str, int]) -> Split:
    """Return the samples with their hospitals."""
    numbers = np.array([centres[name] for name in split.names], dtype=np.int64)
    return dataclasses.replace(split, domains=numbers)
