"""Real images that come with the wheels of scikit-learn and scikit-image: nothing to download.

The files are read from the installed packages without importing them (importing scikit-learn's
datasets takes seconds; building each dataset here takes a fraction of a second).

``textures`` and ``photos`` cut one picture into many samples. Test pixels never occur in training:
every picture is divided into cells with a gap between them, each cell belongs to one split, and
samples overlap only within a cell.
"""

import dataclasses
import gzip
import hashlib
import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from ssl_transfer.config.ranges import Range
from ssl_transfer.datasets.base import Dataset, Split, concatenate
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.object_views import assemble_views
from ssl_transfer.datasets.reader import Options, assemble, reader
from ssl_transfer.datasets.splitting import held_out, hold_out
from ssl_transfer.randomness import permutation, uniforms

DIGITS = 1797
DIGITS_TEST_FRACTION = 1 / 3

# Pixels on every side of a cell that belong to no split: samples of two cells are 8 pixels apart.
GAP = 4

# Every texture's file, and the box of it that is used (``None``: the whole). All are read as grey.
TEXTURES: dict[str, tuple[str, tuple[int, int, int, int] | None]] = {
    "brick": ("skimage/data/brick.png", None),
    "coins": ("skimage/data/coins.png", None),
    "galaxies": ("skimage/data/hubble_deep_field.jpg", None),
    "grass": ("skimage/data/grass.png", None),
    "gravel": ("skimage/data/gravel.png", None),
    "moon": ("skimage/data/moon.png", None),
    "retina": ("skimage/data/retina.jpg", (212, 212, 1199, 1199)),  # inside of the round picture
    "tissue": ("skimage/data/ihc.png", None),
}
PATCH = 32
# Sides of the squares that become one patch: every class occurs at two magnifications.
SPANS = (32, 64)
TEXTURE_CELLS = (4, 4)
TEXTURE_TEST_CELLS = 6
PATCHES_PER_SIDE = 3
PATCH_MEAN, PATCH_STD = 127.5, 48.0

PHOTOS = {
    "astronaut": "skimage/data/astronaut.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "rocket": "skimage/data/rocket.jpg",
    "temple": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
}
TILE = 48
PHOTO_CELLS = (3, 4)
PHOTO_TEST_CELLS = 2
TILES_PER_SIDE = 6


# Left and right view of one scene, and how far a point of the left view lies further right, in
# pixels (Middlebury 2014, at a quarter of the resolution).
STEREO = ("skimage/data/motorcycle_left.png", "skimage/data/motorcycle_right.png")
DISPARITY = "skimage/data/motorcycle_disp.npz"
STEREO_PATCH = 48


class Cell(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    bottom: int
    right: int


@reader
def digits(options: Options) -> Dataset:
    """Return scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, grey.

    A third forms the test split (seeded, stratified). Grey values 0 to 16 are scaled to 0 to 255;
    the preprocessing of the encoder enlarges the images.
    """
    values, labels = handwritten_digits()
    pixels = np.rint(values * (255 / 16)).astype(np.uint8)
    whole = in_memory(pixels, labels, [f"{number:04d}" for number in range(len(labels))])
    train_indices, test_indices = hold_out(
        whole.targets, DIGITS_TEST_FRACTION, options.split_seed, "test"
    )
    return assemble(
        options,
        classes=[str(digit) for digit in range(10)],
        train=whole.subset(train_indices),
        test=whole.subset(test_indices),
        content=hash_of(pixels),
        facts={"test": "seeded, 1/3"},
    )


def handwritten_digits() -> tuple[Int64[np.ndarray, "1797 8 8"], Int64[np.ndarray, " 1797"]]:
    """Return scikit-learn's digits: grey values from 0 to 16, and the digits that they show."""
    with gzip.open(_bundled("sklearn/datasets/data/digits.csv.gz")) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1]


