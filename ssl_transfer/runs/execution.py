"""Carrying out one run: check it, claim it, do the work, leave a record or a failure."""

import contextlib
import datetime
import logging
import math
import os
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_transfer import models, randomness
from ssl_transfer.datasets import Dataset, loading
from ssl_transfer.errors import NotApplicable, UserError, last_line
from ssl_transfer.methods import pretraining
from ssl_transfer.models import Encoder, sources
from ssl_transfer.protocols.base import Score
from ssl_transfer.runs.builders import (
    arguments_of,
    dataset_of,
    initial_encoder,
    make_context,
    protocol_of,
    require_precision,
)
from ssl_transfer.runs.folder import begin, finish
from ssl_transfer.runs.identity import digest
from ssl_transfer.runs.logger import LoggerRefused, RunLogger
from ssl_transfer.runs.run import Run
from ssl_transfer.system import claims, distributed, inputs, manifests, provenance, signals, slurm
from ssl_transfer.system.files import write_json
from ssl_transfer.system.inputs import Inputs

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""How long a process that lost a partner waits to hear why."""


class RunFailed(RuntimeError):
    """A run ended without a record; the message is the sentence for the user."""


@randomness.preserved()
def execute(run: Run) -> dict[str, Any]:
    """Carry out one run whose requirements are finished, and return its record.

    A finished run is not computed again (unless ``force=true``); an interrupted one goes on.
    With several processes, all of them call this.

    Raises:
        RunFailed: with one sentence; the folder holds ``failure.json`` with the whole traceback.
        Interrupted: if a signal stopped it; it can go on.
    """
    with signals.stoppable():
        try:
            return _execute(run)
        except RuntimeError as error:
            # Of a loader's second process, whose end was heard of while the first one's was
            # dealt with; the claim may have been left.
            if isinstance(error, RunFailed) or (lost := loading.lost_worker(error)) is None:
                raise
            with loading.deaf_to_workers(error):
                claims.release(run.folder)
                raise RunFailed(lost) from error
        except OSError as error:  # before the work: the folder cannot be made, or written to
            raise RunFailed(
                f"`{run.folder}` must be a folder that can be written to, but {error}."
            ) from error


def _execute(run: Run) -> dict[str, Any]:
    try:
        device = distributed.start(run.config["trainer"]["device"])
        require_precision(run, device)
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
        folder = distributed.broadcast_object(begin(run) if distributed.is_main() else None)
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


def _settle_failure(run: Run, error: Exception, trace: str) -> str:
    """Leave ``failure.json`` where an error says something about the run; return the sentence.

    Raises:
        Interrupted: if a signal arrived, or KeyboardInterrupt.
    """
    if signals.arrived():  # what fails on the way out says nothing about the run
        signals.end()
    if distributed.is_lost_partner(error) and run.failure() is None:
        # Its signal may reach this process a little later, and then raises here; or its
        # reason may take a while to be seen on a network file system.
        time.sleep(PATIENCE_SECONDS)
    earlier = run.failure()  # of another process, whose end made this one fail
    if earlier is not None:
        return str(earlier["error"])
    sentence, stage = _explain(error)
    fail(run, sentence, trace=trace, stage=stage)
    if stage == "work" and not isinstance(error, UserError):
        log.error("%s", trace)
    return sentence


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
    if (lost := loading.lost_worker(error)) is not None:
        return lost, "check"
    sentence = str(error) if isinstance(error, UserError) else last_line(error)
    return sentence, "check" if isinstance(error, OSError | LoggerRefused) else "work"


def _done(run: Run) -> bool:
    return run.is_finished and not run.config["force"]


def _say_waiting(owner: dict[str, Any]) -> None:
    log.info("waiting for %s, which computes this run", claims.describe(owner))


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
        "job": slurm.current_job(),
        "log": os.environ.get(claims.LOG),
    }
    try:
        write_json(run.folder / "failure.json", failure)
    except OSError as error:
        log.warning("%s", error)  # the disk is full: the sweep's summary still names the run


def encoder_id(run: Run) -> str | None:
    """Return the id of the encoder a run judges; None where only its weights can tell."""
    if run.is_pretraining:
        return run.id
    for required in run.requirements:
        return required.id
    return None


def _work(run: Run, device: torch.device, folder: Path) -> dict[str, Any]:
    began, clock = _now(), time.monotonic()
    config = run.resolved
    dataset = dataset_of(run, stage=True)
    with inputs.collected() as weights_files:
        encoder = initial_encoder(run)
        arguments = arguments_of(run) if run.is_pretraining else {}
    context = make_context(run, device, folder, _started_from(dataset, weights_files))
    with RunLogger(run, context) as context.logger:
        if run.is_pretraining:
            scores: list[Score] = []
            pretraining.train(encoder, dataset, context, config["method"], **arguments)
            _require_finite(encoder)
            _leave_encoder(run, encoder, folder)
        else:
            weights = models.fingerprint(encoder)
            context.note(weights_sha256=weights)
            scores = list(protocol_of(config["protocol"]).run(encoder, dataset, context))
            if config["protocol"].get("keep_encoder"):
                _leave_encoder(run, encoder, folder)
        facts = context.facts
        weights = facts.pop("weights_sha256", None) or models.fingerprint(encoder)
        record = _record(
            run,
            began,
            encoder_id=encoder_id(run) or weights[:16],
            scores=[vars(score) for score in scores],
            **facts,
            weights_sha256=weights,
            data={"fingerprint": dataset.fingerprint, **dataset.facts},
            duration_s=round(time.monotonic() - clock, 3),
            device=device.type,
            job=slurm.current_job(),
            processes=distributed.world_size(),
        )
        context.logger.finish(scores)
        if distributed.is_main():  # before the logger ends, which may wait for a server
            read = {"data": dataset.inputs, "weights": weights_files, "code": _code_of(config)}
            record["inputs"] = _kept(read, run.folder.parent.parent)
            _say_differences(run, record)
            finish(run, record, folder)
    distributed.barrier()
    return record


def differing_scores(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return which scores of two records of one run differ beyond rounding, and how."""
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
    """Say where a run that was computed again on the same files has other scores."""
    before = run.readable_record()
    if before is None or _stands_on(before) != _stands_on(record):
        return
    if differences := differing_scores(before, record):
        log.warning(
            "a run that is computed again must have the scores of its record (%s), but %s; the "
            "new ones replace them.", before.get("started", "of unknown date"), differences,
        )  # fmt: skip


