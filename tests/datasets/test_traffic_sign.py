"""Layout: ReadMe.txt of FullIJCNN2013.zip (a copy: johpetsc/traffic-sign-recognition at GitHub).

Scenes 00000.ppm to 00899.ppm and gt.txt beside a folder of cut-out signs per class, named after its
number; two digits and ``*.ppm`` as transfer_datasets/traffic_sign.py of wgcban/mix-bt (f915e4e)
reads them.
"""

from pathlib import Path

import numpy as np
import pytest
from miniatures import draw, labels, write

from ssl_transfer.datasets.traffic_sign import traffic_sign

SIZES = {0: 4, 1: 12, 19: 2, 41: 7}  # those of 0 and 19 as published
ALL = ("train", "val", "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    home = tmp_path / "FullIJCNN2013"
    draw(home, "00000.ppm", "00001.ppm")
    write(home / "gt.txt", "00000.ppm;774;411;815;446;11", "00001.ppm;983;388;1024;432;40")
    write(home / "ReadMe.txt", "1. About this file")
    for label, count in SIZES.items():
        draw(home / f"{label:02d}", *(f"{number:05d}.ppm" for number in range(count)))
    return tmp_path


def test_signs_are_split_by_seed_and_scenes_are_none(root: Path) -> None:
    keys = {"root": str(root), "name": "traffic_sign", "sizes": "warn"}
    dataset = traffic_sign(**keys)
    assert dataset.classes == ("00", "01", "19", "41")
    found = labels(dataset, *ALL)
    assert len(found) == sum(SIZES.values())
    assert all(dataset.classes[label] == name.partition("/")[0] for name, label in found.items())
    assert np.bincount(dataset["test"].targets, minlength=4).tolist() == [1, 2, 1, 1]
    other = traffic_sign(**keys, split_seed=1)
    assert set(other["test"].names) != set(dataset["test"].names)


def test_the_published_split_is_that_of_sorted_files(root: Path) -> None:
    # transfer_datasets/traffic_sign.py, restated: one generator for all classes, in their order.
    generator = np.random.RandomState(42)
    expected: dict[str, list[str]] = {"train": [], "test": []}
    for label, count in SIZES.items():
        paths = np.array([f"{label:02d}/{number:05d}.ppm" for number in range(count)])
        order = np.arange(count)
        generator.shuffle(order)
        paths = paths[order]
        expected["train"] += paths[: int(0.8 * count)].tolist()
        expected["test"] += paths[int(0.8 * count) :].tolist()
    keys = {"root": str(root), "name": "traffic_sign", "sizes": "warn"}
    dataset = traffic_sign(**keys, split_rule="mix_bt")
    assert set(dataset["test"].names) == set(expected["test"])
    assert set(labels(dataset, "train", "val")) == set(expected["train"])
    assert dataset.facts["split_rule"] == "mix_bt"
    whole = traffic_sign(**keys, split_rule="mix_bt", val_fraction=0.0)
    assert set(whole["train"].names) == set(expected["train"])


def test_what_is_missing_is_told(root: Path) -> None:
    with pytest.raises(ValueError, match=r"{'classes': 43}, but has {.*'classes': 4"):
        traffic_sign(root=str(root), name="traffic_sign")
    with pytest.raises(ValueError, match=r"as FullIJCNN2013/00, but .*by hand.*\(https://"):
        traffic_sign(root=str(root / "gone"), name="traffic_sign")
    with pytest.raises(ValueError, match=r"`dataset\.test_fraction` must lie in \(0, 1\)"):
        traffic_sign(root=str(root), name="traffic_sign", test_fraction=0.0)
