"""``python -m ssl_transfer.preview method=simclr``: a picture of what a method sees.

One row per image: as it is on disk, then its views, normalisation undone, below their names and the
side that the network sees. They are the views of the training itself: same seed, same epoch, same
pixels.
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
from ssl_transfer.datasets.transforms import ViewDataset
from ssl_transfer.methods.pretraining import pipelines
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs.signature import problems

CELL = 96
"""Least side of a picture in the grid, in pixels; smaller ones are enlarged by a whole number."""
GAP = 4
HEADER = 16
"""Height of the columns' names, in pixels."""
PAPER = (190, 190, 190)


def denormalised(
    views: Float[Tensor, "batch 3 height width"], preprocessing: Preprocessing
) -> list[Image.Image]:
    """Return views as pictures again, in RGB."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    pixels = views * std + mean
    if preprocessing.channel_order == "bgr":
        pixels = pixels.flip(1)
    levels = pixels.mul(255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(np.ascontiguousarray(level)) for level in levels.numpy()]


def grid(rows: Sequence[Sequence[Image.Image]], side: int) -> Image.Image:
    """Return pictures side by side, those of up to ``side`` pixels all enlarged alike.

    Args:
        rows: pictures from left to right; those larger than ``side`` are made to fit.
        side: of a cell before it is enlarged, in pixels.
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
    """Return a picture of columns of one width with a name above each."""
    paper = Image.new("RGB", (picture.width, picture.height + HEADER), PAPER)
    paper.paste(picture, (0, HEADER))
    step = (picture.width - GAP) // len(titles)
    for column, title in enumerate(titles):
        ImageDraw.Draw(paper).text((GAP + column * step, GAP), title, fill=(0, 0, 0))
    return paper


@randomness.preserved()
def preview(overrides: Sequence[str], *, images: int, epoch: int) -> Image.Image:
    """Return the picture for what would be pre-trained by these overrides.

    Args:
        overrides: as on the command line of ``run.py``.
        images: rows; evenly spread over the training split.
        epoch: whose random numbers are used, from 0.

    Raises:
        ValueError: in one sentence, if the configuration does not fit, or trains nothing.
        OSError: if the data cannot be read.
    """
    # What would be evaluated afterwards is left out, also of an experiment.
    wanted = [o for o in overrides if o.partition("=")[0] not in ("protocol", "recipe")]
    try:
        config = plain(compose([*wanted, "recipe=pretrain"]))
    except HydraException as error:
        raise ValueError(sentence(error)) from error
    if found := problems(config):
        raise ValueError(" ".join(found))
    resolved = resolve(config)
    method = resolved["method"]
    dataset = datasets.build(method["pretrain_on"])
    # How images are prepared belongs to the model; its weights are not needed for it.
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
    sizes = [pipeline.preprocessing.size for pipeline in drawn]
    named = [f"view {number} ({size} px)" for number, size in enumerate(sizes, 1)]
    return titled(picture, ["image", *named])


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Return an image enlarged by the largest whole number with which it fits into a cell."""
    factor = max(1, side // max(image.size))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def _whole(lowest: int, text: str) -> int:
    """Return a whole number that is not below ``lowest``."""
    if not text.isdecimal() or int(text) < lowest:
        raise argparse.ArgumentTypeError(f"must be a whole number from {lowest}, but is {text!r}")
    return int(text)


def _require_writable(target: Path) -> None:
    """Refuse a file that could not be written once the picture is drawn.

    Raises:
        ValueError: in one sentence.
    """
    known = sorted(Image.registered_extensions())
    if target.suffix.lower() not in known or not target.absolute().parent.is_dir():
        raise ValueError(
            "`--to` must name a picture such as views.png in a folder that exists, but is "
            f"`{target}`."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; return the exit status."""
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
    asked = parser.parse_intermixed_args(arguments)
    try:
        _require_writable(asked.to)
        picture = preview(asked.overrides, images=asked.images, epoch=asked.epoch)
        picture.save(asked.to)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{asked.to}: {picture.width} x {picture.height} pixels\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
