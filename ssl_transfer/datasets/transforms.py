"""From images to a normalised batch: geometry per image, everything else on whole batches.

All random numbers come from ``randomness.uniforms``, so that a sample's pixels are a pure function
of (seed, epoch, sample, view): bit-identical in every batch, worker and process (``pixels`` states
the conditions on the arithmetic).
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.utils.data
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from ssl_transfer.config.ranges import Fraction, Range, Side, checked
from ssl_transfer.datasets.base import Split
from ssl_transfer.datasets.draws import (
    BLUR,
    FACTORS,
    FLIP,
    GRAYSCALE,
    JITTER,
    NUM_DRAWS,
    ORDER,
    SIGMA,
    SOLARIZE,
    VERTICAL_FLIP,
    Draws,
    random_boxes,
)
from ssl_transfer.datasets.pixels import (
    Pixels,
    brightness,
    change,
    contrast,
    gaussian_blur,
    grayscale,
    hue,
    per_image,
    saturation,
    solarize,
)
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.randomness import uniforms

Chosen = TypeVar("Chosen", bound="Augmentation")
Share = Annotated[float, Range(0, 1, open_low=True)]
Ratio = Annotated[float, Range(0, open_low=True, cap=1e3)]
Strength = Annotated[float, Range(0, cap=1e3)]
Sigma = Annotated[float, Range(0, open_low=True, cap=1e3)]

# Number of floats per chunk, so that a chunk stays in the processor's cache.
CHUNK = 2**18
_MOST_PIXELS = 1 << 25
"""If a resize would give a larger image (a strip of 1x600 px at 256 px), only the part that the
centre crop shows is resized."""
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_MIRRORED = Image.Transpose.FLIP_LEFT_RIGHT
OPERATIONS = ("crop", "jitter", "grayscale", "blur", "solarize")
"""The operations in their usual order. Flips are not listed: they commute with every operation."""


@checked()
@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random part of a view; the defaults are crop and flip.

    Colour jitter applies its four parts in random order.

    Args:
        crop_scale: range of the random crop's share of the area (``None``: the evaluation's resize
            and centre crop instead).
        crop_ratio: range of its width over height, drawn evenly in the logarithm.
        flip_probability: probability of a horizontal flip.
        vertical_flip_probability: probability of a vertical flip, for images without a fixed
            orientation.
        jitter_probability: probability of changing brightness, contrast, saturation and hue.
        brightness: the factor is drawn from ``[max(0, 1 - x), 1 + x]``.
        contrast: likewise.
        saturation: likewise.
        hue: the shift is drawn from ``[-x, x]``; 0.5 is half the colour circle.
        grayscale_probability: probability of converting to grey.
        blur_probability: probability of a Gaussian blur; its kernel's width is a tenth of the
            image's, as in SimCLR (Chen et al. 2020, appendix A).
        blur_sigma: range of its standard deviation, in pixels.
        solarize_probability: probability of inverting bright pixels.
        order: order of the operations (``crop`` is the crop of ``crop_scale`` with its resize). It
            changes the result: contrast blends with the mean grey of the crop or of the whole
            image; a blur before the resize is weaker after it; a grey image has no hue to shift.
            Operations before the crop process each image in full size, then round it to 8 bits.
        size: side of the encoder's input, in pixels (``None``: the size that its weights expect).

    Raises:
        ValueError: if a value is out of its range.
    """

    crop_scale: tuple[Share, Share] | None = (0.08, 1.0)
    crop_ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    flip_probability: Fraction = 0.5
    vertical_flip_probability: Fraction = 0.0
    jitter_probability: Fraction = 0.0
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    grayscale_probability: Fraction = 0.0
    blur_probability: Fraction = 0.0
    blur_sigma: tuple[Sigma, Sigma] = (0.1, 2.0)
    solarize_probability: Fraction = 0.0
    order: tuple[str, ...] = OPERATIONS
    size: Side | None = None

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(OPERATIONS):
            raise ValueError(
                f"`order` must hold each of {list(OPERATIONS)} once, but is {list(self.order)}."
            )
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            ends = getattr(self, name)
            if ends is None:
                continue
            if ends[0] > ends[1]:
                raise ValueError(f"`{name}` must be a range in ascending order, but is {ends}.")
            object.__setattr__(self, name, (float(ends[0]), float(ends[1])))
        for field in dataclasses.fields(Augmentation):
            if isinstance(value := getattr(self, field.name), int) and field.name != "size":
                object.__setattr__(self, field.name, float(value))

    @property
    def before_crop(self) -> tuple[str, ...]:
        """The operations on the whole image."""
        return self.order[: self.order.index("crop")]

    @property
    def after_crop(self) -> tuple[str, ...]:
        """The operations on the cropped image."""
        return self.order[self.order.index("crop") + 1 :]

    def without_flip(self) -> "Augmentation":
        """Return the same without flips."""
        return dataclasses.replace(self, flip_probability=0.0, vertical_flip_probability=0.0)


