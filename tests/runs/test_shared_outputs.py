"""``paths.group_writable``: colleagues may go on with what one of them began."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import submitit
from tiny_runs import tiny

from launchers import base
from launchers.job import Job
from ssl_transfer.system.files import let_group_write

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["model.width=4", "model.preprocessing.size=16", "dataset.labels_per_class=4"]
QUICK += ["dataset.test_per_class=2", "trainer.device=cpu", "protocol=knn"]


@pytest.fixture(autouse=True)
def private() -> Iterator[None]:
    """The umask of most users: nobody else may write."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def modes(folder: Path) -> dict[str, int]:
    """Return the permissions of everything below a folder."""
    return {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*")}


def run_py(folder: Path, *arguments: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *QUICK, *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SSL_TRANSFER_OUTPUTS": str(folder / "out")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return modes(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [[], ["-m", "seed=0"], ["-m", "seed=0", "hydra/launcher=local", "hydra.launcher.n_jobs=1"]],
    ids=["run", "sweep", "local"],
)
def test_everything_that_a_command_leaves_may_be_changed_by_the_group(
    tmp_path: Path, how: list[str]
) -> None:
    found = run_py(tmp_path, "paths.group_writable=true", *how)
    for kind in ["out/knn/*/record.json"] + ["out/sweeps/*/sweep.json", "out/.cache/*"] * bool(how):
        assert list(tmp_path.glob(kind)), kind
    assert {path: oct(mode) for path, mode in found.items() if not mode & stat.S_IWGRP} == {}
    assert not any(mode & stat.S_IWOTH for mode in found.values())


@pytest.mark.slow
def test_by_default_only_their_owner_changes_them(tmp_path: Path) -> None:
    found = run_py(tmp_path)
    assert found
    assert not any(mode & (stat.S_IWGRP | stat.S_IWOTH) for mode in found.values())


@pytest.mark.parametrize(("shared", "expected"), [("true", 0o002), ("false", 0o022)])
def test_a_job_heeds_it_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str, expected: int
) -> None:
    class Started(Exception):
        pass

    def start() -> None:
        raise Started

    monkeypatch.setattr(submitit, "JobEnvironment", start)
    run = tiny(tmp_path, f"paths.group_writable={shared}")
    with pytest.raises(Started):
        Job([run.config])()
    assert umask() == expected


@pytest.mark.parametrize(("before", "after"), [(0o022, 0o002), (0o077, 0o007), (0o002, 0o002)])
def test_what_others_may_do_stays_as_the_user_set_it(before: int, after: int) -> None:
    os.umask(before)
    let_group_write({"group_writable": False})
    let_group_write({})
    assert umask() == before
    let_group_write({"group_writable": True})
    assert umask() == after


def test_a_job_resolves_the_stage_on_its_own_node_and_all_else_is_fixed_when_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_DISK", raising=False)
    paths = tiny(tmp_path, "paths.data=images").config["paths"]
    sent = base._absolute(json.dumps({**paths, "stage": "${oc.env:NODE_DISK,null}"}))
    assert sent["stage"] == "${oc.env:NODE_DISK,null}"
    assert sent["data"] == str(tmp_path / "images")
    assert sent["features"] == str(tmp_path / "features")
    assert sent["group_writable"] is False
    assert base._absolute(json.dumps({**paths, "stage": "disk"}))["stage"] == str(tmp_path / "disk")
    assert base._absolute(json.dumps(paths))["stage"] is None
