"""A sweep that somebody else sent is not simply executed."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import odd_runs
import pytest
from tiny_runs import tiny

from launchers import __main__ as cli
from launchers import signature
from launchers.sweep import SweepRefused
from launchers.sweep_folder import SweepFolder
from ssl_transfer.runs import Run
from ssl_transfer.system.files import read_json, write_json


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_key_is_made_once_and_nobody_else_can_read_it(state: Path) -> None:
    first = signature.sign(b"runs", {"name": "local"})
    assert signature.is_own(first, b"runs", {"name": "local"})
    assert (state / "ssl_transfer" / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (state / "ssl_transfer").iterdir()] == ["key"]
    for runs, launcher in [(b"rums", {"name": "local"}), (b"runs", {"name": "slurm"})]:
        assert not signature.is_own(first, runs, launcher)
    (state / "ssl_transfer" / "key").write_bytes(bytes(32))  # another user's
    assert not signature.is_own(first, b"runs", {"name": "local"})
    for wrong in (None, 1, "", "é"):
        assert not signature.is_own(wrong, b"runs", {"name": "local"})


def test_without_a_home_nothing_is_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert signature.sign(b"", {}) is None
    assert not signature.is_own(None, b"", {})


def retry(outputs: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["launchers", "retry", "--outputs", str(outputs), *arguments])
    return cli.main()


def refused(outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    with pytest.raises(SweepRefused):
        retry(outputs, monkeypatch)
    return str(capsys.readouterr().err)


@pytest.fixture
def sweep(tmp_path: Path, state: Path) -> SweepFolder:
    """Return the sweep of a run on own code that has not begun."""
    run = odd_runs.odd(tmp_path / "out", "Smooth", "protocol=knn")
    return SweepFolder.create([run], tmp_path / "out", {"name": "in_process"})


def test_own_code_of_an_own_sweep_is_called(
    sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retry(sweep.outputs, monkeypatch) == 0
    assert sweep.runs()[0].is_finished


def test_own_code_of_a_foreign_sweep_needs_the_users_word(
    sweep: SweepFolder,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (state / "ssl_transfer" / "key").unlink()  # the user's own is another one
    said = refused(sweep.outputs, monkeypatch, capsys)
    assert "is 'odd_runs.Smooth'; add --trust-targets if you trust the author of that file." in said
    assert not sweep.runs()[0].folder.exists()
    assert retry(sweep.outputs, monkeypatch, "--trust-targets") == 0
    assert sweep.runs()[0].is_finished


def rewrite(sweep_folder: SweepFolder, change: Any) -> None:
    """Change the configuration of a sweep's only run, as its signature does not allow."""
    config = sweep_folder.runs()[0].config
    change(config)
    run = Run(config)
    (sweep_folder.folder / "runs.jsonl.gz").write_bytes(gzip.compress(json.dumps(config).encode()))
    about = read_json(sweep_folder.folder / "sweep.json") or {}
    about |= {"runs": [run.id], "folders": [run.place]}
    write_json(sweep_folder.folder / "sweep.json", about)  # with a checksum that fits


@pytest.fixture
def known(tmp_path: Path, state: Path) -> SweepFolder:
    """Return the sweep of a run that calls nothing but this project."""
    run = tiny(tmp_path / "out", "protocol=knn", tuned=False)
    return SweepFolder.create([run], tmp_path / "out", {"name": "in_process"})


def test_a_foreign_sweep_of_this_projects_code_is_sent_again(
    known: SweepFolder, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "ssl_transfer" / "key").unlink()
    assert retry(known.outputs, monkeypatch) == 0


@pytest.mark.parametrize("key", ["outputs", "features", "stage"])
def test_a_foreign_sweep_writes_nowhere_else(
    known: SweepFolder, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rewrite(known, lambda config: config["paths"].update({key: str(tmp_path / "elsewhere")}))
    assert f"`paths.{key}` in " in refused(known.outputs, monkeypatch, capsys)
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_folder_that_leads_elsewhere_is_refused(
    known: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (folder := known.runs()[0].folder).parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    rewrite(known, lambda config: None)
    assert "but `the run's folder` in " in refused(known.outputs, monkeypatch, capsys)


def test_a_foreign_sweep_downloads_to_nowhere_else(
    known: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    weights = {"path": str(tmp_path / ".profile"), "url": "http://127.0.0.1:9/x", "download": True}
    rewrite(known, lambda config: config["model"].update(weights=weights))
    assert "but `model.weights.path` in " in refused(known.outputs, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("launcher", "resources", "key"),
    [({"name": "slurm", "setup": ["touch evil"]}, {}, "setup"),
     ({"name": "slurm", "pretrain": {"setup": ["x"]}}, {}, "pretrain.setup"),
     ({"name": "slurm", "comment": "a\ntouch evil"}, {}, "comment"),
     ({"name": "slurm", "additional": {"a\nb": 1}}, {}, "additional"),
     ({"name": "slurm"}, {"setup": ["touch evil"]}, "setup")],
)  # fmt: skip
def test_a_foreign_sweep_adds_no_shell_commands(
    known: SweepFolder, launcher: dict[str, Any], resources: dict[str, Any], key: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    about = {**known.about, "launcher": launcher}
    write_json(known.folder / "sweep.json", about)
    rewrite(known, lambda config: config["protocol"].update(resources=resources))
    assert f"but `{key}` in " in refused(known.outputs, monkeypatch, capsys)
