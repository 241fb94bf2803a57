"""A sweep side by side on this computer, in real processes, few because each loads torch."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import odd_runs
import pytest
import torch
from tiny_runs import METHOD, run_all
from waiting import wait_for

from launchers import __main__ as cli
from launchers import local, status, sweep
from launchers.sweep_folder import SweepFolder
from ssl_transfer.runs import Run

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Swept:
    """What a sweep of good and bad runs left."""

    outputs: Path
    notes: Path
    given: list[str]
    fault: Path
    pretraining: Run
    good: list[Run]
    broken: Run
    dies: Run
    outcome: sweep.Outcome
    folder: SweepFolder
    states: dict[str, status.RunStatus]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute in this process as the slots do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("local")
    notes, fault = folder / "notes", folder / "fault"
    notes.mkdir()
    fault.touch()
    smooth = [*METHOD, f"+model.notes={notes}"]
    good = [
        odd_runs.odd(folder / "out", "Smooth", *smooth, "protocol=knn"),
        odd_runs.odd(folder / "out", "Smooth", *smooth, "protocol=linear_probe"),
    ]
    dies = ["Dies", f"+model.notes={notes}", f"+model.file={fault}", "protocol=knn"]
    bad = [
        odd_runs.odd(folder / "out", *dies),
        odd_runs.odd(folder / "out", "Broken", f"+model.file={fault}", "protocol=knn"),
    ]
    options = {"n_jobs": None, "runs_per_gpu": 1, "threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
        patch.setenv("PYTHONPATH", odd_runs.ENVIRONMENT["PYTHONPATH"])
        outcome = local.send([*good, *bad], folder / "out", options)
    (pretraining,) = good[0].requirements
    given = sorted(path.name for path in notes.iterdir())
    # A test below sends a second sweep to the same outputs; what is read of the first one is read
    # here, so that the tests do not depend on their order.
    own = SweepFolder.find(folder / "out")
    states = {run.id: run for run in status.survey(own)}
    return Swept(
        folder / "out", notes, given, fault, pretraining, good, bad[1], bad[0], outcome, own, states
    )


@pytest.mark.slow
def test_what_can_be_done_ends_as_in_a_single_process(
    swept: Swept, tmp_path: Path, one_thread: None
) -> None:
    smooth = [*METHOD, f"+model.notes={swept.notes}"]
    alone = [
        odd_runs.odd(tmp_path, "Smooth", *smooth, "protocol=knn"),
        odd_runs.odd(tmp_path, "Smooth", *smooth, "protocol=linear_probe"),
    ]
    assert run_all(*alone).failures == {}
    pairs = [*zip(swept.good, alone, strict=True), (swept.pretraining, alone[0].requirements[0])]
    for mine, theirs in pairs:
        assert mine.id == theirs.id
        found, expected = mine.record(), theirs.record()
        for key in ("scores", "weights_sha256", "data", "requires", "encoder", "selection"):
            assert found.get(key) == expected.get(key), key
        assert sorted(p.name for p in mine.folder.iterdir()) == sorted(
            p.name for p in theirs.folder.iterdir()
        )


@pytest.mark.slow
def test_what_fails_or_dies_is_told_and_stops_nothing(swept: Swept) -> None:
    outcome = swept.outcome
    assert outcome.failures.keys() == {swept.broken.id, swept.dies.id}
    assert outcome.failures[swept.broken.id] == "ArithmeticError: the encoder is broken"
    assert outcome.failures[swept.dies.id].startswith(
        "its process was lost (signal 9, perhaps because memory ran out); see `"
    )
    assert (outcome.computed, outcome.exit_code) == (3, 1)
    kept = swept.folder.about
    assert (kept["failures"], kept["computed"]) == (outcome.failures, 3)
    assert kept["launcher"] == {"name": "local", "n_jobs": None, "runs_per_gpu": 1, "threads": 1}


@pytest.mark.slow
def test_every_slot_was_given_one_of_the_gpus_and_one_thread(swept: Swept) -> None:
    # CUDA_VISIBLE_DEVICES and threads; the checks, before any slot begins, see both GPUs.
    assert swept.given == ["3,5_1", "3_1", "5_1"]


@pytest.mark.slow
def test_the_folder_tells_afterwards_how_each_run_stands(swept: Swept) -> None:
    found = swept.states
    assert [found[run.id].state for run in (swept.pretraining, *swept.good)] == ["done"] * 3
    lost, failed = found[swept.dies.id], found[swept.broken.id]
    assert (lost.state, failed.state) == ("lost", "failed")
    assert failed.detail == "ArithmeticError: the encoder is broken"
    assert lost.owner.startswith("process ")
    assert f"{lost.owner} is gone; " in lost.detail
    assert {lost.log, failed.log} <= {str(path) for path in swept.folder.jobs.iterdir()}


@pytest.mark.slow
def test_logs_and_retry_as_a_user_types_them(
    swept: Swept, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launchers(*arguments: str) -> str:
        line = ["launchers", *arguments, "--outputs", str(swept.outputs)]
        monkeypatch.setattr(sys, "argv", line)
        assert cli.main() == 0
        return capsys.readouterr().out

    shown = launchers("logs", "--failed", "--sweep", swept.folder.folder.name)
    assert "== lost: knn/custom_digits_" in shown
    assert "== failed: knn/custom_digits_" in shown
    assert "Traceback (most recent call last)" in shown
    assert "about to die" in shown
    assert "linear_probe/" not in shown
    swept.fault.unlink()
    monkeypatch.setenv("PYTHONPATH", odd_runs.ENVIRONMENT["PYTHONPATH"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    first = launchers("retry", swept.broken.id[:10])
    assert "1 run in 1 slot; " in first
    assert swept.broken.is_finished
    assert swept.broken.failure() is None
    assert launchers("status").splitlines()[-1] == "1 done"  # the retry is the latest sweep


def test_a_process_of_its_own_carries_out_runs_and_tells_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sweep above is slow; test_pool.py has many slots, whose processes load no torch.
    (fault := tmp_path / "fault").touch()
    (notes := tmp_path / "notes").mkdir()
    smooth = [f"+model.notes={notes}", "protocol=knn"]
    good = odd_runs.odd(tmp_path / "out", "Smooth", *smooth)
    broken = odd_runs.odd(tmp_path / "out", "Broken", f"+model.file={fault}", "protocol=knn")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("PYTHONPATH", odd_runs.ENVIRONMENT["PYTHONPATH"])
    options = {"n_jobs": 1, "runs_per_gpu": 1, "threads": 1}
    outcome = local.send([good, broken], tmp_path / "out", options)
    assert outcome.failures == {broken.id: "ArithmeticError: the encoder is broken"}
    assert good.is_finished
    assert [path.name for path in notes.iterdir()] == ["7_1"]


def children(pid: int) -> list[int]:
    """Return the processes that a process started and what they started."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *children(child)]
    return found


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_where_they_can_go_on(tmp_path: Path, one_thread: None) -> None:
    training = ["protocol=finetune", "protocol.epochs=12"]
    command = odd_runs.overrides(tmp_path / "out", "Smooth", *training)
    run = odd_runs.odd(tmp_path / "out", "Smooth", *training)
    steps = run.folder / "metrics.jsonl"
    own = ["hydra/launcher=local", "hydra.launcher.n_jobs=2", "seed=0"]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "-m", *own, *command],
        cwd=tmp_path,
        env={
            **os.environ, **odd_runs.ENVIRONMENT, odd_runs.SECONDS: "0.1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: (steps.exists() and steps.read_text()) or process.poll() is not None)
            started = children(process.pid)
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, printed
    assert "interrupted; the same command goes on from the last checkpoint" in printed
    assert "Traceback" not in printed
    assert started
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert (run.folder / "checkpoint.pt").exists()
    assert not (run.folder / "claim.json").exists()
    sweep_folder = SweepFolder.find(tmp_path / "out")
    (stands,) = status.survey(sweep_folder)
    assert (stands.state, stands.detail) == ("new", "has a checkpoint")

    assert run_all(*sweep_folder.runs()).failures == {}  # what the same command would carry out
    ((_, resumed),) = run.record()["resumed_at"]
    assert resumed > 0
    calm = odd_runs.odd(tmp_path / "calm", "Smooth", *training)
    run_all(calm)
    assert calm.record()["weights_sha256"] == run.record()["weights_sha256"]
    assert calm.record()["scores"] == run.record()["scores"]


def test_a_wrong_number_of_slots_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in [
        ({"n_jobs": 0}, "`hydra.launcher.n_jobs` must be at least 1, but is 0."),
        ({"runs_per_gpu": 0}, "`hydra.launcher.runs_per_gpu` must be at least 1, but is 0."),
        ({"threads": -2}, "`hydra.launcher.threads` must be at least 1, but is -2."),
        ({"n_jobs": "many"}, "`hydra.launcher.n_jobs` must be int or null, but is 'many'."),
        ({"n_job": 2}, "`hydra.launcher.n_job` is not a key of `hydra.launcher`; did you mean "
         "`n_jobs`?"),
    ]:  # fmt: skip
        with pytest.raises(sweep.SweepRefused) as caught:
            local.LocalLauncher(**options)
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"error: {said}\n"
