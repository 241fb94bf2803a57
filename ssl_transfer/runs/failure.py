"""The file ``failure.json`` of a run that failed; imports no torch."""

import datetime
import logging
import os

from ssl_transfer.runs.run import Run
from ssl_transfer.system import claims, slurm
from ssl_transfer.system.files import write_json

log = logging.getLogger(__name__)


def fail(run: Run, sentence: str, *, trace: str, stage: str) -> None:
    """Write ``failure.json``, so that the run is not repeated unless ``retry=true``.

    Args:
        run: the run that failed.
        sentence: the reason, for the user.
        trace: the whole traceback.
        stage: ``work``, or ``check`` if the run may be tried again without ``retry=true``.
    """
    encoder = {"id": encoder_id(run), "label": run.label}
    failure = {
        **run.identify(),
        "encoder": encoder,
        "config": run.config,
        "error": sentence,
        "traceback": trace,
        "stage": stage,
        "when": now(),
        "job": slurm.current_job(),
        "log": os.environ.get(claims.LOG),
    }
    try:
        write_json(run.folder / "failure.json", failure)
    except OSError as error:
        log.warning("%s", error)  # e.g. a full disk: the sweep's summary still names the run


def encoder_id(run: Run) -> str | None:
    """Return the id of the encoder that a run evaluates; None if only its weights identify it."""
    if run.is_pretraining:
        return run.id
    trained = run.sources.get("encoder")
    return None if trained is None else trained.encoder_id


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
