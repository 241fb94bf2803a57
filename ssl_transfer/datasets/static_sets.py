"""Static sets of augmented views: their files, and how the views of an image are drawn.

A static set has ``<class>/<name>-0.jpeg`` (the original), ``-1`` and ``-2`` (its views) for every
image, and with masks ``-3`` to ``-10`` (Shi et al. 2022, https://arxiv.org/abs/2107.14762).
``python -m ssl_transfer.static_views`` writes one.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.draws import FLIP, NUM_DRAWS
from ssl_transfer.datasets.files import Listing, inspect_files
from ssl_transfer.datasets.nearest import contents, existing_folder
from ssl_transfer.datasets.object_views import assemble_views, refuse_options_of_labels
from ssl_transfer.datasets.overlapping_crops import (
    LEVELS,
    Picture,
    masked,
    pair_at_level,
    pair_of_quadrants,
)
from ssl_transfer.datasets.reader import Options, reader, some
from ssl_transfer.datasets.transforms import RESAMPLING, Augmentation, Pipeline, photometry
from ssl_transfer.datasets.walk import LeftOut, images_below, subfolders
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.randomness import derive, uniforms
from ssl_transfer.system import inputs
from ssl_transfer.system.files import Unreadable, read_json

Mask = Literal["normal", "g_mask", "rand_g_mask", "avg_mask", "rand_avg_mask"]
VIEWS_OF_MASK: dict[Mask, tuple[int, int]] = {
    "normal": (1, 2),
    "g_mask": (3, 4),
    "rand_g_mask": (5, 6),
    "avg_mask": (7, 8),
    "rand_avg_mask": (9, 10),
}
"""Numbers of the two views in file names: plain; random pixels in the overlap, or in a random part;
the mean colour in the overlap, or in a random part."""
QUADRANTS = "nointer"
"""Name of the views from two different quadrants."""
MANIFEST = "manifest.json"
_FILE = re.compile(r"(?P<name>.+)-(?P<view>\d+)\.[^.]+", re.DOTALL)


def file_name(name: str, view: int, extension: str) -> str:
    """Return the name of a view's file; the last dash separates the number of the view."""
    return f"{name}-{view}.{extension}"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the views of a static set are drawn.

    Args:
        crops: ``independent``, ``nointer`` (in two quadrants), or a name of ``LEVELS``.
        augmentations: the random part of each view; if crops are not independent, ``crop_scale``
            and ``crop_ratio`` are those of the joint choice.
        size: side of the views in pixels, where an augmentation does not set it.
        seed: seed of all random numbers.
        masks: whether to make the eight masked views, too.
    """

    crops: str
    augmentations: tuple[Augmentation, Augmentation]
    size: int = 224
    seed: int = 0
    masks: bool = False

    @property
    def count(self) -> int:
        """Number of views of an image."""
        return 10 if self.masks else 2


def draw(image: Image.Image, recipe: Recipe, name: str) -> tuple[list[Image.Image], bool]:
    """Return the views of an image, and whether its crops overlap as the recipe says.

    Args:
        image: the image in RGB.
        recipe: how views are drawn.
        name: stable name of the image: its random numbers depend on it and on the recipe's seed,
            not on the other images of the set.
    """
    number = derive(0, name)
    plain = Preprocessing(size=recipe.size, resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    if recipe.crops == "independent":
        where = {"epochs": np.zeros(1, dtype=np.int64), "indices": np.array([number])}
        batches = [
            Pipeline(plain, augmentation, view=view)([image], seed=recipe.seed, **where)
            for view, augmentation in enumerate(recipe.augmentations)
        ]
        return [Image.fromarray(_levels(batch)) for batch in batches], True
    return _draw_jointly(image, recipe, number)


def _draw_jointly(
    image: Image.Image, recipe: Recipe, number: int
) -> tuple[list[Image.Image], bool]:
    """Return the views of an image whose crops are chosen together."""
    chosen = recipe.augmentations[0]
    assert chosen.crop_scale is not None, "a joint choice needs the range of the crop's area"
    ranges = (image.size, chosen.crop_scale, chosen.crop_ratio)
    at_level = True
    if recipe.crops == QUADRANTS:
        boxes = pair_of_quadrants(*ranges, seed=recipe.seed, number=number)
    else:
        level = LEVELS[recipe.crops]
        boxes, at_level = pair_at_level(level, *ranges, seed=recipe.seed, number=number)
    pictures, flips = [], []
    zero, index = np.zeros(1, dtype=np.int64), np.array([number], dtype=np.int64)
    for view, (box, augmentation) in enumerate(
        zip(boxes.tolist(), recipe.augmentations, strict=True)
    ):
        draws = uniforms(recipe.seed, "augment", zero, index, view=view, draws=NUM_DRAWS)
        size = augmentation.size or recipe.size
        cut = image.resize((size, size), RESAMPLING["bilinear"], box=box)
        pixels = torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None].float().div_(255)
        pictures.append(_levels(photometry(pixels, draws, augmentation, augmentation.after_crop)))
        flips.append(bool(draws[0, FLIP] < augmentation.flip_probability))
    pairs = [pictures]
    if recipe.masks:
        pairs += masked(pictures, boxes, seed=recipe.seed, number=number)
    # Views are mirrored after masking, so that masks lie where the boxes are.
    drawn = [
        Image.fromarray(np.ascontiguousarray(picture[:, ::-1] if flip else picture))
        for pair in pairs
        for picture, flip in zip(pair, flips, strict=True)
    ]
    return drawn, at_level


def _levels(pixels: torch.Tensor) -> Picture:
    """Return the only image of a batch with 8 bits per channel."""
    levels = pixels[0].mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())


@reader
def static_views(options: Options, root: str, mask: Mask = "normal") -> Dataset:
    """Return a static set of augmented views: originals and two views of each, by class.

    All images are in ``test``; those of one object have one group and the order original, first
    view, second view. If the folder has a manifest, the number of objects must be the one in it.

    Args:
        options: shared options; those that count labels must be left out.
        root: folder that holds ``<class>/<name>-0.jpeg``, ``-1`` and ``-2``; any format.
        mask: the pair of views: ``normal`` is 1 and 2; the others are the masked views 3 to 10 (see
            ``VIEWS_OF_MASK``).

    Raises:
        ValueError: if the folder is missing, a file has another name, an object lacks a view, or an
            image does not decode.
    """
    refuse_options_of_labels(options)
    layout = "a folder of <class>/<name>-0.jpeg, -1 and -2, written by ssl_transfer.static_views"
    folder = existing_folder("dataset.root", root, layout)
    classes = [path.name for path in subfolders(folder)]
    if not classes:
        raise ValueError(
            f"`{folder}` must be {layout}, but has no class folder{contents(folder)}; correct "
            "dataset.root."
        )
    manifest = _manifest(folder)
    objects = _objects(options, folder, classes)
    names = _wanted(options, objects, mask)
    listing = Listing(
        paths=[str(folder / name) for name, _ in names],
        names=[name for name, _ in names],
        targets=np.array([number for _, number in names], dtype=np.int64),
    )
    files = inspect_files(options, {"test": listing})
    views = files.splits["test"]
    # An image that is skipped takes its object with it.
    numbers = {name: row // 3 for row, (name, _) in enumerate(names)}
    groups = np.array([numbers[name] for name in views.names], dtype=np.int64)
    whole = np.flatnonzero(np.bincount(groups, minlength=len(objects))[groups] == 3)
    views = dataclasses.replace(views, groups=groups).subset(whole)
    expected = {"objects": int(manifest["objects"])} if "objects" in manifest else {}
    return assemble_views(
        options,
        views=views,
        classes=classes,
        content=files.content,
        expected=expected,
        facts={**files.facts, "mask": mask, "augmentation": manifest.get("views")},
    )


def _manifest(folder: Path) -> Mapping[str, Any]:
    """Return what the command that wrote the set noted; {} for a set without a manifest."""
    path = folder / MANIFEST
    if inputs.is_file(path):
        inputs.note_file(path)
    try:
        return read_json(path) or {}
    except Unreadable as error:
        raise ValueError(f"{error}; write the set again, or remove the manifest.") from error


def _objects(
    options: Options, folder: Path, classes: Sequence[str]
) -> dict[tuple[int, str], dict[int, str]]:
    """Return the file of every view of every object, by class number and name."""
    objects: dict[tuple[int, str], dict[int, str]] = defaultdict(dict)
    left_out = LeftOut(folder)
    for number, name in enumerate(classes):
        for path in images_below(folder / name, left_out):
            relative = Path(path).relative_to(folder).as_posix()
            inside = relative.partition("/")[2]
            match = _FILE.fullmatch(inside)
            if match is None:
                raise ValueError(
                    f"every image of `{options.name}` must be named <name>-<view>.<extension>, but "
                    f"`{relative}` is not; remove it, or correct dataset.root."
                )
            other = objects[number, match["name"]].setdefault(int(match["view"]), relative)
            if other != relative:
                raise ValueError(
                    f"every view of `{options.name}` must be one file, but `{other}` and "
                    f"`{relative}` are the same view; remove one."
                )
    left_out.tell(options.name)
    return dict(objects)


def _wanted(
    options: Options, objects: Mapping[tuple[int, str], Mapping[int, str]], mask: Mask
) -> list[tuple[str, int]]:
    """Return the file and the class of three images per object."""
    needed = (0, *VIEWS_OF_MASK[mask])
    lacking = [name for (_, name), views in objects.items() if not set(needed) <= set(views)]
    if lacking:
        raise ValueError(
            f"every object of `{options.name}` must have the views {', '.join(map(str, needed))} "
            f"(mask={mask}), but {len(lacking)} of {len(objects)} do not have them all: "
            f"{some(lacking)}; run the command that writes the set again, or choose another mask."
        )
    return [(views[view], number) for (number, _), views in objects.items() for view in needed]
