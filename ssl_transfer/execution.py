"""Carrying out one run: check it, claim it, do the work, leave a record or a failure."""

import contextlib
import datetime
import functools
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_transfer import (
    claims,
    cluster,
    datasets,
    distributed,
    methods,
    models,
    provenance,
    runs,
    staging,
    stopping,
)
from ssl_transfer.binding import PROTOCOL_LABELS
from ssl_transfer.config import locate
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.decoded import Choice, decode_once
from ssl_transfer.errors import NotApplicable
from ssl_transfer.files import write_atomically
from ssl_transfer.logger import RunLogger
from ssl_transfer.models import Encoder
from ssl_transfer.models.encoder import measure_feature_dim
from ssl_transfer.protocols.base import EvaluationProtocol, Score, require
from ssl_transfer.protocols.pretrain import Pretrain, planned_projector
from ssl_transfer.runs import Run

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""How long a process that lost a partner waits to hear why."""

_AXIS_KEY = re.compile(r"(?<![\w.])dataset\.(?=(root|download)\b)")
"""How a dataset calls its keys in what it tells; where it is not the axis, they lie elsewhere."""

UserError = (ValueError, OSError)
"""Errors whose message is a sentence for the user; anything else is a bug and shows its trace."""


class RunFailed(RuntimeError):
    """A run ended without a record; the message is the sentence for the user."""


def check(run: Run) -> str | None:
    """Return what is wrong with the run's data, weights or kind of target; None if nothing is.

    This is everything that needs no training, done before any run of a sweep starts.
    """
    try:
        dataset = dataset_of(run)
    except UserError as error:
        place = "method.pretrain_on" if run.is_pretraining else "dataset"
        return _AXIS_KEY.sub(f"{place}.", str(error))
    try:
        model = run.resolved["model"]
        as_they_are = [s.resolved["model"] for s in run.references.values() if not s.trains]
        if not (run.requirements and not run.is_pretraining):
            as_they_are.append(model)
        for node in as_they_are:
            if (node.get("weights") or {}).get("path"):
                _try_weights(json.dumps(node, sort_keys=True))
        if (start := run.references.get("start_from")) is not None:
            _try_start(*(json.dumps(n, sort_keys=True) for n in (model, start.resolved["model"])))
        if run.is_pretraining:
            _try_method(run, dataset)
        else:
            require(protocol_of(run.resolved["protocol"]), dataset, f"`{run.names['protocol']}`")
    except UserError as error:
        return str(error)
    return None


def dataset_of(run: Run, *, stage: bool = False) -> Dataset:
    """Return the dataset that a run trains on, built once per process.

    Args:
        run: whose dataset it is.
        stage: whether to bring it near first: copied to ``paths.stage``, if that is set, and
            decoded once, as ``trainer.decode_once`` says.

    Raises:
        ValueError: if the data do not fit their description.
        OSError: if they cannot be copied.
    """
    config = run.resolved
    node = config["method"]["pretrain_on"] if run.is_pretraining else config["dataset"]
    folder = config["paths"].get("stage") if stage else None
    bar = bool(config["trainer"]["progress_bar"])
    # A configuration frozen before there was the key has none.
    choice = config["trainer"].get("decode_once", "auto")
    # Pixels lie where the copy lies, on the node's own disk, or else beside the feature store.
    near = f"{folder}/ssl_transfer" if folder else config["paths"]["outputs"]
    text = json.dumps(node, sort_keys=True)
    if not stage:
        return _dataset(text, folder, bar)
    return _decoded(text, folder, bar, str(Path(near).expanduser().absolute() / "decoded"), choice)


@functools.lru_cache(maxsize=16)
def _decoded(
    node: str, stage: str | None, progress_bar: bool, folder: str, choice: Choice
) -> Dataset:
    dataset = _dataset(node, stage, progress_bar)
    return decode_once(dataset, Path(folder), choice, progress_bar=progress_bar)


@functools.lru_cache(maxsize=16)
def _dataset(node: str, stage: str | None, progress_bar: bool) -> Dataset:
    source: dict[str, Any] = json.loads(node)
    if stage is not None:
        copy = staging.staged(source, stage, progress_bar=progress_bar)
        try:
            return datasets.build(copy)
        except ValueError as error:
            if copy == source:
                raise
            # Either the source is as wrong, and the sentence should name it, or the data refer to
            # something outside of their root, like `images: ../photos`.
            dataset = datasets.build(source)
            log.warning(
                "`%s` is read where it lies, for its copy does not do: %s", dataset.name, error
            )
            return dataset
    return datasets.build(source)


@functools.lru_cache(maxsize=64)
def _try_weights(node: str) -> None:
    """Load a model's weights once per process, to see whether they fit."""
    models.build(json.loads(node))


