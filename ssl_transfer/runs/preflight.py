"""Checks of a run's data, weights and method before any run of a sweep starts."""

import contextlib
import dataclasses
import functools
import json
import logging
import re
import traceback
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_transfer import methods, models
from ssl_transfer.config.references import by_key, role
from ssl_transfer.config.roles import Role
from ssl_transfer.datasets import Dataset
from ssl_transfer.errors import UserError, last_line
from ssl_transfer.methods import pretraining
from ssl_transfer.models import Encoder
from ssl_transfer.models.encoder import measure_feature_dim
from ssl_transfer.models.heads import Head, load_head
from ssl_transfer.protocols.base import require
from ssl_transfer.runs.builders import dataset_of, protocol_of, read, trained_projector
from ssl_transfer.runs.identity import identity_of
from ssl_transfer.runs.logging_services import missing_package
from ssl_transfer.runs.run import Run
from ssl_transfer.system import hub, inputs

log = logging.getLogger(__name__)

LARGE = 128
"""Side in pixels above which images are too large for a ResNet's stem for small images."""

_AXIS_KEY = re.compile(r"(?<![\w./])dataset\.(?=[a-z_]+\b)")
"""Prefix of keys in a dataset's messages; for a pre-training set it is replaced."""


def check(run: Run) -> str | None:
    """Return what is wrong with the run's logger, data, weights or kind of target, or None.

    These are all checks that need no training; they happen before any run of a sweep starts.
    """
    if reason := missing_package(run.resolved["logger"]):
        return reason
    # With wrong clocks or on some file systems, stamps miss changes: `force=true` reads all bytes.
    doubting = inputs.doubting() if run.config["force"] else contextlib.nullcontext()
    try:
        with doubting:
            dataset = dataset_of(run)
    except UserError as error:
        place = "method.pretrain_on" if run.is_pretraining else "dataset"
        return _AXIS_KEY.sub(f"{place}.", str(error))
    try:
        model = run.resolved["model"]
        size = (model.get("preprocessing") or {}).get("size")
        _warn_of_stem(run.names["model"], model.get("stem"), size)
        _refuse_nested(run)
        _refuse_copies(run)
        for node in run.untrained_models:
            if (node.get("weights") or {}).get("path") or _is_remote(node):
                _try_weights(json.dumps(node, sort_keys=True))
        if run.is_pretraining:
            _try_starts(run)
            _try_method(run, dataset)
        else:
            _warn_of_flips(run)
            _require_fitting(run.resolved["protocol"], dataset)
    except UserError as error:
        return str(error)
    except Exception as error:  # a bug, perhaps in a user's own encoder: the other runs continue
        log.error("%s", traceback.format_exc())
        return last_line(error)
    return None


# The protocols that each dataset fits, as JSON; the runs of a sweep share them.
_FITTING: weakref.WeakKeyDictionary[Dataset, set[str]] = weakref.WeakKeyDictionary()


