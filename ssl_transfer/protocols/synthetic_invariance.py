"""``synthetic_invariance``: how little frozen features change when images are transformed."""

import abc
import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from ssl_transfer.config.ranges import Count, Range, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.base import Target
from ssl_transfer.datasets.invariance_transforms import (
    SIDE,
    TRANSFORMS,
    Definition,
    Deformation,
    Grid,
    Name,
    Settings,
)
from ssl_transfer.datasets.loading import load
from ssl_transfer.datasets.recolouring import levels
from ssl_transfer.datasets.transforms import Pipeline, ViewDataset
from ssl_transfer.datasets.warps import Interpolation, Window, centre, image_minor, resized_levels
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.features.extraction import output_of
from ssl_transfer.metrics.invariance import (
    Whitening,
    cosine_similarities,
    mahalanobis_distances,
)
from ssl_transfer.models import Encoder
from ssl_transfer.models.encoder import evaluating
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.whitened import WhitenedProtocol
from ssl_transfer.randomness import permutation
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)

Sampling = Literal["without_replacement", "with_replacement"]
Order = Literal["resize_first", "original_size"]
Totals = Float64[np.ndarray, "settings 3"]
"""Per setting: the sum of the similarities, the sum of the distances, the number of similarities
that are defined."""

BLOCK = 32
"""Settings (or images, in original size) between the points at which a run can be resumed."""
CACHED = 2**20
"""Numbers in the images that a processor transforms and encodes at once."""
TOGETHER = 16
"""Images that a processor transforms by one map and encodes at once."""
PIXELS = 2**25
"""Pixels of images in original size that are transformed at once."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticInvariance(WhitenedProtocol):
    """Compare the whitened features of images and of their transformed versions.

    Ericsson, Gouk and Hospedales 2021 (https://arxiv.org/abs/2111.11398). For image i and setting j
    of a transform, the similarity is the cosine of both whitened features, and the distance their
    Mahalanobis distance. Both are averaged over the images, then over the settings.

    Args:
        transform: name of the transform.
        k: number of settings (``None``: the published number, 256 for most).
        images: number of images of the test split; all of them if there are fewer.
        statistics: the split whose mean and covariance whiten the features; ``test``, as published,
            needs no labels and no other split.
        sampling: how the images are drawn. ``with_replacement``: by numpy's generator with seed 0,
            as published, so that some images count twice.
        order: ``resize_first``: the images are resized and cropped to a square of the side that the
            encoder's preprocessing resizes to, transformed, and cropped to the encoder's input;
            ``original_size``: they are transformed before the resize, as published, so that the
            strength of a transform depends on the resolution of the image.
        include_identity: whether settings that leave the image as it is count in ``similarity`` and
            ``distance``; the record has both means.
        grid: see ``Definition``.
        deformation: see ``Definition``.
        interpolation: see ``Definition``.
        extra_shear_degrees: see ``Definition``.
        blur_kernel: see ``Definition``; odd.
        shrinkage: see ``metrics.invariance.whitening``.
        ridge: likewise.
        factorisation: likewise.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.
        representation: see ``FrozenProtocol``.
        feature_precision: see ``FrozenProtocol``; of the features that give mean and covariance.

    Raises:
        ValueError: if a value is out of its range, or the transform cannot have ``k`` settings.
    """

    targets: ClassVar[frozenset[str]] = frozenset(get_args(Target))
    splits: ClassVar[tuple[str, ...]] = ("test",)

    transform: Name = "h_flip"
    k: Count | None = None
    images: Count = 1000
    statistics: Literal["test", "train"] = "test"
    sampling: Sampling = "without_replacement"
    order: Order = "resize_first"
    include_identity: bool = False
    grid: Grid = "symmetric"
    deformation: Deformation = "elastic"
    interpolation: Interpolation = "bilinear"
    extra_shear_degrees: Annotated[float, Range(-80, 80)] = 0.0
    blur_kernel: Annotated[int, Range(1, cap=1001)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transform not in TRANSFORMS:
            raise ValueError(
                f"`transform` must be one of {list(TRANSFORMS)}, but is {self.transform!r}."
            )
        if self.blur_kernel is not None and self.blur_kernel % 2 == 0:
            raise ValueError(f"`blur_kernel` must be odd, but is {self.blur_kernel}.")
        settings = TRANSFORMS[self.transform].settings(self.k, self.definition(0))
        identity = TRANSFORMS[self.transform].is_identity(settings, self.definition(0))
        if identity.all() and not self.include_identity:
            raise ValueError(
                f"`k` must be large enough for a setting that changes images, but is {self.k}; use "
                "null for the published number."
            )

    def definition(self, seed: int) -> Definition:
        """Return what the transforms mean."""
        return Definition(
            grid=self.grid,
            deformation=self.deformation,
            interpolation=self.interpolation,
            extra_shear_degrees=float(self.extra_shear_degrees),
            blur_kernel=self.blur_kernel,
            seed=seed,
        )

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset whose statistics cannot be computed.

        Raises:
            ValueError: if the split of ``statistics`` has fewer than two images.
        """
        if len(dataset[self.statistics]) < 2:
            other = "train" if self.statistics == "test" else "test"
            raise ValueError(
                f"the covariance needs at least two images in the {self.statistics} split, but "
                f"`{dataset.name}` has {len(dataset[self.statistics])}; set "
                f"`protocol.statistics={other}`."
            )

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the mean similarity and distance on the test split."""
        self.check(dataset)
        features = self.features(encoder, dataset, context)
        _require_resizing(self.order, features.preprocessing)
        white = self.whitening(features, self.statistics, context)
        chosen, definition = TRANSFORMS[self.transform], self.definition(dataset.split_seed)
        settings = chosen.settings(self.k, definition)
        identity = chosen.is_identity(settings, definition)
        indices = self.sample(len(dataset["test"]), dataset.split_seed)
        with evaluating(encoder):
            totals = self._totals(features, white, settings, indices)
        undefined = round(len(indices) * len(settings) - totals[:, 2].sum())
        means = {
            "similarity": totals[:, 0] / np.maximum(totals[:, 2], 1),
            "distance": totals[:, 1] / len(indices),
        }
        context.save_arrays(
            "invariance",
            settings=settings,
            parameters=np.array(chosen.parameters),
            is_identity=identity,
            images=indices,
            **means,
        )
        context.note(
            images=len(indices),
            distinct_images=len(np.unique(indices)),
            settings=len(settings),
            identity_settings=int(identity.sum()),
            undefined_similarities=undefined,
        )
        yield from self._scores(means, identity)

    def _scores(
        self, means: dict[str, Float64[np.ndarray, " settings"]], identity: np.ndarray
    ) -> Iterator[Score]:
        """Yield the means over the settings, with and without those that change nothing."""
        kept = np.ones_like(identity) if self.include_identity else ~identity
        sets = {"": kept}
        if identity.any() and not identity.all():
            other = ~identity if self.include_identity else np.ones_like(identity)
            sets[f"_{'without' if self.include_identity else 'with'}_identity"] = other
        for suffix, rows in sets.items():
            yield Score(
                f"similarity{suffix}",
                float(means["similarity"][rows].mean()),
                unit="cosine",
                primary=not suffix,
            )
            yield Score(
                f"distance{suffix}",
                float(means["distance"][rows].mean()),
                unit="standard deviations",
                higher_is_better=False,
            )

    def sample(self, available: int, seed: int) -> Int64[np.ndarray, " images"]:
        """Return the indices of the images.

        Args:
            available: number of images of the test split.
            seed: of the choice without replacement.
        """
        if self.sampling == "with_replacement":
            drawn = np.random.RandomState(0).choice(np.arange(available), self.images)
            return drawn.astype(np.int64)
        order = permutation(seed, "images of synthetic invariance", 0, available)
        return np.sort(order[: self.images])

    @torch.no_grad()
    def _totals(
        self,
        features: FrozenFeatures,
        white: Whitening,
        settings: Settings,
        indices: Int64[np.ndarray, " images"],
    ) -> Totals:
        """Return the totals over all images; the processes share the images."""
        context, world = features.context, distributed.world_size()
        resizes = self.order == "resize_first"
        # Transforms in original size have all settings at once, so that an image is read once.
        size = min(context.batch_size_eval if resizes else BLOCK, -(-len(indices) // world))
        step = BLOCK if resizes else len(settings)
        chunks = [indices[start : start + size] for start in range(0, len(indices), size)]
        blocks = [
            slice(start, min(start + step, len(settings)))
            for start in range(0, len(settings), step)
        ]
        work = [(first, block) for first in range(0, len(chunks), world) for block in blocks]
        kind = _Resized if resizes else _OriginalSize
        totals = np.zeros((len(settings), 3))
        chunk: _Chunk | None = None
        for first, block in context.progress(work, total=len(work), label=self.transform):
            if block.start == 0:
                own = chunks[first : first + world][distributed.rank() :][:1]
                definition = self.definition(features.dataset.split_seed)
                chunk = kind(features, white, self.transform, definition, own[0]) if own else None
            key = f"images {first * size}+{world * size}, settings {block.start}-{block.stop}"
            totals[block] += context.once(key, functools.partial(_sum, chunk, settings[block]))
        return totals


def _sum(chunk: "_Chunk | None", settings: Settings) -> list[list[float]]:
    """Return the sum of the processes' totals; a process without images adds nothing."""
    own = np.zeros((len(settings), 3)) if chunk is None else chunk.totals(settings)
    summed: list[list[float]] = np.sum(distributed.gather_objects(own), axis=0).tolist()
    return summed


def _require_resizing(order: Order, preprocessing: Preprocessing) -> None:
    """Refuse an interpolation that tensors do not have.

    Raises:
        ValueError: if images have to be resized by it after the transform.
    """
    if order == "original_size" and preprocessing.interpolation == "lanczos":
        raise ValueError(
            "`order=original_size` must resize by nearest, bilinear or bicubic interpolation, but "
            "the preprocessing has lanczos; set `protocol.preprocessing.interpolation`."
        )


class _Chunk(abc.ABC):
    """Some images and their whitened features, with which those after transforms are compared.

    Args:
        features: encoder, dataset, preprocessing and context.
        white: the whitening.
        name: name of the transform.
        definition: what it means.
        indices: the images in the test split.
    """

    def __init__(
        self,
        features: FrozenFeatures,
        white: Whitening,
        name: Name,
        definition: Definition,
        indices: Int64[np.ndarray, " images"],
    ) -> None:
        self.encoder, self.context = features.encoder, features.context
        self.representation = features.representation
        self.preprocessing, self.white = features.preprocessing, white
        self.split: Split = features.dataset["test"]
        self.transform, self.definition, self.indices = TRANSFORMS[name], definition, indices
        self.window: Window = (self.preprocessing.size, self.preprocessing.size)

    @abc.abstractmethod
    def totals(self, settings: Settings) -> Totals:
        """Return the totals over the images for some settings."""

    def encoded(self, pixels: Float32[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        """Return the features of images in RGB with values in [0, 1]."""
        if self.preprocessing.channel_order == "bgr":
            pixels = pixels.flip(1)
        mean, std = (
            torch.tensor(values, device=pixels.device).view(3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        # Networks expect the images one after another in memory.
        contiguous = torch.empty_like(pixels, memory_format=torch.contiguous_format)
        inputs = torch.addcmul(-mean / std, pixels, 1 / std, out=contiguous).to(self.context.dtype)
        return output_of(self.encoder, inputs, self.context, self.representation)


class _Resized(_Chunk):
    """Images that are resized to one size before transforms; all have the same setting at once."""

    @functools.cached_property
    def pixels(self) -> Float32[Tensor, "images 3 side side"]:
        """The images in the size in which they are transformed, in RGB with values in [0, 1]."""
        own = self.preprocessing
        plain = dataclasses.replace(
            own,
            size=own.size if own.square else own.shorter_side,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            channel_order="rgb",
        )
        data = ViewDataset(self.split, [Pipeline(plain)], 0)
        items = [[(0, index) for index in self.indices.tolist()]]
        (batch,) = load(data, items, self.context)
        return batch.views[0].to(self.context.device)

    @functools.cached_property
    def groups(self) -> list[Float32[Tensor, "_ 3 side side"]]:
        """The images that are transformed and encoded at once.

        A processor is faster on few images, which its cache holds; a GPU, on many.
        """
        if self.context.device.type != "cpu":
            return [self.pixels]
        if self.transform.maps:
            return [image_minor(part) for part in torch.split(self.pixels, TOGETHER)]
        return list(torch.split(self.pixels, max(1, CACHED // self.pixels[0].numel())))

    @functools.cached_property
    def clean(self) -> Float64[Tensor, "images dim"]:
        """The whitened features of the images without a transform."""
        return self.white(self.encoded(centre(self.pixels, self.window)))

    def totals(self, settings: Settings) -> Totals:
        """Return the totals over the images for some settings."""
        scale = self.pixels.shape[-1] / SIDE
        groups = self.groups
        rows = []
        for row in settings:
            parts = []
            for pixels in groups:
                changed = self.transform(
                    pixels, row[None], self.definition, self.window, scale=scale
                )
                parts.append(self.encoded(changed))
            rows.append(_totals_of_rows(self.clean, self.white(torch.cat(parts))))
        return torch.stack(rows).cpu().numpy()


def _totals_of_rows(
    clean: Float64[Tensor, "images dim"], changed: Float64[Tensor, "images dim"]
) -> Float64[Tensor, "3"]:
    cosines, distances = cosine_similarities(clean, changed), mahalanobis_distances(clean, changed)
    return torch.stack([cosines.nansum(), distances.sum(), (~cosines.isnan()).sum().double()])


class _OriginalSize(_Chunk):
    """Images that are transformed in their original size; one image has all settings at once."""

    def totals(self, settings: Settings) -> Totals:
        """Return the totals over the images for some settings."""
        totals = torch.zeros(len(settings), 3, dtype=torch.float64, device=self.context.device)
        for index in self.indices.tolist():
            # Copy: PIL's memory is read-only.
            array = torch.from_numpy(np.array(self.split.images[index])).to(self.context.device)
            image = array.permute(2, 0, 1)[None].float().div_(255)
            clean = self.white(self.encoded(self._view(image)))
            size = min(self.context.batch_size_eval, max(1, PIXELS // image.numel()))
            for start in range(0, len(settings), size):
                part = slice(start, start + size)
                changed = self.white(self.encoded(self._changed(image, settings[part])))
                same = clean.expand_as(changed)
                cosines = cosine_similarities(same, changed)
                totals[part, 0] += cosines.nan_to_num(nan=0.0)
                totals[part, 1] += mahalanobis_distances(same, changed)
                totals[part, 2] += ~cosines.isnan()
        return totals.cpu().numpy()

    def _changed(
        self, image: Float32[Tensor, "1 3 height width"], settings: Settings
    ) -> Float32[Tensor, "settings 3 size size"]:
        """Return the encoder's view of an image for every setting."""
        images = image.expand(len(settings), -1, -1, -1)
        if "height_px" in self.transform.parameters:  # the box becomes the encoder's input
            boxes = self.transform(images, settings, self.definition, self.window)
            return levels(boxes).float().div_(255)
        whole = (image.shape[2], image.shape[3])
        return self._view(self.transform(images, settings, self.definition, whole))

    def _view(
        self, images: Float32[Tensor, "batch 3 height width"]
    ) -> Float32[Tensor, "batch 3 size size"]:
        """Return the evaluation's resize and crop, in 8 bits as Pillow has them."""
        height, width = images.shape[-2:]
        side, short = self.preprocessing.shorter_side, min(height, width)
        shape = (int(side * height / short), int(side * width / short))
        if self.preprocessing.square or self.preprocessing.squash:
            shape = self.window if self.preprocessing.square else (side, side)
        mode = self.preprocessing.interpolation
        assert mode != "lanczos"  # see `_require_resizing`
        view = levels(images)
        if shape != (height, width):
            view = resized_levels(view, shape, mode)
        return centre(view, self.window).float().div_(255)
