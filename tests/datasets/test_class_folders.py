"""Layouts: eurosat.py, gtsrb.py and imagenet.py of torchvision/datasets at v0.19.0 (judges, too).

https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets. Plant diseases:
https://github.com/linusericsson/ssl-transfer (datasets/cropdiseases.py) and the README of
https://github.com/spMohanty/PlantVillage-Dataset. Lists of EuroSAT:
https://github.com/vpulab/bn_finetuning (configs/benchmarks/classification/_base_/datasets).
Lists of ImageNet: https://github.com/google-research/simclr/tree/master/imagenet_subsets.
"""

from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import assert_equal, draw, labels, write

from ssl_transfer.datasets.class_folders import (
    IMAGENET_100,
    cropdiseases,
    eurosat,
    gtsrb,
    imagenet,
    imagenet100,
    plantvillage,
    tiny_imagenet,
)

ALL = ("train", "val", "test")


@pytest.fixture
def eurosat_root(tmp_path: Path) -> Path:
    for name in ("AnnualCrop", "SeaLake"):
        files = (f"{name}/{name}_{number}.jpg" for number in range(1, 26))
        draw(tmp_path / "eurosat" / "2750", *files)
    return tmp_path


def test_eurosat_equals_torchvisions_and_is_split_by_seed(eurosat_root: Path) -> None:
    dataset = eurosat(root=str(eurosat_root), name="eurosat", sizes="warn")
    judge = torchvision.datasets.EuroSAT(str(eurosat_root))
    folder = eurosat_root / "eurosat" / "2750"
    names = [Path(path).relative_to(folder).as_posix() for path, _ in judge.samples]
    assert_equal(dataset, ALL, judge, names)
    assert dataset.classes == tuple(judge.classes)
    assert dataset.facts["sizes"] == {"train": 32, "val": 8, "test": 10}
    assert np.bincount(dataset["test"].targets).tolist() == [5, 5]
    other = eurosat(root=str(eurosat_root), name="eurosat", sizes="warn", split_seed=1)
    assert set(other["test"].names) != set(dataset["test"].names)
    with pytest.raises(ValueError, match=r"{'all': 27000, 'classes': 10}, but has {'all': 50, 'cl"):
        eurosat(root=str(eurosat_root), name="eurosat")
    with pytest.raises(ValueError, match=r"`dataset\.test_fraction` must lie in \(0, 1\)"):
        eurosat(root=str(eurosat_root), name="eurosat", test_fraction=1.0)


@pytest.mark.parametrize("suffix", ["", "_labeled"])
def test_lists_say_what_of_eurosat_is_tested(eurosat_root: Path, suffix: str) -> None:
    lists = eurosat_root / "lists"
    names = [f"{name}/{name}_{n}.jpg" for name in ("SeaLake", "AnnualCrop") for n in range(1, 6)]
    # The labels' numbering is not the folders'.
    write(lists / "split_1" / f"train{suffix}.txt", *(f"{name} {i // 5}" for i, name in
                                                      enumerate(names)))  # fmt: skip
    write(lists / "split_1" / f"val{suffix}.txt", "SeaLake/SeaLake_9.jpg 0", "AnnualCrop_7 1")
    keys = {"root": str(eurosat_root), "name": "eurosat", "sizes": "warn", "lists": str(lists)}
    dataset = eurosat(**keys, split=1)
    assert labels(dataset, "test") == {"AnnualCrop/AnnualCrop_7.jpg": 0, "SeaLake/SeaLake_9.jpg": 1}
    assert labels(dataset, "train", "val") == {name: int(name[0] == "S") for name in names}
    with pytest.raises(ValueError, match=r"split_0/train\.txt` must list images, but does not"):
        eurosat(**keys)
    write(lists / "split_1" / f"val{suffix}.txt", "SeaLake/SeaLake_99.jpg 0")
    with pytest.raises(ValueError, match="must name images of `eurosat`, but `SeaLake_99` is unkn"):
        eurosat(**keys, split=1)
    write(lists / "split_1" / f"val{suffix}.txt", "SeaLake/SeaLake_2.jpg 0")
    with pytest.raises(ValueError, match=r"names `SeaLake/SeaLake_2\.jpg` in both lists"):
        eurosat(**keys, split=1)


@pytest.mark.parametrize(
    ("read", "place"), [(cropdiseases, "dataset/train"), (plantvillage, "raw/color")]
)
def test_plant_diseases_are_class_folders(tmp_path: Path, read, place: str) -> None:
    classes = ("Apple___Apple_scab", "Tomato___healthy")
    for name in classes:
        draw(tmp_path / place, *(f"{name}/{number}.JPG" for number in range(25)))
    dataset = read(root=str(tmp_path), name="plants", sizes="warn")
    assert dataset.classes == classes
    assert dataset.facts["sizes"] == {"train": 32, "val": 8, "test": 10}
    found = labels(dataset, *ALL)
    assert len(found) == 50
    assert all(name.startswith(classes[label]) for name, label in found.items())
    with pytest.raises(ValueError, match=r"'classes': 38}, but has {.*'classes': 2}"):
        read(root=str(tmp_path), name="plants")
    with pytest.raises(ValueError, match=rf"as {place}, but .* \(https://"):
        read(root=str(tmp_path / "gone"), name="plants")


