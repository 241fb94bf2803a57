"""Layouts: svhn.py, stl10.py and pcam.py of torchvision/datasets at v0.19.0 (judges, too).

https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets
"""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from miniatures import assert_equal, pixels, samples, write

from ssl_transfer.datasets import array_sets
from ssl_transfer.datasets.array_sets import pcam, stl10, svhn


def names(key: str, count: int) -> list[str]:
    return [f"{key}/{number:06d}" for number in range(count)]


@pytest.fixture
def svhn_root(tmp_path: Path) -> Path:
    for key, count in (("train", 30), ("test", 20)):
        images = np.stack([pixels(f"{key}{i}", 32, 32) for i in range(count)], axis=-1)
        digits = np.arange(count)[:, None] % 10
        content = {"X": images, "y": np.where(digits == 0, 10, digits).astype(np.uint8)}
        scipy.io.savemat(tmp_path / f"{key}_32x32.mat", content)
    return tmp_path


def test_svhn_equals_torchvisions(svhn_root: Path, monkeypatch) -> None:
    dataset = svhn(root=str(svhn_root), name="svhn", sizes="warn")
    assert dataset.classes == tuple("0123456789")
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    for key, keys in (("train", ("train", "val")), ("test", ["test"])):
        judge = torchvision.datasets.SVHN(str(svhn_root), split=key)
        assert_equal(dataset, keys, judge, names(key, len(judge)))
    assert dataset.facts["sizes"] == {"train": 20, "val": 10, "test": 20}
    with pytest.raises(ValueError, match=r"{'train': 73257, 'test': 26032, 'classes': 10}, but"):
        svhn(root=str(svhn_root), name="svhn")


@pytest.fixture
def stl_root(tmp_path: Path) -> Path:
    home = tmp_path / "stl10_binary"
    home.mkdir()
    for key, count in (("train", 20), ("test", 10), ("unlabeled", 3)):
        images = np.stack([pixels(f"{key}{i}", 96, 96) for i in range(count)])
        # Images after each other, channels after each other, columns after each other.
        images.transpose(0, 3, 2, 1).tofile(home / f"{key}_X.bin")
        if key != "unlabeled":
            (np.arange(count) % 10 + 1).astype(np.uint8).tofile(home / f"{key}_y.bin")
    classes = "airplane bird car cat deer dog horse monkey ship truck"
    write(home / "class_names.txt", *classes.split())
    both = " ".join(str(number) for number in range(20))
    write(home / "fold_indices.txt", *[both] * 9, both)
    return tmp_path


def test_stl10_equals_torchvisions(stl_root: Path, monkeypatch) -> None:
    dataset = stl10(root=str(stl_root), name="stl10", sizes="warn")
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    for key, keys in (("train", ("train", "val")), ("test", ["test"])):
        judge = torchvision.datasets.STL10(str(stl_root), split=key)
        assert dataset.classes == tuple(judge.classes)
        assert_equal(dataset, keys, judge, names(key, len(judge)))
    picture = samples(dataset, "test")["test/000004"][0]
    assert (np.asarray(picture) == pixels("test4", 96, 96)).all()
    assert dataset.target == "class"


def test_an_official_fold_of_stl10_is_torchvisions(stl_root: Path, monkeypatch) -> None:
    lines = [" ".join(str(i) for i in range(20))] * 10
    lines[3] = " ".join(str(i) for i in range(19, -1, -1))
    write(stl_root / "stl10_binary" / "fold_indices.txt", *lines)
    dataset = stl10(root=str(stl_root), name="stl10", sizes="warn", fold=3)
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    judge = torchvision.datasets.STL10(str(stl_root), split="train", folds=3)
    assert_equal(dataset, ("train", "val"), judge, names("train", 20)[::-1])
    assert dataset.facts["fold"] == 3
    with pytest.raises(ValueError, match=r"{'train': 1000, .*but has {'train': 20,"):
        stl10(root=str(stl_root), name="stl10", fold=3)
    with pytest.raises(ValueError, match=r"`dataset.fold` must lie in \[0, 9\], but is 10"):
        stl10(root=str(stl_root), name="stl10", fold=10)


def test_unlabelled_images_of_stl10_are_for_pretraining_alone(stl_root: Path, monkeypatch) -> None:
    labelled = stl10(root=str(stl_root), name="stl10", sizes="warn")
    dataset = stl10(root=str(stl_root), name="stl10", sizes="warn", unlabelled=True)
    assert dataset.target == "none"
    assert dataset.fingerprint != labelled.fingerprint
    assert dataset.facts["sizes"] == {"train": 13, "val": 10, "test": 10, "unlabelled": 3}
    assert dataset["train"].targets[-3:].tolist() == [-1, -1, -1]
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    judge = torchvision.datasets.STL10(str(stl_root), split="unlabeled")
    assert_equal(dataset, ["unlabelled"], judge, names("unlabelled", 3))
    (stl_root / "stl10_binary" / "unlabeled_X.bin").unlink()
    with pytest.raises(ValueError, match=r"unlabeled_X\.bin` does not exist"):
        stl10(root=str(stl_root), name="stl10", sizes="warn", unlabelled=True)


def test_a_file_of_stl10_that_is_cut_short_is_named(stl_root: Path) -> None:
    path = stl_root / "stl10_binary" / "test_X.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"test_X\.bin` must hold 10 images .* has 276479 bytes"):
        stl10(root=str(stl_root), name="stl10", sizes="warn")


@pytest.fixture
def pcam_root(tmp_path: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "pcam").mkdir()
    for part, count in (("train", 6), ("valid", 4), ("test", 2)):
        stem = tmp_path / "pcam" / f"camelyonpatch_level_2_split_{part}"
        with h5py.File(f"{stem}_x.h5", "w") as file:
            file["x"] = np.stack([pixels(f"{part}{i}", 96, 96) for i in range(count)])
        with h5py.File(f"{stem}_y.h5", "w") as file:
            file["y"] = (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
    return tmp_path


def test_pcam_equals_torchvisions(pcam_root: Path) -> None:
    dataset = pcam(root=str(pcam_root), name="pcam", sizes="warn")
    assert (dataset.metric, dataset.extra_metrics) == ("top1", ("auc",))
    for key in ("train", "val", "test"):
        judge = torchvision.datasets.PCAM(str(pcam_root), split=key)
        assert_equal(dataset, [key], judge, names(key, len(judge)))
    with pytest.raises(ValueError, match=r"'train': 262144, .* but has {'train': 6, "):
        pcam(root=str(pcam_root), name="pcam")


def test_patches_without_labels_are_refused(pcam_root: Path) -> None:
    folder = pcam_root / "pcam"
    whole = folder / "camelyonpatch_level_2_split_train_x.h5"
    (folder / "camelyonpatch_level_2_split_test_x.h5").write_bytes(whole.read_bytes())
    with pytest.raises(ValueError, match=r"test_x\.h5` must hold 2 patches, .* but has 6"):
        pcam(root=str(pcam_root), name="pcam", sizes="warn")


def test_pcam_without_h5py_is_explained(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(array_sets, "_h5py", lambda: None)
    with pytest.raises(ValueError, match=r"that is not installed; install it \(pip install h5py\)"):
        pcam(root=str(tmp_path), name="pcam")
