import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import draw, labels, samples, write
from PIL import Image

from ssl_transfer.datasets import Dataset, Options, assemble
from ssl_transfer.datasets.few_shot_sets import miniimagenet, omniglot
from ssl_transfer.protocols.base import require
from ssl_transfer.protocols.few_shot import FewShot
from ssl_transfer.protocols.knn import KNN

# Alphabets, characters and drawings of https://github.com/brendenlake/omniglot/tree/master/python
CHARACTERS = {
    "images_background/Greek": {"character01": "0394", "character02": "0395"},
    "images_background/Latin": {"character01": "0684"},
    "images_evaluation/Angelic": {"character01": "0965", "character02": "0966"},
}


@pytest.fixture
def omniglot_root(tmp_path: Path) -> Path:
    for alphabet, characters in CHARACTERS.items():
        for character, number in characters.items():
            folder = tmp_path / "omniglot-py" / alphabet / character
            folder.mkdir(parents=True)
            for drawing in range(1, 6):
                ink = np.random.default_rng(10 * int(number) + drawing).random((6, 6)) > 0.5
                Image.fromarray(ink).save(folder / f"{number}_{drawing:02d}.png")
    return tmp_path


def test_omniglot_equals_torchvisions(omniglot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = omniglot(root=str(omniglot_root), name="omniglot", sizes="warn", flip=False)
    assert dataset.classes == (
        "Angelic/character01", "Angelic/character02", "Greek/character01", "Greek/character02",
        "Latin/character01",
    )  # fmt: skip
    assert dataset.facts["sizes"] == {"train": 12, "val": 3, "test": 10}
    judged = torchvision.datasets.Omniglot
    monkeypatch.setattr(judged, "_check_integrity", lambda _: True)  # of an archive
    for background, keys in ((True, ("train", "val")), (False, ["test"])):
        judge = judged(str(omniglot_root), background=background)
        read = samples(dataset, *keys)
        assert len(read) == len(judge)
        # torchvision's order of characters is that of the file system.
        for number, (file, character) in enumerate(judge._flat_character_images):
            name = f"{judge.target_folder.rpartition('/')[2]}/{judge._characters[character]}/{file}"
            image, label = read[name]
            assert dataset.classes[label] == judge._characters[character]
            assert np.array_equal(np.asarray(image)[..., 0], np.asarray(judge[number][0]))


def test_no_character_is_trained_and_tested(omniglot_root: Path) -> None:
    dataset = omniglot(root=str(omniglot_root), name="omniglot", sizes="warn", flip=False)
    assert set(dataset["train"].targets) == set(dataset["val"].targets) == {2, 3, 4}
    assert set(dataset["test"].targets) == {0, 1}
    require(FewShot(ways=2, shots=1, queries=4), dataset)
    with pytest.raises(ValueError, match="none are: it is for `few_shot` and for pre-training"):
        require(KNN(), dataset)
    with pytest.raises(ValueError, match=r"'classes': 1623}, but has {'train': 15, 'test': 10, "):
        omniglot(root=str(omniglot_root), name="omniglot")


def test_characters_are_classes_that_other_people_draw_for_the_test(omniglot_root: Path) -> None:
    background = omniglot_root / "omniglot-py" / "images_background"
    for folder, number in (("Greek/character01", "0394"), ("Latin/character01", "0684")):
        for drawing in (10, 11, 20):
            draw(background / folder, f"{number}_{drawing:02d}.png")
    shutil.rmtree(background.parent / "images_evaluation")  # is not needed
    keys = {"root": str(omniglot_root), "name": "omniglot", "flip": False, "split_rule": "drawers"}
    with pytest.raises(ValueError, match=r"'classes': 964}, but has {'train': 17, 'test': 4, 'cl"):
        omniglot(**keys)
    shutil.rmtree(background / "Greek/character02")
    dataset = omniglot(**keys, alphabets=["Latin", "Greek"])
    assert dataset.classes == ("Greek/character01", "Latin/character01")
    assert sorted(Path(name).name for name in dataset["test"].names) == [
        "0394_11.png", "0394_20.png", "0684_11.png", "0684_20.png",
    ]  # fmt: skip
    assert len(dataset["train"]) + len(dataset["val"]) == 12
    require(KNN(), dataset)
    assert omniglot(**keys, alphabets=["Latin"]).classes == ("Latin/character01",)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"alphabets": ["Latin"]}, "must be null without dataset.split_rule=drawers, but is"),
        (
            {"split_rule": "drawers", "alphabets": ["Latin", "Elvish"]},
            r"must name folders in `.*` \(`Greek`, `Latin`\), but `Elvish` is none",
        ),
    ],
)
def test_alphabets_that_select_nothing_are_refused(
    omniglot_root: Path, keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        omniglot(root=str(omniglot_root), name="omniglot", sizes="warn", **keys)


def test_a_shared_alphabet_is_refused(omniglot_root: Path) -> None:
    draw(omniglot_root / "omniglot-py/images_evaluation/Greek/character02", "0395_01.png")
    with pytest.raises(ValueError, match=r"must be in one split, but `Greek/character02` is in"):
        omniglot(root=str(omniglot_root), name="omniglot", sizes="warn")


def test_the_layout_of_missing_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"as omniglot-py/images_background, omniglot-py/images_e"):
        omniglot(root=str(tmp_path), name="omniglot")
    with pytest.raises(ValueError, match=r"as images, train\.csv, val\.csv, test\.csv, but"):
        miniimagenet(root=str(tmp_path), name="miniimagenet")


