import unicodedata
from pathlib import Path

import pytest
from folders import fill

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.split_folders import find_splits, meaning

ALONE = {"train": None, "val": None, "test": None}


def read(root: Path, **options: object) -> Dataset:
    return image_folder(root=str(root), name="mine", **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", ("train", ())),
        ("TRAINING", ("train", ())),
        ("training_set", ("train", ())),
        ("trainset", ("train", ())),
        ("TrainImages", ("train", ())),
        ("01_train", ("train", ())),
        ("train2017", ("train", ())),
        ("train_val", ("train", ())),
        ("trainval", ("train", ())),
        ("Valid", ("val", ())),
        ("validation-images", ("val", ())),
        ("dev", ("val", ())),
        ("Testing", ("test", ())),
        ("test_set", ("test", ())),
        ("seg_test", ("test", ("seg",))),
        ("asl_alphabet_train", ("train", ("asl", "alphabet"))),
        ("freight train", ("train", ("freight",))),
        ("trainer", (None, ("trainer",))),
        ("validity", (None, ("validity",))),
        ("contest", (None, ("contest",))),
        ("train_test", (None, ())),
        ("bee", (None, ("bee",))),
    ],
)
def test_what_a_folders_name_means(name: str, expected: tuple[str | None, tuple[str, ...]]) -> None:
    assert meaning(name) == expected


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        (
            "training_set/training_set",
            None,
            "test_set/test_set",
        ),  # kaggle.com/tongpython/cat-and-dog
        (
            "seg_train/seg_train",
            None,
            "seg_test/seg_test",
        ),  # kaggle.com/puneet6060/intel-image-classification
        ("Training", None, "Testing"),
        ("Train", "Valid", "TEST"),
        ("train", "validation", "test"),
        ("01_train", "02_dev", "03_test"),
        ("train_images", "val_images", "test_images"),
        ("birds-master/data/train", None, "birds-master/data/test"),
        ("asl_train/asl_train", None, "asl_test/asl_test"),
    ],
)
def test_splits_under_their_usual_names(tmp_path, train, val, test) -> None:
    for folder in filter(None, (train, val, test)):
        fill(tmp_path / folder, 2)
    fill(tmp_path / "__MACOSX" / "train", 1)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    layout = find_splits(tmp_path, ALONE)
    places = {key: str(path.relative_to(tmp_path)) for key, path in layout.folders.items()}
    expected = {"train": train, "val": val, "test": test}
    assert places == {key: folder for key, folder in expected.items() if folder}


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (("train/ant", "train/bee", "val/ant", "val/bee"), "set dataset.test_folder=val to test"),
        (
            ("train/ant", "train/bee", "val/ant", "val/bee", "test"),
            "`test` has no class folders inside; set dataset.test_folder=val",
        ),
        (("train/ant", "train/bee", "test"), "`test` has no .* set dataset.train_folder=train"),
        (("train", "test"), r"image_list, or set dataset.train_folder=\. if these folders are the"),
        (("train/ant", "train/bee"), "only `train`; .*dataset.train_folder=train"),
        (("train_img/ant", "trainset/ant", "test/ant"), "one train folder.*dataset.train_folder"),
        (
            ("ir_train/a", "ir_train/b", "ir_test/a", "rgb_train/a", "rgb_test/a"),
            "one train and one test folder.*dataset.train_folder and dataset.test_folder",
        ),
        (("训练集/猫", "训练集/狗", "测试集/猫", "测试集/狗"), "the same .*`狗`.*test_folder"),
        (("Lernen/a", "Lernen/b", "Lernen/c", "Prüfen/a", "Prüfen/c"), "hold the same folders"),
        (("data/train/a", "data/test/a", "docs"), "inside of `data`.* set dataset.root=…/data"),
        (
            ("ant/train/x", "ant/test/x", "bee/train/x", "bee/test/x"),
            "inside of `ant`, `bee`.*; name the images with dataset=image_list",
        ),
    ],
)  # fmt: skip
def test_what_looks_like_splits_is_refused_with_the_key_to_set(tmp_path, folders, told) -> None:
    fill(tmp_path, 2, folders)
    with pytest.raises(ValueError, match=told):
        read(tmp_path)


def test_train_and_val_alone_are_read_by_a_key(tmp_path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "val", 2)
    dataset = read(tmp_path, test_folder="val")
    assert dataset.facts["sizes"] == {"train": 8, "val": 2, "test": 4}
    assert {name.split("/")[0] for name in dataset["val"].names} == {"train"}
    assert {name.split("/")[0] for name in dataset["test"].names} == {"val"}


