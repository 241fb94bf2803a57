"""Layout: https://github.com/visipedia/inat_comp/tree/master/2018 (Annotation Format, Data).

torchvision/datasets/inaturalist.py at v0.19.0, which reads the renamed folder, is the second judge:
https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import draw, labels, samples

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.inaturalist import inaturalist18

# As text, the folder 10 lies before 2.
CATEGORIES = {0: ("Plantae", "abies"), 1: ("Aves", "pica"), 2: ("Plantae", "acer")}
CATEGORIES |= {number: ("Insecta", f"apis {number}") for number in range(3, 11)}


def annotations(first: int, per_class: int, categories=None) -> dict:
    """Return the content of a JSON file with some images of every category."""
    categories = CATEGORIES if categories is None else categories
    content = {"info": {"year": 2018}, "licenses": [], "images": [], "annotations": []}
    content["categories"] = [
        {"id": number, "name": name, "supercategory": group, "kingdom": group}
        for number, (group, name) in categories.items()
    ]
    for number, (group, _) in categories.items():
        for i in range(per_class):
            image = first + number * per_class + i
            file = f"train_val2018/{group}/{number}/{image:032x}.jpg"
            content["images"].append(
                {"id": image, "width": 5, "height": 6, "file_name": file, "license": 0}
            )
            own = {"id": image, "image_id": image, "category_id": number}
            content["annotations"].append(own)
    return content


def lay_out(root: Path, train: dict, val: dict, folder: str = "train_val2018") -> None:
    for key, content in (("train", train), ("val", val)):
        (root / f"{key}2018.json").write_text(json.dumps(content))
        names = (image["file_name"] for image in content["images"])
        draw(root, *(name.replace("train_val2018", folder, 1) for name in names))


def built(root: Path, **options) -> Dataset:
    return inaturalist18(root=str(root), name="inaturalist18", **{"sizes": "warn", **options})


def test_classes_are_categories_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    train, val = annotations(0, 5), annotations(1000, 1)
    lay_out(tmp_path, train, val)
    dataset = built(tmp_path)
    assert dataset.classes == tuple(name for _, name in CATEGORIES.values())
    for content, keys in ((train, ("train", "val")), (val, ("test",))):
        files = {image["id"]: image["file_name"] for image in content["images"]}
        expected = {
            files[one["image_id"]].removeprefix("train_val2018/"): one["category_id"]
            for one in content["annotations"]
        }
        assert labels(dataset, *keys) == expected
    assert dataset.facts["sizes"] == {"train": 44, "val": 11, "test": 11}


def test_torchvisions_folder_gives_torchvisions_labels(tmp_path: Path) -> None:
    lay_out(tmp_path, annotations(0, 5), annotations(1000, 1), "2018")
    dataset = built(tmp_path)
    judge = torchvision.datasets.INaturalist(str(tmp_path), version="2018")
    everything = samples(dataset, "train", "val", "test")
    assert len(judge) == len(everything)
    for position, (category, file) in enumerate(judge.index):
        image, target = everything[f"{judge.all_categories[category]}/{file}"]
        expected, label = judge[position]
        assert target == label
        assert (np.asarray(image) == np.asarray(expected)).all()


def test_files_with_other_categories_are_refused(tmp_path: Path) -> None:
    other = {**CATEGORIES, 2: ("Plantae", "betula")}
    lay_out(tmp_path, annotations(0, 2), annotations(1000, 1, other))
    with pytest.raises(ValueError, match="must list the same categories, but category 2 differs"):
        built(tmp_path)


def test_a_folder_of_two_categories_is_refused(tmp_path: Path) -> None:
    train = annotations(0, 2)
    train["annotations"][0]["category_id"] = 1
    lay_out(tmp_path, train, annotations(1000, 1))
    with pytest.raises(ValueError, match=r"one folder of its own, but the folder"):
        built(tmp_path)


def test_equal_names_get_their_numbers(tmp_path: Path) -> None:
    twins = {0: ("Aves", "pica"), 1: ("Aves", "pica"), 2: ("Aves", "corvus")}
    lay_out(tmp_path, annotations(0, 3, twins), annotations(1000, 1, twins))
    assert built(tmp_path).classes == ("pica (0)", "pica (1)", "corvus")


def test_damaged_annotations_are_named(tmp_path: Path) -> None:
    train = annotations(0, 2)
    del train["annotations"][3]
    lay_out(tmp_path, train, annotations(1000, 1))
    with pytest.raises(
        ValueError, match=r"train2018\.json` must be annotations with .*image 3 has no category"
    ):
        built(tmp_path)
    with pytest.raises(
        ValueError, match=r"must lie in .* as train2018\.json, val2018\.json, train_"
    ):
        built(tmp_path / "elsewhere")
