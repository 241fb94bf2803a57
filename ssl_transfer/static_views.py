"""``python -m ssl_transfer.static_views``: write a static set of augmented views.

    python -m ssl_transfer.static_views --source imagenet/train --target static --views moco_v2

All encoders can then be judged by the same files. The target gets ``<class>/<name>-0.jpeg`` (the
original, in RGB), ``-1`` and ``-2`` (its views), named as by Shi et al. 2022
(https://arxiv.org/abs/2107.14762), and ``manifest.json`` with all parameters. The first images of
every class by name are taken (published: the first that the file system lists). A view depends on
the seed and on the image's name only. JPEG of Pillow's default quality is what the published code
writes; ``--format png`` loses nothing. A command that was interrupted continues when it is sent
again; a complete file is never written twice.
"""

import argparse
import dataclasses
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from PIL import Image
from tqdm import tqdm

from ssl_transfer.config import compose, options, plain
from ssl_transfer.config.hydra_errors import did_you_mean, sentence
from ssl_transfer.datasets.decoding import Decoding, read_rgb
from ssl_transfer.datasets.nearest import contents, existing_folder
from ssl_transfer.datasets.overlapping_crops import LEVELS
from ssl_transfer.datasets.reader import some
from ssl_transfer.datasets.static_sets import MANIFEST, QUADRANTS, Recipe, draw, file_name
from ssl_transfer.datasets.transforms import Augmentation, views
from ssl_transfer.datasets.walk import LeftOut, images_below, subfolders
from ssl_transfer.system.files import Unreadable, read_json, replace_atomically, write_json