@checked()
@dataclasses.dataclass(frozen=True)
class View(Augmentation):
    """One entry of a method's ``views``: the augmentation of one or more views of an image.

    Args:
        count: number of views; they are independent of each other.

    Raises:
        ValueError: if ``count`` is not positive.
    """

    count: Annotated[int, Range(1, cap=1000)] = 1

    @property
    def augmentation(self) -> Augmentation:
        """The random part of one of these views."""
        fields = dataclasses.fields(Augmentation)
        return Augmentation(**{field.name: getattr(self, field.name) for field in fields})


CROP_FLIP = Augmentation()
NAMED: dict[str, Augmentation | None] = {"none": None, "crop_flip": CROP_FLIP}


def augmentation(
    choice: "str | Mapping[str, Any] | Augmentation | None", *, flip: bool
) -> Augmentation | None:
    """Return the augmentation that an ``augmentation`` option selects for a dataset.

    Args:
        choice: ``none``, ``crop_flip``, or the fields of an ``Augmentation``.
        flip: whether the dataset allows flips; otherwise they are removed.

    Raises:
        ValueError: for an unknown name or field.
    """
    if isinstance(choice, str):
        if choice not in NAMED:
            raise ValueError(
                f"`augmentation` must be one of {sorted(NAMED)} or a mapping, but is {choice!r}."
            )
        chosen = NAMED[choice]
    elif choice is None or isinstance(choice, Augmentation):
        chosen = choice
    else:
        chosen = _from_keys(Augmentation, choice, "augmentation")
    return chosen if chosen is None or flip else chosen.without_flip()


def views(entries: Sequence[Mapping[str, Any]]) -> tuple[View, ...]:
    """Return every single view that a method's ``views`` describe, in that order.

    Args:
        entries: the fields of a ``View`` each, as YAML writes them.

    Raises:
        ValueError: for an unknown field or a value out of its range.
    """
    parsed = [_from_keys(View, entry, f"views[{i}]") for i, entry in enumerate(entries)]
    return tuple(dataclasses.replace(view, count=1) for view in parsed for _ in range(view.count))


def _from_keys(kind: type[Chosen], keys: Mapping[str, Any], name: str) -> Chosen:
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(keys) - set(known))
    if unknown:
        raise ValueError(f"`{name}` may have the keys {known}, but has {unknown}.")
    # YAML has no tuples, only lists.
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in keys.items()}
    return kind(**values)