@functools.lru_cache(maxsize=64)
def _try_start(model: str, start: str) -> None:
    """See once per process whether a model has room for another one's weights."""
    if model != start:
        models.copy_weights(
            *(models.build({**json.loads(node), "weights": None}) for node in (model, start))
        )


def _try_method(run: Run, dataset: Dataset) -> None:
    """See whether a pre-training's method fits its model, its data and what it refers to."""
    config = run.resolved
    trainer = config["trainer"]
    judged = (trainer.get("monitor") or {}).get("dataset")
    if judged is not None:
        _dataset(json.dumps(judged, sort_keys=True), None, bool(trainer["progress_bar"]))
    for size in {view.size for view in methods.augmentations(config["method"])} - {None}:
        _try_size(json.dumps(config["model"], sort_keys=True), size)
    Pretrain().check(
        _shape(json.dumps(config["model"], sort_keys=True)),
        dataset,
        config["method"],
        accumulate=trainer["accumulate"],
        **_shapes(run),
    )


def _shapes(run: Run) -> dict[str, Encoder]:
    """Return what takes and gives what the encoders do that a pre-training builds upon."""
    found = {}
    for key, source in run.references.items():
        if key != "start_from":
            model = source.resolved["model"]
            shape = _shape(json.dumps(model, sort_keys=True))
            if source.trains and not source.is_finished:
                method = source.resolved["method"]
                projector = planned_projector(shape, method, **_shapes(source))
            else:
                projector = _projector(json.dumps(model), source.folder if source.trains else None)
            found[key] = Encoder(
                shape.backbone, shape.feature_dim, shape.preprocessing, shape.name, projector
            )
    return found


@functools.lru_cache(maxsize=64)
def _projector(model: str, folder: Path | None) -> torch.nn.Module | None:
    """Return the layers, without memory, of what an encoder was trained with on top of it."""
    found = _trained_projector(json.loads(model), folder)
    return None if found is None else found.to("meta")


def _trained_projector(model: Mapping[str, Any], folder: Path | None) -> torch.nn.Module | None:
    """Return what an encoder was trained with on top of it, None if that is not at hand.

    Args:
        model: the encoder's resolved node.
        folder: that of the pre-training (``None``: the model's weights are taken as they are).
    """
    weights = model.get("weights") or {}
    path = folder or weights.get("path")
    layout = "auto" if folder else weights.get("layout", "auto")
    return None if path is None else models.load_projector(path, layout)


@functools.lru_cache(maxsize=64)
def _try_size(model: str, size: int) -> None:
    """See whether a model takes views of a size of their own, as not every transformer does."""
    whole = models.build({**json.loads(model), "weights": None})
    try:
        measure_feature_dim(whole, size, whole.name)
    except ValueError as error:
        raise ValueError(
            f"`method.views` must have sizes that `model` takes, but {size} px is none: {error}"
        ) from error


@functools.lru_cache(maxsize=64)
def _shape(model: str) -> Encoder:
    """Return an encoder without layers that takes and gives what a model does."""
    whole = models.build({**json.loads(model), "weights": None})
    return Encoder(torch.nn.Identity(), whole.feature_dim, whole.preprocessing, whole.name)


def execute(run: Run) -> dict[str, Any]:
    """Carry out one run whose requirements are finished, and return its record.

    A finished run is not computed again (unless ``force=true``); an interrupted one goes on.
    With several processes, all of them call this.

    Raises:
        RunFailed: with one sentence; the folder holds ``failure.json`` with the whole traceback.
        Interrupted: if a signal stopped it; it can go on.
    """
    with stopping.stoppable():
        return _execute(run)


