"""Layout: the development kit, as torchvision/datasets/voc.py (v0.19.0) unpacks it; judge, too.

https://github.com/pytorch/vision/blob/v0.19.0/torchvision/datasets/voc.py;
marks: http://host.robots.ox.ac.uk/pascal/VOC/voc2007/htmldoc/, section 8.1.1.
"""

from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import draw, write

from ssl_transfer.datasets.voc import voc2007

# The development kit's names, in its order.
CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Every image shows two classes, and difficult objects of a third alone."""
    home = tmp_path / "VOCdevkit" / "VOC2007"
    for key, numbers in (("train", range(1, 21)), ("val", range(21, 41)), ("test", range(41, 61))):
        images = [f"{number:06d}" for number in numbers]
        write(home / "ImageSets" / "Main" / f"{key}.txt", *images)
        for position, name in enumerate(CLASSES):
            marks = [1 if (number - position) % 20 in (0, 1) else
                     0 if (number - position) % 20 == 2 else -1 for number in numbers]  # fmt: skip
            lines = [f"{image} {mark:2d}" for image, mark in zip(images, marks, strict=True)]
            write(home / "ImageSets" / "Main" / f"{name}_{key}.txt", *lines)
        for number, image in zip(numbers, images, strict=True):
            shown = [(CLASSES[(number - k) % 20], int(k == 2)) for k in range(3)]
            # A difficult object beside an easy one of its class does not matter.
            objects = [f"<object><name>{n}</name><difficult>{d}</difficult></object>"
                       for n, d in [*shown, (shown[0][0], 1)]]  # fmt: skip
            write(
                home / "Annotations" / f"{image}.xml",
                f"<annotation><filename>{image}.jpg</filename>{''.join(objects)}</annotation>",
            )
            draw(home / "JPEGImages", f"{image}.jpg")
    return tmp_path


@pytest.mark.parametrize(("difficult", "target"), [("ignore", -1), ("negative", 0)])
def test_voc_agrees_with_the_objects_that_torchvision_reads(
    root: Path, difficult: str, target: int
) -> None:
    dataset = voc2007(root=str(root), name="voc2007", sizes="warn", difficult=difficult)
    assert dataset.classes == tuple(CLASSES)
    assert (dataset.target, dataset.metric) == ("classes", "map_11_point")
    assert dataset.extra_metrics == ("map_11_point", "map_11_point_sklearn")
    published = voc2007(root=str(root), name="voc2007", sizes="warn", metric="map_11_point_sklearn")
    assert (published.metric, published.extra_metrics) == (
        "map_11_point_sklearn", dataset.extra_metrics)  # fmt: skip
    for key in ("train", "val", "test"):
        # torchvision's year of the test is another, its folder is not.
        judge = torchvision.datasets.VOCDetection(str(root), year="2007", image_set=key)
        split = dataset[key]
        assert len(judge) == len(split) == 20
        for number, (image, about) in enumerate(judge):
            assert split.names[number] == about["annotation"]["filename"]
            assert (np.asarray(split.images[number]) == np.asarray(image)).all()
            expected = np.zeros(20, dtype=np.int64)
            objects = about["annotation"]["object"]
            for seen in sorted(objects, key=lambda one: one["difficult"], reverse=True):
                shown = 1 if seen["difficult"] == "0" else target
                expected[CLASSES.index(seen["name"])] = shown
            assert split.targets[number].tolist() == expected.tolist()
    assert dataset.facts["difficult"] == difficult


def test_voc_is_checked_and_cannot_be_reduced_by_class(root: Path) -> None:
    with pytest.raises(ValueError, match=r"'train': 2501, 'val': 2510, 'test': 4952, 'classes': 2"):
        voc2007(root=str(root), name="voc2007")
    for key in ("labels_per_class", "test_per_class"):
        with pytest.raises(ValueError, match=rf"`dataset\.{key}` must be null for `voc2007`"):
            voc2007(root=str(root), name="voc2007", sizes="warn", **{key: 2})


def test_damaged_lists_of_voc_are_named(root: Path) -> None:
    path = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "cow_val.txt"
    whole = path.read_text()
    path.write_text(whole.replace("000023 -1", "000023  2"))
    with pytest.raises(ValueError, match=r"line 3 of .*cow_val\.txt` must be `image mark` "):
        voc2007(root=str(root), name="voc2007", sizes="warn")
    path.write_text("".join(whole.splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match=r"but cow_val\.txt and aeroplane_val\.txt differ"):
        voc2007(root=str(root), name="voc2007", sizes="warn")
