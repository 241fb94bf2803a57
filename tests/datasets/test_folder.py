import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.datasets.folder import image_folder, unlabelled_folder
from ssl_transfer.protocols.classification import require_metrics, scored_by


def draw(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), colour).save(path)


def fill(root: Path, per_class: int = 5, classes: tuple[str, ...] = ("ant", "bee")) -> None:
    for target, name in enumerate(classes):
        for number in range(per_class):
            draw(root / name / f"{number}.png", (target, number, 0))


def read(root: Path, **options):
    return image_folder(root=str(root), name="mine", **options)


def test_split_folders_are_taken_as_they_are(tmp_path) -> None:
    for key, count in (("train", 5), ("Validation", 2), ("test", 3)):
        fill(tmp_path / key, count)
    dataset = read(tmp_path, on_duplicates="warn")
    assert dataset.classes == ("ant", "bee")
    assert dataset.facts["sizes"] == {"train": 10, "val": 4, "test": 6}
    assert dataset["val"].names[2] == "Validation/bee/0.png"
    assert dataset["test"].images[4].getpixel((0, 0)) == (1, 1, 0)
    assert dataset["test"].targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_class_folders_alone_are_split_by_seed(tmp_path) -> None:
    fill(tmp_path, 50)
    dataset = read(tmp_path)
    assert dataset.facts["sizes"] == {"train": 64, "val": 16, "test": 20}
    names = [name for key in ("train", "val", "test") for name in dataset[key].names]
    assert len(set(names)) == 100
    for key in ("train", "val", "test"):
        for image, target in zip(dataset[key].images, dataset[key].targets, strict=True):
            assert image.getpixel((0, 0))[0] == target
    assert read(tmp_path).fingerprint == dataset.fingerprint
    assert read(tmp_path, split_seed=1).fingerprint != dataset.fingerprint


def test_the_fingerprint_follows_file_sizes_but_not_the_place(tmp_path) -> None:
    for place in ("here", "there"):
        fill(tmp_path / place)
    first = read(tmp_path / "here").fingerprint
    assert read(tmp_path / "there").fingerprint == first
    Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / "there" / "ant" / "0.png")
    assert read(tmp_path / "there").fingerprint != first


def test_the_fingerprint_follows_bytes_where_size_and_names_stay(tmp_path) -> None:
    fill(tmp_path)
    for path in tmp_path.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))  # not compressed: always of one size
        path.unlink()
    before = read(tmp_path)
    changed = tmp_path / "ant" / "0.bmp"
    size = changed.stat().st_size
    draw(changed, (9, 9, 9))
    assert changed.stat().st_size == size
    assert read(tmp_path).fingerprint != before.fingerprint


def test_a_class_may_be_called_like_a_split(tmp_path) -> None:
    fill(tmp_path, classes=("bus", "plane", "train"))
    assert read(tmp_path).classes == ("bus", "plane", "train")


def test_odd_files_links_and_subfolders(tmp_path) -> None:
    fill(tmp_path / "data", 2)
    draw(tmp_path / "data" / "ant" / "deep" / "SHOUT.PNG", (0, 9, 9))
    (tmp_path / "data" / "ant" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "data" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "data" / ".cache").mkdir()
    (tmp_path / "data" / "ant" / "loop").symlink_to(tmp_path / "data" / "ant")
    draw(tmp_path / "elsewhere" / "x.png", (2, 0, 0))
    draw(tmp_path / "elsewhere" / "y.png", (2, 1, 0))
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    dataset = read(tmp_path / "data")
    names = sorted(name for split in dataset.splits.values() for name in split.names)
    assert names == [
        "ant/0.png", "ant/1.png", "ant/deep/SHOUT.PNG", "bee/0.png", "bee/1.png", "cat/x.png",
        "cat/y.png",
    ]  # fmt: skip


def test_missing_folder(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"one folder per class, but `.*gone` does not exist"):
        read(tmp_path / "gone")


