import logging
import shutil

import numpy as np
import pytest
from folders import fill

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.folder import image_folder, unlabelled_folder


def read(root, **options: object) -> Dataset:
    return image_folder(root=str(root), name="mine", **options)


@pytest.fixture
def splits(tmp_path):
    """Two of eight test images are copies of training images, one of them under another class."""
    for key, count in (("train", 5), ("val", 3), ("test", 3)):
        fill(tmp_path / key, count)
    shutil.copy(tmp_path / "train" / "ant" / "0.png", tmp_path / "test" / "ant" / "copy.png")
    shutil.copy(tmp_path / "train" / "ant" / "1.png", tmp_path / "test" / "bee" / "copy.png")
    return tmp_path


def test_copies_across_splits_are_refused_with_the_key_to_set(splits) -> None:
    with pytest.raises(ValueError, match=r"set dataset\.on_duplicates=drop") as caught:
        read(splits)
    assert (
        "2 of test have the same bytes as train (`test/ant/copy.png` and `train/ant/0.png`, …)"
    ) in str(caught.value)


def test_copies_may_be_allowed_and_are_told(splits, caplog) -> None:
    dataset = read(splits, on_duplicates="warn")
    assert dataset.facts["sizes"] == {"train": 10, "val": 6, "test": 8}
    assert "2 of test have the same bytes as train" in caplog.text


def test_dropped_copies_are_those_outside_of_the_test_split(splits) -> None:
    shutil.copy(splits / "train" / "bee" / "4.png", splits / "train" / "bee" / "5.png")
    shutil.copy(splits / "train" / "bee" / "3.png", splits / "val" / "bee" / "5.png")
    dataset = read(splits, on_duplicates="drop")
    assert dataset.facts["sizes"] == {"train": 7, "val": 7, "test": 8}
    assert dataset.facts["copies_left_out"] == {"train": 4}
    assert "train/bee/4.png" in dataset["train"].names
    assert not {"train/ant/0.png", "train/bee/3.png", "train/bee/5.png"} & {*dataset["train"].names}


@pytest.mark.parametrize("seed", range(4))
def test_copies_stay_together_in_splits_that_are_made(tmp_path, seed: int, caplog) -> None:
    fill(tmp_path, 10)
    for label in ("ant", "bee"):
        for number in range(10):
            shutil.copy(tmp_path / label / f"{number}.png", tmp_path / label / f"copy{number}.png")
    with caplog.at_level(logging.INFO):
        dataset = read(tmp_path, split_seed=seed)
    contents = [
        {np.asarray(image).tobytes() for image in dataset[key].images} for key in dataset.splits
    ]
    # Of the 16 images of a class that are not tested, 3 are to validate: 2 are as near as 4.
    assert [len(part) for part in contents] == [14, 2, 4]
    assert len(set.union(*contents)) == 20
    assert "20 images have the same bytes as others that they are read with" in caplog.text


def test_copies_under_different_labels_are_a_warning(tmp_path, caplog) -> None:
    fill(tmp_path)
    shutil.copy(tmp_path / "ant" / "0.png", tmp_path / "bee" / "odd.png")
    read(tmp_path)
    assert "(`bee/odd.png` and `ant/0.png`), 1 of these under different labels" in caplog.text


def test_copies_without_labels_are_told(tmp_path, caplog) -> None:
    fill(tmp_path)
    shutil.copy(tmp_path / "ant" / "0.png", tmp_path / "bee" / "odd.png")
    with caplog.at_level(logging.INFO):
        unlabelled_folder(root=str(tmp_path), name="mine")
    assert "1 images have the same bytes as others" in caplog.text


def test_data_without_copies_have_no_groups(tmp_path) -> None:
    fill(tmp_path)
    assert read(tmp_path)["train"].groups is None
