"""The disk that runs will need, computed from their configurations before any of them starts."""

import contextlib
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ssl_transfer import models, randomness
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.features import FeatureStore, StoredPrecision
from ssl_transfer.features.extraction import derivation_of, identity_of, identity_of_encoder
from ssl_transfer.methods import pretraining
from ssl_transfer.models.batch_norm import Scope
from ssl_transfer.models.heads import TOKEN_KINDS, HeadKind, build_head
from ssl_transfer.models.patch_tokens import input_dim
from ssl_transfer.models.trainable import Trainable, trained_part
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import SPLITS, EvaluationProtocol
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.protocols.tuning import Tuning
from ssl_transfer.runs.builders import dataset_of, evaluation_of, initial_encoder
from ssl_transfer.runs.preflight import shapes_of_references
from ssl_transfer.runs.run import Run

MOMENTS = {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2}
"""Tensors that an optimizer keeps for each parameter."""

NAME_BYTES = 16
"""Bytes of a compressed prediction in addition to its scores: target and name of the file."""


class Disk(NamedTuple):
    """Sizes in bytes.

    Args:
        features: stored features that do not exist yet.
        kept: encoders, projectors and heads that runs leave.
        predictions: class scores of the test images.
        checkpoints: the largest checkpoint of each run.
    """

    features: int
    kept: int
    predictions: int
    checkpoints: tuple[int, ...]

    def peak_of_checkpoints(self, at_once: int) -> int:
        """Return the largest size of all checkpoints while ``at_once`` runs train.

        A new checkpoint is complete before it replaces the previous one, so both count.
        """
        return 2 * sum(sorted(self.checkpoints, reverse=True)[:at_once])


def needed(runs: Sequence[Run]) -> Disk:
    """Return the disk that unfinished runs will need, whose checks have found no problem.

    Predictions are compressed and need at most what is returned. Checkpoints of protocols from a
    user's own code are unknown and count as 0.
    """
    features: dict[str, int] = {}
    kept = predictions = 0
    checkpoints = []
    store = _Store()
    evaluations: dict[str, tuple[int, int]] = {}
    for run in sorted(runs, key=_weights_key):  # so that each encoder is built once
        if run.is_pretraining:
            left, largest = _of_pretraining(run)
        else:
            dataset = dataset_of(run)
            predictions += len(dataset["test"]) * (4 * len(dataset.classes) + NAME_BYTES)
            key = _evaluation_key(run, dataset)
            if key not in evaluations:  # runs of several seeds differ in nothing here
                protocol = evaluation_of(run)
                features |= store.missing(run, protocol, dataset)
                evaluations[key] = _of_evaluation(run, protocol, len(dataset.classes))
            left, largest = evaluations[key]
        kept += left
        checkpoints.append(largest)
    return Disk(sum(features.values()), kept, predictions, tuple(checkpoints))


def _weights_key(run: Run) -> str:
    """Return what the weights of a run's encoder depend on."""
    method = run.resolved["method"]
    own = method if run.is_fused else [run.resolved["model"], method["seed"]]
    return json.dumps([own, [source.id for source in run.requirements]], sort_keys=True)


def _evaluation_key(run: Run, dataset: Dataset) -> str:
    """Return what the disk of an evaluation depends on, in addition to its predictions."""
    nodes = [run.resolved[axis] for axis in ("method", "dataset", "protocol")]
    return json.dumps(
        [_weights_key(run), *nodes, run.config["precision"], id(dataset)], sort_keys=True
    )


