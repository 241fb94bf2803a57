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
from miniatures import assert_equal, draw, labels, samples, write
from PIL import Image

from ssl_transfer.datasets.images import CroppedImages
from ssl_transfer.datasets.photographs import (
    aircraft,
    cars,
    cub200,
    flowers,
    food101,
    mix_bt_split,
    pets,
    sun397,
)

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


def test_an_aircraft_can_be_cut_to_its_box_counted_from_one(aircraft_root: Path) -> None:
    whole = aircraft(root=str(aircraft_root), name="aircraft", sizes="warn")
    keys = {"root": str(aircraft_root), "name": "aircraft", "sizes": "warn", "bounding_box": True}
    with pytest.raises(ValueError, match=r"images_box\.txt` does not exist"):
        aircraft(**keys)
    names = list(samples(whole, "train", "val", "test"))
    boxes = aircraft_root / "fgvc-aircraft-2013b" / "data" / "images_box.txt"
    write(boxes, *(f"{name[:7]} 2 3 4 6" for name in names))
    cut = aircraft(**keys)
    assert cut.fingerprint != whole.fingerprint
    assert cut.facts["bounding_box"] is True
    for key in ("train", "val", "test"):
        for name, (image, label) in samples(cut, key).items():
            picture, same = samples(whole, key)[name]
            assert label == same
            # Pixels 2 to 4 of 5 across and 3 to 6 of 6 down, the first being 1.
            assert (np.asarray(image) == np.asarray(picture)[2:6, 1:4]).all()
    write(boxes, *(f"{name[:7]} 2 3 4 9" for name in names))  # beyond the image: what there is
    assert aircraft(**keys)["test"].images[0].size == (3, 4)
    nothing = CroppedImages(whole["test"].images, np.array([[6, 2, 9, 6]] * 6))
    with pytest.raises(ValueError, match=r"must show a part of its image, but \[6, 2, 9, 6\] sho"):
        nothing[0]


@pytest.fixture
def birds_root(tmp_path: Path) -> Path:
    """As CUB_200_2011.tgz unpacks; numbers are not those of the order of names."""
    home = tmp_path / "CUB_200_2011"
    species = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    write(home / "classes.txt", *(f"{n} {name}" for n, name in enumerate(species, 1)))
    images = [f"{species[n % 2]}/bird_{9 - n:04d}.jpg" for n in range(8)]
    draw(home / "images", *images)
    write(home / "images.txt", *(f"{n} {name}" for n, name in enumerate(images, 1)))
    write(home / "image_class_labels.txt", *(f"{n} {(n - 1) % 2 + 1}" for n in range(1, 9)))
    write(home / "train_test_split.txt", *(f"{n} {int(n <= 6)}" for n in range(1, 9)))
    write(home / "bounding_boxes.txt", *(f"{n} 1.0 2.0 3.0 4.0" for n in range(1, 9)))
    return tmp_path


def test_birds_are_split_and_labelled_by_the_official_files(birds_root: Path) -> None:
    dataset = cub200(root=str(birds_root), name="cub200", sizes="warn")
    assert dataset.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert dataset.metric == "top1"
    found = {key: labels(dataset, *keys) for key, keys in (("train", BOTH), ("test", ["test"]))}
    assert {key: len(part) for key, part in found.items()} == {"train": 6, "test": 2}
    assert found["test"] == {
        "001.Black_footed_Albatross/bird_0003.jpg": 0,
        "002.Laysan_Albatross/bird_0002.jpg": 1,
    }
    assert all(name.startswith(f"00{label + 1}.") for name, label in found["train"].items())
    with pytest.raises(ValueError, match=r"{'train': 5994, 'test': 5794, 'classes': 200}, but"):
        cub200(root=str(birds_root), name="cub200")


def test_few_shot_birds_have_splits_of_their_own_species(tmp_path: Path) -> None:
    home = tmp_path / "CUB_200_2011"
    # Numbers are not in the order of names, which counts.
    species = ["004.D", "001.A", "006.F", "002.B", "005.E", "003.C", "008.H", "007.G"]
    write(home / "classes.txt", *(f"{n} {name}" for n, name in enumerate(species, 1)))
    images = [f"{name}/{n}.jpg" for name in species for n in range(2)]
    draw(home / "images", *images)
    write(home / "images.txt", *(f"{n} {name}" for n, name in enumerate(images, 1)))
    write(home / "image_class_labels.txt", *(f"{n} {(n + 1) // 2}" for n in range(1, 17)))
    write(home / "train_test_split.txt", *(f"{n} {n % 2}" for n in range(1, 17)))
    dataset = cub200(root=str(tmp_path), name="cub200", sizes="warn", split_rule="few_shot")
    assert dataset.classes == tuple(species)
    # write_CUB_filelist.py, with i the place of a folder in the order of names
    rules = {
        "train": lambda i: i % 2 == 0,
        "val": lambda i: i % 4 == 1,
        "test": lambda i: i % 4 == 3,
    }
    for key, rule in rules.items():
        found = labels(dataset, key)
        kept = [name for i, name in enumerate(sorted(species)) if rule(i)]
        assert {name.partition("/")[0] for name in found} == set(kept)
        assert len(found) == 2 * len(kept)  # both official splits
        assert all(species[label] == name.partition("/")[0] for name, label in found.items())
    assert dataset.facts["split_rule"] == "few_shot"
    with pytest.raises(ValueError, match=r"{'all': 11788, 'classes': 200}, but"):
        cub200(root=str(tmp_path), name="cub200", split_rule="few_shot")