def _require_fitting(node: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuse a dataset that the protocol of a node cannot use."""
    fitting = _FITTING.setdefault(dataset, set())
    text = json.dumps(node, sort_keys=True)
    if text not in fitting:
        require(protocol_of(node), dataset, f"`{node['name']}`")
        fitting.add(text)


def _is_remote(node: Mapping[str, Any]) -> bool:
    """Return whether a model lies on the hub: it is fetched, or refused, before any work."""
    return str(node.get("arch")).startswith(hub.REMOTE)


def _refuse_nested(run: Run) -> None:
    """Refuse references to several encoders as one, which are not built as parts of a run."""
    for path, source in run.sources.items():
        if source.is_fused:
            raise ValueError(
                f"`method.{path}` must be a single encoder, but its method is "
                f"`{source.names['method']}`; name each of its members in the list instead."
            )


def _refuse_copies(run: Run) -> None:
    """Refuse two references of one list to the same encoder, which add nothing to each other."""
    first: dict[tuple[str, str], str] = {}
    for path, source in run.sources.items():
        key, bracket, _ = path.partition("[")
        if not bracket:
            continue
        other = first.setdefault((key, _encoder_of(source)), path)
        if other != path:
            raise ValueError(
                f"`method.{key}` must name distinct encoders, but `{path}` is an exact copy of "
                f"`{other}` ({source.label}); name each once, or pre-train them with different "
                "seeds, as in {method:supervised,seeds:[0,1]}."
            )


def _encoder_of(source: Run) -> str:
    """Return what identifies the encoder of a reference; weights from a file have no seed."""
    model = source.resolved["model"]
    if source.trains or not (model.get("weights") or {}).get("path"):
        return source.encoder_id
    return json.dumps(identity_of("model", model), sort_keys=True)


def _warn_of_flips(run: Run) -> None:
    """Warn if one set is pre-trained on with flips and evaluated without them, or the reverse."""
    if not run.trains:
        return
    task, pretrained_on = run.resolved["dataset"], run.resolved["method"]["pretrain_on"]
    evaluated, trained = (bool(node.get("flip", True)) for node in (task, pretrained_on))
    if evaluated != trained and _same_images(task, pretrained_on):
        _say_flips(task["name"], evaluated)


def _same_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two data sets lie in one folder, also if different readers read it."""
    if not (one.get("root") and other.get("root")):  # embedded in the package
        return all(one.get(key) == other.get(key) for key in ("_target_", "root"))
    first, second = (Path(node["root"]).expanduser().absolute() for node in (one, other))
    return first == second


@functools.lru_cache(maxsize=64)
def _say_flips(name: str, evaluated: bool) -> None:
    """Say once per process that flips differ."""
    pretrained, tested = (str(flip).lower() for flip in (not evaluated, evaluated))
    log.warning(
        "`%s` is pre-trained on with method.pretrain_on.flip=%s and evaluated with "
        "dataset.flip=%s, though a mirrored image shows its class in both or in neither",
        name, pretrained, tested,
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _warn_of_stem(name: str, stem: str | None, size: int | None) -> None:
    """Warn once per process if a stem for small images will receive large ones."""
    if stem not in (None, "imagenet") and size is not None and size > LARGE:
        log.warning(
            "%s: `model.stem=%s` is made for images of 32 to 96 px and costs about %d times as "
            "much at %d px as at 32; did you mean `model.preprocessing.size=32 "
            "model.preprocessing.resize=null`?",
            name, stem, (size / 32) ** 2, size,
        )  # fmt: skip


def _warn_of_enlarging(run: Run, dataset: Dataset) -> None:
    """Warn if small images are enlarged for the pre-training of an encoder."""
    model = run.resolved["model"]
    size = (model.get("preprocessing") or {}).get("size")
    side = max(dataset["train"].images[0].size)
    if model.get("stem", "imagenet") == "imagenet" and size is not None and size > LARGE >= side:
        stem = "model.stem=cifar " * ("stem" in model)
        log.warning(
            "%s: images of %d px are enlarged to %d px; did you mean "
            "`%smodel.preprocessing.size=%d model.preprocessing.resize=null`?",
            run.label, side, size, stem, side,
        )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _try_weights(node: str) -> Head | None:
    """Load a model's weights once per process, to check that they fit; return their classifier."""
    return models.build(json.loads(node)).head


@functools.lru_cache(maxsize=64)
def _try_start(model: str, start: str) -> None:
    """Check once per process that a model can take the weights of another one."""
    if model != start:
        models.copy_weights(
            *(models.build({**json.loads(node), "weights": None}) for node in (model, start))
        )


def _try_method(run: Run, dataset: Dataset) -> None:
    """Check that a pre-training's method fits its model, its data and its references."""
    config = run.resolved
    trainer = config["trainer"]
    monitored = (trainer.get("monitor") or {}).get("dataset")
    if monitored is not None:
        read(json.dumps(monitored, sort_keys=True), None, bool(trainer["progress_bar"]))
    for size in {view.size for view in methods.augmentations(config["method"])} - {None}:
        _try_size(json.dumps(config["model"], sort_keys=True), size)
    pretraining.check(
        _shape(json.dumps(config["model"], sort_keys=True)),
        dataset,
        config["method"],
        accumulate=trainer["accumulate"],
        **shapes_of_references(run),
    )
    _warn_of_enlarging(run, dataset)


def _try_starts(run: Run) -> None:
    """Check that the model of a pre-training can take the weights that it starts from."""
    for path, source in run.sources.items():
        if role(path) is Role.INITIAL_WEIGHTS:
            nodes = (run.resolved["model"], source.resolved["model"])
            _try_start(*(json.dumps(node, sort_keys=True) for node in nodes))


def shapes_of_references(run: Run) -> dict[str, Encoder | list[Encoder]]:
    """Return stand-ins for the encoders that a method's constructor receives, by key."""
    shapes = {}
    for path, source in run.sources.items():
        if role(path) is Role.ARGUMENT:
            model = json.dumps(source.resolved["model"], sort_keys=True)
            shape = _shape(model)
            if source.trains and not source.is_finished:
                projector, head = pretraining.planned(
                    shape,
                    dataset_of(source),
                    source.resolved["method"],
                    **shapes_of_references(source),
                )
            else:
                projector = _projector(model, source.encoder_folder)
                head = _head(model, source.encoder_folder)
            shapes[path] = Encoder(
                shape.backbone, shape.feature_dim, shape.preprocessing, shape.name, projector
            )
            shapes[path].head = head
    return by_key(shapes)


@functools.lru_cache(maxsize=64)
def _projector(model: str, folder: Path | None) -> torch.nn.Module | None:
    """Return the projector that an encoder was trained with, on the meta device."""
    projector = trained_projector(json.loads(model), folder)
    return None if projector is None else projector.to("meta")


@functools.lru_cache(maxsize=64)
def _head(model: str, folder: Path | None) -> Head | None:
    """Return the classifier beside or inside of an encoder's weights, on the meta device."""
    if folder is not None:
        head = load_head(folder)
    else:
        head = _try_weights(model) if (json.loads(model).get("weights") or {}).get("path") else None
    return head and dataclasses.replace(head, layers=head.layers.to("meta"))


@functools.lru_cache(maxsize=64)
def _try_size(model: str, size: int) -> None:
    """Check that a model accepts views of another size; some transformers do not."""
    whole = models.build({**json.loads(model), "weights": None})
    try:
        measure_feature_dim(whole, size, whole.name)
    except ValueError as error:
        raise ValueError(
            f"`method.views` must have sizes that `model` takes, but {size} px is none: {error}"
        ) from error


@functools.lru_cache(maxsize=64)
def _shape(model: str) -> Encoder:
    """Return an encoder without layers that has the input and output sizes of a model."""
    whole = models.build({**json.loads(model), "weights": None})
    return Encoder(torch.nn.Identity(), whole.feature_dim, whole.preprocessing, whole.name)
