"""Features of a frozen encoder: computed once, kept in a store that every run shares."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.decoded import require_unchanged
from ssl_transfer.datasets.loading import TrainingData
from ssl_transfer.datasets.transforms import Augmentation, Batch, Pipeline, ViewDataset
from ssl_transfer.errors import NotApplicable
from ssl_transfer.features.array_file import Rows, Summary
from ssl_transfer.features.inference import in_batches, map_samples
from ssl_transfer.features.partial_array import Indices
from ssl_transfer.features.store import FeatureStore
from ssl_transfer.models import Encoder, fingerprint, sources
from ssl_transfer.models.columns import COLUMNS
from ssl_transfer.models.encoder import evaluating
from ssl_transfer.models.fusion import FusedEncoder, Preparations, fused
from ssl_transfer.models.tokens import EVERY, choice_of, columns_of_every, with_every_token
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import distributed
from ssl_transfer.system.devices import device_name
from ssl_transfer.training.trainer import HALF, autocast

log = logging.getLogger(__name__)

Targets = (
    Int64[Tensor, " samples"] | Int64[Tensor, "samples classes"] | Float64[Tensor, "samples values"]
)
Representation = Literal["features", "embeddings"]
StoredPrecision = Literal["fp32", "fp16"]
VERSION = 2
"""Part of every key; raise it when the same key would give other features: the key covers the code
of networks, but not the code of image reading, preprocessing and extraction."""


DERIVED_ROWS = 4096
"""Rows that are derived from other arrays at once."""


class Derivation(NamedTuple):
    """How the features of an encoder follow from those of others, without a forward pass."""

    sources: Sequence[Encoder]
    role: str
    """What the sources are, in the identity of the array."""
    identity: Mapping[str, Any]
    combine: Callable[[Sequence[Float[np.ndarray, "samples _"]]], Float[np.ndarray, "samples dim"]]
    """From the sources' rows of some images to the encoder's."""


def derivation_of(
    encoder: Encoder, representation: Representation = "features"
) -> Derivation | None:
    """Return how an encoder's features follow from arrays that other encoders share; None: not.

    The features of several encoders as one follow from those of its members; chosen tokens of a
    transformer follow from an array of every token, so that one extraction serves all choices.
    """
    if isinstance(encoder, FusedEncoder):
        fuse = encoder.fuse
        return Derivation(
            encoder.encoders, "members", {"fuse": fuse}, functools.partial(fused, fuse=fuse)
        )
    choice = choice_of(encoder.backbone)
    if choice in ("pooled", EVERY) or representation == "embeddings":
        return None
    if getattr(encoder.backbone, COLUMNS, None) is not None:
        return None  # a range of the chosen features, which the array of every token lacks
    columns = columns_of_every(encoder.backbone, encoder.feature_dim)

    def choose(
        rows: Sequence[Float[np.ndarray, "samples every"]],
    ) -> Float[np.ndarray, "samples dim"]:
        return np.concatenate([rows[0][:, part] for part in columns], axis=1)

    return Derivation([with_every_token(encoder)], "tokens", {"features": choice}, choose)


class FrozenFeatures:
    """An encoder's features of a dataset's splits, from the store or computed and stored.

    Args:
        encoder: the encoder; it is moved to the context's device and put in eval mode.
        dataset: the dataset; its images pass the evaluation pipeline, without augmentation.
        context: the run's context.
        image_size: in pixels (``None``: the size that the encoder's weights expect).
        preprocessing: values that replace the encoder's own.
        representation: ``embeddings`` are the outputs of the projector that the encoder was trained
            with, on top of the features.
        precision: type in which the store keeps them.

    Raises:
        NotApplicable: if embeddings are wanted of an encoder without projector.
    """

    def __init__(
        self,
        encoder: Encoder,
        dataset: Dataset,
        context: Context,
        *,
        image_size: int | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        representation: Representation = "features",
        precision: StoredPrecision = "fp32",
    ) -> None:
        self.dataset, self.context = dataset, context
        self.preprocessing = encoder.preprocessing.replaced(image_size, preprocessing)
        self.representation, self.precision = representation, precision
        self.store = FeatureStore(
            context.features,
            doubt=context.doubt,
            device=context.device.type,
            device_name=device_name(context.device),
            note=context.note_features,
        )
        self.encoder = encoder.to(context.device, context.dtype)
        self.derivation = derivation_of(encoder, representation)
        self.sources = [
            FrozenFeatures(
                source,
                dataset,
                context,
                image_size=image_size,
                preprocessing=preprocessing,
                representation=representation,
                precision=precision,
            )
            for source in (self.derivation.sources if self.derivation else ())
        ]
        self.of_encoder = (
            {"weights": fingerprint(encoder)}
            if self.derivation
            else identity_of_encoder(encoder, representation)
        )

    def rows(self, split: str) -> Rows:
        """Return a split's features, with row i for sample i, memory-mapped and read-only."""
        return self._rows(split)

    def view_rows(self, split: str, augmentation: Augmentation, *, view: int) -> Rows:
        """Return the features of one augmented view of every image, likewise.

        The random numbers depend on the dataset's ``split_seed``, so that all encoders are judged
        by the same views.

        Args:
            split: name of the split.
            augmentation: the random part of the view.
            view: number of the view; the views of an image are independent of each other.
        """
        return self._rows(split, augmentation, view)

    def _rows(self, split: str, augmentation: Augmentation | None = None, view: int = 0) -> Rows:
        if self.derivation:
            return self._derived_rows(self.derivation, split, augmentation, view)
        samples, seed = self.dataset[split], self.dataset.split_seed
        if len(samples) == 0:
            raise ValueError("features need at least one image, but the split is empty.")
        identity = self._identity(split, augmentation, view)
        label = f"{split} {self.representation}"
        label += "" if augmentation is None else f", view {view + 1}"
        pipeline = Pipeline(self.preprocessing, augmentation, view=view)
        data = ViewDataset(samples, [pipeline], seed)

        def compute(indices: Indices) -> Iterator[tuple[Indices, Rows]]:
            with evaluating(self.encoder):
                batches = in_batches(self._output, data, self.context, indices, label=label)
                for picked, rows in batches:
                    yield picked, rows.astype(np.float16) if self.precision == "fp16" else rows

        rows, summary = self.store.get(identity, len(samples), compute)
        require_unchanged(samples.images)  # files that were read just now are known to be
        judge(summary, f"`{self.encoder.name}` on the {split} split", self.context)
        return rows

    def note_use(self, split: str) -> None:
        """Add to the record that the run uses what was computed from a split's features."""
        for source in self.sources:
            source.note_use(split)
        self.store.note_use_of(self.identity(split), len(self.dataset[split]))

    def identity(self, split: str) -> dict[str, Any]:
        """Return the identity of a split's features in the store."""
        return self._identity(split, None, 0)

    def _identity(self, split: str, augmentation: Augmentation | None, view: int) -> dict[str, Any]:
        """Return the identity of an array in the store."""
        if self.derivation:
            sources = [source._identity(split, augmentation, view) for source in self.sources]
            return {
                **self.of_encoder,
                "data": self.dataset.fingerprint,
                "dataset": self.dataset.name,
                "split": split,
                **self.derivation.identity,
                self.derivation.role: sources,
            }
        return identity_of(
            self.of_encoder,
            self.preprocessing,
            self.dataset,
            split,
            self.context.precision,
            augmentation=augmentation,
            view=view,
            stored=self.precision,
        )

    def _derived_rows(
        self, derivation: "Derivation", split: str, augmentation: Augmentation | None, view: int
    ) -> Rows:
        """Return an array that follows from stored ones, beside which it is stored.

        An array in the store may be larger than memory.
        """
        parts = [source._rows(split, augmentation, view) for source in self.sources]

        def compute(indices: Indices) -> Iterator[tuple[Indices, Rows]]:
            for start in range(0, len(indices), DERIVED_ROWS):
                picked = indices[start : start + DERIVED_ROWS]
                yield picked, derivation.combine([rows[picked] for rows in parts])

        identity = self._identity(split, augmentation, view)
        rows, _ = self.store.get(identity, len(parts[0]), compute)
        return rows

    def _output(self, images: Tensor) -> Float[Tensor, "batch dim"]:
        return output_of(self.encoder, images, self.context, self.representation)

    def load(self, *splits: str) -> tuple[Float[Tensor, "samples dim"], Targets]:
        """Return the features and targets of one or more splits, on the context's device.

        The features of a single split stay on disk, memory-mapped, if the device is the CPU;
        writing into them changes this tensor only.
        """
        arrays = [self.rows(split) for split in splits]
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if isinstance(rows, np.memmap):
            assert rows.filename is not None
            rows = np.load(rows.filename, mmap_mode="c", allow_pickle=False)
        targets = np.concatenate([self.dataset[split].targets for split in splits])
        device = self.context.device
        features = torch.from_numpy(np.require(rows, requirements="W"))
        return features.to(device, self.context.dtype), torch.from_numpy(targets).to(device)


def identity_of_encoder(
    encoder: Encoder, representation: Representation = "features"
) -> dict[str, str]:
    """Return what identifies an encoder in the store: hashes of its weights and its network.

    Raises:
        NotApplicable: if embeddings are wanted of an encoder without projector.
    """
    identity = {
        "weights": fingerprint(encoder),
        # Hash the network, too: networks with equal weights may differ, e.g. in an activation.
        "network": sources.network(encoder.backbone, type(encoder), encoder.maker),
    }
    if representation == "embeddings":
        if encoder.projector is None:
            raise NotApplicable(
                "`representation=embeddings` needs the projector that the encoder was trained "
                f"with, but there is none beside the weights of `{encoder.name}`."
            )
        identity["projector"] = fingerprint(encoder.projector)
    return identity


def output_of(
    encoder: Encoder,
    images: Tensor | Sequence[Tensor],
    context: Context,
    representation: Representation = "features",
) -> Float[Tensor, "batch dim"]:
    """Return the features or embeddings of a batch in the context's precision.

    Args:
        encoder: the encoder.
        images: its input, or its inputs if its members see the images differently.
        context: the run's context.
        representation: see ``FrozenFeatures``.
    """
    with autocast(context):
        output: Tensor = encoder(*([images] if isinstance(images, Tensor) else images))
        if representation == "embeddings":
            assert encoder.projector is not None
            output = encoder.projector(output)
    return output.to(context.dtype)


def identity_of(
    of_encoder: Mapping[str, str],
    preprocessing: Preprocessing,
    dataset: Dataset,
    split: str,
    precision: str,
    *,
    augmentation: Augmentation | None = None,
    view: int = 0,
    stored: StoredPrecision = "fp32",
) -> dict[str, Any]:
    """Return the identity of a split's features in the store.

    Args:
        of_encoder: see ``identity_of_encoder``.
        preprocessing: preprocessing of the images.
        dataset: the dataset.
        split: name of its split.
        precision: see ``Context``.
        augmentation: the random part of a view (``None``: the evaluation's view).
        view: number of the view.
        stored: type in which the store keeps the features.
    """
    identity: dict[str, Any] = {
        "version": VERSION,
        **of_encoder,
        "preprocessing": preprocessing.identity(),
        "dataset": dataset.name,
        "data": dataset.fingerprint,
        "precision": precision,
        "split": split,
        "samples": len(dataset[split]),
    }
    if augmentation is not None:
        random_part = dataclasses.asdict(augmentation)
        identity |= {"augmentation": random_part, "view": view, "seed": dataset.split_seed}
    if stored == "fp16":
        identity["stored"] = stored
    return identity


@dataclasses.dataclass(frozen=True)
class FeatureRows:
    """Features as training data: the only view of a sample is its row, in every epoch.

    Args:
        features: one row per sample.
        targets: class numbers, or a row per sample (see ``Split``).
    """

    features: Float[Tensor, "samples dim"]
    targets: Targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        """Return the rows of these (epoch, index) pairs."""
        indices = torch.tensor([index for _, index in items])
        picked = indices.to(self.targets.device)
        return Batch((self.features[picked],), self.targets[picked], indices)


@dataclasses.dataclass(frozen=True)
class WithFeatures:
    """Training data with features of every sample after its views, the same in every epoch.

    Args:
        data: the samples and their views.
        rows: arrays of features, each with row i for sample i.
    """

    data: TrainingData
    rows: Sequence[Float[np.ndarray, "samples _"]]

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        """Return the batch of these (epoch, index) pairs."""
        batch = self.data.__getitems__(items)
        indices = batch.indices.numpy()
        features = tuple(torch.from_numpy(np.asarray(rows[indices])) for rows in self.rows)
        return batch._replace(views=(*batch.views, *features))


def extract(
    encoder: Encoder,
    split: Split,
    preprocessing: Preprocessing | Preparations,
    context: Context,
    *,
    label: str = "features",
) -> Rows:
    """Return the encoder's features in eval mode, with row i for sample i, without the store.

    Order and values do not depend on the number of workers or processes; each sample is computed
    once.

    Args:
        encoder: the encoder, on the context's device and of its type; its train mode is restored.
        split: the samples.
        preprocessing: preprocessing of the images, also of each member of several encoders.
        context: the run's context.
        label: label of the progress bar.

    Returns:
        float32, or float64 with ``precision=fp64``.

    Raises:
        ValueError: if the split is empty.
    """
    if len(split) == 0:
        raise ValueError("features need at least one image, but the split is empty.")
    prepared = preprocessing
    if isinstance(prepared, Preprocessing):
        prepared = Preparations((prepared,))
    data = ViewDataset(split, [Pipeline(one) for one in prepared.distinct], seed=0)

    def features(*views: Tensor) -> Float[Tensor, "batch dim"]:
        return output_of(encoder, prepared.inputs(views), context)

    with evaluating(encoder):
        return map_samples(features, data, context, label=label)


SMALLEST, LARGEST = 1e-12, 1e18
"""Range of the largest absolute feature: in float32, lengths below are taken for 0 and sums of
squares above are infinite."""


def judge(summary: Summary, source: str, context: Context) -> None:
    """Refuse features that are not finite or out of range; warn if all images have the same.

    Single constant dimensions are usual (units whose ReLU is always 0); if all dimensions are
    constant, no protocol can distinguish images. The record then has ``constant_features``.

    Args:
        summary: facts about the features, one row per image.
        source: encoder and split, for messages.
        context: the run's context.

    Raises:
        ValueError: with the share of images whose features are NaN or infinite, or with the
            largest feature if lengths and distances of features are 0 or infinite by rounding.
    """
    if bad := summary.not_finite:
        half = " or use precision=fp32" if context.precision in HALF else ""
        raise ValueError(
            f"all features must be finite, but those of {source} are NaN or infinite for {bad} of "
            f"{summary.samples} images ({bad / summary.samples:.2%}); check the encoder's weights "
            f"and `preprocessing`{half}."
        )
    largest = summary.largest
    too_large = context.precision != "fp64" and largest is not None and largest > LARGEST
    if largest and (largest < SMALLEST or too_large):
        raise ValueError(
            f"the largest feature must lie between {SMALLEST:g} and {LARGEST:g}, but that of "
            f"{source} is {largest:.3g}, so that lengths and distances of features are "
            f"{'infinite' if too_large else '0'} by rounding; check the encoder's weights and "
            "`preprocessing`."
        )
    if summary.constant:
        context.note(constant_features=True)
        if distributed.is_main():
            what = "all zero" if summary.zero else "the same for every image"
            log.warning(
                "the features of %s are %s, so that no protocol can distinguish images and scores "
                "are those of guessing; check the encoder's weights", source, what
            )  # fmt: skip
