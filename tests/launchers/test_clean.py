"""What is removed of an outputs folder, and what never is."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import run_all, tiny

from launchers import __main__ as cli
from launchers import clean, leftovers, sweep
from launchers.sweep_folder import SweepFolder
from ssl_transfer.datasets.decoded import DATASET
from ssl_transfer.features import FeatureStore
from ssl_transfer.runs import Run
from ssl_transfer.runs.failure import fail
from ssl_transfer.system import claims
from ssl_transfer.system.files import write_json


def contents(outputs: Path) -> set[str]:
    return {
        path.relative_to(outputs).as_posix()
        for path in outputs.rglob("*")
        if path.is_file() and path.name != "runs.jsonl.gz"
    }


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    """A finished run with features in the store, and one array that no record names."""
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    assert run_all(run).failures == {}
    store = FeatureStore(tmp_path / "features")
    identity = {"weights": "w", "data": "d", "samples": 2}
    store.get(identity, 2, lambda indices: iter([(indices, np.zeros((2, 3), np.float32))]))
    return run


def test_only_what_nobody_needs_is_removed(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = contents(tmp_path)
    (finished.folder / "checkpoint.pt").write_bytes(b"0" * 2_000)
    failed = tiny(tmp_path, "protocol=knn", "seed=1", tuned=False)
    fail(failed, "it failed", trace="", stage="work")
    resumable = tiny(tmp_path, "protocol=knn", "seed=2", tuned=False)
    resumable.folder.mkdir(parents=True)
    (resumable.folder / "checkpoint.pt").write_bytes(b"0" * 3_000)
    everything = contents(tmp_path)
    line = ["launchers", "clean", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    assert cli.main() == 0
    listed = capsys.readouterr().out
    assert "2.0 kB  checkpoints of finished runs (1)" in listed
    assert "folders of failed runs (1)" in listed
    assert "features of weights and data that no record names (1)" in listed
    assert "3.0 kB  stays: 1 interrupted run (the same command continues it)" in listed
    size = sum((tmp_path / name).stat().st_size for name in before if name.startswith("knn/"))
    assert f"{sweep.size(size)}  stays: 1 finished run (records, " in listed
    assert "add --yes" in listed
    assert contents(tmp_path) == everything
    monkeypatch.setattr(sys, "argv", [*line, "--yes"])
    assert cli.main() == 0
    assert "removed " in capsys.readouterr().out
    unused = {name for name in before if name.startswith("features/")} - contents(tmp_path)
    kept = resumable.folder.relative_to(tmp_path).as_posix()
    assert {Path(name).suffix for name in unused} == {".npy", ".verified"}
    assert contents(tmp_path) == (before - unused) | {f"{kept}/checkpoint.pt"}
    assert finished.is_finished
    assert not failed.folder.exists()


def test_decoded_images_of_data_that_no_record_names_are_removed(
    finished: Run, tmp_path: Path
) -> None:
    used = finished.record()["data"]["fingerprint"][:32]
    for name, datasets in (("one", ["0" * 32]), ("two", ["0" * 32, used]), ("older", [])):
        store = tmp_path / "decoded" / name
        store.mkdir(parents=True)
        (store / "pixels").write_bytes(b"0" * 10)
        for fingerprint in datasets:
            (store / f"{DATASET}{fingerprint}").touch()
    assert clean.clean(tmp_path, remove=True) == 0
    assert {path.name for path in (tmp_path / "decoded").iterdir()} == {"two", "older"}


def test_statistics_go_with_their_features_and_a_further_set_of_a_run_stays(
    finished: Run, tmp_path: Path
) -> None:
    record = finished.record()
    facts = {"other": ("d", "w"), "own": (record["data"]["fingerprint"], record["weights_sha256"]),
             "further": ("imagenet", record["weights_sha256"])}  # fmt: skip
    folder = tmp_path / "features" / "statistics"
    folder.mkdir()
    for name, (data, weights) in facts.items():
        identity = json.dumps({"weights": weights, "data": data})
        np.savez(folder / f"{name}.npz", identity=np.array(identity))
    write_json(
        finished.folder / "record.json", {**record, "statistics_of": {"fingerprint": "imagenet"}}
    )
    assert clean.clean(tmp_path, remove=True) == 0
    assert {path.stem for path in folder.iterdir()} == {"own", "further"}


def test_an_extraction_that_was_abandoned_is_removed_and_a_recent_one_stays(
    finished: Run, tmp_path: Path
) -> None:
    for name in ("abandoned", "recent"):
        folder = tmp_path / "features" / f"{name}.partial"
        folder.mkdir()
        (folder / "rows.npy").write_bytes(b"0")
        long_ago = time.time() - 10 * leftovers.QUIET_SECONDS
        if name == "abandoned":
            os.utime(folder / "rows.npy", (long_ago, long_ago))
    assert clean.clean(tmp_path, remove=True) == 0
    assert [p.name for p in (tmp_path / "features").glob("*.partial")] == ["recent.partial"]


def test_a_live_run_and_all_features_stay(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = tiny(tmp_path, "protocol=knn", "seed=1", tuned=False)
    fail(failed, "it failed", trace="", stage="work")
    assert claims.try_claim(failed.folder)
    before = contents(tmp_path)
    assert clean.clean(tmp_path, remove=True) == 0
    text = capsys.readouterr().out
    assert "stays: 1 run in progress (everything)" in text
    assert "stays: features (a run in progress may read them)" in text
    assert contents(tmp_path) == before
    claims.release(failed.folder)
    assert clean.clean(tmp_path, remove=True) == 0
    assert not failed.folder.exists()


def test_foreign_folders_and_a_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    (tmp_path / "mine" / "photos" / "a.jpg").write_bytes(b"0")
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "mine.npy").write_bytes(b"0")
    assert clean.clean(tmp_path, remove=True) == 0
    assert contents(tmp_path) == {"mine/photos/a.jpg", "features/mine.npy"}
    assert clean.clean(tmp_path / "nowhere", remove=False) == 2
    assert "does not exist" in capsys.readouterr().err


def failing(outputs: Path, *choices: str, stage: str, checkpoint: bool) -> Run:
    run = tiny(outputs, "protocol=knn", *choices, tuned=False)
    fail(run, "it failed", trace="", stage=stage)
    if checkpoint:
        (run.folder / "checkpoint.pt").write_bytes(b"0" * 1_000)
    return run


def kinds(outputs: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for part in leftovers.survey(outputs).leftovers:
        found.setdefault(part.kind, []).extend(part.paths)
    return found


def test_progress_that_the_same_command_continues_stays(tmp_path: Path) -> None:
    full_disk = failing(tmp_path, "seed=1", stage="check", checkpoint=True)
    diverged = failing(tmp_path, "seed=2", stage="work", checkpoint=True)
    no_data = failing(tmp_path, "seed=3", stage="check", checkpoint=False)
    assert kinds(tmp_path) == {
        "folders of failed runs": [no_data.folder],
        "folders of failed runs, with progress that retry=true would resume": [diverged.folder],
    }
    assert clean.clean(tmp_path, remove=True) == 0
    assert contents(tmp_path) == {
        f"{full_disk.place}/{name}" for name in ("checkpoint.pt", "failure.json")
    }


def test_a_repetition_is_removed_only_if_it_failed_for_good(finished: Run, tmp_path: Path) -> None:
    again = finished.folder / "anew"
    again.mkdir()
    (again / "checkpoint.pt").write_bytes(b"0" * 1_000)
    scores = finished.record()["scores"]
    assert not any("repetitions" in kind for kind in kinds(tmp_path))
    fail(finished, "the disk was full", trace="", stage="check")
    assert not any("repetitions" in kind for kind in kinds(tmp_path))
    fail(finished, "the loss must stay finite", trace="", stage="work")
    paths = kinds(tmp_path)["repetitions of finished runs that failed"]
    assert paths == [finished.folder / "failure.json", again]
    assert clean.clean(tmp_path, remove=True) == 0
    assert not again.exists()
    assert finished.failure() is None
    assert finished.record()["scores"] == scores


def test_files_of_other_programs_are_not_taken_for_runs(tmp_path: Path) -> None:
    for name, text in (("record.json", '{"run_id": "12345678ab"}'), ("failure.json", "[]")):
        folder = tmp_path / "experiments" / name
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
        (folder / "checkpoint.pt").write_bytes(b"0")
    before = contents(tmp_path)
    assert clean.clean(tmp_path, remove=True) == 0
    assert contents(tmp_path) == before


def test_what_changed_after_the_listing_stays(tmp_path: Path) -> None:
    run = failing(tmp_path, "seed=1", stage="work", checkpoint=False)
    (part,) = leftovers.survey(tmp_path).leftovers
    (run.folder / "failure.json").unlink()
    assert run_all(run).failures == {}
    assert not clean._remove(part)
    assert run.is_finished
    assert claims.read(run.folder) is None


def test_waiting_runs_of_a_sweep_in_progress_stay(tmp_path: Path) -> None:
    first = failing(tmp_path, "seed=1", stage="work", checkpoint=True)
    waiting = failing(tmp_path, "seed=2", stage="work", checkpoint=True)
    other = failing(tmp_path, "seed=3", stage="work", checkpoint=True)
    SweepFolder.create([first, waiting], tmp_path, {"name": "local"})
    assert claims.try_claim(first.folder)
    (paths,) = kinds(tmp_path).values()
    assert paths == [other.folder]
    claims.release(first.folder)


def test_only_old_incomplete_files_are_removed(finished: Run, tmp_path: Path) -> None:
    assert clean.clean(tmp_path, remove=True) == 0
    before = contents(tmp_path)
    old, new = tmp_path / "features" / ".a.npy.0123abcd.tmp", finished.folder / ".b.89abcdef.tmp"
    for path in (old, new, finished.folder / ".claim.0123abcd.tmp"):
        path.write_bytes(b"0")
    hours_ago = time.time() - 2 * leftovers.QUIET_SECONDS
    os.utime(old, (hours_ago, hours_ago))
    os.utime(finished.folder / ".claim.0123abcd.tmp", (hours_ago, hours_ago))
    assert clean.clean(tmp_path, remove=True) == 0
    kept = {f"{finished.place}/{name}" for name in (".b.89abcdef.tmp", ".claim.0123abcd.tmp")}
    assert contents(tmp_path) == before | kept


def test_what_cannot_be_removed_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = failing(tmp_path, "seed=1", stage="work", checkpoint=False)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(clean, "_delete", refuse)
    assert clean.clean(tmp_path, remove=True) == 1
    captured = capsys.readouterr()
    assert "removed 0 B" in captured.out
    assert "must be removable, but Permission denied" in captured.err
    assert run.failure() is not None