FORMATS = {"jpeg": "JPEG", "png": "PNG"}
QUALITY = 75
"""Quality of JPEG: Pillow's default, as published."""
PUBLISHED_VIEWS = "moco_v2"
"""Colours of the published levels (of ``conf/views``)."""
QUADRANT_SCALE = (0.4, 1.0)
"""Range of a crop's share of its quadrant (``nointer``), as published."""
LEVEL_NAMES = (QUADRANTS, *LEVELS)
_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Job:
    """One image of the source.

    Args:
        path: its file.
        folder: folder of its class in the target.
        name: name of its files in the target, without the number of the view.
    """

    path: str
    folder: Path
    name: str

    @property
    def key(self) -> str:
        """Stable name, on which its random numbers depend."""
        return f"{self.folder.name}/{self.name}"


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of an image.

    Args:
        files: number of files that were written; others existed.
        at_level: whether its crops overlap as the views' name says (``None``: nothing was drawn).
    """

    files: int
    at_level: bool | None = None


def recipe_of(name: str, *, size: int, seed: int, masks: bool) -> Recipe:
    """Return the recipe of named views.

    Args:
        name: an option of ``conf/views``, whose first two views are taken, or one of
            ``LEVEL_NAMES``.
        size: side of the views in pixels.
        seed: seed of all random numbers.
        masks: whether to make masked views, too.

    Raises:
        ValueError: if the name is unknown, describes one view only, or has no overlap to mask.
    """
    known = [*LEVEL_NAMES, *options("views")]
    if name not in known:
        raise ValueError(
            f"`--views` must be one of {', '.join(known)}, but is `{name}`"
            f"{did_you_mean(name, known)}."
        )
    if masks and name not in LEVELS:
        raise ValueError(
            f"`--masks` needs views that overlap by choice, {' or '.join(LEVELS)}, but `--views` "
            f"is {name}."
        )
    first, second = _augmentations(PUBLISHED_VIEWS if name in LEVEL_NAMES else name)
    if name == QUADRANTS:
        first, second = (
            dataclasses.replace(augmentation, crop_scale=QUADRANT_SCALE)
            for augmentation in (first, second)
        )
    crops = name if name in LEVEL_NAMES else "independent"
    return Recipe(crops, (first, second), size=size, seed=seed, masks=masks)


def _augmentations(name: str) -> tuple[Augmentation, Augmentation]:
    """Return the first two views of an option of ``conf/views``."""
    try:
        config = plain(compose(["protocol=alignment_uniformity", f"views@protocol={name}"]))
    except HydraException as error:
        raise ValueError(sentence(error)) from error
    described = views(config["protocol"]["views"])
    if len(described) < 2:
        raise ValueError(f"`--views` must describe two views, but {name} describes one.")
    return described[0].augmentation, described[1].augmentation


def jobs_of(source: Path, target: Path, images_per_class: int) -> list[Job]:
    """Return the first images of every class by name.

    Args:
        source: folder with a folder per class.
        target: folder of the set.
        images_per_class: number of images of each class.

    Raises:
        ValueError: if there is no class folder, classes have fewer images (named), or two images of
            a class have one name.
    """
    found = {
        folder: images_below(folder, LeftOut(source), links_once=True)
        for folder in subfolders(source)
    }
    if not any(found.values()):
        raise ValueError(
            f"`--source` must have a folder of images per class, but `{source}` has none"
            f"{contents(source)}."
        )
    fewer = {folder: len(paths) for folder, paths in found.items() if len(paths) < images_per_class}
    if fewer:
        named = some([f"{folder.name} ({count})" for folder, count in fewer.items()])
        least = min(fewer.values())
        raise ValueError(
            f"every class of `{source}` must have {images_per_class} images, but {len(fewer)} have "
            f"fewer: {named}; lower --images-per-class{f' to {least}' if least else ''}, or leave "
            "the classes out."
        )
    jobs = [
        Job(path, target / folder.name, Path(path).stem)
        for folder, paths in found.items()
        for path in paths[:images_per_class]
    ]
    twice = [key for key, count in Counter(job.key for job in jobs).items() if count > 1]
    if twice:
        raise ValueError(
            f"the images of a class must have different names without their extension, but several "
            f"of `{source}` are called {some(twice)}; rename them."
        )
    return jobs


def write_views(job: Job, recipe: Recipe, extension: str, decoding: Decoding) -> Written:
    """Write the files of an image that do not exist.

    Raises:
        ValueError: if the image does not decode.
        OSError: if a file cannot be written.
    """
    paths = [job.folder / file_name(job.name, v, extension) for v in range(recipe.count + 1)]
    lacking = [path for path in paths if not path.exists()]
    if not lacking:
        return Written(0)
    try:
        original = read_rgb(job.path, decoding)
    except ValueError as error:
        raise ValueError(
            f"`{job.path}` must be an image that decodes, but does not ({error}); repair or remove "
            "it, and send the command again."
        ) from error
    if min(original.size) < 2:
        raise ValueError(f"`{job.path}` must have two pixels on each side; remove it.")
    drawn, at_level = draw(original, recipe, job.key)
    for path, image in zip(paths, [original, *drawn], strict=True):
        if path in lacking:
            replace_atomically(path, partial(_save, image, extension))
    return Written(len(lacking), at_level)


def _save(image: Image.Image, extension: str, file: Any) -> None:
    keys = {"quality": QUALITY} if extension == "jpeg" else {}
    image.save(file, FORMATS[extension], **keys)


def _one_thread() -> None:
    """Let a worker process use one core: the processes share the machine."""
    torch.set_num_threads(1)


def _results(
    jobs: Sequence[Job], recipe: Recipe, extension: str, decoding: Decoding, workers: int
) -> Iterator[Written]:
    """Yield what became of each image, in order."""
    work = partial(write_views, recipe=recipe, extension=extension, decoding=decoding)
    if workers == 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        try:
            yield from pool.map(work, jobs, chunksize=16)
        except BrokenProcessPool as error:
            raise ValueError(
                f"every one of the {workers} processes must live until the set is complete, but "
                "one was ended from outside, such as for lack of memory; send the command again "
                "with fewer --workers."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def settle_manifest(target: Path, parameters: Mapping[str, Any]) -> None:
    """Write the parameters of a new set, or check those of one that is to be continued.

    Raises:
        ValueError: if the target holds another set, or other files.
    """
    path = target / MANIFEST
    try:
        earlier = read_json(path)
    except Unreadable as error:
        raise ValueError(f"{error}; choose another target.") from error
    if earlier is None:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(
                f"`--target` must be a new or an empty folder, or a set that this command began, "
                f"but `{target}` is neither; choose another folder."
            )
        target.mkdir(parents=True, exist_ok=True)
        write_json(path, {**parameters, "complete": False})
        return
    # A manifest holds what JSON can: lists, no tuples.
    changed = [key for key, value in parameters.items() if earlier.get(key) != value]
    if changed:
        told = ", ".join(f"{key} {earlier.get(key)!r} (now {parameters[key]!r})" for key in changed)
        raise ValueError(
            f"`{target}` holds views that were made with {told[:400]}; choose another target, or "
            "repeat these settings."
        )


def write_set(
    source: Path,
    target: Path,
    recipe: Recipe,
    *,
    views_name: str,
    images_per_class: int,
    extension: str = "jpeg",
    upright: bool = True,
    workers: int = 1,
    progress_bar: bool = True,
) -> dict[str, Any]:
    """Write a static set, or what is lacking of it, and return its manifest.

    Args:
        source: folder with a folder per class.
        target: folder of the set; it is created.
        recipe: how views are drawn.
        views_name: name of the views, for the manifest.
        images_per_class: number of images of each class.
        extension: ``jpeg`` or ``png``.
        upright: whether to rotate photographs by their EXIF orientation; published code does not.
        workers: number of processes.
        progress_bar: whether to draw one.

    Raises:
        ValueError: in one sentence, if source or target do not fit.
        OSError: if a file cannot be read or written.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"`--target` must not lie in the source, but is `{target}`.")
    jobs = jobs_of(source, target, images_per_class)
    parameters = {
        "source": str(source.resolve()),
        "views": views_name,
        "images_per_class": images_per_class,
        "classes": len({job.folder for job in jobs}),
        "objects": len(jobs),
        "views_per_object": recipe.count,
        "format": extension,
        "quality": QUALITY if extension == "jpeg" else None,
        "upright": upright,
        "size": recipe.size,
        "seed": recipe.seed,
        "augmentations": [_as_json(augmentation) for augmentation in recipe.augmentations],
    }
    settle_manifest(target, parameters)
    results = _results(jobs, recipe, extension, Decoding(upright=upright), workers)
    bar = tqdm(
        results,
        total=len(jobs),
        desc="views",
        unit="image",
        disable=not progress_bar,
        mininterval=0.5 if sys.stderr.isatty() else 60.0,
    )
    written = list(bar)
    manifest = {**parameters, "complete": True}
    if any(result.files for result in written):
        write_json(target / MANIFEST, manifest)
    return {
        **manifest,
        "written": sum(result.files for result in written),
        "off_level": sum(result.at_level is False for result in written),
    }


