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
from ssl_transfer.datasets.transforms import Batch, Pipeline, ViewDataset
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
"""Part of every key; to be raised when the same key would give other features: the way from file
to batch and the extraction do not enter the key, as the code of networks does."""


class FrozenFeatures:
    """An encoder's features of a dataset's splits, from the store or computed for it.

    Args:
        encoder: moved to the context's device and put in eval mode.
        dataset: whose images are seen through the evaluation pipeline, without augmentation.
        context: the run's surroundings.
        image_size: in pixels (``None``: what the encoder's weights expect).
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
        self.identity = {
            "version": VERSION,
            "weights": fingerprint(encoder),
            # Equal weights may sit in different networks, e.g. with another activation.
            "network": sources.network(encoder.backbone, type(encoder), encoder.maker),
            "preprocessing": self.preprocessing.identity(),
            "dataset": dataset.name,
            "data": dataset.fingerprint,
            "precision": context.precision,
        }
        self.encoder = encoder.to(context.device, context.dtype)

    def rows(self, split: str) -> Rows:
        """Return a split's features, row i of sample i, memory-mapped and read-only."""
        samples = self.dataset[split]

        def compute() -> Rows:
            return extract(
                self.encoder, samples, self.preprocessing, self.context, label=f"{split} features"
            )

        identity = {**self.identity, "split": split, "samples": len(samples)}
        rows = self.store.get(identity, compute)
        judge(rows, f"`{self.encoder.name}` on the {split} split", self.context)
        return rows

    def load(self, *splits: str) -> tuple[Float[Tensor, "samples dim"], Targets]:
        """Return the features and targets of one or more splits, on the context's device."""
        rows = np.concatenate([self.rows(split) for split in splits])
        targets = np.concatenate([self.dataset[split].targets for split in splits])
        device = self.context.device
        return torch.from_numpy(rows).to(device), torch.from_numpy(targets).to(device)


@dataclasses.dataclass(frozen=True)
class FeatureRows:
    """Features as training data: their one view is the row itself, in every epoch.

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
    label: str = "features",
) -> Rows:
    """Return the encoder's features in eval mode, row i belonging to sample i.

    The order and the values depend neither on the number of workers nor on that of processes; each
    sample is seen once.

    Args:
        encoder: on the context's device and of its type; its train mode is restored.
        split: the samples.
        preprocessing: what the images go through.
        context: the run's surroundings.
        label: of the progress bar.

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
        data = ViewDataset(split, [Pipeline(preprocessing)], context.seed)
        return map_samples(features, data, context, label=label)
    finally:
        encoder.train(training)


CONSTANT = 1e-6
"""Share of the largest feature by which rounding may set features of different images apart."""

CHUNK_ROWS = 2**14
"""Rows looked at together, so that a file larger than memory is read in parts."""


def judge(rows: Rows, source: str, context: Context) -> None:
    """Refuse features that are not finite, and say if they are the same for every image.

    A constant dimension is nothing unusual (a unit that ReLU silenced); only where all are
    constant no protocol can tell images apart. The record keeps it as ``constant_features``.

    Args:
        rows: one per image.
        source: whose features of what, for messages.
        context: the run's surroundings.

    Raises:
        ValueError: in one sentence, with the share of images whose features are NaN or infinite.
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
                "the features of %s are %s, so that no protocol can tell images apart and scores "
                "are those of guessing; check the encoder's weights", source, what
            )  # fmt: skip


class FeatureStore:
    """Arrays by what they are, one file each, shared by all runs and processes.

    A file is a ``.npy`` (``numpy.load`` reads it) followed by one line of JSON: what it holds and
    the sha256 of its data. It takes its name only when it is whole, so that readers and several
    writers never meet half a file; a damaged one, or one that says it is of something else, is
    computed again. Where the folder cannot be written to, arrays are computed whenever needed.

    Args:
        folder: of the files; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: Mapping[str, Any]) -> Path:
        """Return the file of what ``identity`` (plain JSON) describes."""
        text = json.dumps(identity, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"

    def get(self, identity: Mapping[str, Any], compute: Callable[[], Rows]) -> Rows:
        """Return the array that ``identity`` describes, memory-mapped and read-only.

        With several processes, all of them call this; ``compute`` is called by all or by none.

        Args:
            identity: everything that the values depend on, plain JSON.
            compute: makes the array when there is no intact file; each process gets the whole.
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
        if features is None:  # not kept, or kept on another computer that does not share the folder
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


def _read_intact(path: Path, identity: Mapping[str, Any]) -> Rows:
    rows: np.memmap[Any, np.dtype[Any]] = np.load(path, mmap_mode="r", allow_pickle=False)
    with path.open("rb") as file:
        file.seek(rows.offset + rows.nbytes)
        facts = json.loads(file.read())
    digest = facts.pop("sha256")
    if facts != json.loads(json.dumps(identity)):
        differing = sorted(key for key in identity if facts.get(key) != identity[key])
        raise ValueError(f"it holds other features ({', '.join(differing)})")
    if len(rows) != identity.get("samples", len(rows)):
        raise ValueError(f"it has {len(rows)} rows for {identity['samples']} images")
    if digest != hashlib.sha256(rows.reshape(-1).view(np.uint8).data).hexdigest():
        raise ValueError("its checksum does not fit")
    return rows
