"""Few labels: nested, stratified fractions of the training and validation samples."""

import dataclasses
import logging

import numpy as np
import pytest

from ssl_transfer.datasets import Dataset, Options, Split, assemble
from ssl_transfer.datasets.embedded import digits
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.label_fraction import fraction_of

COUNTS = [400, 100, 30, 7, 1]
FRACTIONS = (0.01, 0.03, 0.1, 0.5, 1.0)


def split_of(targets: np.ndarray, groups: np.ndarray | None = None, prefix: str = "") -> Split:
    images = ArrayImages(np.zeros((len(targets), 1, 1, 3), np.uint8))
    return Split(images, targets, [f"{prefix}{n}" for n in range(len(targets))], groups)


def mixed(counts: list[int] = COUNTS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def assembled(official: bool, targets: np.ndarray | None = None, **options) -> Dataset:
    targets = mixed() if targets is None else targets
    val = split_of(mixed([50, 50, 8, 2, 1], 1), prefix="v") if official else None
    return assemble(
        Options(name="toy", **options),
        classes=list("abcde"),
        train=split_of(targets),
        test=split_of(mixed([9] * 5), prefix="t"),
        val=val,
        content="",
    )


def test_a_class_gives_the_nearest_whole_number_and_at_least_one() -> None:
    split = split_of(mixed())
    taken = {f: np.bincount(fraction_of(split, f, 0).targets, minlength=5) for f in FRACTIONS}
    assert taken[0.01].tolist() == [4, 1, 1, 1, 1]
    assert taken[0.1].tolist() == [40, 10, 3, 1, 1]
    assert taken[0.5].tolist() == [200, 50, 15, 4, 1]  # 3.5 of 7 is rounded up
    assert taken[1.0].tolist() == COUNTS


def test_a_choice_depends_on_names_and_seed_but_not_on_the_order_of_files() -> None:
    split = split_of(mixed())
    chosen = fraction_of(split, 0.1, 0)
    order = np.random.default_rng(3).permutation(len(split))
    assert set(fraction_of(split.subset(order), 0.1, 0).names) == set(chosen.names)
    assert set(fraction_of(split, 0.1, 1).names) != set(chosen.names)
    # A class is chosen from whatever the other classes hold.
    alone = split.subset(np.flatnonzero(split.targets == 1))
    names = {name for name, label in zip(chosen.names, chosen.targets, strict=True) if label == 1}
    assert set(fraction_of(alone, 0.1, 0).names) == names


@pytest.mark.parametrize("official", [False, True])
def test_smaller_fractions_lie_in_larger_ones_and_validation_comes_from_the_same_labels(
    official: bool,
) -> None:
    whole = assembled(official)
    before = {"train": set(), "val": set()}
    for fraction in FRACTIONS:
        dataset = assembled(official, label_fraction=fraction)
        for key, smaller in before.items():
            names = set(dataset[key].names)
            assert smaller <= names <= set(whole[key].names)
            before[key] = names
        assert list(dataset["test"].names) == list(whole["test"].names)
    assert dataset.fingerprint == whole.fingerprint
    tenth = assembled(official, label_fraction=0.1)
    available = sum(len(whole[key]) for key in ("train", "val"))
    used = sum(len(tenth[key]) for key in ("train", "val"))
    assert tenth.facts["labels"] == {"used": used, "available": available}
    assert used == pytest.approx(0.1 * available, abs=5)
    assert "labels" not in whole.facts


@pytest.mark.parametrize("official", [False, True])
def test_the_labels_of_fewer_per_class_are_among_those_of_more(official: bool) -> None:
    targets, before = mixed([60] * 5), set()
    for count in (2, 3, 5, 10, 25, 48):
        keys = {"val_fraction": 0.2 if not official else 0.02, "labels_per_class": count}
        dataset = assembled(official, targets, **keys)
        names = {*dataset["train"].names, *dataset["val"].names}
        assert before < names
        assert len(names) == 5 * count
        before = names


def test_groups_are_taken_as_a_whole_and_as_near_to_the_fraction_as_they_allow() -> None:
    targets = np.repeat([0, 1], [300, 200])
    groups = np.random.default_rng(0).integers(0, 40, 500) + 100 * targets
    split, before = split_of(targets, groups), set()
    for fraction in (0.02, 0.1, 0.3, 1.0):
        chosen = fraction_of(split, fraction, 0)
        names = set(chosen.names)
        assert before <= names
        assert not set(np.delete(groups, [int(n) for n in names])) & set(chosen.groups)
        for label, count in enumerate((300, 200)):
            largest = np.unique(groups[targets == label], return_counts=True)[1].max()
            taken = int((chosen.targets == label).sum())
            assert abs(taken - fraction * count) <= max(largest / 2, largest * (taken == largest))
        before = names
    assert len(before) == 500


def test_groups_of_one_sample_change_nothing() -> None:
    split = split_of(mixed())
    grouped = dataclasses.replace(split, groups=np.arange(len(split)) + 7)
    for fraction in FRACTIONS:
        one, other = (fraction_of(some, fraction, 5) for some in (split, grouped))
        assert list(one.names) == list(other.names)


def test_of_several_classes_per_image_each_is_shown_and_not_shown() -> None:
    generator = np.random.default_rng(0)
    targets = (generator.uniform(size=(500, 3)) < [0.5, 0.02, 0.99]).astype(np.int64)
    targets[generator.uniform(size=targets.shape) < 0.1] = -1
    split, before = split_of(targets), set()
    for fraction in (0.004, 0.02, 0.2, 1.0):
        chosen = fraction_of(split, fraction, 0)
        assert before <= set(chosen.names)
        for column in chosen.targets.T:
            assert {0, 1} <= set(column.tolist())
        assert round(fraction * 500) <= len(chosen) <= round(fraction * 500) + 6
        before = set(chosen.names)


def test_of_values_the_images_are_taken_without_regard_to_them() -> None:
    split = split_of(np.random.default_rng(0).normal(size=(200, 2)))
    assert [len(fraction_of(split, f, 0)) for f in (0.001, 0.1, 1.0)] == [1, 20, 200]
    assert set(fraction_of(split, 0.1, 0).names) < set(fraction_of(split, 0.3, 0).names)


def test_a_split_without_samples_stays_so() -> None:
    assert len(fraction_of(split_of(np.empty(0, np.int64)), 0.1, 0)) == 0
    assert len(assembled(False, val_fraction=0.0, label_fraction=0.1)["val"]) == 0


def test_more_labels_than_the_fraction_are_told(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assembled(True, label_fraction=0.1)
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        assembled(True, label_fraction=0.001)
    assert "keeps at least one label of each class to train and one to validate" in caplog.text
    assert "which are 10 of 649 labels (0.015)" in caplog.text


@pytest.mark.parametrize("official", [False, True])
def test_of_few_labels_per_class_a_fraction_is_taken(official: bool) -> None:
    targets = mixed([60] * 5)
    keys = {"val_fraction": 0.2 if not official else 0.02, "labels_per_class": 40}
    few = assembled(official, targets, **keys)
    fewer = assembled(official, targets, **keys, label_fraction=0.25)
    for key in ("train", "val"):
        assert set(fewer[key].names) <= set(few[key].names)
    sizes = {key: np.bincount(fewer[key].targets).tolist() for key in ("train", "val")}
    assert sizes == {
        "train": [8 if not official else 10] * 5,
        "val": [2 if not official else 1] * 5,
    }
    used = sum(map(sum, sizes.values()))
    available = 5 * 60 + (sum([50, 50, 8, 2, 1]) if official else 0)
    assert fewer.facts["labels"] == {"used": used, "available": available}


def test_an_embedded_set_takes_a_fraction() -> None:
    whole = digits(name="whole")
    tenth, hundredth = (digits(name="few", label_fraction=f) for f in (0.1, 0.01))
    for key in ("train", "val"):
        assert set(hundredth[key].names) < set(tenth[key].names) < set(whole[key].names)
        counts = np.bincount(whole[key].targets)
        rounded = np.maximum(1, np.floor(0.1 * counts + 0.5)).astype(int)
        assert np.bincount(tenth[key].targets).tolist() == rounded.tolist()