def _as_json(augmentation: Augmentation) -> dict[str, Any]:
    """Return the fields of an augmentation as JSON holds them."""
    fields = dataclasses.asdict(augmentation)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def _whole(lowest: int, text: str) -> int:
    """Return the integer in ``text``; argparse reports one below ``lowest``."""
    if not text.isdecimal() or int(text) < lowest:
        raise argparse.ArgumentTypeError(f"must be a whole number from {lowest}, but is {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ssl_transfer.static_views",
        description="Write images of every class and two augmented views of each, once and for "
        "all encoders; a command that was interrupted continues when it is sent again.",
    )
    levels, named = ", ".join(LEVELS), ", ".join(LEVEL_NAMES)
    numbers: dict[str, tuple[int, int, str]] = {
        "--images-per-class": (1, 50, "the first of each class by name"),
        "--size": (1, 224, "side of the views in pixels"),
        "--seed": (0, 0, "seed of all random numbers"),
        "--workers": (1, _WORKERS, "processes"),
    }
    parser.add_argument("--source", required=True, help="folder with a folder per class")
    parser.add_argument("--target", type=Path, required=True, help="folder that is created")
    parser.add_argument(
        "--views",
        default=PUBLISHED_VIEWS,
        metavar="NAME",
        help=f"an option of conf/views, or {named} (default: {PUBLISHED_VIEWS})",
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="also write views 3 to 10, in which the overlap or as large a random part is "
        f"replaced; for --views {levels}",
    )
    parser.add_argument(
        "--format",
        choices=sorted(FORMATS),
        default="jpeg",
        help="jpeg as published (default), or png without loss",
    )
    parser.add_argument(
        "--ignore-orientation",
        action="store_true",
        help="read photographs without their EXIF orientation, as published",
    )
    for flag, (lowest, default, what) in numbers.items():
        parser.add_argument(
            flag, type=partial(_whole, lowest), default=default, help=f"{what} (default: {default})"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the set and return the exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        source = existing_folder("--source", chosen.source, "a folder with a folder per class")
        recipe = recipe_of(chosen.views, size=chosen.size, seed=chosen.seed, masks=chosen.masks)
        manifest = write_set(
            source,
            chosen.target.expanduser(),
            recipe,
            views_name=chosen.views,
            images_per_class=chosen.images_per_class,
            extension=chosen.format,
            upright=not chosen.ignore_orientation,
            workers=chosen.workers,
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    off_level = ""
    if manifest["off_level"]:
        off_level = (
            f"; {manifest['off_level']} pairs of crops do not overlap as asked for, because no "
            "attempt did"
        )
    sys.stdout.write(
        f"{chosen.target}: {manifest['objects']} images of {manifest['classes']} classes, "
        f"{manifest['written']} files written{off_level}\n"
        f"use it: dataset=static_views dataset.root={chosen.target}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