@pytest.fixture
def gtsrb_root(tmp_path: Path) -> Path:
    """Header of the tables: those of the published archives."""
    base = tmp_path / "gtsrb"
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    for label in range(3):
        folder = base / "GTSRB" / "Training" / f"{label:05d}"
        files = [f"{track:05d}_{frame:05d}.ppm" for track in range(2) for frame in range(3)]
        draw(folder, *files)
        write(folder / f"GT-{label:05d}.csv", header, *(f"{f};5;6;0;0;4;5;{label}" for f in files))
    tested = {"00000.ppm": 2, "00001.ppm": 0, "00002.ppm": 1}
    draw(base / "GTSRB" / "Final_Test" / "Images", *tested)
    rows = [f"{file};5;6;0;0;4;5;{label}" for file, label in tested.items()]
    write(base / "GT-final_test.csv", header, *rows)
    return tmp_path


def test_gtsrb_equals_torchvisions(gtsrb_root: Path) -> None:
    dataset = gtsrb(root=str(gtsrb_root), name="gtsrb", sizes="warn")
    assert dataset.classes == ("00000", "00001", "00002")
    for key, keys, place in (
        ("train", ("train", "val"), "Training"),
        ("test", ["test"], "Final_Test/Images"),
    ):
        judge = torchvision.datasets.GTSRB(str(gtsrb_root), split=key)
        folder = gtsrb_root / "gtsrb" / "GTSRB" / place
        names = [Path(path).relative_to(folder).as_posix() for path, _ in judge._samples]
        assert_equal(dataset, keys, judge, names)


@pytest.mark.parametrize("seed", range(3))
def test_gtsrb_validates_on_whole_tracks(gtsrb_root: Path, seed: int) -> None:
    dataset = gtsrb(root=str(gtsrb_root), name="gtsrb", sizes="warn", split_seed=seed)
    tracks = {key: [name.split("_")[0] for name in dataset[key].names] for key in ("train", "val")}
    assert len(set(tracks["train"])) == len(set(tracks["val"])) == 3
    assert not set(tracks["train"]) & set(tracks["val"])
    assert not set(dataset["train"].groups.tolist()) & set(dataset["val"].groups.tolist())


def test_a_sign_that_is_no_class_is_named(gtsrb_root: Path) -> None:
    write(gtsrb_root / "gtsrb" / "GT-final_test.csv", "Filename;ClassId", "00000.ppm;43")
    with pytest.raises(ValueError, match=r"GT-final_test\.csv` must be an image and a class out "):
        gtsrb(root=str(gtsrb_root), name="gtsrb", sizes="warn")


@pytest.fixture
def imagenet_root(tmp_path: Path) -> Path:
    for wnid in ("n01440764", "n01443537"):
        draw(tmp_path / "train" / wnid, *(f"{wnid}_{number}.JPEG" for number in range(40)))
        draw(tmp_path / "val" / wnid, f"ILSVRC2012_val_0000{wnid[-4:]}.JPEG")
    return tmp_path


def test_imagenet_is_tested_on_its_official_validation_images(imagenet_root: Path) -> None:
    dataset = imagenet(root=str(imagenet_root), name="imagenet", sizes="warn")
    for key, keys in (("train", ("train", "val")), ("val", ["test"])):
        judge = torchvision.datasets.ImageFolder(str(imagenet_root / key))
        folder = imagenet_root / key
        names = [Path(path).relative_to(folder).as_posix() for path, _ in judge.samples]
        assert_equal(dataset, keys, judge, names)
    assert dataset.facts["sizes"] == {"train": 64, "val": 16, "test": 2}
    with pytest.raises(ValueError, match=r"'train': 1281167, 'test': 50000, 'classes': 1000}, but"):
        imagenet(root=str(imagenet_root), name="imagenet")


def test_a_share_of_imagenet_is_the_same_in_every_class(imagenet_root: Path) -> None:
    keys = {"root": str(imagenet_root), "name": "imagenet_10pct", "sizes": "warn"}
    tenth = imagenet(**keys, share=0.1)
    assert tenth.facts["sizes"] == {"train": 6, "val": 2, "test": 2}
    assert np.bincount(tenth["train"].targets).tolist() == [3, 3]
    assert tenth.facts["subset"] == "seeded, 0.1"
    # A larger share holds the smaller one.
    half = imagenet(**keys, share=0.5)
    assert set(labels(tenth, "train", "val")) < set(labels(half, "train", "val"))
    with pytest.raises(ValueError, match=r"`dataset\.share` must lie in \(0, 1\)"):
        imagenet(**keys, share=1.5)


