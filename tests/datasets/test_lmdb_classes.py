"""LMDB databases, the form of LSUN: the library lmdb writes them, torchvision is the judge."""

import logging
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.lmdb_classes import lmdb_classes
from ssl_transfer.datasets.lmdb_files import index

lmdb = pytest.importorskip("lmdb", reason="the library lmdb writes the databases")

CLASSES = ("bedroom", "church_outdoor", "tower")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return 60 images in three class folders of training and of test images, of several sizes."""
    chance = np.random.default_rng(0)
    for number in range(60):
        split = "train" if number < 45 else "test"
        path = tmp_path / "photos" / split / CLASSES[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = (8, 60)[number % 2]  # values inside of a page, and on pages of their own
        Image.fromarray(chance.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def write(folder: Path, values: Mapping[str, bytes]) -> None:
    keys = sorted(values)
    random.Random(0).shuffle(keys)
    with lmdb.open(str(folder), map_size=1 << 24) as database:
        for start in range(0, len(keys), 10):
            with database.begin(write=True) as change:
                for key in keys[start : start + 10]:
                    change.put(key.encode(), values[key])


@pytest.fixture
def root(tmp_path: Path, photos: Path) -> Path:
    """Return a folder of databases with the published names of LSUN's."""
    for split, word in (("train", "train"), ("test", "val")):
        for label in CLASSES:
            files = (photos / split / label).iterdir()
            folder = tmp_path / "lsun" / f"{label}_{word}_lmdb"
            folder.parent.mkdir(exist_ok=True)
            write(folder, {file.name: file.read_bytes() for file in files})
    return tmp_path / "lsun"


def read(root: Path, **keys: Any) -> Dataset:
    return lmdb_classes(**{"name": "mine", "root": str(root), "val": "none", "test": "val"} | keys)


def test_databases_are_the_dataset_of_their_class_folders(photos: Path, root: Path) -> None:
    dataset, folder = read(root), image_folder(name="mine", root=str(photos))
    assert dataset.classes == folder.classes == CLASSES
    for key in ("train", "val", "test"):
        assert dataset[key].targets.tolist() == folder[key].targets.tolist()
        for one, other in zip(dataset[key].images, folder[key].images, strict=True):
            assert one.tobytes() == other.tobytes()


@pytest.mark.filterwarnings(
    "ignore:.*:pytest.PytestUnraisableExceptionWarning"
)  # it leaves a file open
def test_torchvision_reads_the_same_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import LSUN

    monkeypatch.chdir(root)  # it writes a file of keys where it is started
    names = [f"{label}_val" for label in CLASSES]
    judge, test = LSUN(str(root), classes=names), read(root)["test"]
    assert len(judge) == len(test)
    for number, (image, target) in enumerate(judge[i] for i in range(len(judge))):
        assert test.targets[number] == target
        assert test.images[number].tobytes() == image.tobytes()


def test_the_option_of_lsun_trains_and_tests_on_the_published_splits(root: Path) -> None:
    node = resolve(plain(compose(["dataset=lsun", f"paths.data={root.parent}"])))["dataset"]
    assert node["root"] == str(root)
    dataset = lmdb_classes(**{k: v for k, v in node.items() if k != "_target_"})
    assert [len(dataset[key]) for key in ("train", "val", "test")] == [36, 9, 15]


def test_values_are_found_as_the_library_finds_them(tmp_path: Path) -> None:
    chance = random.Random(0)
    values: dict[str, bytes] = {}
    with lmdb.open(str(tmp_path / "x"), map_size=1 << 26) as database:
        for _ in range(4):
            with database.begin(write=True) as change:
                for _ in range(400):
                    key = chance.randbytes(chance.randint(1, 30)).hex()
                    # 2,031 bytes are about the largest that fit into a page of 4,096.
                    values[key] = chance.randbytes(chance.choice((0, 1, 300, 2030, 2031, 9000)))
                    change.put(key.encode(), values[key])
                for key in chance.sample(sorted(values), 50):
                    change.delete(key.encode())
                    del values[key]
    packed = index(tmp_path / "x" / "data.mdb")
    assert packed.names == sorted(values)
    assert list(packed.read(packed.spans)) == [values[name] for name in packed.names]


def test_databases_that_are_not_read_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "test_lmdb", {"a": b"secret"})
    with caplog.at_level(logging.WARNING):
        read(root)
    assert "the databases `test_lmdb` of" in caplog.text


def test_what_is_missing_is_told_in_one_sentence(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have LMDB databases, folders `<class>_<split>_lm"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"must have databases to train on, named `<class>_test_"):
        read(root, train="test", test="none")


@pytest.mark.parametrize("damage", ["short", "empty", "text", "page", "key", "databases"])
def test_a_damaged_database_is_told_in_one_sentence(root: Path, damage: str) -> None:
    folder = root / "tower_train_lmdb"
    file = folder / "data.mdb"
    data = file.read_bytes()
    small = min(index(file).spans, key=lambda span: span[1])  # it lies in a page of the tree
    page = small[0] // 4096 * 4096
    whole = {
        "short": data[: len(data) // 2],
        "empty": b"",
        "text": b"no database" * 1000,
        "page": data[: page + 10] + b"\x14" + data[page + 11 :],
        "key": data.replace(b"02.png", b"\xff2.png"),
    }
    if damage == "databases":
        shutil.rmtree(folder)
        with lmdb.open(str(folder), map_size=1 << 20, max_dbs=1) as database:
            other = database.open_db(b"inside")
            with database.begin(write=True) as change:
                change.put(b"a", b"b", db=other)
    else:
        file.write_bytes(whole[damage])
    with pytest.raises(ValueError, match=r"`.*data\.mdb` must be a whole LMDB database with one v"):
        read(root)
