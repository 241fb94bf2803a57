import inspect
import logging

import numpy as np
import pytest

from ssl_transfer.config.ranges import Count
from ssl_transfer.datasets import Dataset, Options, Split, assemble, reader
from ssl_transfer.datasets.images import ArrayImages


def split_of(counts: list[int], prefix: str) -> Split:
    targets = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    pixels = np.zeros((len(targets), 2, 2, 3), np.uint8)
    return Split(ArrayImages(pixels), targets, [f"{prefix}{i}" for i in range(len(targets))])


def made(val: list[int] | None = None, **options) -> Dataset:
    own = {key: options.pop(key) for key in ("expected", "val_rule") if key in options}
    return assemble(
        Options(name="toy", **options),
        classes=["a", "b"],
        train=split_of([20, 10], "train"),
        test=split_of([8, 8], "test"),
        val=None if val is None else split_of(val, "val"),
        content="pixels",
        **own,
    )


def counts(dataset: Dataset, key: str) -> list[int]:
    return np.bincount(dataset[key].targets, minlength=2).tolist()


def test_validation_is_carved_from_training_unless_official() -> None:
    assert [counts(made(), key) for key in ("train", "val", "test")] == [[16, 8], [4, 2], [8, 8]]
    official = made(val=[3, 3])
    assert [counts(official, key) for key in ("train", "val")] == [[20, 10], [3, 3]]
    assert official.facts["validation"] == "official"


@pytest.mark.parametrize("val_rule", [None, "ericsson2021"])
def test_without_a_validation_share_every_training_image_trains(val_rule) -> None:
    dataset = made(val_fraction=0.0, val_rule=val_rule)
    assert [counts(dataset, key) for key in ("train", "val", "test")] == [[20, 10], [0, 0], [8, 8]]
    assert str(dataset.facts["validation"]).startswith("none")
    assert counts(made(val_fraction=0.0, labels_per_class=4), "train") == [4, 4]


@pytest.mark.parametrize("val", [None, [5, 5]])
def test_labels_per_class_counts_training_and_validation_together(val) -> None:
    dataset = made(val=val, labels_per_class=10)
    assert [counts(dataset, key) for key in ("train", "val", "test")] == [[8, 8], [2, 2], [8, 8]]
    assert not set(dataset["train"].names) & set(dataset["val"].names)


def test_the_test_split_can_be_capped() -> None:
    assert counts(made(test_per_class=3), "test") == [3, 3]


def test_the_fingerprint_follows_samples_and_splits() -> None:
    prints = {
        made().fingerprint,
        made(split_seed=1).fingerprint,
        made(labels_per_class=4).fingerprint,
        made(val=[3, 3]).fingerprint,
    }
    assert len(prints) == 4
    assert made().fingerprint == made().fingerprint


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"val_fraction": 1.0}, r"`dataset.val_fraction` must lie in \[0, 1\)"),
        ({"labels_per_class": 1}, "at least 2"),
        ({"labels_per_class": 12}, "class `b` has 10; lower it"),
        ({"labels_per_class": 30, "val": [6, 5]}, "class `b` has 10; lower it"),
        ({"labels_per_class": 10, "val": [6, 1]}, "2 val images .* class `b` has 1"),
        ({"test_per_class": 0}, "at least 1"),
        ({"val_rule": "other"}, r"null or one of \['ericsson2021'\], but is 'other'"),
        ({"expected": {"train": 31}}, "published sizes {'train': 31}, but has {'train': 30}"),
    ],
)
def test_bad_options_are_explained(options, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        made(**options)


def test_wrong_sizes_can_be_a_warning(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        made(expected={"test": 17}, sizes="warn")
    assert "published sizes {'test': 17}" in caplog.text


def test_an_unknown_split_is_answered_with_the_known() -> None:
    with pytest.raises(ValueError, match=r"one of \['test', 'train', 'val'\].*'valid'"):
        made()["valid"]


def test_a_readers_signature_shows_its_own_and_the_shared_keys() -> None:
    @reader
    def toy(options: Options, root: str, depth: int = 3) -> Dataset:
        return made(split_seed=options.split_seed + depth)

    parameters = inspect.signature(toy).parameters
    assert list(parameters)[:3] == ["root", "depth", "name"]
    assert parameters["test_per_class"].annotation == Count | None
    assert toy(root="x", name="toy", split_seed=2).fingerprint == made(split_seed=5).fingerprint
    with pytest.raises(TypeError, match="dept"):
        toy(root="x", name="toy", dept=3)


def test_numbers_as_targets_are_split_by_chance_and_must_be_finite():
    def numbers(count, first=0.0):
        targets = np.arange(2 * count, dtype=np.float64).reshape(count, 2)
        targets[0, 0] = first
        images = ArrayImages(np.zeros((count, 4, 4, 3), dtype=np.uint8))
        return Split(images, targets, [f"{count}/{i}" for i in range(count)])

    def dataset(first, **keys):
        options = Options(name="toy", **keys)
        parts = {"train": numbers(20, first), "test": numbers(5)}
        return assemble(options, classes=("x", "y"), content="", target="values", **parts)

    made = dataset(0.5)
    assert [len(made[key]) for key in ("train", "val", "test")] == [16, 4, 5]
    assert made.target == "values"
    assert dataset(0.25).fingerprint != made.fingerprint
    with pytest.raises(ValueError, match="must be a number, but one of `20/0` in train is nan"):
        dataset(np.nan)
    with pytest.raises(ValueError, match=r"`dataset\.test_per_class` must be null"):
        dataset(0.5, test_per_class=1)
