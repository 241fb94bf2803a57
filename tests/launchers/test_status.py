"""How a sweep stands, told from folders that a test wrote and a queue that it invented."""

import json
import os
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm

from launchers import status
from launchers.status import RunStatus
from launchers.sweep import duration
from launchers.sweep_folder import SweepFolder
from ssl_transfer.system import claims

SCORE = {"metric": "top1", "value": 0.875, "unit": "fraction", "split": "test", "primary": True}
RECORD = {"status": "finished", "scores": [SCORE], "duration_s": 2.5, "job": None}


def metrics(*steps: tuple[str, int, float]) -> str:
    """Return lines of a metrics file: training, step of 100, time."""
    lines = [
        json.dumps({"training": training, "step": step, "steps": 100, "loss": 1.0, "time": when})
        for training, step, when in steps
    ]
    return "\n".join(['{"time": 0.0, "note": "no training"}', *lines, '{"training": "fine'])


class Folders:
    """A sweep whose runs are written by hand."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self.places: dict[str, str] = {}

    def add(self, name: str, **files: Any) -> Path:
        """Add a run; each keyword is a file of its folder."""
        place = f"knn/{name}"
        self.places[f"{len(self.places):04x}{name}"] = place
        folder = self.outputs / place
        folder.mkdir(parents=True, exist_ok=True)
        for key, content in files.items():
            file = "metrics.jsonl" if key == "metrics" else f"{key}.json"
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / file).write_text(text)
        return folder

    def sweep_folder(self, **about: Any) -> SweepFolder:
        folder = self.outputs / "sweeps" / "2026-01-01_00-00-00_abcdef"
        folder.mkdir(parents=True, exist_ok=True)
        text = {
            "command": "python run.py -m", "launcher": {"name": "in_process"},
            "runs": list(self.places), "folders": list(self.places.values()), **about,
        }  # fmt: skip
        (folder / "sweep.json").write_text(json.dumps(text))
        return SweepFolder(folder)

    def survey(self) -> dict[str, RunStatus]:
        return {run.place.removeprefix("knn/"): run for run in status.survey(self.sweep_folder())}


@pytest.fixture
def folders(tmp_path: Path, slurm: FakeSlurm) -> Folders:
    return Folders(tmp_path / "outputs")


def test_what_is_done_shows_its_score_whatever_else_lies_there(folders: Folders) -> None:
    folders.add("here", record=RECORD)
    folders.add("there", record={**RECORD, "job": "12_3"}, claim={"job": "12_3"})
    why = {"status": "not_applicable", "reason": "there is no BatchNorm.", "scores": []}
    folders.add("never", record=why)
    found = folders.survey()
    assert found["here"] == RunStatus(
        "0000here", "knn/here", "done", "top1 87.50 % (2.5 s)", owner="", log=None
    )
    assert (found["there"].state, found["there"].owner) == ("done", "job 12_3")
    assert found["never"].detail == "not applicable: there is no BatchNorm."


def test_what_failed_shows_why_who_and_where(folders: Folders, slurm: FakeSlurm) -> None:
    error = {"error": "the disk is full; free some space.", "job": "12_3", "log": "12_3_log.out"}
    folders.add("here", failure={**error, "job": None, "log": None})
    folders.add("there", failure=error)
    folders.add("torn", failure='{"error": "the')
    found = folders.survey()
    assert found["here"].state == found["there"].state == "failed"
    assert found["here"].detail == error["error"]
    assert (found["there"].owner, found["there"].log) == ("job 12_3", "12_3_log.out")
    assert found["torn"].state == "new"
    assert slurm.calls("squeue") == []


def test_what_waits_and_runs_is_asked_for_in_one_call(folders: Folders, slurm: FakeSlurm) -> None:
    folders.add("first", claim={"job": "12_0", "log": "a"})
    folders.add("second", claim={"job": "12_1", "log": "b"})
    folders.add("starting", claim={"job": "13"})
    slurm.queue("12_0|RUNNING|None|n1", "12_1|PENDING|Dependency|", "13|COMPLETING|None|n2")
    found = folders.survey()
    assert found["first"].state == "running"
    assert found["first"].owner == "job 12_0 on n1"
    assert found["first"].log == "a"
    assert found["second"].state == "waiting"
    assert found["second"].detail == "Dependency"
    assert found["starting"].state == "running"
    assert len(slurm.calls("squeue")) == 1
    assert slurm.calls("sacct") == []


@pytest.mark.parametrize(
    ("steps", "detail"),
    [
        ([("pretrain", 10, 5.0)], "pretrain: step 10/100"),
        ([("tune", 10, 0.0), ("tune", 20, 5.0)], "tune: step 20/100, 40 s left"),
        ([("a", 90, 0.0), ("b", 10, 100.0), ("b", 11, 190.0)], "b: step 11/100, 2 h 14 min left"),
        ([("a", 10, 0.0), ("a", 20, 60.0)], "a: step 20/100, 8 min left"),
        ([], ""),
    ],
)
def test_a_training_shows_its_step_and_how_long_it_will_take(
    folders: Folders, slurm: FakeSlurm, steps: list[tuple[str, int, float]], detail: str
) -> None:
    folders.add("run", claim={"job": "12"}, metrics=metrics(*steps))
    slurm.queue("12|RUNNING|None|n1")
    assert folders.survey()["run"].detail == detail


def test_a_long_log_of_metrics_is_read_from_its_end(folders: Folders, slurm: FakeSlurm) -> None:
    lines = [json.dumps({"training": "a", "step": i, "steps": 10_000, "time": float(i)})
             for i in range(1, 9001)]  # fmt: skip
    folders.add("run", claim={"job": "12"}, metrics="\n".join(lines) + "\n")
    slurm.queue("12|RUNNING|None|n1")
    assert folders.survey()["run"].detail == "a: step 9000/10000, 17 min left"


def test_what_a_job_left_behind_is_lost_and_its_last_words_are_shown(
    folders: Folders, slurm: FakeSlurm, tmp_path: Path
) -> None:
    log = tmp_path / "12_log.out"
    log.write_text("first\nsecond\n\nthird\n   slurmstepd: error: Detected 1 oom-kill event  \n\n")
    folders.add("killed", claim={"job": "12", "log": str(log)})
    folders.add("forgotten", claim={"job": "13", "log": str(tmp_path / "none")})
    folders.add("cancelled", claim={"job": "14_2"})
    folders.add("failed", claim={"job": "15"}, failure={"error": "why", "job": "15"})
    slurm.queue("12|OUT_OF_MEMORY|None|")
    slurm.says("sacct", "14_[1-2]|CANCELLED by 1000|0:0|\n15|FAILED|1:0|n1\n")
    found = folders.survey()
    last = "second; third; slurmstepd: error: Detected 1 oom-kill event"
    assert found["killed"].detail == f"job 12: out of memory; {last}"
    assert found["forgotten"].detail == "job 13 is no longer known to SLURM"
    assert found["cancelled"].detail == "job 14_2: cancelled (by 1000)"
    assert {found[name].state for name in ("killed", "forgotten", "cancelled")} == {"lost"}
    assert (found["failed"].state, found["failed"].detail) == ("failed", "why")
    assert slurm.calls("sacct")[0].endswith("-j 13,14,15")


def test_a_silent_controller_makes_no_run_lost(
    folders: Folders, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.add("job", claim={"job": "12"})
    folders.add("done", record=RECORD)
    slurm.is_silent()
    found = folders.survey()
    assert (found["job"].state, found["job"].detail) == ("waiting", "SLURM does not answer")
    assert found["done"].state == "done"
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: SLURM's controller does not answer")


def test_processes_hold_runs_too(folders: Folders, slurm: FakeSlurm) -> None:
    me = claims.owner()
    folders.add("mine", claim={**me, "log": "slot0"}, metrics=metrics(("knn", 10, 1.0)))
    folders.add("gone", claim={**me, "started": "1"})
    folder = folders.add("elsewhere", claim={**me, "host": "elsewhere"})
    folders.add("silent", claim={**me, "host": "elsewhere"})
    long_ago = time.time() - claims.DEAD_AFTER_SECONDS - 1
    os.utime(folders.outputs / "knn" / "silent" / "claim.json", (long_ago, long_ago))
    found = folders.survey()
    owner = f"process {me['pid']} on {me['host']}"
    assert found["mine"] == RunStatus(
        "0000mine", "knn/mine", "running", "knn: step 10/100", owner, "slot0"
    )
    assert (found["gone"].state, found["gone"].detail) == ("lost", f"{owner} is gone")
    assert found["elsewhere"].state == "running"
    assert found["silent"].state == "lost"
    assert slurm.calls("squeue") == []
    assert folder.exists()


def test_what_nobody_has_is_new_even_without_a_folder(folders: Folders) -> None:
    (folders.add("begun") / "checkpoint.pt").touch()
    folders.add("untouched")
    folders.places["ffff"] = "knn/nowhere"
    found = folders.survey()
    assert (found["begun"].state, found["begun"].detail) == ("new", "has a checkpoint")
    assert (found["untouched"].state, found["untouched"].detail) == ("new", "")
    assert found["nowhere"].state == "new"


def test_requirements_are_shown_before_what_was_asked_for(folders: Folders) -> None:
    folders.add("asked", record=RECORD)
    sweep_folder = folders.sweep_folder(required={"ffff": "pretrain/parent"})
    assert [run.place for run in status.survey(sweep_folder)] == ["pretrain/parent", "knn/asked"]


def test_ten_thousand_runs_take_one_question(folders: Folders, slurm: FakeSlurm) -> None:
    for number in range(10_000):
        folders.places[f"{number:016x}"] = f"knn/run_{number}"
    for number in range(1200):
        folder = folders.outputs / "knn" / f"run_{number}"
        folder.mkdir(parents=True)
        if number < 200:
            (folder / "record.json").write_text(json.dumps(RECORD))
        else:
            (folder / "claim.json").write_text(json.dumps({"job": f"12_{number}"}))
    slurm.queue(*(f"12_{number}|PENDING|Priority|" for number in range(200, 1200)))
    found = status.survey(folders.sweep_folder())
    assert status.counts(found) == "1000 waiting, 8800 new, 200 done"
    assert [run.place for run in found[:2]] == ["knn/run_0", "knn/run_1"]
    assert len(slurm.calls("squeue")) == 1


def test_the_table_shows_first_what_needs_attention_and_counts_the_rest() -> None:
    states: list[status.State] = ["done", "failed", "new", "running", "lost", "waiting", "failed"]
    found = [
        RunStatus(str(i), f"knn/{'x' * i}", state, f"detail {i}", f"owner {i}")
        for i, state in enumerate(states)
    ]
    lines = status.table(found)
    assert [line.split()[0] for line in lines[:-1]] == [
        "running", "waiting", "new", "lost", "failed", "failed", "done",
    ]  # fmt: skip
    assert lines[0] == "running knn/xxx     owner 3  detail 3"
    assert lines[4].endswith("detail 1")  # the sweep's order within a state
    assert lines[-1] == "1 running, 1 waiting, 1 new, 1 lost, 2 failed, 1 done"
    cut = status.table(found, rows=2)
    assert [line.split()[0] for line in cut[:2]] == ["running", "waiting"]
    assert cut[2:] == ["… and 5 more (--all)", lines[-1]]
    assert status.table([]) == ["no runs"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.258, "0.3 s"),
        (5.4, "5 s"),
        (59.7, "1 min"),
        (60, "1 min"),
        (3599, "1 h"),
        (5400, "1 h 30 min"),
        (90_000, "25 h"),
        (3_601_000, "1,000 h"),
    ],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_watching_ends_with_the_last_run_that_waits_or_runs(
    folders: Folders, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folders.add("run", claim={"job": "12"})
    scenes: list[Callable[[], None]] = [
        lambda: slurm.queue("12|RUNNING|None|n1"),
        lambda: slurm.queue("12|RUNNING|None|n1"),
        lambda: slurm.queue("12|FAILED|None|n1"),
    ]
    slurm.queue("12|PENDING|None|")
    clock = types.SimpleNamespace(sleep=lambda seconds: scenes.pop(0)())
    monkeypatch.setattr(status, "time", clock)
    status.watch(folders.sweep_folder(), every_seconds=3)
    assert capsys.readouterr().out.splitlines() == ["1 waiting", "1 running", "1 lost"]
    assert scenes == []


def test_leaving_the_watch_leaves_the_jobs(
    folders: Folders, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def leave(seconds: float) -> None:
        raise KeyboardInterrupt

    folders.add("run", claim={"job": "12"})
    slurm.queue("12|PENDING|None|")
    monkeypatch.setattr(status, "time", types.SimpleNamespace(sleep=leave))
    with pytest.raises(KeyboardInterrupt):
        status.watch(folders.sweep_folder())
    assert "the jobs go on; see them again with: python -m launchers status --sweep" in (
        capsys.readouterr().out
    )


def test_what_files_say_is_shown_as_text_on_one_line(folders: Folders) -> None:
    folders.add("bad", failure={"error": "\x1b[2J\u202eevil\nrunning knn/forged"})
    lines = status.table(status.survey(folders.sweep_folder()))
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 2


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "knn/../../x"])
def test_a_sweep_names_no_folder_outside_of_the_outputs(folders: Folders, place: str) -> None:
    folders.add("here")
    with pytest.raises(SystemExit):
        folders.sweep_folder(folders=[place])


def test_a_claim_shows_no_file_that_is_no_log(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password")
    folders.add("gone", claim={"job": "12_9", "log": str(tmp_path / "secret")})
    assert "password" not in folders.survey()["gone"].detail
    assert status.last_lines(str(tmp_path / "secret"), 3) == []
