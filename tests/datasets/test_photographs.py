"""Layouts: the readers of torchvision/datasets at v0.19.0, which judge the result, too.

https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets; fgvc_aircraft.py,
stanford_cars.py, flowers102.py, food101.py, oxford_iiit_pet.py and sun397.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from miniatures import assert_equal, draw, labels, write

from ssl_transfer.datasets.photographs import aircraft, cars, flowers, food101, pets, sun397

BOTH = ("train", "val")


@pytest.fixture
def aircraft_root(tmp_path: Path) -> Path:
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    variants = ["707-320", "Cessna 172", "F/A-18"]
    write(data / "variants.txt", *variants)
    images = {"train": range(6), "val": range(6, 9), "test": range(9, 15)}
    for key, numbers in images.items():
        lines = [f"{1025794 - i:07d} {variants[i % 3]}" for i in numbers]
        write(data / f"images_variant_{key}.txt", *lines)
        draw(data / "images", *(f"{line[:7]}.jpg" for line in lines))
    return tmp_path


def test_aircraft_equals_torchvisions(aircraft_root: Path) -> None:
    dataset = aircraft(root=str(aircraft_root), name="aircraft", sizes="warn")
    assert dataset.metric == "mean_per_class"
    assert dataset.facts["validation"] == "official"
    for key in ("train", "val", "test"):
        judge = torchvision.datasets.FGVCAircraft(str(aircraft_root), split=key)
        assert dataset.classes == tuple(judge.classes)
        assert_equal(dataset, [key], judge, [Path(path).name for path in judge._image_files])


def test_an_unknown_variant_is_named(aircraft_root: Path) -> None:
    data = aircraft_root / "fgvc-aircraft-2013b" / "data"
    write(data / "images_variant_val.txt", "1025788 Zeppelin NT")
    with pytest.raises(ValueError, match=r"variant_val\.txt` must have .* but has `Zeppelin NT`"):
        aircraft(root=str(aircraft_root), name="aircraft", sizes="warn")


@pytest.fixture
def cars_root(tmp_path: Path) -> Path:
    home = tmp_path / "stanford_cars"
    (home / "devkit").mkdir(parents=True)
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    scipy.io.savemat(
        home / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)}
    )
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    for key, count, file in (
        ("train", 8, "devkit/cars_train_annos.mat"),
        ("test", 4, "cars_test_annos_withlabels.mat"),
    ):
        rows = [(1, 1, 4, 4, i % 2 + 1, f"{count - i:05d}.jpg") for i in range(count)]
        table = np.array([rows], dtype=[(field, object) for field in fields])
        scipy.io.savemat(home / file, {"annotations": table})
        draw(home / f"cars_{key}", *(row[-1] for row in rows))
    return tmp_path


def test_cars_equal_torchvisions(cars_root: Path) -> None:
    dataset = cars(root=str(cars_root), name="cars", sizes="warn")
    assert dataset.metric == "top1"
    for key, keys in (("train", BOTH), ("test", ["test"])):
        judge = torchvision.datasets.StanfordCars(str(cars_root), split=key)
        assert dataset.classes == tuple(judge.classes)
        assert_equal(dataset, keys, judge, [Path(path).name for path, _ in judge._samples])


@pytest.mark.parametrize("content", [b"rubbish", None])
def test_matlab_files_that_are_none_are_named(cars_root: Path, content: bytes | None) -> None:
    path = cars_root / "stanford_cars" / "devkit" / "cars_meta.mat"
    if content is None:
        scipy.io.savemat(path, {"other": [1]})
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cars_meta\.mat` must be a MATLAB file with `class_nam"):
        cars(root=str(cars_root), name="cars", sizes="warn")


def test_flowers_equal_torchvisions(tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "flowers-102"
    home.mkdir()
    numbers = np.random.default_rng(0).permutation(np.arange(1, 19))
    scipy.io.savemat(home / "imagelabels.mat", {"labels": [np.arange(18) % 3 + 1]})
    sets = {"trnid": [numbers[:6]], "valid": [numbers[6:12]], "tstid": [numbers[12:]]}
    scipy.io.savemat(home / "setid.mat", sets)
    draw(home / "jpg", *(f"image_{number:05d}.jpg" for number in numbers))
    dataset = flowers(root=str(tmp_path), name="flowers", sizes="warn")
    assert dataset.metric == "mean_per_class"
    assert dataset.classes == ("1", "2", "3")
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    for key in ("train", "val", "test"):
        judge = torchvision.datasets.Flowers102(str(tmp_path), split=key)
        assert_equal(dataset, [key], judge, [path.name for path in judge._image_files])


def test_food101_equals_torchvisions(tmp_path: Path) -> None:
    home = tmp_path / "food-101"
    (home / "meta").mkdir(parents=True)
    for key, numbers in (("train", (1, 2, 3, 4)), ("test", (5, 6))):
        # The files' order is not that of the alphabet.
        named = {name: [f"{name}/{n}" for n in numbers] for name in ("waffles", "apple_pie")}
        (home / "meta" / f"{key}.json").write_text(json.dumps(named))
        draw(home / "images", *(f"{file}.jpg" for files in named.values() for file in files))
    dataset = food101(root=str(tmp_path), name="food101", sizes="warn")
    assert dataset.metric == "top1"
    for key, keys in (("train", BOTH), ("test", ["test"])):
        judge = torchvision.datasets.Food101(str(tmp_path), split=key)
        assert dataset.classes == tuple(judge.classes) == ("apple_pie", "waffles")
        names = [path.relative_to(home / "images").as_posix() for path in judge._image_files]
        assert_equal(dataset, keys, judge, names)


def test_pets_equal_torchvisions(tmp_path: Path) -> None:
    home = tmp_path / "oxford-iiit-pet"
    breeds = ["Abyssinian", "american_bulldog"]
    for key, numbers in (("trainval", (100, 7, 3)), ("test", (201, 20))):
        lines = [f"{b}_{n} {i + 1} {i + 1} 1" for i, b in enumerate(breeds) for n in numbers]
        write(home / "annotations" / f"{key}.txt", *lines)
        draw(home / "images", *(f"{line.split()[0]}.jpg" for line in lines))
    dataset = pets(root=str(tmp_path), name="pets", sizes="warn")
    assert dataset.metric == "mean_per_class"
    for key, keys in (("trainval", BOTH), ("test", ["test"])):
        judge = torchvision.datasets.OxfordIIITPet(str(tmp_path), split=key)
        # torchvision capitalises every word.
        assert [name.title() for name in dataset.classes] == judge.classes
        assert_equal(dataset, keys, judge, [path.name for path in judge._images])


@pytest.fixture
def sun_root(tmp_path: Path) -> Path:
    """Layout of the partitions: section 3.1 of https://github.com/linusericsson/ssl-transfer."""
    home = tmp_path / "SUN397"
    # One class's path lies in another's, which a search for parts of paths confuses.
    folders = ["/a/attic", "/c/church/indoor", "/i/indoor"]
    write(home / "ClassName.txt", *folders)
    for key, start in (("Training", 0), ("Testing", 4)):
        lines = [f"{f}/sun_{'abcdefgh'[start + i]}.jpg" for f in folders for i in range(4)]
        draw(home, *(line[1:] for line in lines))
        write(tmp_path / "Partitions" / f"{key}_01.txt", *lines)
        write(tmp_path / "Partitions" / f"{key}_02.txt", *lines[::-1])
    return tmp_path


