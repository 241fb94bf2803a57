"""Execution of one run: check it, claim it, do the work, write a record or a failure."""

import contextlib
import functools
import logging
import math
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_transfer import models, randomness
from ssl_transfer.config.overrides import overrides_of
from ssl_transfer.datasets import Dataset, loading
from ssl_transfer.errors import NotApplicable, UserError, last_line
from ssl_transfer.methods import pretraining
from ssl_transfer.methods.snapshots import SnapshotStore
from ssl_transfer.models import Encoder, sources
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.heads import HEAD_FILE, save_head
from ssl_transfer.models.weights import FACTS_FILE
from ssl_transfer.protocols.base import Score
from ssl_transfer.runs import products
from ssl_transfer.runs.builders import (
    arguments_of,
    dataset_of,
    evaluation_of,
    final_preprocessing,
    initial_encoder,
    make_context,
    protocol_of,
    require_precision,
)
from ssl_transfer.runs.failure import encoder_id, fail, now
from ssl_transfer.runs.finished import starting_encoder
from ssl_transfer.runs.folder import begin, finish
from ssl_transfer.runs.identity import digest
from ssl_transfer.runs.logger import RunLogger
from ssl_transfer.runs.logging_services import LoggerRefused
from ssl_transfer.runs.required import required_evaluations
from ssl_transfer.runs.run import Run
from ssl_transfer.system import claims, distributed, inputs, manifests, provenance, signals, slurm
from ssl_transfer.system.devices import device_name
from ssl_transfer.system.inputs import Inputs

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""How long a process that lost another one waits for that one's failure file."""


class RunFailed(RuntimeError):
    """A run ended without a record; the message is the sentence for the user."""


@randomness.preserved()
def execute(run: Run) -> dict[str, Any]:
    """Execute one run whose requirements are finished, and return its record.

    A finished run is not computed again (unless ``force=true``); an interrupted one is resumed.
    With several processes, all of them call this function.

    Raises:
        RunFailed: with one sentence; the folder contains ``failure.json`` with the traceback.
        Interrupted: if a signal stopped the run; it can be resumed.
    """
    with signals.stoppable():
        try:
            return _execute(run)
        except RuntimeError as error:
            # A second worker of a data loader may end while the end of the first one is handled.
            # The claim may then still exist.
            if isinstance(error, RunFailed) or (lost := loading.lost_worker(error)) is None:
                raise
            with loading.deaf_to_workers(error):
                claims.release(run.folder)
                raise RunFailed(lost) from error
        except OSError as error:  # before the work: the folder cannot be created or written to
            raise RunFailed(
                f"`{run.folder}` must be a folder that can be written to, but {error}."
            ) from error


def _execute(run: Run) -> dict[str, Any]:
    try:
        device = distributed.start(run.config["trainer"]["device"])
        require_precision(run, device)
    except ValueError as error:  # concerns this computer, not the run
        fail(run, str(error), trace=traceback.format_exc(), stage="check")
        raise RunFailed(str(error)) from error
    if not distributed.is_main():
        logging.getLogger("ssl_transfer").setLevel(logging.WARNING)  # only the first process logs
    with contextlib.ExitStack() as stack:
        ours = True
        if distributed.is_main():
            ours = stack.enter_context(
                claims.claimed(run.folder, finished=lambda: _done(run), waiting=_say_waiting)
            )
        if not distributed.broadcast_object(ours):
            return run.record()
        folder = distributed.broadcast_object(_prepared(run) if distributed.is_main() else None)
        if folder is None:
            return run.record()
        try:
            return _work(run, device, folder)
        except NotApplicable as error:
            return _finish_not_applicable(run, str(error), folder)
        except Exception as error:
            trace = traceback.format_exc()
            with loading.deaf_to_workers(error):
                raise RunFailed(_settle_failure(run, error, trace)) from error


def _prepared(run: Run) -> Path | None:
    """Return the folder to work in; None if the run was completed without any work."""
    if _completed_by_encoder(run):
        return None
    return begin(run)


def _completed_by_encoder(run: Run) -> bool:
    """Add the encoder that is kept to a finished run, if the run's training did not change it."""
    record = run.readable_record()
    if record is None or record["status"] != "finished" or run.is_pretraining or _done(run):
        return False
    protocol = protocol_of(run.resolved["protocol"])
    unchanged = getattr(protocol, "encoder_is_initial", False)
    if run.config["force"] or not unchanged or not (run.folder / HEAD_FILE).is_file():
        return False
    try:
        products.verify(run.folder, record)
        encoder = starting_encoder(run, record)
    except (ValueError, OSError):
        return False  # other weights today, or an error that the work will meet and report
    final_preprocessing(run, encoder)
    _leave_encoder(run, encoder, run.folder)
    finish(run, record, run.folder)
    log.info("the encoder was added to the finished run; nothing was trained")
    return True


