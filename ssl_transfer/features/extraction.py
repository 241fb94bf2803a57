"""Features of a frozen encoder: computed once, kept in a store that every run shares."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.transforms import Augmentation, Batch, Pipeline, ViewDataset
from ssl_transfer.features.inference import map_samples
from ssl_transfer.models import Encoder, fingerprint, sources
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import distributed
from ssl_transfer.system.files import replace_atomically
from ssl_transfer.training.trainer import HALF, autocast

log = logging.getLogger(__name__)

Rows = Float[np.ndarray, "samples dim"]
Targets = Int64[Tensor, " samples"] | Int64[Tensor, "samples classes"]
VERSION = 2
"""Part of every key; raise it when the same key would give other features: the key covers the code
of networks, but not the code of image reading, preprocessing and extraction."""


class FrozenFeatures:
    """An encoder's features of a dataset's splits, from the store or computed and stored.

    Args:
        encoder: the encoder; it is moved to the context's device and put in eval mode.
        dataset: the dataset; its images pass the evaluation pipeline, without augmentation.
        context: the run's context.
        image_size: in pixels (``None``: the size that the encoder's weights expect).
        preprocessing: values that replace the encoder's own.
    """

    def __init__(
        self,
        encoder: Encoder,
        dataset: Dataset,
        context: Context,
        *,
        image_size: int | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        self.dataset, self.context = dataset, context
        self.preprocessing = encoder.preprocessing.replaced(image_size, preprocessing)
        self.store = FeatureStore(context.features)
        self.of_encoder = identity_of_encoder(encoder)
        self.encoder = encoder.to(context.device, context.dtype)

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
        identity = identity_of(
            self.of_encoder, self.preprocessing, self.dataset, split, self.context.precision
        )
        label, seed = f"{split} features", self.dataset.split_seed
        if augmentation is not None:
            random_part = dataclasses.asdict(augmentation)
            identity |= {"augmentation": random_part, "view": view, "seed": seed}
            label += f", view {view + 1}"

        def compute() -> Rows:
            return extract(
                self.encoder,
                self.dataset[split],
                self.preprocessing,
                self.context,
                augmentation=augmentation,
                view=view,
                seed=seed,
                label=label,
            )

        rows = self.store.get(identity, compute)
        judge(rows, f"`{self.encoder.name}` on the {split} split", self.context)
        return rows

    def load(self, *splits: str) -> tuple[Float[Tensor, "samples dim"], Targets]:
        """Return the features and targets of one or more splits, on the context's device."""
        rows = np.concatenate([self.rows(split) for split in splits])
        targets = np.concatenate([self.dataset[split].targets for split in splits])
        device = self.context.device
        return torch.from_numpy(rows).to(device), torch.from_numpy(targets).to(device)


def identity_of_encoder(encoder: Encoder) -> dict[str, str]:
    """Return what identifies an encoder in the store: hashes of its weights and its network."""
    return {
        "weights": fingerprint(encoder),
        # Hash the network, too: networks with equal weights may differ, e.g. in an activation.
        "network": sources.network(encoder.backbone, type(encoder), encoder.maker),
    }


def identity_of(
    of_encoder: Mapping[str, str],
    preprocessing: Preprocessing,
    dataset: Dataset,
    split: str,
    precision: str,
) -> dict[str, Any]:
    """Return the identity of a split's features in the store.

    Args:
        of_encoder: see ``identity_of_encoder``.
        preprocessing: preprocessing of the images.
        dataset: the dataset.
        split: name of its split.
        precision: see ``Context``.
    """
    return {
        "version": VERSION,
        **of_encoder,
        "preprocessing": preprocessing.identity(),
        "dataset": dataset.name,
        "data": dataset.fingerprint,
        "precision": precision,
        "split": split,
        "samples": len(dataset[split]),
    }


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


def extract(
    encoder: Encoder,
    split: Split,
    preprocessing: Preprocessing,
    context: Context,
    *,
    augmentation: Augmentation | None = None,
    view: int = 0,
    seed: int = 0,
    label: str = "features",
) -> Rows:
    """Return the encoder's features in eval mode, with row i for sample i.

    Order and values do not depend on the number of workers or processes; each sample is computed
    once.

    Args:
        encoder: the encoder, on the context's device and of its type; its train mode is restored.
        split: the samples.
        preprocessing: preprocessing of the images.
        context: the run's context.
        augmentation: the random part of the view (``None``: the evaluation's view).
        view: number of the view.
        seed: seed of the random part.
        label: label of the progress bar.

    Returns:
        float32, or float64 with ``precision=fp64``.

    Raises:
        ValueError: if the split is empty.
    """
    if len(split) == 0:
        raise ValueError("features need at least one image, but the split is empty.")

    def features(images: Tensor) -> Float[Tensor, "batch dim"]:
        with autocast(context):
            output: Tensor = encoder(images)
        return output.to(context.dtype)

    training = encoder.training
    encoder.eval()
    try:
        pipeline = Pipeline(preprocessing, augmentation, view=view)
        data = ViewDataset(split, [pipeline], seed)
        return map_samples(features, data, context, label=label)
    finally:
        encoder.train(training)


CONSTANT = 1e-6
"""Largest difference of features that counts as rounding, relative to the largest feature."""

CHUNK_ROWS = 2**14
"""Rows per part when features are checked, so that a file may be larger than memory."""


def judge(rows: Rows, source: str, context: Context) -> None:
    """Refuse features that are not finite, and warn if they are the same for every image.

    Single constant dimensions are usual (units whose ReLU is always 0); if all dimensions are
    constant, no protocol can distinguish images. The record then has ``constant_features``.

    Args:
        rows: features, one row per image.
        source: encoder and split, for messages.
        context: the run's context.

    Raises:
        ValueError: with the share of images whose features are NaN or infinite.
    """
    bad, low, high = 0, rows[0], rows[0]
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        bad += int((~np.isfinite(chunk).all(axis=1)).sum())
        low, high = np.minimum(low, chunk.min(axis=0)), np.maximum(high, chunk.max(axis=0))
    if bad:
        half = " or use precision=fp32" if context.precision in HALF else ""
        raise ValueError(
            f"all features must be finite, but those of {source} are NaN or infinite for {bad} of "
            f"{len(rows)} images ({bad / len(rows):.2%}); check the encoder's weights and "
            f"`preprocessing`{half}."
        )
    largest = max(float(np.abs(low).max()), float(np.abs(high).max()))
    if len(rows) > 1 and float((high - low).max()) <= CONSTANT * largest:
        context.note(constant_features=True)
        if distributed.is_main():
            what = "all zero" if largest == 0 else "the same for every image"
            log.warning(
                "the features of %s are %s, so that no protocol can distinguish images and scores "
                "are those of guessing; check the encoder's weights", source, what
            )  # fmt: skip


class FeatureStore:
    """A store of arrays by their identity, one file each, shared by all runs and processes.

    A file is a ``.npy`` (``numpy.load`` reads it) followed by one line of JSON: the identity of the
    array and the sha256 of its data. It gets its name only when it is complete, so that no reader
    or writer sees a partial file; a file that is damaged or has another identity is computed again.
    If the folder is not writable, arrays are computed whenever they are needed.

    Args:
        folder: folder of the files; created with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: Mapping[str, Any]) -> Path:
        """Return the file of the array with this ``identity`` (plain JSON)."""
        text = json.dumps(identity, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"

    def get(self, identity: Mapping[str, Any], compute: Callable[[], Rows]) -> Rows:
        """Return the array with this identity, memory-mapped and read-only.

        With several processes, all processes call this method; ``compute`` is called by all or by
        none of them.

        Args:
            identity: everything that the values depend on, plain JSON.
            compute: computes the whole array if there is no intact file.
        """
        path = self.path(identity)
        features = self._read(path, identity)
        if not distributed.any_true(features is None):
            assert features is not None
            return features
        rows = compute()
        if distributed.is_main():
            try:
                replace_atomically(path, lambda file: _write(file, rows, identity))
            except OSError as error:
                log.warning("features are not kept, and are computed whenever needed: %s", error)
        distributed.barrier()
        features = self._read(path, identity)
        if features is None:  # not stored, or the folder is not shared with the writer
            rows.setflags(write=False)
            return rows
        return features

    def _read(self, path: Path, identity: Mapping[str, Any]) -> Rows | None:
        """Return the array in an intact file."""
        try:
            return _read_intact(path, identity)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, EOFError, ValueError, KeyError) as error:
            log.warning("`%s` is damaged (%s) and will be computed again", path, error)
            return None


def _write(file: IO[bytes], rows: Rows, identity: Mapping[str, Any]) -> None:
    rows = np.ascontiguousarray(rows)
    np.lib.format.write_array(file, rows, allow_pickle=False)
    digest = hashlib.sha256(rows.reshape(-1).view(np.uint8).data).hexdigest()
    file.write(b"\n" + json.dumps({"sha256": digest, **identity}).encode() + b"\n")


def stored_identity(path: Path) -> dict[str, Any]:
    """Return the identity of the array in a file of the store, with the sha256 of its data.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no file of the store.
    """
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    return _trailer(path, rows)


def _trailer(path: Path, rows: "np.memmap[Any, np.dtype[Any]]") -> dict[str, Any]:
    """Return what follows the array in a file of the store."""
    with path.open("rb") as file:
        file.seek(rows.offset + rows.nbytes)
        return dict(json.loads(file.read()))


def _read_intact(path: Path, identity: Mapping[str, Any]) -> Rows:
    rows: np.memmap[Any, np.dtype[Any]] = np.load(path, mmap_mode="r", allow_pickle=False)
    facts = _trailer(path, rows)
    digest = facts.pop("sha256")
    if facts != json.loads(json.dumps(identity)):
        differing = sorted(key for key in identity if facts.get(key) != identity[key])
        raise ValueError(f"it holds other features ({', '.join(differing)})")
    if len(rows) != identity.get("samples", len(rows)):
        raise ValueError(f"it has {len(rows)} rows for {identity['samples']} images")
    if digest != hashlib.sha256(rows.reshape(-1).view(np.uint8).data).hexdigest():
        raise ValueError("its checksum does not fit")
    return rows
