import numpy as np
import pytest

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.figures import JOINTS, figures
from ssl_transfer.datasets.geometry import outside


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return figures(name="figures")


def test_there_are_600_figures_that_are_always_the_same(dataset: Dataset) -> None:
    sizes = {key: len(split) for key, split in dataset.splits.items()}
    assert sizes == {"train": 320, "val": 80, "test": 200}
    assert (dataset.target, dataset.classes) == ("landmarks", JOINTS)
    assert dataset.summary().startswith("`figures`: 600 images, 14 landmarks (`neck`, `head_top`, ")
    names = [name for split in dataset.splits.values() for name in split.names]
    assert len(set(names)) == 600
    assert figures(name="figures").fingerprint == dataset.fingerprint
    assert figures(name="figures", split_seed=1).fingerprint != dataset.fingerprint


def test_every_joint_lies_inside_of_the_image_on_a_drawn_line(dataset: Dataset) -> None:
    split = dataset["test"]
    assert not outside(split.targets, 64).any()
    assert split.sizes.tolist() == [[64, 64]] * 200
    for image, target in zip(split.images, split.targets, strict=True):
        levels = np.asarray(image).astype(int)
        background = levels[0, 0]
        # The top of the head touches the edge of its circle; the other joints lie within a line.
        for x, y in target.reshape(14, 2)[[joint != "head_top" for joint in JOINTS]]:
            row, column = min(int(y), 63), min(int(x), 63)
            assert np.abs(levels[row, column] - background).max() > 20


def test_limbs_have_the_length_of_their_figure(dataset: Dataset) -> None:
    places = dataset["train"].targets.reshape(-1, 14, 2)

    def length(first: str, second: str) -> np.ndarray:
        ends = places[:, JOINTS.index(first)] - places[:, JOINTS.index(second)]
        return np.linalg.norm(ends, axis=1)

    height = length("right_knee", "right_ankle") / 0.22
    assert 31 < height.min() < 34
    assert 49 < height.max() < 52
    for pair, share in ((("left_elbow", "left_wrist"), 0.15), (("neck", "head_top"), 0.2)):
        np.testing.assert_allclose(length(*pair) / height, share, rtol=0.1)


def test_every_joint_moves_from_figure_to_figure(dataset: Dataset) -> None:
    assert (dataset["train"].targets.std(axis=0) > 2).all()