# Classes and names of the lists of Ravi and Larochelle,
# https://github.com/mileyan/simple_shot/tree/master/split/mini
LISTED = {
    "train": ("n01532829", "n01558993"),
    "val": ("n01855672",),
    "test": ("n01930112", "n01981276"),
}


def image_names(wnid: str) -> list[str]:
    return [f"{wnid}{number:08d}.jpg" for number in (5, 6, 7)]


@pytest.fixture(params=["lists", "nested", "folders"])
def mini_root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for key, wnids in LISTED.items():
        for wnid in wnids:
            folder = {
                "lists": tmp_path / "images",
                "nested": tmp_path / "images" / wnid,
                "folders": tmp_path / key / wnid,
            }[request.param]
            draw(folder, *image_names(wnid))
        if request.param != "folders":
            rows = [f"{name},{wnid}" for wnid in wnids for name in image_names(wnid)]
            write(tmp_path / f"{key}.csv", "filename,label", *rows)
    return tmp_path


def test_miniimagenet_has_classes_of_its_own_in_each_split(mini_root: Path) -> None:
    dataset = miniimagenet(root=str(mini_root), name="miniimagenet", sizes="warn")
    assert dataset.classes == tuple(sorted(wnid for wnids in LISTED.values() for wnid in wnids))
    for key, wnids in LISTED.items():
        shown = {Path(name).name: label for name, label in labels(dataset, key).items()}
        assert shown == {
            name: dataset.classes.index(wnid) for wnid in wnids for name in image_names(wnid)
        }
    assert dataset.facts["validation"] == "official"
    require(FewShot(ways=2, shots=1, queries=2), dataset)
    with pytest.raises(ValueError, match=r"published sizes {'train': 38400, 'val': 9600, 'test':"):
        miniimagenet(root=str(mini_root), name="miniimagenet")


def test_a_class_in_two_splits_of_miniimagenet_is_refused(mini_root: Path) -> None:
    wnid = LISTED["train"][0]
    if (mini_root / "test.csv").exists():
        write(mini_root / "test.csv", "filename,label", f"{image_names(wnid)[0]},{wnid}")
    else:
        draw(mini_root / "test" / wnid, "other.jpg")
    with pytest.raises(ValueError, match="must be in one split, but `n01532829` is in several"):
        miniimagenet(root=str(mini_root), name="miniimagenet", sizes="warn")


def test_classes_that_are_only_tested_are_refused_elsewhere(omniglot_root: Path) -> None:
    dataset = omniglot(root=str(omniglot_root), name="omniglot", sizes="warn", flip=False)

    def assembled(**keys: bool) -> Dataset:
        return assemble(
            Options(name="mine"), classes=dataset.classes, train=dataset["train"],
            test=dataset["test"], content="", **keys,
        )  # fmt: skip

    with pytest.raises(ValueError, match="every class of `mine` must have an image in train"):
        assembled()
    assert assembled(disjoint=True)["test"].targets.max() == 1
