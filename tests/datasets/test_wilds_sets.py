"""Layout: columns, paths and official split of wilds/datasets/camelyon17_dataset.py.

https://github.com/p-lambda/wilds/blob/472677590de351857197a9bf24958838c39c272b/wilds/datasets/camelyon17_dataset.py
"""

from pathlib import Path

import pytest
from miniatures import draw, labels, write

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.wilds_sets import camelyon17

HEADER = ",patient,node,x_coord,y_coord,tumor,slide,center,split"
# The official split replaces `split` for the centres 1 (val of WILDS) and 2 (test).
SPLITS = {1: "ood_val", 2: "test"}


def rows(centres=range(5)) -> list[tuple[str, str, int, str]]:
    """Return line, file, class and split of the patches."""
    table = []
    for centre in centres:
        for number in range(8):
            patient, node = f"{20 * centre + 4:03d}", number % 3
            x, y, tumour, split = 3328 + number, 21792, number % 2, int(number >= 6)
            line = f"{patient},{node},{x},{y},{tumour},{10 * centre},{centre},{split}"
            stem = f"patient_{patient}_node_{node}"
            file = f"patches/{stem}/patch_{stem}_x_{x}_y_{y}.png"
            key = SPLITS.get(centre, ("train", "id_val")[split])
            table.append((line, file, tumour, key))
    return table


def built(folder: Path, table, **options) -> Dataset:
    home = folder / "camelyon17_v1.0"
    lines = (f"{number},{line}" for number, (line, *_) in enumerate(table))
    write(home / "metadata.csv", HEADER, *lines)
    draw(home, *(file for _, file, *_ in table))
    return camelyon17(root=str(folder), name="camelyon17", **{"sizes": "warn", **options})


def test_the_official_split_is_by_hospital_and_column(tmp_path: Path) -> None:
    table = rows()
    dataset = built(tmp_path, table)
    for key in ("train", "id_val", "ood_val", "test"):
        assert labels(dataset, key) == {f: t for _, f, t, split in table if split == key}
    domains = {key: sorted(set(split.domains)) for key, split in dataset.splits.items()}
    assert domains == {"train": [0, 3, 4], "id_val": [0, 3, 4], "ood_val": [1], "test": [2]}
    for split in dataset.splits.values():
        for name, domain in zip(split.names, split.domains.tolist(), strict=True):
            assert f"patient_{20 * domain + 4:03d}" in name
    assert dataset.domains == tuple(f"hospital {number}" for number in range(5))
    assert dataset.classes == ("normal", "tumour")
    assert dataset["val"] is dataset["id_val"]


def test_the_published_sizes_are_required(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'train': 302436, 'val': 33560, 'ood_val': 34904, 'test"):
        built(tmp_path, rows(), sizes="strict")


def test_a_hospital_without_patches_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every domain of `camelyon17` must have an image, but `ho"
                       "spital 3` has none"):  # fmt: skip
        built(tmp_path, rows((0, 1, 2, 4)))


def test_a_damaged_table_is_named_with_its_line(tmp_path: Path) -> None:
    table = rows()
    table[3] = ("004,0,1,2,0,0,7,0", *table[3][1:])
    with pytest.raises(ValueError, match=r"line 5 of `.*metadata\.csv` must be a patch, its class"):
        built(tmp_path, table)


def test_missing_patches_are_explained(tmp_path: Path) -> None:
    write(tmp_path / "camelyon17_v1.0" / "metadata.csv", HEADER)
    with pytest.raises(ValueError, match=r"camelyon17_v1\.0/patches` does not exist; download it"):
        camelyon17(root=str(tmp_path), name="camelyon17")