def _settle_failure(run: Run, error: Exception, trace: str) -> str:
    """Write ``failure.json`` unless another process already did; return the reason.

    Raises:
        Interrupted: if a signal arrived; KeyboardInterrupt after Ctrl-C.
    """
    if signals.arrived():  # an error during the shutdown does not concern the run
        signals.end()
    if distributed.is_lost_partner(error) and run.failure() is None:
        # The signal that ended it may arrive here a little later and then raises; or its failure
        # file may take a while to appear on a network file system.
        time.sleep(PATIENCE_SECONDS)
    earlier = run.failure()  # written by another process, whose end made this one fail
    if earlier is not None:
        return str(earlier["error"])
    sentence, stage = _explain(error)
    fail(run, sentence, trace=trace, stage=stage)
    if stage == "work" and not isinstance(error, UserError):
        log.error("%s", trace)
    return sentence


def _explain(error: Exception) -> tuple[str, str]:
    """Return the sentence for the user and the stage.

    The stage is ``check`` if the cause lies outside of the run, such as a full disk or a lost
    process; the run is then tried again without ``retry=true``.
    """
    if distributed.is_lost_partner(error):
        return (
            "every process of the run must stay alive, but one ended without a message (killed, "
            "perhaps because memory ran out, or its computer was lost); the same command goes on "
            "from the last checkpoint.",
            "check",
        )
    if (lost := loading.lost_worker(error)) is not None:
        return lost, "check"
    sentence = str(error) if isinstance(error, UserError) else last_line(error)
    return sentence, "check" if isinstance(error, OSError | LoggerRefused) else "work"


def _done(run: Run) -> bool:
    return run.is_finished and not run.config["force"]


def _say_waiting(owner: dict[str, Any]) -> None:
    log.info("waiting for %s, which computes this run", claims.describe(owner))


def _encoder_of(run: Run, weights: str) -> str:
    """Return the id of an encoder that only its weights identify, by their fingerprint.

    Members whose class scores are averaged are not the encoder that their concatenation is.
    """
    if run.averages_scores:
        return digest(weights, run.resolved["method"]["average"])
    return weights[:16]


def _work(run: Run, device: torch.device, folder: Path) -> dict[str, Any]:
    began, clock = now(), time.monotonic()
    config = run.resolved
    dataset = dataset_of(run, stage=True)
    with inputs.collected() as weights_files:
        encoder = initial_encoder(run)
        arguments = arguments_of(run) if run.is_pretraining else {}
        evaluations = required_evaluations(run)
    # Before a protocol changes them:
    prepared, size = encoder.preprocessing_identity(), encoder.parameter_count
    feature_dim = encoder.feature_dim
    context = make_context(run, device, folder, _started_from(dataset, weights_files))
    context.required = evaluations
    more_data = None
    with context.timed(clock), RunLogger(run, context) as context.logger:
        if run.is_pretraining:
            scores: list[Score] = []
            snapshots = _snapshots(run, encoder, folder)
            pretraining.train(encoder, dataset, context, config["method"], snapshots, **arguments)
            _leave_encoder(run, encoder, folder)
        else:
            weights = models.fingerprint(encoder)
            context.note(weights_sha256=weights)
            if isinstance(encoder, FusedEncoder):
                members = [models.fingerprint(member) for member in encoder.encoders]
                context.note(members_sha256=members)
            protocol = evaluation_of(run)
            scores = list(protocol.run(encoder, dataset, context))
            more_data = getattr(protocol, "more_data", lambda: None)()
            if config["protocol"].get("keep_encoder"):
                _leave_encoder(run, encoder, folder)
        facts = context.facts
        weights = facts.pop("weights_sha256", None) or models.fingerprint(encoder)
        record = _record(
            run,
            began,
            encoder_id=encoder_id(run) or _encoder_of(run, weights),
            preprocessing=prepared,
            parameters=size,
            feature_dim=feature_dim,
            scores=[vars(score) for score in scores],
            **facts,
            weights_sha256=weights,
            data={
                "fingerprint": dataset.fingerprint,
                "classes": list(dataset.classes),
                **dataset.facts,
            },
            duration_s=round(context.seconds(), 3),
            attempts=context.attempts,
            device=device.type,
            device_name=device_name(device),
            job=slurm.current_job(),
            processes=distributed.world_size(),
        )
        context.logger.finish(scores)
        if distributed.is_main():  # before the logger closes, which may wait for a server
            read = {"data": dataset.inputs, "weights": weights_files, "code": _code_of(config)}
            read |= {} if more_data is None else {"more_data": more_data.inputs}
            record["inputs"] = _kept(read, run.folder.parent.parent)
            _say_differences(run, record)
            finish(run, record, folder)
    distributed.barrier()
    return record