@reader
def textures(options: Options) -> Dataset:
    """Return grey 32x32 patches of eight materials.

    Every patch is rotated and mirrored at random (fixed for a patch) and standardised to the same
    mean and spread, so that the class cannot be read from direction, brightness or contrast; each
    class occurs at two magnifications. Of 16 cells per photograph, 6 are tested; with the default
    ``val_fraction``, 2 validate and 8 train, which gives 1,152 training, 288 validation and 864
    test patches.
    """
    regions = _Regions(options, TEXTURE_CELLS, TEXTURE_TEST_CELLS)
    for name, (file, box) in TEXTURES.items():
        with Image.open(_bundled(file)) as opened:
            picture = opened.convert("L").crop(box)
        for key, cells in regions.cells(picture, name).items():
            for span in SPANS:
                corners = _corners(cells, span, PATCHES_PER_SIDE)
                patches = standardised(_turned(_cut(picture, corners, span, PATCH)))
                regions.add(key, patches, list(TEXTURES).index(name), f"{name}/{span}", corners)
    return regions.assemble(list(TEXTURES))


@reader
def photos(options: Options) -> Dataset:
    """Return 48x48 colour tiles of seven photographs, made for pre-training.

    The class is the photograph, so that ``supervised`` works, too. None of these photographs is a
    source of ``textures``. Of 12 cells per photograph, 2 are tested; with the default
    ``val_fraction``, 2 validate and 8 train, which gives 2,016 training, 504 validation and 504
    test tiles.
    """
    regions = _Regions(options, PHOTO_CELLS, PHOTO_TEST_CELLS)
    for target, (name, file) in enumerate(PHOTOS.items()):
        with Image.open(_bundled(file)) as opened:
            picture = opened.convert("RGB")
        for key, cells in regions.cells(picture, name).items():
            corners = _corners(cells, TILE, TILES_PER_SIDE)
            regions.add(key, _cut(picture, corners, TILE, TILE), target, name, corners)
    return regions.assemble(list(PHOTOS))