class _Store:
    """The stored features that exist, and those that runs will add."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, ...]] = set()
        self.encoder_key = ""
        self.of_encoder: tuple[Mapping[str, str], Preprocessing] | None = None

    def missing(self, run: Run, protocol: EvaluationProtocol, dataset: Dataset) -> dict[str, int]:
        """Return the bytes of the arrays that a run has to store, by a text that identifies each.

        Runs of several seeds share their arrays: all but the first one's result is empty.
        """
        if not _reads_stored_features(protocol, dataset):
            return {}
        splits = getattr(protocol, "splits", SPLITS)
        # What votes or is trained includes the validation images.
        splits = [key for key in (SPLITS if "train" in splits else splits) if len(dataset[key])]
        size, changes = (getattr(protocol, key) for key in ("image_size", "preprocessing"))
        precision = run.config["precision"]
        kept: StoredPrecision = "fp32"
        views: list[Augmentation | None] = [None]
        if isinstance(protocol, FrozenProtocol):
            kept = protocol.feature_precision
            views += protocol.stored_views(dataset)
        arrays = json.dumps(
            [_weights_key(run), run.resolved["dataset"], size, changes, precision, kept],
            sort_keys=True,
        )
        wanted = [(split, number) for split in splits for number in range(len(views))]
        asked = {(arrays, split, str(views[number])) for split, number in wanted} - self.asked
        if not asked:
            return {}
        self.asked |= asked
        row = 4 * _factor(run) * _dim(run) // (2 if kept == "fp16" else 1)
        store = FeatureStore(Path(run.resolved["paths"]["features"]))
        stored = self._encoder(run, store)
        missing = {}
        for split, number in wanted:
            key = f"{split} {views[number]} {number} {arrays}"
            if stored is not None:
                of_encoder, prepared = stored
                prepared = prepared.replaced(size, changes)
                identity = identity_of(
                    of_encoder,
                    prepared,
                    dataset,
                    split,
                    precision,
                    augmentation=views[number],
                    view=max(0, number - 1),
                    stored=kept,
                )
                if (path := store.path(identity)).exists():
                    continue
                key = str(path)
            missing[key] = row * len(dataset[split])
        return missing

    def _encoder(
        self, run: Run, store: FeatureStore
    ) -> tuple[Mapping[str, str], Preprocessing] | None:
        """Return what identifies a run's encoder in the store, and its preprocessing.

        None if nothing is stored, if the encoder's pre-training is not finished, or if its
        features are derived from other arrays.
        """
        derived = run.is_fused or _shape(_model_of(run)).derived_from
        if derived or not any(store.folder.glob("*.npy")):
            return None
        if (key := _weights_key(run)) != self.encoder_key:
            self.encoder_key, self.of_encoder = key, None
            if all(required.is_finished for required in run.requirements):
                encoder = initial_encoder(run)
                self.of_encoder = identity_of_encoder(encoder), encoder.preprocessing
        return self.of_encoder


def _reads_stored_features(protocol: EvaluationProtocol, dataset: Dataset) -> bool:
    if isinstance(protocol, Tuning):
        return protocol.reads_stored_features(dataset)
    return isinstance(protocol, FrozenProtocol)


class _Shape(NamedTuple):
    """The number of features of an architecture, and the bytes of its tensors.

    ``derived_from`` is the number of features of the array that its features are derived from;
    ``trained`` counts the tensors that a protocol changes.
    """

    dim: int
    derived_from: int
    tensors: int
    trained: int


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _factor(run: Run) -> int:
    """Return the size of the run's numbers relative to float32."""
    return 2 if run.config["precision"] == "fp64" else 1


def _dim(run: Run) -> int:
    """Return the number of features of a run's encoder, and of those that they are derived from."""
    if not run.is_fused:
        shape = _shape(_model_of(run))
        return shape.dim + shape.derived_from
    dims = [_shape(_model_of(source)).dim for source in run.sources.values()]
    fused = run.resolved["method"]["fuse"]
    return sum(dims) + (sum(dims) if fused == "concatenate" else dims[0])


def _model_of(run: Run) -> str:
    """Return the node of a run's architecture as JSON."""
    return json.dumps({**run.resolved["model"], "weights": None}, sort_keys=True)