def _stands_on(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the fingerprints of the data and of the weights that a record's scores belong to."""
    return dict(record.get("data") or {}).get("fingerprint"), record.get("weights_sha256")


def _started_from(dataset: Dataset, weights_files: Inputs) -> str:
    """Return what identifies the data and the weights that a training starts from."""
    contents = sorted(digest.hex() for digest in weights_files.contents().values())
    return digest(dataset.fingerprint, contents)


def _code_of(config: Mapping[str, Any]) -> Inputs:
    """Return the source files of the user's own classes and functions that a run called."""
    axes = {axis: config[axis] for axis in ("model", "method", "dataset", "protocol")}
    with inputs.collected() as found:
        for path in sources.files_of(axes):
            inputs.note_file(path)
    return found


def _kept(read: Mapping[str, Inputs], outputs: Path) -> dict[str, dict[str, Any]]:
    """Keep the lists of the files that a run read; return what its record says of them."""
    return {
        kind: {"list": manifests.save(listed, outputs), "files": len(listed)}
        for kind, listed in read.items()
        if len(listed)
    }


def _require_finite(encoder: Encoder) -> None:
    """Refuse weights that the very last step broke, after which no loss was computed."""
    for name, tensor in encoder.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(
                "the weights that a pre-training leaves must be finite, but "
                f"`{name}` is not; lower `method.optimizer.lr`, or set `method.clip_grad_norm`."
            )


def _finish_not_applicable(run: Run, reason: str, folder: Path) -> dict[str, Any]:
    record = _record(
        run,
        _now(),
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
    **facts: Any,
) -> dict[str, Any]:
    """Return the record of a run: its head, what ``facts`` says of its work, and its code.

    Args:
        run: that ended.
        began: when, as ISO 8601.
        status: ``finished`` or ``not_applicable``.
        reason: why it is not applicable.
        encoder_id: of the encoder that it judged or made.
        **facts: at least ``scores`` and ``duration_s``.
    """
    return {
        **run.identify(),
        "status": status,
        "reason": reason,
        "encoder": {"id": encoder_id, "label": run.label},
        **facts,
        "config": run.config,
        "requires": [required.id for required in run.requirements],
        "started": began,
        "versions": provenance.versions(),
        "code": provenance.code(),
    }


def _leave_encoder(run: Run, encoder: Encoder, folder: Path) -> None:
    if distributed.is_main():
        models.save_encoder(
            encoder, folder, config=run.config["model"], parents=[run.id, run.label]
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