def _execute(run: Run) -> dict[str, Any]:
    try:
        device = distributed.start(run.config["trainer"]["device"])
        _require_precision(run, device)
    except ValueError as error:  # says something about this computer, and nothing about the run
        fail(run, str(error), trace=traceback.format_exc(), stage="check")
        raise RunFailed(str(error)) from error
    if not distributed.is_main():
        logging.getLogger("ssl_transfer").setLevel(logging.WARNING)  # the first process tells
    with contextlib.ExitStack() as stack:
        ours = True
        if distributed.is_main():
            ours = stack.enter_context(
                claims.claimed(run.folder, finished=lambda: _done(run), waiting=_say_waiting)
            )
        if not distributed.broadcast_object(ours):
            return run.record()
        if distributed.is_main():
            (run.folder / "failure.json").unlink(missing_ok=True)
            if run.is_finished:  # and forced; what was merely interrupted goes on
                (run.folder / "record.json").unlink()
                runs.clear(run)
        distributed.barrier()
        try:
            return _work(run, device)
        except NotApplicable as error:
            return _finish_not_applicable(run, str(error))
        except Exception as error:
            if stopping.arrived():  # what fails on the way out says nothing about the run
                raise stopping.Interrupted from error
            if distributed.is_lost_partner(error) and run.failure() is None:
                # Its signal may reach this process a little later, and then raises here; or its
                # reason may take a while to be seen on a network file system.
                time.sleep(PATIENCE_SECONDS)
            earlier = run.failure()  # of another process, whose end made this one fail
            if earlier is not None:
                raise RunFailed(earlier["error"]) from error
            sentence, stage = _explain(error)
            fail(run, sentence, trace=traceback.format_exc(), stage=stage)
            if not isinstance(error, UserError):
                log.error("%s", traceback.format_exc())
            raise RunFailed(sentence) from error


def _explain(error: Exception) -> tuple[str, str]:
    """Return the sentence for the user, and the stage: ``check`` if it says nothing about the run.

    Such a run is tried again without being asked to: the disk was full, a process was lost.
    """
    if distributed.is_lost_partner(error):
        return (
            "every process of the run must stay alive, but one ended without a word (killed, "
            "perhaps for want of memory, or its computer was lost); the same command goes on from "
            "the last checkpoint.",
            "check",
        )
    sentence = str(error) if isinstance(error, UserError) else _last_line(error)
    return sentence, "check" if isinstance(error, OSError) else "work"


def _require_precision(run: Run, device: torch.device) -> None:
    if run.config["precision"] == "fp16" and device.type == "cpu":
        raise ValueError(
            "`precision=fp16` must have a GPU, but there is none; use `precision=bf16`, or fp32."
        )


def _done(run: Run) -> bool:
    return run.is_finished and not run.config["force"]


def _say_waiting(owner: dict[str, Any]) -> None:
    log.info("waiting for %s, which computes this run", claims.describe(owner))


def _last_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def fail(run: Run, sentence: str, *, trace: str, stage: str) -> None:
    """Leave ``failure.json``, so that the run is not repeated unless ``retry=true``.

    Args:
        run: what failed.
        sentence: why, for the user.
        trace: the whole traceback.
        stage: ``check`` if nothing was started (such a run is tried again), else ``work``.
    """
    encoder = {"id": encoder_id(run), "label": run.label}
    failure = {
        **run.identify(),
        "encoder": encoder,
        "config": run.config,
        "error": sentence,
        "traceback": trace,
        "stage": stage,
        "when": _now(),
        "job": cluster.current_job(),
        "log": os.environ.get(claims.LOG),
    }
    try:
        write_atomically(run.folder / "failure.json", json.dumps(failure, indent=1).encode())
    except OSError as error:
        log.warning("%s", error)  # the disk is full: the sweep's summary still names the run


def encoder_id(run: Run) -> str | None:
    """Return the id of the encoder a run judges; None where only its weights can tell."""
    if run.is_pretraining:
        return run.id
    for required in run.requirements:
        return required.id
    return None