class Pipeline:
    """Turns images into a normalised batch.

    Args:
        preprocessing: size, interpolation and statistics that the encoder expects.
        augmentation: the random part (``None``: resize and centre crop, as in evaluation).
        view: number of the view; views of one sample are independent.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        *,
        view: int = 0,
    ) -> None:
        size = None if augmentation is None else augmentation.size
        self.preprocessing = preprocessing.at_size(size)
        self.augmentation = augmentation
        self.view = view

    def __call__(
        self,
        images: Sequence[Image.Image],
        *,
        seed: int,
        epochs: Int64[np.ndarray, " batch"],
        indices: Int64[np.ndarray, " batch"],
    ) -> Float32[Tensor, "batch 3 size size"]:
        """Return the batch; image i is sample ``indices[i]`` in epoch ``epochs[i]``."""
        draws = uniforms(seed, "augment", epochs, indices, view=self.view, draws=NUM_DRAWS)
        chosen = self.augmentation
        if chosen is not None and chosen.before_crop:
            images = recoloured(images, draws, chosen)
        pixels = torch.from_numpy(self._geometry(images, draws))
        batch = _reserve(len(images), 3, *pixels.shape[1:3])
        mean, std = (
            torch.tensor(values).view(3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        chunk = max(1, CHUNK // batch[0].numel()) if len(images) else 1
        for start in range(0, len(images), chunk):
            rows = slice(start, start + chunk)
            part = pixels[rows].permute(0, 3, 1, 2).contiguous().float().div_(255)
            if chosen is not None:
                part = photometry(part, draws[rows], chosen, chosen.after_crop)
            if self.preprocessing.channel_order == "bgr":
                part = part.flip(1)
            torch.div(part.sub_(mean), std, out=batch[rows])
        return batch

    def _geometry(
        self, images: Sequence[Image.Image], draws: Draws
    ) -> UInt8[np.ndarray, "batch size size 3"]:
        """Return the images cropped, resized (antialiased) and flipped by PIL.

        A random crop is cut and resized in one step, so that the filter also reads pixels outside
        of the crop. torchvision cuts first, so that its filter only reads pixels inside; the
        results differ at the border, by half the filter's width.
        """
        size, chosen = self.preprocessing.size, self.augmentation
        if chosen is None or chosen.crop_scale is None:
            views = (centre_crop(image, self.preprocessing) for image in images)
        else:
            sizes = np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2)
            boxes = random_boxes(sizes, draws, chosen.crop_scale, chosen.crop_ratio)
            resample = RESAMPLING[self.preprocessing.interpolation]
            views = (
                image.resize((size, size), resample, box=box)
                for image, box in zip(images, boxes.tolist(), strict=True)
            )
        flipped = draws[:, FLIP] < (0.0 if chosen is None else chosen.flip_probability)
        pairs = zip(views, flipped.tolist(), strict=True)
        rows = ((view.transpose(_MIRRORED) if flip else view).tobytes() for view, flip in pairs)
        pixels = np.frombuffer(bytearray().join(rows), np.uint8)
        pixels = pixels.reshape(len(images), size, size, 3)
        if chosen is not None and chosen.vertical_flip_probability:
            upset = draws[:, VERTICAL_FLIP] < chosen.vertical_flip_probability
            pixels[upset] = pixels[upset, ::-1]
        return pixels


def _reserve(*shape: int) -> Float32[Tensor, "..."]:
    """Return memory for a batch; in a loader's worker it is shared, so that no copy is sent."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(*shape)
    # torch's `default_collate` uses the same calls.
    size = 4 * math.prod(shape)
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0).set_(storage).view(*shape)


def centre_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Return the evaluation's view: resized and centre cropped, as torchvision does."""
    side, size = preprocessing.shorter_side, preprocessing.size
    if preprocessing.square:
        return image.resize((size, size), RESAMPLING[preprocessing.interpolation])
    width, height = image.size
    short = min(width, height)
    # torchvision rounds the longer side down.
    width, height = (
        side if length == short or preprocessing.squash else int(side * length / short)
        for length in (width, height)
    )
    left, top = round((width - size) / 2), round((height - size) / 2)
    if (width, height) != image.size:
        resample = RESAMPLING[preprocessing.interpolation]
        if width * height > _MOST_PIXELS and min(left, top) >= 0:
            across, down = image.width / width, image.height / height
            box = (left * across, top * down, (left + size) * across, (top + size) * down)
            return image.resize((size, size), resample, box=box)
        image = image.resize((width, height), resample)
    if (width, height) == (size, size):
        return image
    return image.crop((left, top, left + size, top + size))