@functools.cache
def _shape(
    model: str,
    trainable: Trainable = "head",
    scope: Scope = "all",
    modules: tuple[str, ...] | None = None,
) -> _Shape:
    """Return the sizes of an architecture and of the part of it that a protocol trains."""
    encoder = models.build(json.loads(model))
    trained = 0
    # An encoder without this part, or of an unknown architecture, is refused by its run.
    with contextlib.suppress(ValueError):
        part = trained_part(encoder, trainable, bn_scope=scope, modules=modules)
        trained = _bytes(part.tensors())
    derivation = derivation_of(encoder)
    derived_from = sum(source.feature_dim for source in derivation.sources) if derivation else 0
    tensors = _bytes(encoder.backbone.state_dict().values())
    return _Shape(encoder.feature_dim, derived_from, tensors, trained)


def _of_pretraining(run: Run) -> tuple[int, int]:
    """Return the bytes of encoder, projector and head, and those of the largest checkpoint."""
    method = {key: value for key, value in run.resolved["method"].items() if key != "seed"}
    sources = [_model_of(source) for source in run.sources.values()]
    key = json.dumps([_model_of(run), method, sources], sort_keys=True)
    if key not in _pretrainings:
        _pretrainings[key] = _sizes_of_pretraining(run)
    left, largest = _pretrainings[key]
    return _factor(run) * left * (1 + len(run.snapshots)), _factor(run) * largest


_pretrainings: dict[str, tuple[int, int]] = {}


def _sizes_of_pretraining(run: Run) -> tuple[int, int]:
    method, encoder = run.resolved["method"], models.build(json.loads(_model_of(run)))
    referenced = shapes_of_references(run)
    dataset = dataset_of(run)
    learner = pretraining.untrained(encoder, dataset, method, 0, **referenced)
    state, constant = learner.state_dict(), learner.constant()
    trained = _bytes(p for p in learner.parameters() if p.requires_grad)
    moments = MOMENTS[method["optimizer"]["name"]] * trained
    head = learner.trained_head(dataset)
    layers = [encoder.backbone, learner.projection, None if head is None else head.layers]
    left = sum(_bytes(layer.state_dict().values()) for layer in layers if layer is not None)
    changing = (tensor for name, tensor in state.items() if name not in constant)
    return left, moments + _bytes(t for t in changing if isinstance(t, Tensor))


def _of_evaluation(run: Run, protocol: EvaluationProtocol, classes: int) -> tuple[int, int]:
    """Return the bytes of the encoder and the head that stay, and those of the largest checkpoint.

    A bank has a head per point of the grid; the heads of a trained encoder are trained one by one.
    """
    if not isinstance(protocol, Tuning):
        return 0, 0
    modules = protocol.trainable_modules
    chosen = protocol.trainable, protocol.bn_scope, None if modules is None else tuple(modules)
    parts = run.sources.values() if run.is_fused else [run]
    shapes = [_shape(_model_of(part), *chosen) for part in parts]
    shape = _Shape(*(sum(sizes) for sizes in zip(*shapes, strict=True)))
    dim = shape.dim if protocol.head not in TOKEN_KINDS else _token_dim(_model_of(run))
    head = _head_bytes(protocol.head, dim, classes)
    constant = protocol.encoder_is_constant
    trained = shape.trained + head * (len(protocol.points()) if constant else 1)
    copies = 1 + MOMENTS[protocol.optimizer["name"]] + (protocol.epoch_selection == "best")
    left = shape.tensors * protocol.keep_encoder + head * (protocol.keep_encoder or constant)
    return _factor(run) * left, _factor(run) * copies * trained


@functools.cache
def _token_dim(model: str) -> int:
    """Return the number of features of an architecture's tokens; 0 if its run is not applicable."""
    with contextlib.suppress(ValueError):
        return input_dim(models.build(json.loads(model)), "attention")
    return 0


@functools.cache
def _head_bytes(kind: HeadKind, dim: int, classes: int) -> int:
    with randomness.preserved():
        return _bytes(build_head(kind, dim, classes).state_dict().values())