def test_classes_may_be_called_like_splits_if_a_key_says_so(tmp_path) -> None:
    fill(tmp_path, classes=("train", "test"))
    dataset = read(tmp_path, train_folder=".")
    assert dataset.classes == ("test", "train")
    fill(tmp_path / "folds", classes=("a/x", "a/y", "b/x", "b/y"))
    assert read(tmp_path / "folds", train_folder=".").classes == ("a", "b")
    assert read(tmp_path / "folds", class_depth=2).classes == ("a/x", "a/y", "b/x", "b/y")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"test_folder": "tets"}, "`dataset.test_folder` .*tets` does not exist .*has `test`"),
        ({"test_folder": "train", "train_folder": "train"}, "must be different folders"),
        ({"exclude_classes": ["bees"]}, "`bees` is none of .*; did you mean `bee`"),
        ({"class_depth": 0}, "`dataset.class_depth` must be at least 1"),
    ],
)
def test_keys_that_name_nothing_are_refused(tmp_path, keys, told: str) -> None:
    for key in ("train", "test"):
        fill(tmp_path / key)
    with pytest.raises(ValueError, match=told):
        read(tmp_path, **keys)


def test_folders_that_keys_name_in_any_language(tmp_path) -> None:
    fill(tmp_path / "训练集", 5)
    fill(tmp_path / "测试集", 2)
    dataset = read(tmp_path, train_folder="训练集", test_folder="测试集")
    assert dataset.facts["sizes"] == {"train": 8, "val": 2, "test": 4}
    assert dataset.facts["folders"] == {"train": "训练集", "test": "测试集"}


def test_folders_beside_the_splits_are_told(tmp_path, caplog) -> None:
    for key in ("seg_train/seg_train", "seg_test/seg_test"):
        fill(tmp_path / key)
    fill(tmp_path, 1, ["seg_pred"])
    read(tmp_path)
    assert "not read: folders beside the splits: 1 (`seg_pred`)" in caplog.text


def test_a_class_without_test_images_is_told_with_a_key_to_set(tmp_path, caplog) -> None:
    fill(tmp_path / "train", classes="abc")
    fill(tmp_path / "test", classes="ac")
    for _ in range(2):  # without the folder, and with an empty one
        caplog.clear()
        dataset = read(tmp_path)
        assert dataset.classes == ("a", "b", "c")
        assert "`b` has no image in test" in caplog.text
        assert "dataset.exclude_classes=[b]" in caplog.text
        (tmp_path / "test" / "b").mkdir(exist_ok=True)
    caplog.clear()
    assert read(tmp_path, exclude_classes=["b"]).classes == ("a", "c")
    assert not caplog.text


def test_a_class_without_training_images_is_refused_with_that_key(tmp_path) -> None:
    fill(tmp_path / "train", classes="ac")
    fill(tmp_path / "test", classes="abc")
    with pytest.raises(ValueError, match=r"`b` only in test.*dataset.exclude_classes=\[b\]"):
        read(tmp_path)
    assert read(tmp_path, exclude_classes=["b"]).classes == ("a", "c")


def test_class_names_that_differ_in_case_are_shown_side_by_side(tmp_path) -> None:
    fill(tmp_path / "train", classes=("Ant", "Bee"))
    fill(tmp_path / "test", classes=("ant", "Bee"))
    with pytest.raises(ValueError, match="`ant` and `Ant` may be the same"):
        read(tmp_path)


def test_class_names_in_composed_and_decomposed_letters_are_the_same(tmp_path) -> None:
    for key, form in (("train", "NFD"), ("test", "NFC")):
        fill(tmp_path / key, classes=("bee", unicodedata.normalize(form, "müll")))
    assert read(tmp_path).classes == ("bee", unicodedata.normalize("NFC", "müll"))
    fill(tmp_path / "test", classes=(unicodedata.normalize("NFD", "müll"),))
    with pytest.raises(ValueError, match="composed and in decomposed"):
        read(tmp_path)


def test_deeper_folders_are_classes_if_a_key_says_so(tmp_path, caplog) -> None:
    fill(tmp_path, classes=("finch/house", "finch/gold", "crow/hooded", "crow/carrion"))
    assert read(tmp_path).classes == ("crow", "finch")
    assert "the 4 folders inside of them (`crow/carrion`" in caplog.text
    assert "dataset.class_depth=2" in caplog.text
    assert read(tmp_path, class_depth=2).classes == (
        "crow/carrion", "crow/hooded", "finch/gold", "finch/house",
    )  # fmt: skip


def test_the_first_line_says_images_classes_and_splits(tmp_path) -> None:
    fill(tmp_path / "training_set")
    fill(tmp_path / "test_set", 2)
    assert read(tmp_path).summary() == (
        "`mine`: 14 images, 2 classes (`ant`, `bee`): train 8 (training_set), val 2 (seeded, 0.2 "
        "of train), test 4 (test_set)"
    )