def test_a_list_says_which_images_of_imagenet_are_kept(imagenet_root: Path) -> None:
    path = imagenet_root / "lists" / "1percent.txt"
    listed = [f"{wnid}_{n}.JPEG" for wnid in ("n01440764", "n01443537") for n in (30, 4, 7)]
    write(path, *listed)
    keys = {"root": str(imagenet_root), "name": "imagenet_1pct", "sizes": "warn"}
    dataset = imagenet(**keys, share=0.01, subset=str(path))
    found = labels(dataset, "train", "val")
    assert {name.split("/")[1] for name in found} == set(listed)
    assert dataset.facts["subset"] == "1percent.txt"
    assert len(dataset["test"]) == 2
    write(path, *listed, "n01443537_99.JPEG")
    with pytest.raises(ValueError, match=r"but `n01443537_99\.JPEG` is unknown; correct dataset\."):
        imagenet(**keys, subset=str(path))


def test_validation_images_in_one_folder_are_explained(imagenet_root: Path) -> None:
    (imagenet_root / "val" / "n01443537").rename(imagenet_root / "elsewhere")
    with pytest.raises(ValueError, match=r"but `n01443537` is in only one of them; sort the val"):
        imagenet(root=str(imagenet_root), name="imagenet", sizes="warn")


WNIDS = ("n02124075", "n01443537", "n04067472")  # wnids.txt is not in alphabetical order


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    """As the archive unpacks."""
    home = tmp_path / "tiny-imagenet-200"
    write(home / "wnids.txt", *WNIDS)
    for wnid in WNIDS:
        draw(home / "train" / wnid / "images", *(f"{wnid}_{n}.JPEG" for n in range(10)))
        write(home / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58")
    rows = [(f"val_{n}.JPEG", WNIDS[n % 3]) for n in range(6)]
    draw(home / "val" / "images", *(name for name, _ in rows))
    lines = (f"{name}\t{wnid}\t0\t32\t44\t62" for name, wnid in rows)
    write(home / "val" / "val_annotations.txt", *lines)
    return tmp_path


def test_tiny_imagenet_is_tested_on_its_annotated_validation_images(tiny_root: Path) -> None:
    dataset = tiny_imagenet(root=str(tiny_root), name="tiny_imagenet", sizes="warn")
    assert dataset.classes == tuple(sorted(WNIDS))
    folder = tiny_root / "tiny-imagenet-200" / "train"
    judge = torchvision.datasets.ImageFolder(str(folder))
    names = [Path(path).relative_to(folder).as_posix() for path, _ in judge.samples]
    assert_equal(dataset, ("train", "val"), judge, names)
    by_name = {f"val_{n}.JPEG": sorted(WNIDS).index(WNIDS[n % 3]) for n in range(6)}
    assert labels(dataset, "test") == by_name
    with pytest.raises(ValueError, match=r"'train': 100000, 'test': 10000, 'classes': 200}, but"):
        tiny_imagenet(root=str(tiny_root), name="tiny_imagenet")


@pytest.mark.parametrize("inside", ["", "images"])
def test_validation_images_of_tiny_imagenet_may_be_regrouped(tiny_root: Path, inside: str) -> None:
    official = tiny_imagenet(root=str(tiny_root), name="tiny_imagenet", sizes="warn")
    expected = labels(official, "test")
    val = tiny_root / "tiny-imagenet-200" / "val"
    for number in range(6):
        place = val / WNIDS[number % 3] / inside
        place.mkdir(parents=True, exist_ok=True)
        (val / "images" / f"val_{number}.JPEG").rename(place / f"val_{number}.JPEG")
    (val / "images").rmdir()
    regrouped = tiny_imagenet(root=str(tiny_root), name="tiny_imagenet", sizes="warn")
    assert {Path(name).name: label for name, label in labels(regrouped, "test").items()} == expected


def test_a_class_of_tiny_imagenet_without_a_folder_is_named(tiny_root: Path) -> None:
    write(tiny_root / "tiny-imagenet-200" / "wnids.txt", *WNIDS, "n09999999")
    with pytest.raises(ValueError, match=r"every line of wnids\.txt, but has none for `n09999999`"):
        tiny_imagenet(root=str(tiny_root), name="tiny_imagenet", sizes="warn")


def test_imagenet100_takes_the_published_classes_or_those_of_a_list(tmp_path: Path) -> None:
    # https://github.com/HobbitLong/CMC/blob/master/imagenet100.txt: first and last line.
    published = IMAGENET_100.split()
    assert {"n02869837", "n02090622"} <= set(published)
    assert len(set(published)) == 100
    for wnid in ("n01440764", "n02869837", "n02090622"):
        draw(tmp_path / "train" / wnid, *(f"{wnid}_{i}.JPEG" for i in range(5)))
        draw(tmp_path / "val" / wnid, f"{wnid}_val.JPEG")
    keys = {"root": str(tmp_path), "name": "imagenet100", "sizes": "warn"}
    with pytest.raises(
        ValueError, match=r"must have the same class folders, but `n01558993`, .* 93"
    ):
        imagenet100(**keys)
    write(tmp_path / "list.txt", "n02869837", "n02090622")
    few = imagenet100(**keys, classes=str(tmp_path / "list.txt"))
    assert few.classes == ("n02090622", "n02869837")
    assert few.facts["sizes"] == {"train": 8, "val": 2, "test": 2}
    assert few.facts["class_list"] == "list.txt"
    for name, target in labels(few, *ALL).items():
        assert few.classes[target] == name.split("/")[0]