def _work(run: Run, device: torch.device) -> dict[str, Any]:
    began, clock = _now(), time.monotonic()
    context = make_context(run, device)
    config = run.resolved
    dataset = dataset_of(run, stage=True)
    encoder = models.build(config["model"], seed=config["method"]["seed"])
    with RunLogger(run, context) as context.logger:
        if run.is_pretraining:
            referenced = _referenced(run)
            if (start := referenced.pop("start_from", None)) is not None:
                models.copy_weights(encoder, start)
            scores: list[Score] = []
            Pretrain().run(encoder, dataset, context, config["method"], **referenced)
            _require_finite(encoder)
            _leave_encoder(run, encoder)
        else:
            for required in run.requirements:
                models.load_encoder(encoder, required.folder)
            weights = models.fingerprint(encoder)
            context.note(weights_sha256=weights)
            scores = list(protocol_of(config["protocol"]).run(encoder, dataset, context))
            if config["protocol"].get("keep_encoder"):
                _leave_encoder(run, encoder)
        facts = context.facts
        weights = facts.pop("weights_sha256", None) or models.fingerprint(encoder)
        record = {
            **run.identify(),
            "status": "finished",
            "reason": None,
            "encoder": {"id": encoder_id(run) or weights[:16], "label": run.label},
            "scores": [vars(score) for score in scores],
            **facts,
            "config": run.config,
            "weights_sha256": weights,
            "data": {"fingerprint": dataset.fingerprint, **dataset.facts},
            "requires": [required.id for required in run.requirements],
            "started": began,
            "duration_s": round(time.monotonic() - clock, 3),
            "device": device.type,
            "job": cluster.current_job(),
            "processes": distributed.world_size(),
            "versions": provenance.versions(),
            "code": provenance.code(),
        }
        context.logger.finish(scores)
    if distributed.is_main():
        runs.finish(run, record)
    distributed.barrier()
    return record


def _require_finite(encoder: Encoder) -> None:
    """Refuse weights that the very last step broke, after which no loss was computed."""
    for name, tensor in encoder.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(
                "the weights that a pre-training leaves must be finite, but "
                f"`{name}` is not; lower `method.optimizer.lr`, or set `method.clip_grad_norm`."
            )


def _referenced(run: Run) -> dict[str, Encoder]:
    """Return the encoders that a pre-training refers to, with their weights."""
    found = {}
    for key, source in run.references.items():
        found[key] = models.build(source.resolved["model"], seed=source.seed)
        if source.trains:
            models.load_encoder(found[key], source.folder)
        if key != "start_from":
            folder = source.folder if source.trains else None
            found[key].projector = _trained_projector(source.resolved["model"], folder)
    return found


def protocol_of(node: Mapping[str, Any]) -> EvaluationProtocol:
    """Return the protocol that a resolved node of the configuration describes."""
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    protocol: EvaluationProtocol = locate(node["_target_"])(**keys)
    return protocol


def make_context(run: Run, device: torch.device) -> Context:
    """Return the surroundings that the configuration describes."""
    config = run.resolved
    trainer = config["trainer"]
    _require_precision(run, device)
    return Context(
        folder=run.folder,
        features=Path(config["paths"]["features"]).absolute(),
        device=device,
        seed=run.seed,
        precision=config["precision"],
        workers=trainer["workers"],
        batch_size_eval=trainer["batch_size_eval"],
        checkpoint_every_steps=trainer["checkpoint_every_steps"],
        checkpoint_every_minutes=trainer["checkpoint_every_minutes"],
        accumulate=trainer["accumulate"],
        max_steps=2 if config["debug"] else None,
        progress_bar=trainer["progress_bar"],
        # A configuration frozen before there was the key has none.
        monitor=trainer.get("monitor"),
        compile=trainer["compile"],
        channels_last=trainer.get("channels_last", False),
    )


def _finish_not_applicable(run: Run, reason: str) -> dict[str, Any]:
    record = {
        **run.identify(),
        "status": "not_applicable",
        "reason": reason,
        "encoder": {"id": encoder_id(run), "label": run.label},
        "scores": [],
        "config": run.config,
        "requires": [required.id for required in run.requirements],
        "started": _now(),
        "duration_s": 0.0,
        "versions": provenance.versions(),
        "code": provenance.code(),
    }
    if distributed.is_main():
        runs.finish(run, record)
    return record


def _leave_encoder(run: Run, encoder: Encoder) -> None:
    if distributed.is_main():
        models.save_encoder(
            encoder, run.folder, config=run.config["model"], parents=[run.id, run.label]
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
