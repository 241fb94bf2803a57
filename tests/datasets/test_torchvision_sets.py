"""The fixtures take their names from torchvision's own readers, which judge the result, too.

Layout: torchvision/datasets/cifar.py and dtd.py at v0.19.0,
https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import assert_equal
from PIL import Image

from ssl_transfer.datasets.torchvision_sets import cifar10, cifar100, dtd, first_percent

LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar_root(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        content = {
            "batch_label": name,
            "labels": [*range(10), *range(10)],
            "data": generator.integers(0, 256, (20, 3072), dtype=np.uint8),
            "filenames": [f"{number}.png" for number in range(20)],
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"num_cases_per_batch": 20, "label_names": LABELS, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return tmp_path


def test_cifar10_equals_torchvisions(cifar_root: Path, monkeypatch) -> None:
    dataset = cifar10(root=str(cifar_root), name="cifar10", sizes="warn")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    both = dataset["train"] + dataset["val"]
    assert dataset.classes == tuple(LABELS)
    for train, split in ((True, both), (False, dataset["test"])):
        judge = torchvision.datasets.CIFAR10(str(cifar_root), train=train)
        assert len(judge) == len(split)
        for image, target, name in zip(split.images, split.targets, split.names, strict=True):
            expected, label = judge[int(name.split("/")[1])]
            assert (np.asarray(image) == np.asarray(expected)).all()
            assert target == label
    assert dataset.facts["sizes"] == {"train": 80, "val": 20, "test": 20}


def test_a_share_of_cifar10_is_the_first_part_of_numpys_permutation(cifar_root: Path) -> None:
    # https://github.com/TjuJianyu/RRL: numpy.random.RandomState(0).shuffle(arange(n)).
    order = np.random.RandomState(0).permutation(100)  # shuffles arange(100)
    for percent in (50, 80):
        few = cifar10(root=str(cifar_root), name="few", sizes="warn", percent=percent)
        names = {*few["train"].names, *few["val"].names}
        assert names == {f"train/{number:05d}" for number in order[:percent]}
        assert len(few["test"]) == 20
    assert few.facts["subset"] == "the first 80 % of a fixed permutation"
    assert len(first_percent(50_000, 1)) == 500
    with pytest.raises(ValueError, match=r"`dataset\.percent` must lie in \(0, 100\]"):
        cifar10(root=str(cifar_root), name="few", percent=0)


def test_cifar10_of_the_wrong_size_is_refused(cifar_root: Path) -> None:
    with pytest.raises(ValueError, match=r"'train': 50000, 'test': 10000.*'train': 100"):
        cifar10(root=str(cifar_root), name="cifar10")


def test_missing_cifar10_is_explained(cifar_root: Path) -> None:
    (cifar_root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"data_batch_3` does not exist; .*dataset\.download=true"):
        cifar10(root=str(cifar_root), name="cifar10")


class Evil:
    def __reduce__(self):
        return (print, ("this must never be run",))


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"", b"rubbish", pickle.dumps([])[:-1]])
def test_pickles_that_are_not_cifars_are_refused(cifar_root: Path, content, capsys) -> None:
    (cifar_root / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_1` must be a file of CIFAR's Python"):
        cifar10(root=str(cifar_root), name="cifar10")
    assert capsys.readouterr().out == ""


def test_cifar100_equals_torchvisions_fine_labels(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = ["apple", "aquarium_fish", "baby"]
    for name, count in (("train", 30), ("test", 9)):
        content = {
            "filenames": [f"{number}.png" for number in range(count)],
            "batch_label": name,
            "fine_labels": [number % 3 for number in range(count)],
            "coarse_labels": [number % 2 for number in range(count)],
            "data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"fine_label_names": names, "coarse_label_names": ["fish", "people"]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    dataset = cifar100(root=str(tmp_path), name="cifar100", sizes="warn")
    assert dataset.classes == tuple(names)
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for key, keys in (("train", ("train", "val")), ("test", ("test",))):
        judge = torchvision.datasets.CIFAR100(str(tmp_path), train=key == "train")
        assert_equal(dataset, keys, judge, [f"{key}/{number:05d}" for number in range(len(judge))])
    with pytest.raises(ValueError, match=r"'test': 10000, 'classes': 100}, but has {'train': 30"):
        cifar100(root=str(tmp_path), name="cifar100")


@pytest.fixture
def dtd_root(tmp_path: Path) -> Path:
    base = tmp_path / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    generator = np.random.default_rng(0)
    for name in ("banded", "zigzagged"):
        (base / "images" / name).mkdir(parents=True)
        for number, key in enumerate(["train"] * 3 + ["val"] * 2 + ["test"] * 2):
            file = f"{name}/{name}_{number:04d}.jpg"
            pixels = generator.integers(0, 256, (12, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(base / "images" / file)
            lines[key].append(file)
    for key, files in lines.items():
        (base / "labels" / f"{key}1.txt").write_text("\n".join(files) + "\n")
        (base / "labels" / f"{key}2.txt").write_text("\n".join(files[::-1]) + "\n")
    return tmp_path


@pytest.mark.parametrize("number", [1, 2])
def test_dtd_equals_torchvisions(dtd_root: Path, number: int) -> None:
    dataset = dtd(root=str(dtd_root), name="dtd", split=number, sizes="warn")
    for key in ("train", "val", "test"):
        judge = torchvision.datasets.DTD(str(dtd_root), split=key, partition=number)
        assert dataset.classes == tuple(judge.classes)
        split = dataset[key]
        assert len(judge) == len(split)
        for (expected, label), image, target in zip(
            judge, split.images, split.targets, strict=True
        ):
            assert (np.asarray(image) == np.asarray(expected)).all()
            assert target == label


def test_dtd_is_found_as_unpacked_by_hand(dtd_root: Path) -> None:
    for root in (dtd_root / "dtd", dtd_root / "dtd" / "dtd"):
        assert len(dtd(root=str(root), name="dtd", sizes="warn")["test"]) == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"published sizes {'train': 1880, .* but has {'train': 6, 'val': 4, 'test': 4, "),
        ({"split": 11}, r"lie in \[1, 10\]"),
        ({"split": 3}, r"train3\.txt` must list images, but does not exist"),
        ({"root": "nowhere"}, r"as dtd/dtd/images, dtd/dtd/labels, .*dataset\.download=true"),
    ],
)
def test_missing_parts_of_dtd_are_explained(dtd_root: Path, options, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dtd(**{"root": str(dtd_root), "name": "dtd"} | options)


def test_a_missing_image_of_dtd_is_named(dtd_root: Path) -> None:
    (dtd_root / "dtd" / "dtd" / "images" / "banded" / "banded_0004.jpg").unlink()
    with pytest.raises(ValueError, match=r"but `.*banded_0004\.jpg` does not"):
        dtd(root=str(dtd_root), name="dtd", sizes="warn")
