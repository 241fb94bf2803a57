"""Tasks of some classes of a set."""

import numpy as np
import pytest

from ssl_transfer.datasets import Dataset, Options, Split, assemble
from ssl_transfer.datasets.images import ArrayImages

CLASSES = ["ant", "bee", "cat", "dog"]


def split_of(targets: np.ndarray, prefix: str) -> Split:
    pixels = np.zeros((len(targets), 1, 1, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(len(targets))
    names = [f"{prefix}{number}" for number in range(len(targets))]
    groups = np.arange(len(targets)) // 2 if prefix == "train" else None
    return Split(ArrayImages(pixels), targets, names, groups)


def made(**options) -> Dataset:
    order = np.random.default_rng(0).permutation
    return assemble(
        Options(name="toy", val_fraction=0.5, **options),
        classes=CLASSES,
        train=split_of(np.repeat(np.arange(4), 8), "train"),
        test=split_of(order(np.repeat(np.arange(4), 3)), "test"),
        content="pixels",
        expected={"train": 32, "test": 12, "classes": 4},
    )


def test_the_chosen_classes_keep_their_samples_and_are_numbered_in_the_order_of_the_set() -> None:
    whole, chosen = made(), made(only_classes=["dog", "bee"])
    assert chosen.classes == ("bee", "dog")
    expected = {
        name: whole.classes[target]
        for key in ("train", "val", "test")
        for name, target in zip(whole[key].names, whole[key].targets, strict=True)
        if whole.classes[target] in ("bee", "dog")
    }
    labels = {
        name: chosen.classes[target]
        for key in ("train", "val", "test")
        for name, target in zip(chosen[key].names, chosen[key].targets, strict=True)
    }
    assert labels == expected
    assert chosen.facts["num_classes"] == 2
    number = int(chosen["test"].names[0].removeprefix("test"))
    assert chosen["test"].images[0].getpixel((0, 0))[0] == number
    # Groups still stay together.
    assert not set(chosen["train"].groups) & set(chosen["val"].groups)


def test_all_classes_in_another_order_are_the_whole_set() -> None:
    whole, chosen = made(), made(only_classes=CLASSES[::-1])
    assert chosen.classes == whole.classes
    assert chosen.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (
            ["bee", "wasp"],
            r"classes of `toy` \(`ant`, `bee`, `cat`, `dog`\), .* unknown: \['wasp'\]",
        ),
        (["bee"], "must list at least two classes of `toy`"),
        (["bee", "bee"], "must list at least two classes of `toy`"),
    ],
)
def test_a_list_that_makes_no_task_is_refused(only: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(only_classes=only)


def test_a_set_without_one_class_per_image_is_refused() -> None:
    split = Split(ArrayImages(np.zeros((4, 1, 1, 3), np.uint8)), np.eye(4, dtype=np.int64), "abcd")
    with pytest.raises(ValueError, match=r"`dataset.only_classes` must be null for `toy`"):
        assemble(
            Options(name="toy", only_classes=["ant", "bee"]),
            classes=CLASSES, train=split, val=split, test=split, content="",
        )  # fmt: skip