def differing_scores(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return which scores of two records of a run differ by more than rounding errors."""
    olds, news = (
        {(s["metric"], s["split"]): s["value"] for s in record["scores"]}
        for record in (before, after)
    )

    def same(old: Any, new: Any) -> bool:
        if old is None or new is None:
            return old is new
        return math.isclose(old, new, rel_tol=1e-5, abs_tol=1e-9) or (old != old and new != new)

    return ", ".join(
        f"`{metric}` on {split} was {olds[metric, split]} and is {news[metric, split]}"
        for metric, split in olds.keys() & news.keys()
        if not same(olds[metric, split], news[metric, split])
    )


def _say_differences(run: Run, record: dict[str, Any]) -> None:
    """Log a warning if a run that was computed again from the same files has other scores."""
    before = run.readable_record()
    if before is None or _stands_on(before) != _stands_on(record):
        return
    if differences := differing_scores(before, record):
        log.warning(
            "a run that is computed again must have the scores of its record (%s), but %s; the "
            "new ones replace them.", before.get("started", "of unknown date"), differences,
        )  # fmt: skip


def _stands_on(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the fingerprints of a record's data and weights."""
    fingerprint = dict(record.get("data") or {}).get("fingerprint")
    return fingerprint, record.get("weights_sha256"), record.get("statistics_of")


def _started_from(dataset: Dataset, weights_files: Inputs) -> str:
    """Return a hash of the data and the weights that a training starts from."""
    contents = sorted(digest.hex() for digest in weights_files.contents().values())
    return digest(dataset.fingerprint, contents)


def _code_of(config: Mapping[str, Any]) -> Inputs:
    """Return the source files of the user's own classes and functions that a run uses."""
    axes = {axis: config[axis] for axis in ("model", "method", "dataset", "protocol")}
    with inputs.collected() as code:
        for path in sources.files_of(axes):
            inputs.note_file(path)
    return code


def _kept(files_by_kind: Mapping[str, Inputs], outputs: Path) -> dict[str, dict[str, Any]]:
    """Save the lists of the files that a run read; return the record's entry for each list."""
    return {
        kind: {"list": manifests.save(files, outputs), "files": len(files)}
        for kind, files in files_by_kind.items()
        if len(files)
    }


def _require_finite(encoder: Encoder) -> None:
    """Raise ValueError if weights are not finite: no loss is computed after the last step."""
    for name, tensor in encoder.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(
                "the weights that a pre-training leaves must be finite, but "
                f"`{name}` is not; lower `method.optimizer.lr`, or set `method.clip_grad_norm`."
            )


def _finish_not_applicable(run: Run, reason: str, folder: Path) -> dict[str, Any]:
    record = _record(
        run,
        now(),
        status="not_applicable",
        reason=reason,
        encoder_id=encoder_id(run),
        scores=[],
        duration_s=0.0,
    )
    if distributed.is_main():
        finish(run, record, folder)
    return record


def _record(
    run: Run,
    began: str,
    *,
    status: str = "finished",
    reason: str | None = None,
    encoder_id: str | None,
    preprocessing: Mapping[str, Any] | None = None,
    parameters: int | None = None,
    feature_dim: int | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Return the record of a run: its head, the facts about its work, and its code.

    Args:
        run: the run.
        began: start time in ISO 8601.
        status: ``finished`` or ``not_applicable``.
        reason: why the run is not applicable.
        encoder_id: id of the encoder that the run evaluated or trained.
        preprocessing: how the encoder expects its images (``None``: unknown).
        parameters: number of the encoder's parameters (``None``: unknown).
        feature_dim: number of the encoder's features per image (``None``: unknown).
        **facts: further keys, at least ``scores`` and ``duration_s``.
    """
    return {
        **run.identify(),
        "status": status,
        "reason": reason,
        "encoder": {
            "id": encoder_id,
            "label": run.label,
            "preprocessing": preprocessing,
            "parameters": parameters,
            "feature_dim": feature_dim,
        },
        **facts,
        "config": run.config,
        "overrides": overrides_of(run.config),
        "requires": [required.id for required in run.requirements],
        "started": began,
        "versions": provenance.versions(),
        "code": provenance.code(),
    }


def _leave_encoder(run: Run, encoder: Encoder, folder: Path, epoch: int | None = None) -> None:
    """Save the encoder that a run leaves, or that of an earlier epoch."""
    if run.is_pretraining:
        _require_finite(encoder)
    if distributed.is_main():
        parents = [run.id, run.label, *([] if epoch is None else [f"epoch {epoch}"])]
        place = products.encoder_folder(folder, epoch)
        # The head of an evaluation is saved by its protocol.
        if run.is_pretraining and encoder.head is not None:
            save_head(encoder.head, place)
        models.save_encoder(encoder, place, config=run.config["model"], parents=parents)


def _snapshots(run: Run, encoder: Encoder, folder: Path) -> SnapshotStore:
    """Return the place of a pre-training's snapshots: those wanted now, and those of its record."""
    epochs = sorted({*run.snapshots, *products.recorded_snapshots(run.readable_record() or {})})
    if distributed.is_main():
        products.keep_snapshots(folder, epochs)

    def has(epoch: int) -> bool:  # the facts are written last
        return (products.encoder_folder(folder, epoch) / FACTS_FILE).is_file()

    return SnapshotStore(epochs, functools.partial(_leave_encoder, run, encoder, folder), has)
