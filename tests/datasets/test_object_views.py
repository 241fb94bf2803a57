import dataclasses

import numpy as np
import pytest

from ssl_transfer.datasets import Options, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.object_views import assemble_views


def views(*groups: int, targets: tuple[int, ...] | None = None) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (len(groups), 4, 4, 3), dtype=np.uint8)
    return Split(
        ArrayImages(pixels),
        np.array(targets or [0] * len(groups), dtype=np.int64),
        [f"{number:02d}.png" for number in range(len(groups))],
        np.array(groups, dtype=np.int64),
    )


def test_all_views_are_in_test_and_keep_their_groups() -> None:
    dataset = assemble_views(Options(name="mine", split_seed=3), views=views(0, 0, 1), content="c")
    assert dataset.target == "views"
    assert [len(dataset[key]) for key in ("train", "val", "test")] == [0, 0, 3]
    assert dataset["test"].groups.tolist() == [0, 0, 1]
    assert (dataset.split_seed, dataset.classes, dataset.facts["objects"]) == (3, (), 2)


def test_the_fingerprint_changes_with_the_grouping_and_the_content() -> None:
    options = Options(name="mine")
    prints = {
        assemble_views(options, views=views(*groups), content=content).fingerprint
        for groups, content in (((0, 0, 1, 1), "c"), ((0, 1, 0, 1), "c"), ((0, 0, 1, 1), "d"))
    }
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("key", "value", "neutral"),
    [("labels_per_class", 4, "null"), ("test_per_class", 4, "null"), ("label_fraction", 0.5, "1")],
)
def test_options_that_limit_labels_are_refused(key: str, value: float, neutral: str) -> None:
    options = dataclasses.replace(Options(name="mine"), **{key: value})
    told = f"`dataset.{key}` must be {neutral} for `mine`.* but is {value}"
    with pytest.raises(ValueError, match=told):
        assemble_views(options, views=views(0, 0), content="c")


def test_a_class_that_does_not_exist_is_refused_by_the_name_of_the_view() -> None:
    split = views(0, 0, 1, targets=(0, 0, 2))
    with pytest.raises(ValueError, match=r"from 0 to 1, but that of `02.png` is 2"):
        assemble_views(Options(name="mine"), views=split, classes=["a", "b"], content="c")


def test_no_view_and_other_numbers_than_the_published_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="must have at least one view"):
        assemble_views(Options(name="mine"), views=views(), content="c")
    with pytest.raises(ValueError, match=r"published sizes {'objects': 3}, but has {'objects': 2}"):
        assemble_views(
            Options(name="mine"), views=views(0, 1), content="c", expected={"objects": 3}
        )
