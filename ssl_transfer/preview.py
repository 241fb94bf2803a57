"""``python -m ssl_transfer.preview method=simclr``: a picture of a method's views.

Each row shows an image as it is on disk, then its views without normalisation. The header gives the
name and the size of each view. The views are exactly those of the training with the same seed and
epoch.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hydra.errors import HydraException
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from ssl_transfer import datasets, methods, models, randomness
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.config.hydra_errors import sentence
from ssl_transfer.datasets.transforms import Pipeline, ViewDataset
from ssl_transfer.methods.pretraining import pipelines
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs.signature import problems
from ssl_transfer.runs.stated import with_stated

CELL = 96
"""Minimal side of a picture in the grid, in pixels; smaller ones are enlarged by an integer."""
GAP = 4
HEADER = 16
"""Height of the header with the columns' names, in pixels."""
PAPER = (190, 190, 190)


def denormalised(
    views: Float[Tensor, "batch 3 height width"], preprocessing: Preprocessing
) -> list[Image.Image]:
    """Return views as RGB pictures, with the normalisation undone."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    pixels = views * std + mean
    if preprocessing.channel_order == "bgr":
        pixels = pixels.flip(1)
    levels = pixels.mul(255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(np.ascontiguousarray(level)) for level in levels.numpy()]


def grid(rows: Sequence[Sequence[Image.Image]], side: int) -> Image.Image:
    """Return a picture of pictures in rows; all of up to ``side`` pixels are enlarged equally.

    Args:
        rows: pictures from left to right; those larger than ``side`` are reduced.
        side: side of a cell before it is enlarged, in pixels.
    """
    factor = math.ceil(CELL / side)
    step = factor * side + GAP
    paper = Image.new("RGB", (step * len(rows[0]) + GAP, step * len(rows) + GAP), PAPER)
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            if max(picture.size) <= side:
                picture = picture.resize(
                    (factor * picture.width, factor * picture.height), Image.Resampling.NEAREST
                )
            else:
                picture = ImageOps.contain(picture, (factor * side, factor * side))
            corner = (
                GAP + step * left + (factor * side - picture.width) // 2,
                GAP + step * top + (factor * side - picture.height) // 2,
            )
            paper.paste(picture, corner)
    return paper


def titled(picture: Image.Image, titles: Sequence[str]) -> Image.Image:
    """Return a picture of equally wide columns with a title above each column."""
    paper = Image.new("RGB", (picture.width, picture.height + HEADER), PAPER)
    paper.paste(picture, (0, HEADER))
    step = (picture.width - GAP) // len(titles)
    for column, title in enumerate(titles):
        ImageDraw.Draw(paper).text((GAP + column * step, GAP), title, fill=(0, 0, 0))
    return paper


@randomness.preserved()
def preview(overrides: Sequence[str], *, images: int, epoch: int) -> Image.Image:
    """Return the picture for the pre-training that these overrides configure.

    Args:
        overrides: as on the command line of ``run.py``.
        images: number of rows; the images are evenly spread over the training split.
        epoch: the epoch, from 0, whose random numbers are used.

    Raises:
        ValueError: in one sentence, if the configuration is wrong or trains nothing.
        OSError: if the data cannot be read.
    """
    # Leave out the evaluation, also that of an experiment.
    training_overrides = [o for o in overrides if o.partition("=")[0] not in ("protocol", "recipe")]
    try:
        config = plain(compose([*training_overrides, "recipe=pretrain"]))
    except HydraException as error:
        raise ValueError(sentence(error)) from error
    if sentences := problems(config):
        raise ValueError(" ".join(sentences))
    resolved = resolve(with_stated(config))
    method = resolved["method"]
    dataset = datasets.build(method["pretrain_on"])
    # The preprocessing comes from the model, whose weights are not needed for it.
    preprocessing = models.build({**resolved["model"], "weights": None}).preprocessing
    drawn = pipelines(methods.augmentations(method), dataset, preprocessing)
    split = dataset["train"]
    rows = np.unique(np.linspace(0, len(split) - 1, images).astype(np.int64)).tolist()
    batch = ViewDataset(split, drawn, method["seed"]).__getitems__([(epoch, row) for row in rows])
    columns = [
        denormalised(views, pipeline.preprocessing)
        for views, pipeline in zip(batch.views, drawn, strict=True)
    ]
    side = max(pipeline.preprocessing.size for pipeline in drawn)
    picture = grid(
        [
            [_fitted(split.images[row], side), *views]
            for row, *views in zip(rows, *columns, strict=True)
        ],
        side,
    )
    return titled(picture, ["image", *(_title(n, pipeline) for n, pipeline in enumerate(drawn, 1))])


def _title(number: int, pipeline: Pipeline) -> str:
    """Return a view's number, its size, and whether it may be mirrored."""
    chosen = pipeline.augmentation
    flips = chosen is not None and (
        chosen.flip_probability > 0 or chosen.vertical_flip_probability > 0
    )
    return f"view {number}, {pipeline.preprocessing.size} px, {'flips' if flips else 'no flip'}"


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Return an image enlarged by the largest integer with which it fits into a cell."""
    factor = max(1, side // max(image.size))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def _whole(lowest: int, text: str) -> int:
    """Return the integer in ``text``; argparse reports one below ``lowest``."""
    if not text.isdecimal() or int(text) < lowest:
        raise argparse.ArgumentTypeError(f"must be a whole number from {lowest}, but is {text!r}")
    return int(text)


def _require_writable(target: Path) -> None:
    """Check before drawing that the picture's file can be written.

    Raises:
        ValueError: in one sentence, if its format or its folder is wrong.
    """
    known = sorted(Image.registered_extensions())
    if target.suffix.lower() not in known or not target.absolute().parent.is_dir():
        raise ValueError(
            "`--to` must name a picture such as views.png in a folder that exists, but is "
            f"`{target}`."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl_transfer.preview",
        description="Draw a method's views: each image as it is, then what the method sees of it.",
    )
    parser.add_argument("overrides", nargs="+", help="as for run.py, e.g. method=simclr")
    parser.add_argument("--images", type=partial(_whole, 1), default=8, help="rows (default: 8)")
    parser.add_argument(
        "--epoch", type=partial(_whole, 0), default=0, help="whose views (default: 0)"
    )
    parser.add_argument("--to", type=Path, default=Path("views.png"), help="default: views.png")
    options = parser.parse_intermixed_args(arguments)
    try:
        _require_writable(options.to)
        picture = preview(options.overrides, images=options.images, epoch=options.epoch)
        picture.save(options.to)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{options.to}: {picture.width} x {picture.height} pixels\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