def recoloured(
    images: Sequence[Image.Image], draws: Draws, chosen: Augmentation
) -> list[Image.Image]:
    """Return images of any sizes after the operations that precede the crop.

    Args:
        images: the images in RGB.
        draws: random numbers of every image.
        chosen: the augmentation, which defines the operations and their strength.
    """
    recoloured = list(images)
    rows_of: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        rows_of[image.size].append(row)
    for (width, height), alike in rows_of.items():
        chunk = max(1, CHUNK // (3 * width * height))
        for start in range(0, len(alike), chunk):
            rows = alike[start : start + chunk]
            array = np.stack([np.asarray(images[row]) for row in rows])
            pixels = torch.from_numpy(array).permute(0, 3, 1, 2).contiguous().float().div_(255)
            pixels = photometry(pixels, draws[rows], chosen, chosen.before_crop)
            levels = pixels.permute(0, 2, 3, 1).mul(255).round_().to(torch.uint8).numpy()
            for row, level in zip(rows, levels, strict=True):
                recoloured[row] = Image.fromarray(level)
    return recoloured


def photometry(
    pixels: Pixels, draws: Draws, chosen: Augmentation, operations: Sequence[str] = OPERATIONS[1:]
) -> Pixels:
    """Return the images after colour and blur operations, each with its own random numbers.

    Args:
        pixels: values in [0, 1]; may be overwritten.
        draws: random numbers of every image.
        chosen: the augmentation, which defines the strength of the operations.
        operations: the operations to apply, in this order.
    """

    def blur(pixels: Pixels, draws: Draws) -> Pixels:
        low, high = chosen.blur_sigma
        return gaussian_blur(pixels, low + (high - low) * draws[:, SIGMA])

    known: dict[str, tuple[int, float, Callable[[Pixels, Draws], Pixels]]] = {
        "jitter": (JITTER, chosen.jitter_probability, lambda p, d: color_jitter(p, d, chosen)),
        "grayscale": (GRAYSCALE, chosen.grayscale_probability, lambda p, _: grayscale(p)),
        "blur": (BLUR, chosen.blur_probability, blur),
        "solarize": (SOLARIZE, chosen.solarize_probability, lambda p, _: solarize(p)),
    }
    for name in operations:
        column, probability, function = known[name]
        picked = np.flatnonzero(draws[:, column] < probability)
        if len(picked):
            change(pixels, picked, function, draws[picked])
    return pixels


def color_jitter(pixels: Pixels, draws: Draws, chosen: Augmentation) -> Pixels:
    """Return the images with their colours changed; each image has its own order of operations."""
    strengths = (chosen.brightness, chosen.contrast, chosen.saturation, chosen.hue)
    functions = (brightness, contrast, saturation, hue)
    place = np.argsort(draws[:, ORDER], axis=1)  # place[i, s]: operation on image i at step s
    for step in range(4):
        for part, (function, strength) in enumerate(zip(functions, strengths, strict=True)):
            chosen_rows = np.flatnonzero(place[:, step] == part)
            if not strength or not len(chosen_rows):
                continue
            low = -strength if function is hue else max(0.0, 1.0 - strength)
            high = strength if function is hue else 1.0 + strength
            factor = low + (high - low) * draws[chosen_rows, FACTORS][:, part]
            change(pixels, chosen_rows, function, per_image(factor))
    return pixels


class Batch(NamedTuple):
    """The input of a training or evaluation step.

    Args:
        views: one tensor ``[batch, 3, size, size]`` per view of the same images; views may differ
            in size. Features ``[batch, dim]`` of the images may stand for views.
        targets: class numbers, or a row per image (see ``Split``).
        indices: positions of the samples in their split.
    """

    views: tuple[Float32[Tensor, "batch 3 _ _"], ...]
    targets: Int64[Tensor, " batch"] | Int64[Tensor, "batch classes"]
    indices: Int64[Tensor, " batch"]


class ViewDataset(torch.utils.data.Dataset[Batch]):
    """A dataset for a DataLoader that returns whole batches for lists of (epoch, sample index).

    Use it with ``batch_sampler`` yielding such lists and ``collate_fn=collate``.

    Args:
        split: the samples.
        pipelines: one per view; an image is decoded once for all views.
        seed: seed of the random parts.
    """

    def __init__(self, split: Split, pipelines: Sequence[Pipeline], seed: int) -> None:
        self.split = split
        self.pipelines = tuple(pipelines)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        """Return the batch of these (epoch, sample index) pairs."""
        epochs, indices = np.array(items, dtype=np.int64).reshape(-1, 2).T
        images = [self.split.images[index] for index in indices.tolist()]
        return Batch(
            views=tuple(
                pipeline(images, seed=self.seed, epochs=epochs, indices=indices)
                for pipeline in self.pipelines
            ),
            targets=torch.from_numpy(self.split.targets[indices]),
            indices=torch.from_numpy(indices.copy()),
        )


def collate(batch: Batch) -> Batch:
    """Return the batch unchanged: ``ViewDataset`` has already collated it."""
    return batch
