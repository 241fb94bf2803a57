"""People with joints: Leeds Sports Pose."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ssl_transfer.datasets.annotations import REMEDY, reading
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.images import FileImages
from ssl_transfer.datasets.landmarks import (
    centre_squares,
    checked_files,
    cut,
    landmark_dataset,
    sizes_of,
)
from ssl_transfer.datasets.layout import require
from ssl_transfer.datasets.reader import Options, reader

JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    "neck", "head_top",
)  # fmt: skip
"""The joints in the order of the annotations (README.txt of the archive)."""
TORSO = ("left_shoulder", "right_hip")


@reader
def leeds_pose(
    options: Options,
    root: str,
    split_rule: Literal["official", "invariances"] = "official",
    crop: bool = True,
    only_visible: bool = False,
    download: bool = False,
) -> Dataset:
    """Return Leeds Sports Pose: 2,000 photographs of sportspeople with 14 joints.

    Johnson and Everingham 2010, https://doi.org/10.5244/C.24.12

    Args:
        options: shared options.
        root: folder that holds ``joints.mat`` and ``images``.
        split_rule: ``official`` trains and validates on the first 1,000 images and tests the other
            1,000; ``invariances`` trains and validates on 1,200 and tests 800, as drawn by Ericsson
            et al. 2021 (https://arxiv.org/abs/2111.11398).
        crop: whether each image is cut to its largest central square, as published. Joints outside
            of it keep their coordinates.
        only_visible: whether joints that the annotation marks as occluded are unknown; else they
            count as the others do, as published.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    source = (
        "lsp_dataset.zip or lsp_dataset_original.zip of http://sam.johnson.io/research/lsp.html"
    )
    base = require(options, root, ["joints.mat", "images"], download=download, source=source)
    joints, occluded = read_joints(base / "joints.mat")
    if only_visible:
        joints[occluded] = np.nan
    everything = _listing(base / "images", joints)
    parts = _parts(len(joints), split_rule)
    listings = {key: everything.keep(part) for key, part in parts.items()}
    expected = {"train": 1000, "test": 1000}
    if split_rule == "invariances":
        expected = {"train": 1200, "test": 800}
    files = checked_files(options, JOINTS, listings, expected)
    splits = {}
    for key, split in files.splits.items():
        assert isinstance(split.images, FileImages)
        sizes = sizes_of(split.images)
        whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        splits[key] = cut(split, centre_squares(sizes) if crop else whole)
    return landmark_dataset(
        options,
        JOINTS,
        files,
        splits,
        normaliser=TORSO,
        facts={"split_rule": split_rule, "crop": crop, "only_visible": only_visible},
    )


def _parts(count: int, split_rule: str) -> dict[str, Int64[np.ndarray, " part"]]:
    """Return the positions of the training and of the test images."""
    order, training = np.arange(count), count // 2
    if split_rule == "invariances":
        # `generate_dataset_splits` of datasets/leeds_sports_pose.py in
        # https://github.com/linusericsson/ssl-invariances: numpy's legacy generator, seed 0.
        np.random.RandomState(0).shuffle(order)
        training = int(count * 0.6)
    return {"train": order[:training], "test": order[training:]}


def _listing(folder: Path, joints: Float64[np.ndarray, "images 14 2"]) -> Listing:
    """Return the files ``im0001.jpg`` and so on, one for each entry of the annotation."""
    names = [f"im{number:04d}.jpg" for number in range(1, len(joints) + 1)]
    flat = joints.reshape(len(joints), -1)
    return Listing([str(folder / name) for name in names], names, flat)


def read_joints(
    path: Path,
) -> tuple[Float64[np.ndarray, "images 14 2"], Bool[np.ndarray, "images 14"]]:
    """Return the place of each joint in pixels, and whether it is occluded.

    The field ``joints`` has the axes (x, y, occluded), joint and image, in this order in the
    original archive and in another one in copies. The third number is 1 for an occluded joint
    (``LeedsSportsPose`` of https://github.com/Graviti-AI/tensorbay-python-sdk).

    Args:
        path: ``joints.mat``.

    Returns:
        Places, and one boolean per image and joint.

    Raises:
        ValueError: if the file cannot be read or holds anything else.
    """
    import scipy.io

    form = f"a MATLAB file with `joints`, an array of 3 numbers by {len(JOINTS)} joints by images"
    with reading(path, form):
        joints = np.asarray(
            scipy.io.loadmat(str(path), variable_names=["joints"])["joints"], dtype=np.float64
        )
        values, points = joints.shape.index(3), joints.shape.index(len(JOINTS))
        (images,) = {0, 1, 2} - {values, points}
        joints = joints.transpose(images, points, values)
    flags = joints[:, :, 2]
    wrong = np.argwhere(~np.isfinite(joints).all(axis=2) | ~np.isin(flags, (0, 1)))
    if len(wrong):
        image, joint = wrong[0].tolist()
        raise ValueError(
            f"`{path}` must hold two finite numbers and 0 or 1 for every joint, but for "
            f"{JOINTS[joint]} of image {image + 1} holds {joints[image, joint].tolist()}; {REMEDY}."
        )
    return joints[:, :, :2].copy(), np.asarray(flags == 1)
