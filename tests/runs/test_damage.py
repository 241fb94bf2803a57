"""Every file of a run's folder, damaged in every way: said or healed, never believed, no traceback.

Each reader is asked directly; what a run does then is the matter of the tests of execution.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import METHOD, tiny

from launchers import status, sweep
from ssl_transfer import models, runs
from ssl_transfer.context import Context
from ssl_transfer.models import heads
from ssl_transfer.models.heads import Head
from ssl_transfer.runs import Run, builders, logger
from ssl_transfer.system import claims
from ssl_transfer.system.files import read_json, write_json
from ssl_transfer.training import checkpoint
from ssl_transfer.training.checkpoint import Header

SCORE = {"metric": "top1", "value": 0.5, "unit": "fraction", "primary": True}
FAR = 3600.0
"""Seconds by which a damaged claim is older than half a claim may be."""


@dataclasses.dataclass
class Finished:
    """A run's folder as it was left, beside that of another run."""

    run: Run
    other: Run

    @property
    def folder(self) -> Path:
        return self.run.folder


def leave(run: Run, value: float) -> None:
    """Leave every file that a run may leave, as the code itself writes them."""
    run.folder.mkdir(parents=True)
    encoder = models.build(run.resolved["model"], seed=round(10 * value))
    encoder.projector = torch.nn.Sequential(torch.nn.Linear(encoder.feature_dim, 4, bias=False))
    models.save_encoder(encoder, run.folder, config=run.config["model"], parents=[run.id])
    context = Context(run.folder, run.folder, run_id=run.id)
    context.save_arrays("test_predictions", scores=np.full(4, value))
    heads.save_head(Head(torch.nn.Linear(encoder.feature_dim, 2), classes=("a", "b")), run.folder)
    record = {
        **run.identify(), "status": "finished", "reason": None, "encoder": {"id": None},
        "scores": [{**SCORE, "value": value}], "duration_s": 1.0,
        "weights_sha256": models.fingerprint(encoder),
    }  # fmt: skip
    runs.finish(run, record, run.folder)
    failure = {**run.identify(), "error": f"it failed {value}", "traceback": "", "stage": "work"}
    write_json(run.folder / "failure.json", failure)
    context.once("grid", lambda: value)
    state = {"step": 3, "weight": torch.full((64,), value)}
    checkpoint.save(run.folder / "checkpoint.pt", state, header_of(run))
    line = {"training": "refit", "step": 1, "steps": 9, "time": 1.0, "loss": value}
    (run.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    claims.try_claim(run.folder)


def header_of(run: Run) -> Header:
    return Header(run.id, "refit", 9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """Return two runs, and a copy of the first one's folder."""
    outputs = tmp_path_factory.mktemp("damage")
    line = [*METHOD, "protocol=pretrain"]
    run = tiny(outputs, *line, tuned=False, data=False)
    method = {**run.config["method"], "seed": 1}
    other = Run({**run.config, "method": method})
    leave(run, 0.5)
    leave(other, 0.25)
    shutil.copytree(run.folder, outputs / "copy")
    return Finished(run, other), outputs / "copy"


@pytest.fixture
def finished(whole: tuple[Finished, Path]) -> Finished:
    made, copy = whole
    shutil.rmtree(made.folder)
    shutil.copytree(copy, made.folder)
    return made


# ---- what is done to a file ---------------------------------------------------------------------


def missing(path: Path, other: Path) -> None:
    path.unlink()


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path, other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def foreign(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


def unreadable(path: Path, other: Path) -> None:
    # Reading it fails for everybody; permissions do not keep root from reading.
    path.unlink()
    path.symlink_to(path.name)


def newer(path: Path, other: Path) -> None:
    if path.suffix != ".json":
        path.write_bytes(b'{"schema": 99}')
        return
    document = json.loads(path.read_bytes())
    document.pop("checksum", None)
    path.write_text(json.dumps({**document, "schema": 99}))


def wrong_type(path: Path, other: Path) -> None:
    path.write_text('[{"run_id": 5}, null]')


KINDS = [missing, empty, truncated, flipped, foreign, folder, unreadable, newer, wrong_type]


# ---- what reads it ------------------------------------------------------------------------------


def reads_record(finished: Finished) -> None:
    run = finished.run
    assert not run.is_finished
    assert run.readable_record() is None
    stands = status._status_of(run.id, run.place, run.folder, None, {})
    assert stands.state in ("failed", "done")
    assert runs.begin(run) == run.folder
    record = {**run.identify(), "status": "finished", "scores": [], "encoder": {}, "duration_s": 1}
    runs.finish(run, record, run.folder)
    assert run.is_finished


def reads_failure(finished: Finished) -> None:
    run = finished.run
    assert run.failure() is None
    assert sweep.sticky_failure(run) is None
    status._status_of(run.id, run.place, run.folder, None, {})
    runs.begin(run)
    assert run.failure() is None


def reads_claim(finished: Finished) -> None:
    path = finished.folder / "claim.json"
    if claims.read(finished.folder) is not None:  # of another version, or flipped in a free text
        path.unlink()
    with contextlib.suppress(FileNotFoundError):
        when = path.lstat().st_mtime - FAR
        os.utime(path, (when, when), follow_symlinks=False)
    assert claims.other(finished.folder) is None
    assert claims.try_claim(finished.folder)


def reads_checkpoint(finished: Finished) -> None:
    path = finished.folder / "checkpoint.pt"
    assert checkpoint.load(path, header_of(finished.run)) is None
    checkpoint.save(path, {"step": 4}, header_of(finished.run))
    assert checkpoint.load(path, header_of(finished.run)) == {"step": 4}


def reads_progress(finished: Finished) -> None:
    context = Context(finished.folder, finished.folder, run_id=finished.run.id)
    assert context.once("grid", lambda: "anew") == "anew"
    assert context.once("grid", lambda: "never") == "anew"


def reads_metrics(finished: Finished) -> None:
    status._progress(finished.folder)
    with logger._open_lines(finished.folder / "metrics.jsonl") as file:
        file.write('{"training": "refit", "step": 2, "steps": 9, "time": 2.0}\n')
    assert status._progress(finished.folder).startswith("refit: step 2/9")


def reads_encoder(finished: Finished) -> None:
    encoder = models.build(finished.run.resolved["model"])
    with pytest.raises((OSError, ValueError)) as caught:
        builders.load_product(encoder, finished.run)
    assert "encoder.safetensors" in str(caught.value)


def reads_side_file(finished: Finished) -> None:
    encoder = models.build(finished.run.resolved["model"])
    try:
        builders.load_product(encoder, finished.run)
    except (OSError, ValueError) as error:
        assert "must be the file that the run's record names" in str(error)  # noqa: PT017
        return
    names = {path.name for path in finished.folder.iterdir() if path.is_file()}
    beside = {"encoder.yaml", "projector.safetensors", "head.safetensors"}
    assert len(names & beside) == 2  # what is missing is seen


def reads_predictions(finished: Finished) -> None:
    """Nothing in a run does; a new set replaces them whatever stands there."""
    run = finished.run
    anew = runs.begin(run)
    assert anew is not None
    Context(anew, anew, run_id=run.id).save_arrays("test_predictions", scores=np.zeros(2))
    head = {key: value for key, value in run.record().items() if key != "files"}
    runs.finish(run, head, anew)
    assert np.load(run.folder / "test_predictions.npz")["scores"].tolist() == [0.0, 0.0]
    assert list(run.record()["files"]) == ["test_predictions.npz"]


FILES: dict[str, Callable[[Finished], None]] = {
    "record.json": reads_record,
    "failure.json": reads_failure,
    "claim.json": reads_claim,
    "checkpoint.pt": reads_checkpoint,
    "progress.json": reads_progress,
    "metrics.jsonl": reads_metrics,
    "encoder.safetensors": reads_encoder,
    "encoder.yaml": reads_side_file,
    "projector.safetensors": reads_side_file,
    "head.safetensors": reads_side_file,
    "test_predictions.npz": reads_predictions,
}


@pytest.mark.parametrize("damage", KINDS, ids=lambda kind: str(kind.__name__))
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_never_believed(
    finished: Finished, name: str, damage: Callable[[Path, Path], None]
) -> None:
    damage(finished.folder / name, finished.other.folder / name)
    FILES[name](finished)


def test_the_files_are_all_that_a_run_leaves(finished: Finished) -> None:
    assert sorted(path.name for path in finished.folder.iterdir()) == sorted(FILES)
    assert finished.run.is_finished
    assert finished.run.failure() is not None
    saved: Any = checkpoint.load(finished.folder / "checkpoint.pt", header_of(finished.run))
    assert saved["step"] == 3
    progress = read_json(finished.folder / "progress.json", sealed=True)
    assert progress is not None
    assert (progress["run_id"], progress["grid"]) == (finished.run.id, 0.5)
    encoder = models.build(finished.run.resolved["model"])
    builders.load_product(encoder, finished.run)
    assert claims.read(finished.folder) is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", [name for name in FILES if name not in ("claim.json",)])
def test_what_may_not_be_read_counts_as_damaged(finished: Finished, name: str) -> None:
    (finished.folder / name).chmod(0)
    if name != "test_predictions.npz":
        FILES[name](finished)
