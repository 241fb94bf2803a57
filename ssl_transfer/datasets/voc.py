"""Pascal VOC 2007 classification: several classes per image."""

from pathlib import Path
from typing import Literal

import numpy as np

from ssl_transfer import metrics
from ssl_transfer.datasets.annotations import rows_of
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.layout import (
    listing,
    published,
    require,
    torchvision_fetch,
)
from ssl_transfer.datasets.reader import Options, reader

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
HOME = "VOCdevkit/VOC2007"


@reader
def voc2007(
    options: Options,
    root: str,
    difficult: Literal["ignore", "negative"] = "ignore",
    metric: metrics.Name | None = None,
    download: bool = False,
) -> Dataset:
    """Return Pascal VOC 2007: photographs that show some of 20 classes, 11-point mAP.

    Official 2,501 training, 2,510 validation and 4,952 test images. Everingham et al. 2010,
    http://host.robots.ox.ac.uk/pascal/VOC/voc2007/

    Args:
        options: shared options; an image may have several classes, so ``labels_per_class`` and
            ``test_per_class`` must be null.
        root: folder that holds ``VOCdevkit/VOC2007``, with both archives (trainval, test) unpacked
            into it.
        difficult: how to treat a class if an image shows only difficult objects of it (marked 0 in
            ``ImageSets/Main``): ``ignore`` excludes this class of this image from training and
            scores, as in the challenge; ``negative`` treats the class as absent, as in Ericsson et
            al. 2021 (https://github.com/linusericsson/ssl-transfer).
        metric: primary score, which also selects classifiers; both kinds of 11-point mAP are
            recorded (``None``: ``map_11_point``, the challenge's; ``map_11_point_sklearn`` is that
            of Ericsson et al. 2021).
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if files are missing, disagree, or an image does not decode.
    """
    if difficult not in ("ignore", "negative"):
        raise ValueError(
            f"`dataset.difficult` must be one of ['ignore', 'negative'], but is {difficult!r}."
        )
    sets = f"{HOME}/ImageSets/Main"
    keys = ("train", "val", "test")
    base = require(
        options,
        root,
        [f"{HOME}/JPEGImages", *(f"{sets}/{VOC_CLASSES[0]}_{key}.txt" for key in keys)],
        download=download,
        fetch=torchvision_fetch(
            "VOCDetection",
            {"year": "2007", "image_set": "trainval"},
            {"year": "2007", "image_set": "test"},
        ),
    )
    listings = {}
    for key in keys:
        columns = [_marks(base / sets / f"{name}_{key}.txt") for name in VOC_CLASSES]
        images = list(columns[0])
        for name, column in zip(VOC_CLASSES, columns, strict=True):
            if list(column) != images:
                raise ValueError(
                    f"the lists of `{options.name}` must name the same images for every class, but "
                    f"{name}_{key}.txt and {VOC_CLASSES[0]}_{key}.txt differ; unpack the archive "
                    "again."
                )
        # File: 1 is shown, 0 difficult, -1 not shown. Target: 1 is shown, 0 not shown, -1 ignored.
        meaning = {1: 1, 0: -1 if difficult == "ignore" else 0, -1: 0}
        targets = [[meaning[column[image]] for column in columns] for image in images]
        listings[key] = listing(
            base / HOME / "JPEGImages",
            [f"{image}.jpg" for image in images],
            np.array(targets, dtype=np.int64),
        )
    return published(
        options,
        VOC_CLASSES,
        listings,
        expected={"train": 2501, "val": 2510, "test": 4952, "classes": 20},
        metric=metric or "map_11_point",
        extra_metrics=("map_11_point", "map_11_point_sklearn"),
        facts={"difficult": difficult},
    )


def _marks(path: Path) -> dict[str, int]:
    """Return the mark of each image in one class's list."""

    def parse(line: str) -> tuple[str, int]:
        image, mark = line.split()
        return image, {"1": 1, "0": 0, "-1": -1}[mark]

    return dict(rows_of(path, "`image mark` with a mark of 1, 0 or -1", parse))
