from pathlib import Path

import numpy as np
import pytest
from folders import noise

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.folder import image_folder

RULE = r"(\w+/\d+)_"


def frames(root: Path, objects: int = 10, count: int = 5, classes: str = "ab") -> None:
    """Write frames of objects: ``a/03_4.png`` is the fifth of the fourth object of a class."""
    for label in classes:
        (root / label).mkdir(parents=True)
        for item in range(objects):
            for frame in range(count):
                name = f"{label}/{item:02}_{frame}.png"
                noise(str(root / name)).save(root / name)


def read(root: Path, **options: object) -> Dataset:
    return image_folder(root=str(root), name="mine", **options)


def objects_of(dataset: Dataset, key: str) -> set[str]:
    return {name.rpartition("_")[0] for name in dataset[key].names}


@pytest.mark.parametrize("options", [{}, {"split_seed": 3}, {"labels_per_class": 10}])
def test_frames_of_an_object_stay_together_in_every_split(tmp_path, options) -> None:
    frames(tmp_path)
    dataset = read(tmp_path, groups=RULE, **options)
    sides = [objects_of(dataset, key) for key in ("train", "val", "test")]
    for number, side in enumerate(sides):
        for other in sides[number + 1 :]:
            assert not side & other
    sizes = {"train": 60, "val": 20, "test": 20}
    if "labels_per_class" in options:
        sizes |= {"train": 16, "val": 4}
    assert dataset.facts["sizes"] == sizes
    for key, size in sizes.items():
        assert np.bincount(dataset[key].targets).tolist() == [size // 2, size // 2]
        # A number stands for an object, and for nothing else.
        owners = [name.rpartition("_")[0] for name in dataset[key].names]
        pairs = {*zip(owners, dataset[key].groups.tolist(), strict=True)}
        assert len(pairs) == len(objects_of(dataset, key)) == len({number for _, number in pairs})


def test_a_split_by_image_divides_objects(tmp_path) -> None:
    frames(tmp_path)
    dataset = read(tmp_path)
    assert dataset["train"].groups is None
    assert objects_of(dataset, "train") & objects_of(dataset, "test")


@pytest.mark.parametrize(
    ("table", "separator"), [("g.txt", " "), ("g.tsv", "\t"), ("g.csv", ","), ("g.csv", ", ")]
)
def test_a_file_of_groups_is_as_good_as_a_rule(tmp_path, table: str, separator: str) -> None:
    frames(tmp_path / "set")
    names = [
        path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set").rglob("*.png")
    ]
    lines = "".join(f"{name}{separator}{name.partition('_')[0]}\r\n" for name in names)
    (tmp_path / table).write_text(f"\ufeff{lines}", encoding="utf-8")
    dataset = read(tmp_path / "set", groups=str(tmp_path / table))
    expected = read(tmp_path / "set", groups=RULE)
    assert dataset.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("zzz", r"`zzz` is not in 12 of 12 names \(`a/00_0.png`"),
        (r"a/(\d+)_", r"is not in 6 of 12 names \(`b/00_0.png`"),
        (r"\.(png)", "several groups each, but gives each class one"),
        (r"(\w)/", "several groups each, but gives each class one"),
        ("(", "regular expression or a file .* but `\\(` is neither"),
        ("gone.csv", "gone.csv` does not exist"),
        ("short.txt", "gives 11 of 12 none"),
        ("bad.txt", "must read `name group`, but line 1 is 'a/00_0.png'"),
        ("two.txt", "gives `a/00_0.png` two"),
    ],
)
def test_rules_that_do_not_do_are_refused(tmp_path, rule: str, told: str) -> None:
    frames(tmp_path, 3, 2)
    (tmp_path / "short.txt").write_text("a/00_0.png x\n")
    (tmp_path / "bad.txt").write_text("a/00_0.png\n")
    (tmp_path / "two.txt").write_text("a/00_0.png x\na/00_0.png y\n")
    with pytest.raises(ValueError, match=told):
        read(tmp_path, groups=rule)


def test_a_group_for_each_image_is_told(tmp_path, caplog) -> None:
    frames(tmp_path, 3, 2)
    dataset = read(tmp_path, groups=".*")
    assert "gives each of the 12 images a group of its own" in caplog.text
    assert dataset.fingerprint == read(tmp_path).fingerprint


def test_a_class_of_one_group_is_told_and_trains(tmp_path, caplog) -> None:
    frames(tmp_path, 5, 2)
    frames(tmp_path, 1, 4, classes="c")
    dataset = read(tmp_path, groups=RULE)
    assert "`c` has only one group" in caplog.text
    assert np.bincount(dataset["train"].targets)[2] == 4


def test_given_splits_that_share_a_group_are_told(tmp_path, caplog) -> None:
    frames(tmp_path / "train", 4, 2)
    frames(tmp_path / "test", 2, 2)
    read(tmp_path, groups=r"/(\w/\d+)_")
    assert "4 groups are in train and in test (`a/00`, `a/01`, `b/00` and 1 more)" in caplog.text
    caplog.clear()
    read(tmp_path, groups=r"^(\w+/\w/\d+)_")
    assert "so that scores are too good" not in caplog.text


def test_copies_that_join_groups_are_told(tmp_path, caplog) -> None:
    frames(tmp_path)
    for item in range(4):  # a blank frame in four of the objects of one class
        noise("blank").save(tmp_path / "a" / f"{item:02}_9.png")
    with caplog.at_level("WARNING"):
        dataset = read(tmp_path, groups=RULE)
    assert "(`a/00_9.png` and `a/01_9.png`, …) join the 20 groups of `mine` to 17" in caplog.text
    blank = [{name for name in dataset[key].names if name.endswith("_9.png")}
             for key in ("train", "val", "test")]  # fmt: skip
    assert sorted(map(len, blank)) == [0, 0, 4]
    for item in range(10):
        for label in "ab":
            noise("blank").save(tmp_path / label / f"{item:02}_9.png")
    with pytest.raises(
        ValueError, match=r"join the 20 groups .* to 1, so that nothing can be held"
    ):
        read(tmp_path, groups=RULE)
    assert read(tmp_path, groups=RULE, on_duplicates="drop").facts["sizes"]["test"] > 0