def test_a_bird_can_be_cut_to_its_box(birds_root: Path) -> None:
    dataset = cub200(root=str(birds_root), name="cub200", sizes="warn", bounding_box=True)
    folder = birds_root / "CUB_200_2011" / "images"
    for name, (image, _) in samples(dataset, *BOTH, "test").items():
        with Image.open(folder / name) as whole:
            # Left, top, width and height, from 0.
            assert (np.asarray(image) == np.asarray(whole)[2:6, 1:4]).all()


def test_an_unknown_variant_is_named(aircraft_root: Path) -> None:
    data = aircraft_root / "fgvc-aircraft-2013b" / "data"
    write(data / "images_variant_val.txt", "1025788 Zeppelin NT")
    with pytest.raises(ValueError, match=r"variant_val\.txt` must be .* but is '1025788 Zeppelin"):
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


def test_the_published_random_split_of_flowers_is_drawn_class_after_class(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    numbered = chance.integers(0, 4, 60)
    # transfer_datasets/vgg_flower.py of github.com/wgcban/mix-bt, restated: a dictionary of the
    # classes as they appear, one generator for all of them.
    generator = np.random.RandomState(42)
    members: dict[int, list[int]] = {}
    for position, label in enumerate(numbered.tolist()):
        members.setdefault(label, []).append(position)
    expected: dict[str, list[int]] = {"train": [], "test": []}
    for positions in members.values():
        order = np.arange(len(positions))
        generator.shuffle(order)
        picked = [positions[i] for i in order]
        cut = int(0.8 * len(positions))
        expected["train"] += picked[:cut]
        expected["test"] += picked[cut:]
    found = mix_bt_split(numbered)
    assert {key: part.tolist() for key, part in found.items()} == expected

    home = tmp_path / "flowers-102"
    home.mkdir()
    scipy.io.savemat(home / "imagelabels.mat", {"labels": [numbered + 1]})
    scipy.io.savemat(home / "setid.mat", {"trnid": [[1]]})
    draw(home / "jpg", *(f"image_{n:05d}.jpg" for n in range(1, 61)))
    keys = {"root": str(tmp_path), "name": "flowers"}
    dataset = flowers(**keys, sizes="warn", split_rule="mix_bt")
    tested = {f"image_{n + 1:05d}.jpg": int(numbered[n]) for n in expected["test"]}
    assert labels(dataset, "test") == tested
    assert len(labels(dataset, *BOTH)) == len(expected["train"])
    with pytest.raises(ValueError, match=r"{'all': 8189, 'classes': 102}, but has {'all': 60,"):
        flowers(**keys, split_rule="mix_bt")


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


def test_the_published_validation_images_of_food101_follow_the_order_of_the_list_of_classes(
    tmp_path: Path,
) -> None:
    home = tmp_path / "food-101"
    classes = ("apple_pie", "pho", "waffles")
    named = {name: [f"{name}/{n}" for n in range(10)] for name in ("waffles", "apple_pie", "pho")}
    tested = {name: [f"{name}/test"] for name in classes}
    for key, part in (("train", named), ("test", tested)):
        write(home / "meta" / f"{key}.json", json.dumps(part))
        draw(home / "images", *(f"{file}.jpg" for files in part.values() for file in files))
    keys = {"root": str(tmp_path), "name": "food101", "sizes": "warn", "val_rule": "ericsson2021"}
    with pytest.raises(ValueError, match=r"but `.*food-101/meta/classes.txt` does not exist"):
        food101(**keys)
    write(home / "meta" / "classes.txt", *classes)
    listed = [f"{file}.jpg" for name in classes for file in named[name]]
    order = list(range(30))
    np.random.RandomState(0).shuffle(order)
    dataset = food101(**keys)
    assert set(dataset["val"].names) == {listed[i] for i in order[:6]}
    assert dataset.classes == classes
    seeded = food101(**{**keys, "val_rule": None})
    assert [name for name in seeded["train"].names if name.startswith("waffles")] == (
        seeded["train"].names[: sum(seeded["train"].targets == 2)]
    )  # in the order of train.json, as torchvision's
    write(home / "meta" / "classes.txt", *classes[:2], "sushi")
    with pytest.raises(ValueError, match=r"the 3 classes of train.json, but `sushi`, `waffles`"):
        food101(**keys)


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
    with pytest.raises(ValueError, match=r"`dataset.split` must lie in \[1, 10\]"):
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
