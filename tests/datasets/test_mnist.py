"""Layout: mnist.py of torchvision/datasets at v0.19.0, which judges what is read, too.

https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets
"""

import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import assert_equal, pixels, samples

from ssl_transfer.datasets.mnist import fashionmnist, mnist

SETS = [(mnist, "MNIST"), (fashionmnist, "FashionMNIST")]


def write_idx(path: Path, array: np.ndarray) -> None:
    """Two zeros, 8 for unsigned bytes, the number of axes and their lengths, high byte first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def make(root: Path, name: str) -> None:
    for key, stem, count in (("train", "train", 30), ("test", "t10k", 20)):
        images = np.stack([pixels(f"{key}{i}", 28, 28)[..., 0] for i in range(count)])
        write_idx(root / name / "raw" / f"{stem}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{stem}-labels-idx1-ubyte", np.arange(count) % 10)


@pytest.mark.parametrize(("read", "name"), SETS)
def test_both_sets_equal_torchvisions(read, name: str, tmp_path: Path) -> None:
    make(tmp_path, name)
    dataset = read(root=str(tmp_path), name="grey", sizes="warn")
    judge_class = getattr(torchvision.datasets, name)
    for key, keys in (("train", ("train", "val")), ("test", ["test"])):
        judge = judge_class(str(tmp_path), train=key == "train")
        grey = [(picture.convert("RGB"), label) for picture, label in judge]
        assert_equal(dataset, keys, grey, [f"{key}/{number:05d}" for number in range(len(judge))])
    assert len(dataset.classes) == 10
    if name == "FashionMNIST":
        assert dataset.classes == tuple(judge_class.classes)
    (picture, _) = samples(dataset, "test")["test/00004"]
    assert (np.asarray(picture) == pixels("test4", 28, 28)[..., :1]).all()
    with pytest.raises(ValueError, match=r"{'train': 60000, 'test': 10000, 'classes': 10}, but"):
        read(root=str(tmp_path), name="grey")


def test_files_that_are_cut_short_or_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    make(tmp_path, "MNIST")
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for content in (whole[:-1], b"", whole[:3] + b"\x01" + whole[4:]):
        images.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte` must be a whole IDX file"):
            mnist(root=str(tmp_path), name="mnist", sizes="warn")
    write_idx(images, np.zeros((7, 28, 28)))
    with pytest.raises(ValueError, match=r"must hold 30 images, one per label, but has 7"):
        mnist(root=str(tmp_path), name="mnist", sizes="warn")
