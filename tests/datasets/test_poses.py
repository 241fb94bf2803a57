"""Layout: README.txt of the archive, as in pose_dataset/lsp of github.com/YuliangXiu/MobilePose.

The published crop and split are those of datasets/leeds_sports_pose.py in
https://github.com/linusericsson/ssl-invariances, restated here.
"""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from miniatures import pixels
from PIL import Image

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.poses import JOINTS, leeds_pose

COUNT = 20
SIZES = [(40 + 3 * (number % 4), 44 - number % 5) for number in range(COUNT)]


def annotation() -> np.ndarray:
    chance = np.random.default_rng(0)
    joints = chance.uniform(0, 40, (3, 14, COUNT))
    joints[2] = chance.uniform(size=(14, COUNT)) < 0.3
    return joints


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number, (width, height) in enumerate(SIZES, start=1):
        name = f"im{number:04d}.jpg"
        Image.fromarray(pixels(name, height, width)).save(tmp_path / "images" / name)
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": annotation()})
    return tmp_path


def read(root: Path, **keys) -> Dataset:
    return leeds_pose(root=str(root), name="leeds_pose", sizes="warn", **keys)


def places_of(dataset: Dataset) -> dict[str, np.ndarray]:
    return {
        name: target.reshape(14, 2)
        for split in dataset.splits.values()
        for name, target in zip(split.names, split.targets, strict=True)
    }


def test_the_first_half_is_for_training_and_the_second_is_tested(root: Path) -> None:
    dataset = read(root)
    assert (dataset.target, dataset.classes) == ("landmarks", JOINTS)
    assert list(dataset["test"].names) == [f"im{number:04d}.jpg" for number in range(11, 21)]
    assert len(dataset["train"]) == 8
    assert len(dataset["val"]) == 2
    with pytest.raises(ValueError, match=r"{'train': 1000, 'test': 1000}, but has {'train': 10, "):
        leeds_pose(root=str(root), name="leeds_pose")


def test_the_published_split_is_drawn_with_seed_0(root: Path) -> None:
    dataset = read(root, split_rule="invariances")
    order = np.arange(COUNT)
    np.random.seed(0)  # noqa: NPY002 - restated
    np.random.shuffle(order)  # noqa: NPY002
    assert list(dataset["test"].names) == [f"im{i + 1:04d}.jpg" for i in order[12:]]
    trained = {*dataset["train"].names, *dataset["val"].names}
    assert trained == {f"im{i + 1:04d}.jpg" for i in order[:12]}
    with pytest.raises(ValueError, match=r"{'train': 1200, 'test': 800}, but has"):
        leeds_pose(root=str(root), name="leeds_pose", split_rule="invariances")


def test_each_image_is_cut_to_its_central_square_and_the_joints_follow(root: Path) -> None:
    dataset, joints = read(root), annotation()
    for split in dataset.splits.values():
        for name, image, size in zip(split.names, split.images, split.sizes, strict=True):
            number = int(name[2:6]) - 1
            width, height = SIZES[number]
            side = min(width, height)
            left, top = int((width - side) / 2), int((height - side) / 2)
            with Image.open(root / "images" / name) as whole:
                expected = whole.crop((left, top, left + side, top + side))
            assert (np.asarray(image) == np.asarray(expected)).all()
            assert size.tolist() == [side, side]
            own = places_of(dataset)[name]
            np.testing.assert_allclose(own, joints[:2, :, number].T - [left, top])


def test_without_the_crop_images_and_joints_are_those_of_the_archive(root: Path) -> None:
    dataset, joints = read(root, crop=False), annotation()
    for split in dataset.splits.values():
        for name, image, size in zip(split.names, split.images, split.sizes, strict=True):
            assert image.size == tuple(size.tolist()) == SIZES[int(name[2:6]) - 1]
    for name, places in places_of(dataset).items():
        np.testing.assert_allclose(places, joints[:2, :, int(name[2:6]) - 1].T)


def test_occluded_joints_can_be_left_out(root: Path) -> None:
    everything, visible = places_of(read(root)), places_of(read(root, only_visible=True))
    occluded = annotation()[2] == 1
    for name, places in visible.items():
        hidden = occluded[:, int(name[2:6]) - 1]
        assert np.isnan(places[hidden]).all()
        np.testing.assert_allclose(places[~hidden], everything[name][~hidden])


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (2, 0, 1), (1, 2, 0)])
def test_the_axes_of_the_annotation_may_have_any_order(root: Path, axes: tuple[int, ...]) -> None:
    before = places_of(read(root))
    scipy.io.savemat(root / "joints.mat", {"joints": annotation().transpose(axes)})
    for name, places in places_of(read(root)).items():
        np.testing.assert_allclose(places, before[name])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"joints": np.zeros((3, 13, COUNT))}, "3 numbers by 14 joints by images, but cannot be"),
        ({"joints": np.zeros((3, 14))}, "3 numbers by 14 joints by images, but cannot be read"),
        ({"points": np.zeros((3, 14, COUNT))}, "there is no 'joints'"),
        ({"joints": np.full((3, 14, COUNT), 2.0)}, "0 or 1 for every joint, but for right_ankle of "
                                                   "image 1 holds"),
        ({"joints": np.full((3, 14, COUNT), np.nan)}, "two finite numbers and 0 or 1"),
    ],
)  # fmt: skip
def test_other_annotations_are_refused(root: Path, content: dict, told: str) -> None:
    scipy.io.savemat(root / "joints.mat", content)
    with pytest.raises(ValueError, match=told):
        read(root)


def test_missing_images_and_folders_are_named(root: Path, tmp_path: Path) -> None:
    (root / "images" / "im0007.jpg").unlink()
    with pytest.raises(ValueError, match=r"im0007\.jpg` does not; unpack the archive again"):
        read(root)
    with pytest.raises(ValueError, match=r"as joints\.mat, images, but .* download it by hand"):
        read(tmp_path / "elsewhere")
