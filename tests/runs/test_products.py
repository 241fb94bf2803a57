"""What a run leaves stays and belongs together until a new set replaces it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import METHOD, run_all, tiny

from ssl_transfer import models, runs
from ssl_transfer.runs import execution, products
from ssl_transfer.system.files import Unreadable
from ssl_transfer.system.signals import Interrupted

FILES = ("record.json", "encoder.safetensors", "encoder.yaml", "metrics.jsonl")


def pretraining(outputs: Path, *overrides: str) -> runs.Run:
    line = [*METHOD, "protocol=pretrain", *overrides]
    return tiny(outputs, *line, tuned=False, data=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def leave(folder: Path, text: str, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(text)


class Killed(BaseException):
    """Ends a process where it stands, as ``kill -9`` does; nothing may catch it."""


def test_the_old_record_and_its_encoder_stay_until_the_new_ones_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretraining(tmp_path)
    assert run_all(run).failures == {}
    before = contents(run.folder)
    forced = pretraining(tmp_path, "force=true")
    assert forced.id == run.id

    def interrupted(*arguments: Any, **keys: Any) -> None:
        assert contents(run.folder) == before  # after the training, before anything is saved
        raise Interrupted

    monkeypatch.setattr(execution.models, "save_encoder", interrupted)
    with pytest.raises(Interrupted):
        run_all(forced)
    assert contents(run.folder) == before

    def fails(*arguments: Any, **keys: Any) -> None:
        raise ValueError("the new set must be saved, but is not.")

    monkeypatch.setattr(execution.models, "save_encoder", fails)
    assert list(run_all(forced).failures) == [run.id]
    assert contents(run.folder) == before
    monkeypatch.undo()
    assert run_all(run).computed == 0  # sent again without force: the old result counts

    again = run_all(pretraining(tmp_path, "force=true", "retry=true"))
    assert (again.failures, again.computed) == ({}, 1)
    assert sorted(path.name for path in run.folder.iterdir()) == sorted(
        (*FILES, "head.safetensors")
    )
    assert run.record()["started"] >= json.loads(before["record.json"])["started"]
    assert (run.folder / "record.json").read_bytes() != before["record.json"]
    products.verify(run.folder, run.record())


@pytest.mark.parametrize("moves", range(5))
def test_a_replacement_that_was_killed_is_completed_by_whoever_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    run = pretraining(tmp_path)
    old = ("encoder.safetensors", "encoder.yaml", "projector.safetensors", "metrics.jsonl")
    head = {**run.identify(), "status": "finished", "scores": [], "encoder": {}, "duration_s": 1}
    leave(run.folder, "old", *old)
    runs.finish(run, {**head, "started": "old"}, run.folder)
    assert run.is_finished
    folder = runs.begin(run)
    assert folder == run.folder / "anew"
    leave(folder, "new", "encoder.safetensors", "encoder.yaml", "metrics.jsonl", "checkpoint.pt")
    assert run.is_finished

    left = moves
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        nonlocal left
        if path.parent == folder and not path.name.startswith("."):
            if left == 0:
                raise Killed
            left -= 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    if moves < 4:
        with pytest.raises(Killed):
            runs.finish(run, {**head, "started": "new"}, folder)
        monkeypatch.undo()
        assert not run.is_finished
        assert runs.begin(run) is None
    else:
        runs.finish(run, {**head, "started": "new"}, folder)
    assert run.is_finished
    assert run.record()["started"] == "new"
    assert sorted(path.name for path in run.folder.iterdir()) == sorted(FILES)
    assert {(run.folder / name).read_text() for name in FILES[1:]} == {"new"}


def test_a_computation_that_is_interrupted_before_its_record_counts_for_nothing(
    tmp_path: Path,
) -> None:
    run = pretraining(tmp_path)
    leave(run.folder, "old", "encoder.safetensors")
    head = {**run.identify(), "status": "finished", "scores": [], "encoder": {}, "duration_s": 1}
    runs.finish(run, head, run.folder)
    folder = runs.begin(run)
    assert folder is not None
    leave(folder, "half", "encoder.safetensors", "checkpoint.pt")
    assert run.is_finished
    assert (run.folder / "encoder.safetensors").read_text() == "old"
    assert runs.begin(run) == folder
    assert (folder / "checkpoint.pt").exists()  # with force=true it goes on
    leave(folder, "{", "record.json")  # no record: what stands there is discarded
    assert not run.is_finished
    assert runs.begin(run) == folder
    assert list(folder.iterdir()) == []


def test_a_pretraining_without_its_encoder_is_computed_again_and_keeps_its_record(
    tmp_path: Path,
) -> None:
    run = pretraining(tmp_path)
    run_all(run)
    first = run.record()
    (run.folder / "encoder.safetensors").unlink()
    assert not run.is_finished
    evaluation = tiny(tmp_path, *METHOD, "protocol=knn", tuned=False)
    outcome = run_all(evaluation)
    assert (outcome.failures, outcome.computed) == ({}, 2)
    assert run.record()["weights_sha256"] == first["weights_sha256"]


@pytest.mark.parametrize("name", ["encoder.safetensors", "encoder.yaml", "projector.safetensors"])
def test_an_encoder_that_is_not_its_records_is_refused_until_it_is_removed(
    tmp_path: Path, name: str
) -> None:
    evaluation = tiny(tmp_path, *METHOD, "protocol=knn", tuned=False)
    (run,) = evaluation.requirements
    run_all(run)
    path = run.folder / name
    if not path.exists():  # supervised training leaves no projector
        leave(run.folder, "projector", name)
        runs.finish(run, run.record(), run.folder)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    (told,) = run_all(evaluation).failures.values()
    assert told.startswith(f"`{path}` must be the file that the run's record names (sha256 ")
    assert "it was damaged or replaced" in told
    assert evaluation.failure()["stage"] == "check"  # type: ignore[index]
    (run.folder / "encoder.safetensors").unlink()
    assert run_all(evaluation).failures == {}


def test_weights_are_compared_with_records_that_name_no_files(tmp_path: Path) -> None:
    evaluation = tiny(tmp_path, *METHOD, "protocol=knn", tuned=False)
    (run,) = evaluation.requirements
    run_all(run)
    record = {key: value for key, value in run.record().items() if key != "files"}
    (run.folder / "record.json").write_text(json.dumps(record))
    other = models.build(run.resolved["model"], seed=1)
    models.save_encoder(other, run.folder, config=run.config["model"], parents=[])
    (told,) = run_all(evaluation).failures.values()
    assert f"(sha256 {record['weights_sha256'][:16]}…), but holds " in told


def test_a_folder_that_is_removed_meanwhile_gets_its_record_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = execution.dataset_of

    def removes(run: runs.Run, **keys: Any) -> Any:
        if keys.get("stage"):
            shutil.rmtree(tmp_path)
        return read(run, **keys)

    monkeypatch.setattr(execution, "dataset_of", removes)
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    assert run_all(run).failures == {}
    assert run.is_finished
    tmp_path.mkdir(exist_ok=True)


def test_a_record_that_is_asked_for_and_missing_is_said(tmp_path: Path) -> None:
    run = pretraining(tmp_path)
    with pytest.raises(Unreadable, match="must be the run's record"):
        run.record()