@pytest.mark.parametrize("place", ["Partitions", "SUN397", "SUN397/Partitions"])
def test_sun397_has_torchvisions_labels_and_the_official_split(sun_root: Path, place: str) -> None:
    if place != "Partitions":
        for path in list((sun_root / "Partitions").iterdir()):
            (sun_root / place).mkdir(exist_ok=True)
            path.rename(sun_root / place / path.name)
    dataset = sun397(root=str(sun_root), name="sun397", sizes="warn")
    judge = torchvision.datasets.SUN397(str(sun_root))
    assert dataset.classes == tuple(judge.classes) == ("attic", "church/indoor", "indoor")
    expected = {
        path.relative_to(sun_root / "SUN397").as_posix(): label
        for path, label in zip(judge._image_files, judge._labels, strict=True)
    }
    assert labels(dataset, "train", "val", "test") == expected
    assert {name[-5] for name in dataset["test"].names} == set("efgh")
    assert dataset["test"].names[0] == "a/attic/sun_e.jpg"
    second = sun397(root=str(sun_root), name="sun397", sizes="warn", split=2)
    assert second["test"].names == dataset["test"].names[::-1]


def test_missing_partitions_of_sun397_are_explained(sun_root: Path) -> None:
    with pytest.raises(ValueError, match=r"Training_03\.txt` does not exist; .*Partitions\.zip"):
        sun397(root=str(sun_root), name="sun397", split=3)
    with pytest.raises(ValueError, match="one of 1 to 10"):
        sun397(root=str(sun_root), name="sun397", split=0)


def test_validation_can_be_chosen_as_ericsson_et_al_2021_do(tmp_path: Path) -> None:
    home = tmp_path / "oxford-iiit-pet"
    lines = [f"{b}_{n} {i + 1} 1 1" for i, b in enumerate(["a", "b"]) for n in range(10)]
    tested = ["a_10 1 1 1", "b_10 2 1 1"]
    write(home / "annotations" / "trainval.txt", *lines)
    write(home / "annotations" / "test.txt", *tested)
    draw(home / "images", *(f"{line.split()[0]}.jpg" for line in lines + tested))
    dataset = pets(root=str(tmp_path), name="pets", sizes="warn", val_rule="ericsson2021")
    order = np.arange(20)
    np.random.RandomState(0).shuffle(order)
    names = [f"{line.split()[0]}.jpg" for line in lines]
    assert set(dataset["val"].names) == {names[i] for i in order[:4]}
    assert set(dataset["train"].names) == {names[i] for i in order[4:]}
    assert dataset.facts["validation"] == "seeded, 0.2 of train, ericsson2021"