@reader
def stereo_patches(options: Options, step: Annotated[int, Range(1, STEREO_PATCH)] = 24) -> Dataset:
    """Return patches of 48x48 pixels of a stereo pair: the left and the right view of each patch.

    The patch of the right view is shifted by the median disparity of the patch, so that both show
    the same part of the scene. Patches without a known disparity, or whose right view would lie
    outside of the image, are left out. With the default step there are 524 patches.

    Args:
        options: shared options; those that count labels must be left out.
        step: distance of neighbouring patches in pixels; with 48, patches do not overlap.

    Raises:
        ValueError: if an option does not apply.
    """
    left, right = (np.asarray(Image.open(_bundled(file)).convert("RGB")) for file in STEREO)
    with np.load(_bundled(DISPARITY)) as stored:
        disparity = stored["arr_0"]
    pixels, names = [], []
    for top, start in itertools.product(
        *(range(0, side - STEREO_PATCH + 1, step) for side in disparity.shape)
    ):
        known = disparity[top : top + STEREO_PATCH, start : start + STEREO_PATCH]
        known = known[np.isfinite(known)]
        if not len(known) or (shifted := start - round(float(np.median(known)))) < 0:
            continue
        for view, image, column in (("left", left, start), ("right", right, shifted)):
            pixels.append(image[top : top + STEREO_PATCH, column : column + STEREO_PATCH])
            names.append(f"{top:04d}_{start:04d}/{view}")
    views = in_memory(np.stack(pixels), np.zeros(len(pixels), dtype=np.int64), names)
    return assemble_views(
        options,
        views=dataclasses.replace(views, groups=np.arange(len(names)) // len(STEREO)),
        content=hash_of(np.stack(pixels)),
        facts={"step": step},
    )


class _Regions:
    """Samples cut from pictures, every cell of a picture belonging to one split.

    Args:
        options: options of the dataset.
        grid: rows and columns of cells in a picture.
        test_cells: how many of them are tested.
    """

    def __init__(self, options: Options, grid: tuple[int, int], test_cells: int) -> None:
        self.options, self.grid, self.test_cells = options, grid, test_cells
        self.parts: dict[str, list[Split]] = {"train": [], "val": [], "test": []}
        self.digest = hashlib.sha256()

    def cells(self, picture: Image.Image, name: str) -> Mapping[str, Sequence[Cell]]:
        """Return the cells of a picture that belong to each split, without the gaps."""
        rows, columns = (
            np.linspace(0, side, count + 1).astype(int).tolist()
            for side, count in zip((picture.height, picture.width), self.grid, strict=True)
        )
        cells = [
            Cell(top + GAP, left + GAP, bottom - GAP, right - GAP)
            for top, bottom in itertools.pairwise(rows)
            for left, right in itertools.pairwise(columns)
        ]
        order = permutation(self.options.split_seed, f"cells of {name}", 0, len(cells))
        shuffled = [cells[i] for i in order]
        test = self.test_cells
        train = test + held_out(len(cells) - test, self.options.val_fraction)
        return {"train": shuffled[train:], "val": shuffled[test:train], "test": shuffled[:test]}

    def add(
        self,
        key: str,
        pixels: UInt8[np.ndarray, "samples height width *channels"],
        target: int,
        name: str,
        corners: Sequence[tuple[int, int]],
    ) -> None:
        """Add samples of one class to a split."""
        self.digest.update(pixels.tobytes())
        names = [f"{name}/{top:04d}_{left:04d}" for top, left in corners]
        targets = np.full(len(pixels), target, dtype=np.int64)
        self.parts[key].append(in_memory(pixels, targets, names))

    def assemble(self, classes: Sequence[str]) -> Dataset:
        """Return the dataset of the samples that have been added."""
        return assemble(
            self.options,
            classes=classes,
            train=concatenate(*self.parts["train"]),
            val=concatenate(*self.parts["val"]),
            test=concatenate(*self.parts["test"]),
            content=self.digest.hexdigest(),
            facts={
                "validation": f"regions, {self.options.val_fraction}",
                "test": "regions",
            },
        )


def standardised(
    patches: UInt8[np.ndarray, "patches height width"],
) -> UInt8[np.ndarray, "patches height width"]:
    """Return patches with mean ``PATCH_MEAN`` and spread ``PATCH_STD``, up to clipping."""
    values = patches.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    spread: Float64[np.ndarray, "patches 1 1"] = values.std(axis=(1, 2), keepdims=True)
    values *= PATCH_STD / np.maximum(spread, 1.0)  # does not amplify the noise of a flat patch
    return np.clip(np.rint(values + PATCH_MEAN), 0, 255).astype(np.uint8)


def _bundled(file: str) -> Path:
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        if (path := Path(folder) / inside).is_file():
            return path
    raise ValueError(
        f"the embedded images need `{file}`, which comes with the wheels of scikit-learn and "
        "scikit-image, but it is not there; install both again with pip."
    )


def _corners(cells: Sequence[Cell], span: int, per_side: int) -> list[tuple[int, int]]:
    """Return the top left corners of ``per_side``² evenly spread squares in every cell."""

    def spread(start: int, end: int) -> Iterator[int]:
        yield from np.rint(np.linspace(start, end - span, per_side)).astype(int).tolist()

    return [
        (top, left)
        for cell in cells
        for top in spread(cell.top, cell.bottom)
        for left in spread(cell.left, cell.right)
    ]


def _cut(
    picture: Image.Image, corners: Sequence[tuple[int, int]], span: int, size: int
) -> UInt8[np.ndarray, "samples size size *channels"]:
    """Return the squares of side ``span`` at ``corners``, averaged down to ``size``."""
    squares = (
        picture.crop((left, top, left + span, top + span)).reduce(span // size)
        for top, left in corners
    )
    return np.stack([np.asarray(square) for square in squares])


def _turned(
    patches: UInt8[np.ndarray, "patches size size"],
) -> UInt8[np.ndarray, "patches size size"]:
    """Return every patch in one of its eight orientations, drawn by its position in the list."""
    zero = np.zeros(len(patches), dtype=np.int64)
    draws = uniforms(0, "orientation of patches", zero, np.arange(len(patches)), draws=1)[:, 0]
    turned = [
        np.rot90(patch[:, ::-1] if number >= 4 else patch, number % 4)
        for patch, number in zip(patches, (draws * 8).astype(int).tolist(), strict=True)
    ]
    return np.stack(turned)


def in_memory(
    pixels: UInt8[np.ndarray, "samples height width *channels"],
    targets: Int64[np.ndarray, " samples"],
    names: Sequence[str],
) -> Split:
    """Return samples whose pixels are held in memory; grey ones get three equal channels."""
    if pixels.ndim == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return Split(ArrayImages(pixels), targets, names)


def hash_of(pixels: UInt8[np.ndarray, "..."]) -> str:
    """Return a hash of pixels, which represents them in a fingerprint."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()
