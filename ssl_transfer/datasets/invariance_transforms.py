"""The transforms and grids of settings with which synthetic invariance is measured.

Ericsson, Gouk and Hospedales 2021, https://arxiv.org/abs/2111.11398; ``ManualTransform`` in
eval_synthetic_invariance.py of github.com/linusericsson/ssl-invariances. Their code transforms each
photograph in its original size, so that the strength depends on its resolution. Here numbers of
pixels are those of an image whose shorter side has ``SIDE`` pixels.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Real
from torch import Tensor

from ssl_transfer.datasets import recolouring
from ssl_transfer.datasets.pixels import brightness, grayscale, saturation
from ssl_transfer.datasets.warps import (
    Interpolation,
    Window,
    affine_matrices,
    centre,
    cropped_and_resized,
    displaced,
    smooth_fields,
    warp,
)
from ssl_transfer.randomness import derive

Grid = Literal["symmetric", "published"]
Deformation = Literal["elastic", "affine"]
Pixels = Float32[Tensor, "batch 3 height width"]
Settings = Float64[np.ndarray, "settings parameters"]
Name = Literal[
    "rotation", "translation", "scale", "shear", "resized_crop", "h_flip", "v_flip", "deform",
    "grayscale", "brightness", "contrast", "saturation", "hue", "blur", "sharpness", "invert",
    "equalize", "posterize",
]  # fmt: skip

SIDE = 256
STRAIN = 0.35
"""Root mean square of an elastic displacement over the Gaussian's sigma: that of the best setting
of Simard et al. 2003 (https://doi.org/10.1109/ICDAR.2003.1227801), sigma 4 and alpha 34."""
CORNER_SHIFT = 50.0
"""Largest shift of the points that define the published ``deform``, in pixels."""


@dataclasses.dataclass(frozen=True)
class Definition:
    """What the transforms mean where the published code has peculiarities.

    Args:
        grid: ``symmetric``: translations to both sides alike, shears from -80 to 80 degrees, boxes
            all over the image; ``published``: translations from -16 to 14 pixels, shears from -160
            to 140 degrees, of which most occur twice because a tangent repeats after 180 degrees,
            boxes near the top left corner.
        deformation: ``elastic``: a random smooth displacement of every pixel; ``affine``: a random
            affine map, which the published ``deform`` amounts to.
        interpolation: of rotation, translation, scale and shear; the published code has
            ``nearest``.
        extra_shear_degrees: shear that is added to translation and scale (published: 1).
        blur_kernel: odd number of pixels of the kernel of ``blur`` (published: 23, which truncates
            large Gaussians; ``None``: six standard deviations).
        seed: seed of ``deform``.
    """

    grid: Grid = "symmetric"
    deformation: Deformation = "elastic"
    interpolation: Interpolation = "bilinear"
    extra_shear_degrees: float = 0.0
    blur_kernel: int | None = None
    seed: int = 0


Apply = Callable[[Pixels, Settings, Window, float, Definition], Tensor]
"""Function from images, their settings, size of the crop and pixels per pixel of ``SIDE``."""


@dataclasses.dataclass(frozen=True)
class Transform:
    """One kind of change to an image, and its settings.

    Args:
        group: ``spatial`` or ``appearance``.
        parameters: what a setting consists of, with units.
        count: published number of settings.
        grid: returns the settings for a number of them.
        apply: see ``Apply``.
        power: the number of settings must be a number to this power.
        most: the largest number of settings (``None``: any).
        maps: whether it reads all images that have one setting at the same places; ``warps`` does
            so fastest with images that are ``image_minor``.
    """

    group: Literal["spatial", "appearance"]
    parameters: tuple[str, ...]
    count: int
    grid: Callable[[int, Definition], Settings]
    apply: Apply
    identity: Callable[[Settings, Definition], Bool[np.ndarray, " settings"]]
    power: int = 1
    most: int | None = None
    maps: bool = False

    @property
    def name(self) -> Name:
        """Its key in ``TRANSFORMS``."""
        return next(name for name, one in TRANSFORMS.items() if one is self)

    def settings(self, count: int | None, definition: Definition) -> Settings:
        """Return the settings, one per row.

        Args:
            count: number of settings (``None``: the published number).
            definition: see ``Definition``.

        Raises:
            ValueError: if the transform cannot have this number of settings.
        """
        chosen = self.count if count is None else count
        root = round(chosen ** (1 / self.power))
        if root**self.power != chosen:
            raise ValueError(
                f"`k` must be a whole number to the power of {self.power} for `{self.name}`, but "
                f"is {count}; use {max(root, 1) ** self.power}."
            )
        if self.most is not None and chosen > self.most:
            raise ValueError(
                f"`k` must be at most {self.most} for `{self.name}`, but is {count}; use "
                f"{self.most} or null."
            )
        return self.grid(chosen, definition)

    def is_identity(
        self, settings: Settings, definition: Definition
    ) -> Bool[np.ndarray, " settings"]:
        """Return which settings leave the image as it is."""
        return self.identity(settings, definition)

    def __call__(
        self,
        pixels: Pixels,
        settings: Settings,
        definition: Definition,
        window: Window,
        *,
        scale: float = 1.0,
    ) -> Float32[Tensor, "batch 3 _ _"]:
        """Return the centre crops of transformed images.

        Args:
            pixels: images in RGB with values in [0, 1]; they stay unchanged.
            settings: one for all images, or one per image.
            definition: see ``Definition``.
            window: height and width of the crop.
            scale: pixels of these images per pixel of an image whose shorter side is ``SIDE``.
        """
        result: Tensor = self.apply(pixels, settings, window, scale, definition)
        return result


def _column(values: Real[np.ndarray, " settings"]) -> Settings:
    return values.astype(np.float64)[:, None]


def _linear(low: float, high: float) -> Callable[[int, Definition], Settings]:
    return lambda count, _: _column(np.linspace(low, high, count))


def _products(*axes: Float64[np.ndarray, " steps"]) -> Settings:
    return np.array(list(itertools.product(*axes)), dtype=np.float64)


def _rotations(count: int, definition: Definition) -> Settings:
    return _column(np.arange(count) * (360 / count))


def _translations(count: int, definition: Definition) -> Settings:
    steps, reach = math.isqrt(count), SIDE / 16
    if definition.grid == "published":
        axis = np.linspace(-reach, reach, steps + 1)[:-1]
    else:
        axis = np.linspace(-reach, reach, steps)
    return _products(axis, axis)


def _shears(count: int, definition: Definition) -> Settings:
    steps = math.isqrt(count)
    if definition.grid == "published":
        axis = np.linspace(-160, 160, steps + 1)[:-1]
    else:
        axis = np.linspace(-80, 80, steps)
    return _products(axis, axis)


def _boxes(count: int, definition: Definition) -> Settings:
    steps = math.isqrt(math.isqrt(count))
    lengths = np.linspace(0.75, 0.25, steps) * SIDE
    if definition.grid == "published":
        corners = np.linspace(0, 0.25, steps) * SIDE
        return _products(corners, corners, lengths, lengths)
    shares = _products(np.linspace(0, 1, steps), np.linspace(0, 1, steps), lengths, lengths)
    shares[:, :2] *= SIDE - shares[:, 2:]  # from one edge of the image to the other
    return shares


def _deformations(count: int, definition: Definition) -> Settings:
    sigmas = np.linspace(10, 50, 8).astype(np.int64)
    numbers = np.arange(count)
    return np.stack([sigmas[numbers % 8], numbers], axis=1).astype(np.float64)


def _off_and_on(count: int, definition: Definition) -> Settings:
    return _column(np.arange(count))


def _bits(count: int, definition: Definition) -> Settings:
    return _column(np.arange(1, count + 1))


def _rotate(
    pixels: Pixels, settings: Settings, window: Window, scale: float, definition: Definition
) -> Tensor:
    matrices = affine_matrices(angle=-settings[:, 0])  # counter-clockwise
    return warp(pixels, matrices, window, interpolation=definition.interpolation)


def _translate(
    pixels: Pixels, settings: Settings, window: Window, scale: float, definition: Definition
) -> Tensor:
    shear = (definition.extra_shear_degrees, 0.0)
    matrices = affine_matrices(translate=settings * scale, shear=shear)
    return warp(pixels, matrices, window, interpolation=definition.interpolation)


def _rescale(
    pixels: Pixels, settings: Settings, window: Window, scale: float, definition: Definition
) -> Tensor:
    shear = (definition.extra_shear_degrees, 0.0)
    matrices = affine_matrices(scale=settings[:, 0], shear=shear)
    return warp(pixels, matrices, window, interpolation=definition.interpolation)


def _shear(
    pixels: Pixels, settings: Settings, window: Window, scale: float, definition: Definition
) -> Tensor:
    matrices = affine_matrices(shear=settings)
    return warp(pixels, matrices, window, interpolation=definition.interpolation)


def _crop(
    pixels: Pixels, settings: Settings, window: Window, scale: float, definition: Definition
) -> Tensor:
    boxes = np.broadcast_to(settings * scale, (len(pixels), 4))
    return cropped_and_resized(pixels, boxes, window)


def _deform(
    pixels: Pixels, settings: Settings, window: Window, scale: float, definition: Definition
) -> Tensor:
    height, width = pixels.shape[-2:]
    seeds = [derive(definition.seed, "deform", int(number)) for number in settings[:, 1]]
    if definition.deformation == "affine":
        matrices = [_corner_shifts(height, width, scale, seed) for seed in seeds]
        return warp(pixels, np.stack(matrices), window, beyond="reflection")
    fields = [
        smooth_fields(sigma * scale, STRAIN * sigma * scale, (height, width), seed)
        for sigma, seed in zip(settings[:, 0].tolist(), seeds, strict=True)
    ]
    return displaced(pixels, torch.stack(fields).to(pixels.device), window)


def _corner_shifts(height: int, width: int, scale: float, seed: int) -> Float64[np.ndarray, "2 3"]:
    """Return the affine map that moves three points at random, as albumentations 1.0.3 draws it.

    Its elastic part is left out: with its default ``alpha`` of 1 it moves pixels by less than 0.2.

    Returns:
        The map from the output's coordinates to the input's, both from the centre.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    middle, span = np.array([height // 2, width // 2]), min(height, width) // 3
    before = middle + span * np.array([[1, 1], [1, -1], [-1, -1]])
    reach = CORNER_SHIFT * scale
    after = before + generator.uniform(-reach, reach, (3, 2))
    # Solve for the map from the points after to those before, in coordinates from the centre.
    origin = np.array([(width - 1) / 2, (height - 1) / 2])
    known = np.concatenate([after - origin, np.ones((3, 1))], axis=1)
    return np.linalg.solve(known, before - origin).T


def _factor(settings: Settings, pixels: Pixels) -> Float32[Tensor, "batch 1 1 1"]:
    factors = torch.from_numpy(settings[:, 0].astype(np.float32)).to(pixels.device)
    return factors.view(-1, 1, 1, 1).expand(len(pixels), 1, 1, 1)


def _of_points(function: Callable[[Pixels, Tensor], Tensor]) -> Apply:
    """Return the transform of each pixel by itself, which needs the pixels of the crop only."""
    return lambda pixels, settings, window, scale, definition: function(
        centre(pixels, window), _factor(settings, pixels)
    )


def _of_images(function: Callable[[Pixels, Tensor], Tensor]) -> Apply:
    """Return the transform that depends on the whole image, followed by the crop."""
    return lambda pixels, settings, window, scale, definition: centre(
        function(pixels, _factor(settings, pixels)), window
    )


def _if_on(function: Callable[[Pixels], Tensor]) -> Callable[[Pixels, Tensor], Tensor]:
    """Return the transform of the images whose setting is 1; the others stay as they are."""
    return lambda pixels, on: torch.where(on > 0, function(pixels), pixels)


def _blur(
    pixels: Pixels, settings: Settings, window: Window, scale: float, definition: Definition
) -> Tensor:
    radius = None if definition.blur_kernel is None else definition.blur_kernel // 2
    sigma = np.broadcast_to(settings[:, 0] * scale, len(pixels))
    return recolouring.blur(pixels, sigma, window, radius)


def _equals(value: float) -> Callable[[Settings, Definition], Bool[np.ndarray, " settings"]]:
    return lambda settings, _: (settings == value).all(axis=1)


def _equals_unsheared(
    value: float,
) -> Callable[[Settings, Definition], Bool[np.ndarray, " settings"]]:
    return lambda settings, definition: (
        (settings == value).all(axis=1) & (definition.extra_shear_degrees == 0)
    )


def _never(settings: Settings, definition: Definition) -> Bool[np.ndarray, " settings"]:
    return np.zeros(len(settings), dtype=bool)


def _hardly_blurred(settings: Settings, definition: Definition) -> Bool[np.ndarray, " settings"]:
    # A neighbour's weight is below exp(-12.5) = 4e-6, so that no level of 8 bits changes.
    return settings[:, 0] <= 0.2


def _switch(group: Literal["spatial", "appearance"], apply: Apply) -> Transform:
    return Transform(group, ("on",), 2, _off_and_on, apply, _equals(0), most=2)


def _strength(name: str, low: float, high: float, apply: Apply, identity: float) -> Transform:
    return Transform("appearance", (name,), 256, _linear(low, high), apply, _equals(identity))


TRANSFORMS: dict[Name, Transform] = {
    "rotation": Transform(
        "spatial", ("degrees",), 256, _rotations, _rotate, _equals(0), maps=True
    ),
    "translation": Transform(
        "spatial", ("x_px", "y_px"), 256, _translations, _translate, _equals_unsheared(0), power=2,
        maps=True,
    ),
    "scale": Transform(
        "spatial", ("factor",), 256, _linear(0.25, 2), _rescale, _equals_unsheared(1), maps=True
    ),
    "shear": Transform(
        "spatial", ("x_degrees", "y_degrees"), 256, _shears, _shear, _equals(0), power=2, maps=True
    ),
    "resized_crop": Transform(
        "spatial", ("top_px", "left_px", "height_px", "width_px"), 256, _boxes, _crop, _never,
        power=4,
    ),
    "h_flip": _switch("spatial", _of_points(_if_on(lambda pixels: pixels.flip(3)))),
    "v_flip": _switch("spatial", _of_points(_if_on(lambda pixels: pixels.flip(2)))),
    "deform": Transform(
        "spatial", ("sigma_px", "number"), 256, _deformations, _deform, _never, maps=True
    ),
    "grayscale": _switch(
        "appearance", _of_points(_if_on(lambda p: grayscale(p).expand(-1, 3, -1, -1)))
    ),
    "brightness": _strength("factor", 0.25, 5, _of_points(brightness), 1),
    "contrast": _strength("factor", 0.25, 5, _of_images(recolouring.contrast), 1),
    "saturation": _strength("factor", 0.25, 5, _of_points(saturation), 1),
    "hue": _strength("circles", -0.5, 0.5, _of_points(recolouring.hue), 0),
    "blur": Transform(
        "appearance", ("sigma_px",), 256, _linear(1e-5, 20), _blur, _hardly_blurred
    ),
    "sharpness": _strength("factor", 1, 30, _of_images(recolouring.sharpness), 1),
    "invert": _switch("appearance", _of_points(_if_on(lambda pixels: 1 - pixels))),
    "equalize": _switch("appearance", _of_images(_if_on(recolouring.equalize))),
    "posterize": Transform(
        "appearance", ("bits",), 7, _bits, _of_points(recolouring.posterize), _never, most=7
    ),
}  # fmt: skip