def test_no_class_folders(tmp_path) -> None:
    draw(tmp_path / "0.png", (0, 0, 0))
    with pytest.raises(ValueError, match="at least two class folders with images, but has none"):
        read(tmp_path)


def test_empty_class(tmp_path) -> None:
    fill(tmp_path)
    (tmp_path / "cow").mkdir()
    with pytest.raises(
        ValueError, match=r"must have an image .*cow` has none.*exclude_classes=\[cow\]"
    ):
        read(tmp_path)


def test_classes_that_differ(tmp_path) -> None:
    fill(tmp_path / "train", classes=("ant", "bee", "cow"))
    fill(tmp_path / "test", classes=("ant", "bea", "cow"))
    with pytest.raises(ValueError, match="`bea` only in test and `bee` only in train"):
        read(tmp_path)


def test_train_without_test(tmp_path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    with pytest.raises(ValueError, match=r"but has only `train`, `val`.*dataset.root=…/train"):
        read(tmp_path)


def test_one_file_in_train_and_test(tmp_path) -> None:
    fill(tmp_path / "train")
    draw(tmp_path / "test" / "ant" / "0.png", (9, 9, 9))
    draw(tmp_path / "test" / "bee" / "0.png", (8, 8, 8))
    (tmp_path / "test" / "ant" / "link.png").symlink_to(tmp_path / "train" / "ant" / "3.png")
    told = r"1 of test has the same bytes as train \(`test/ant/link.png` and `train/ant/3.png`\)"
    with pytest.raises(ValueError, match=told):
        read(tmp_path)
    assert len(read(tmp_path, on_duplicates="drop")["test"]) == 3


def spoil(root: Path) -> None:
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(root / "ant" / "cut.jpg")
    whole = (root / "ant" / "cut.jpg").read_bytes()
    (root / "ant" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "bee" / "text.png").write_text("not an image at all")
    (root / "bee" / "empty.gif").write_bytes(b"")


def test_corrupt_images_are_named_before_any_training(tmp_path) -> None:
    fill(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match="3 of 13 do not") as caught:
        read(tmp_path)
    for part in (
        r"cut.jpg (", "truncated", "text.png (not an image that Pil", "empty.gif (an empty file)",
        "dataset.on_corrupt=skip",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_corrupt_images_can_be_skipped_and_are_counted(tmp_path, caplog) -> None:
    fill(tmp_path)
    clean = read(tmp_path)
    spoil(tmp_path)
    with caplog.at_level(logging.WARNING):
        dataset = read(tmp_path, on_corrupt="skip")
    assert "skipping 3 corrupt images" in caplog.text
    assert dataset.facts["corrupt"] == 3
    assert dataset.facts["corrupt_names"] == ["ant/cut.jpg", "bee/empty.gif", "bee/text.png"]
    for key in ("train", "val", "test"):
        assert list(dataset[key].names) == list(clean[key].names)


def test_images_are_looked_at_once_until_they_change(tmp_path, cache, monkeypatch) -> None:
    from ssl_transfer.datasets import files

    fill(tmp_path)
    looked = []
    look = files._look

    def noted(path, *how):
        looked.append(path)
        return look(path, *how)

    monkeypatch.setattr(files, "_look", noted)
    read(tmp_path)
    read(tmp_path, split_seed=4)
    assert len(looked) == 10
    spoil(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="3 of 13 do not"):
            read(tmp_path)
    assert len(looked) == 23
    for record in cache.rglob("verified/*"):
        record.write_text("damaged")
    with pytest.raises(ValueError, match="3 of 13 do not"):
        read(tmp_path)


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fill(tmp_path / "data")
    assert read(tmp_path / "data").facts["corrupt"] == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_classes_keep_a_training_image(tmp_path, count: int) -> None:
    fill(tmp_path, 10)
    for number in range(count):
        draw(tmp_path / "cow" / f"{number}.png", (2, 0, 0))
    dataset = read(tmp_path)
    assert (np.bincount(dataset["train"].targets) > 0).all()


def test_hard_links_are_the_same_file(tmp_path) -> None:
    fill(tmp_path)
    os.link(tmp_path / "ant" / "0.png", tmp_path / "bee" / "copy.png")
    with pytest.raises(ValueError, match="are the same file; remove one"):
        read(tmp_path)


def test_images_without_labels_all_train_whatever_their_folders(tmp_path) -> None:
    fill(tmp_path / "train", 2)
    draw(tmp_path / "loose.JPG", (7, 0, 0))
    draw(tmp_path / "a" / "b" / "c" / "deep.png", (8, 0, 0))
    draw(tmp_path / ".hidden" / "x.png", (9, 0, 0))
    dataset = unlabelled_folder(root=str(tmp_path), name="mine")
    assert dataset["train"].names == ["a/b/c/deep.png", "loose.JPG", "train/ant/0.png",
        "train/ant/1.png", "train/bee/0.png", "train/bee/1.png"]  # fmt: skip
    assert set(dataset["train"].targets.tolist()) == {-1}
    assert (len(dataset["val"]), len(dataset["test"])) == (0, 0)
    assert (dataset.target, dataset.classes) == ("none", ())
    assert dataset["train"].images[0].getpixel((0, 0)) == (8, 0, 0)
    (tmp_path / "a" / "b" / "c" / "deep.png").rename(tmp_path / "deep.png")
    assert unlabelled_folder(root=str(tmp_path), name="mine").fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "must have an image .* at some depth, but has none"),
        ({"labels_per_class": 5}, "`dataset.labels_per_class` must be null for `mine`"),
        ({"root": "nowhere"}, "must be a folder of images, but `nowhere` does not exist"),
    ],
)
def test_what_cannot_be_images_without_labels_is_refused(tmp_path, options, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        unlabelled_folder(**{"root": str(tmp_path), "name": "mine", **options})


def test_a_folder_without_classes_is_shown_the_way_to_pretrain_on_it(tmp_path) -> None:
    draw(tmp_path / "only" / "0.png", (0, 0, 0))
    with pytest.raises(ValueError, match=r"dataset@method\.pretrain_on=unlabelled_folder"):
        read(tmp_path)


def test_an_own_set_chooses_what_it_is_judged_by(tmp_path) -> None:
    fill(tmp_path, 10)
    dataset = read(tmp_path)
    assert (dataset.metric, dataset.extra_metrics) == ("top1", ())
    chosen = read(tmp_path, metric="auc", extra_metrics=["f1", "ece"])
    assert (chosen.metric, chosen.extra_metrics) == ("auc", ("f1", "ece"))
    assert scored_by(chosen) == ["auc", "ece", "f1", "mean_per_class", "top1"]
    assert chosen.fingerprint == dataset.fingerprint
    require_metrics(chosen, selects_on="val")
    fill(tmp_path, 10, ("ant", "bee", "cow"))
    for wrong, said in (
        (
            {"metric": "auc"},
            r"`auc` is defined for two classes, but there are 3; use one of \['ece'",
        ),
        (
            {"extra_metrics": ["top5"]},
            "`top5` is defined for more than five classes, but there are 3",
        ),
        ({"metric": "map_11_point"}, "scores several classes per sample, but the targets have one"),
    ):
        with pytest.raises(ValueError, match=rf"^`mine` cannot be scored: .*{said}"):
            require_metrics(read(tmp_path, **wrong))
    with pytest.raises(ValueError, match=r"must be one of \['auc', 'ece', .* but is 'recall'"):
        require_metrics(dataclasses.replace(dataset, metric="recall"))
    six = ("ant", "bee", "cow", "dog", "eel", "fox")
    fill(tmp_path, 10, six)
    assert scored_by(read(tmp_path)) == ["top1", "mean_per_class", "top5"]
