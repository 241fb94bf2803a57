"""What is removed of an outputs folder, and what never is."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import run_all, tiny

from launchers import __main__ as cli
from launchers import clean
from ssl_transfer.datasets.decoded import DATASET
from ssl_transfer.features.extraction import FeatureStore
from ssl_transfer.runs import Run
from ssl_transfer.runs.execution import fail
from ssl_transfer.system import claims


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
    store.get({"weights": "w", "data": "d", "samples": 2}, lambda: np.zeros((2, 3), np.float32))
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
    line = ["launchers", "clean", "--outputs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    assert cli.main() == 0
    listed = capsys.readouterr().out
    assert "2.0 kB  files of finished runs for a resumption (1)" in listed
    assert "folders of failed runs, which have no record (1)" in listed
    assert "features of weights and data that no record names (1)" in listed
    assert "stays: 1 interrupted run, which can go on" in listed
    assert "add --yes" in listed
    assert contents(tmp_path) == everything
    monkeypatch.setattr(sys, "argv", [*line, "--yes"])
    assert cli.main() == 0
    assert "removed " in capsys.readouterr().out
    unused = {name for name in before if name.startswith("features/")} - contents(tmp_path)
    kept = resumable.folder.relative_to(tmp_path).as_posix()
    assert len(unused) == 1
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


def test_a_live_run_and_all_features_stay(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = tiny(tmp_path, "protocol=knn", "seed=1", tuned=False)
    fail(failed, "it failed", trace="", stage="work")
    assert claims.try_claim(failed.folder)
    before = contents(tmp_path)
    assert clean.clean(tmp_path, remove=True) == 0
    text = capsys.readouterr().out
    assert "1 run in progress" in text
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
    assert "does not exist" in capsys.readouterr().out
