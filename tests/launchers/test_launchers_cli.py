"""``python -m launchers`` and the launchers' part of the command line, as a user meets them."""

import os
import subprocess
import sys
from pathlib import Path

import odd_runs
import pytest
from fake_slurm import FakeSlurm
from processes import run_py
from test_status import RECORD, Folders
from tiny_runs import run_all

from launchers import __main__ as cli
from launchers.sweep import SweepRefused
from launchers.sweep_folder import SweepFolder
from ssl_transfer.system import provenance


@pytest.fixture
def launchers(
    tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    """Return a function that types a command and returns exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        line = ["launchers", *arguments, "--outputs", str(tmp_path / "outputs")]
        monkeypatch.setattr(sys, "argv", line)
        code = cli.main()
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def folders(tmp_path: Path, slurm: FakeSlurm) -> Folders:
    found = Folders(tmp_path / "outputs")
    found.add("good", record=RECORD)
    failure = {"error": "the loss must stay finite.", "traceback": "Traceback …\n  in step\n"}
    found.add("bad", failure=failure)
    log = tmp_path / "12_log.out"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    found.add("waits", claim={"job": "12_1", "log": str(log)})
    found.add("runs", claim={"job": "12_0", "log": str(log)})
    slurm.queue("12_0|RUNNING|None|n1", "12_1|PENDING|Resources|")
    found.sweep_folder()
    return found


def test_status_is_a_table_below_the_command(launchers, folders) -> None:
    code, printed, _ = launchers("status")
    head, *rows = printed.splitlines()
    assert code == 0
    assert head.endswith("_abcdef: python run.py -m")
    assert [row.split()[:2] for row in rows[:-1]] == [
        ["running", "knn/runs"], ["waiting", "knn/waits"],
        ["failed", "knn/bad"], ["done", "knn/good"],
    ]  # fmt: skip
    assert rows[-1] == "1 running, 1 waiting, 1 failed, 1 done"


def test_a_long_table_is_cut_unless_all_is_wanted(launchers, folders) -> None:
    for number in range(50):
        folders.add(f"more{number}", record=RECORD)
    folders.sweep_folder()
    assert "… and 14 more (--all)" in launchers("status")[1]
    assert len(launchers("status", "--all")[1].splitlines()) == 1 + 54 + 1


def test_logs_show_the_end_of_what_was_named(launchers, folders) -> None:
    printed = launchers("logs", "knn/runs", "--lines=2")[1].splitlines()
    assert printed[0] == "== running: knn/runs  job 12_0 on n1"
    assert printed[-2:] == ["line 98", "line 99"]
    assert "line 97" not in printed
    by_id = launchers("logs", "0001b")[1]
    assert by_id == (
        "== failed: knn/bad  \n   the loss must stay finite.\nTraceback …\n  in step\n"
    )
    assert launchers("logs", "--failed")[1] == by_id
    assert [line for line in launchers("logs")[1].splitlines() if line.startswith("==")] == [
        "== failed: knn/bad  ", "== running: knn/runs  job 12_0 on n1",
    ]  # fmt: skip


def test_nothing_to_show_is_said(launchers, folders) -> None:
    assert launchers("logs", "--failed", "knn/good")[1].startswith("nothing to show; logs are in ")


def test_only_what_waits_or_runs_is_cancelled(launchers, folders, slurm: FakeSlurm) -> None:
    slurm.says("scancel")
    folders.add("here", claim={**cli_owner(), "log": "x"})
    folders.sweep_folder()
    code, printed, _ = launchers("cancel")
    assert code == 0
    assert slurm.calls("scancel") == ["12_0 12_1"]
    assert "2 jobs cancelled" in printed
    assert f"knn/here belongs to process {os.getpid()}" in printed
    launchers("cancel", "waits")
    assert slurm.calls("scancel")[1:] == ["12_1"]
    slurm.says("scancel", error="scancel: error: Access denied\n", code=1)
    code, _, told = launchers("cancel", "waits")
    assert (code, told) == (1, "error: Access denied\n")


def cli_owner() -> dict[str, object]:
    from ssl_transfer.system import claims

    return claims.owner()


@pytest.mark.parametrize("verb", ["logs", "retry", "cancel"])
def test_an_unknown_run_is_a_sentence(
    launchers, folders, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SweepRefused) as caught:
        launchers(verb, "nosuch")
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "error: `nosuch` must begin a run's id or be part of its folder, but fits none of the "
        "sweep's 4 runs; `python -m launchers status` lists them.\n"
    )


def test_a_failed_run_is_sent_again_as_it_was_configured_then(
    launchers, tmp_path: Path, slurm: FakeSlurm
) -> None:
    outputs, fault = tmp_path / "outputs", tmp_path / "fault"
    fault.touch()
    bad = odd_runs.odd(outputs, "Broken", f"+model.file={fault}", "protocol=knn")
    good = odd_runs.odd(outputs, "Smooth", "protocol=knn")
    made = SweepFolder.create([bad, good], outputs, {"name": "in_process"})
    made.note(run_all(bad, good))
    assert launchers("status")[1].splitlines()[-1] == "1 failed, 1 done"
    code, _, told = launchers("retry")
    assert code == 1
    assert told == f"error ({bad.id[:8]}): ArithmeticError: the encoder is broken\n"
    fault.unlink()
    before = good.record()
    code, printed, _ = launchers("retry")
    assert code == 0
    assert "[1/1] knn of custom on digits" in printed
    assert bad.is_finished
    assert good.record() == before
    assert launchers("retry")[1] == "nothing to send again: 2 done\n"


# ---- the command line ---------------------------------------------------------------------------


ALONE = {"PATH": "", "CUDA_VISIBLE_DEVICES": ""}
"""Of a process that sees neither commands of a cluster nor GPUs."""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **ALONE, "OMP_NUM_THREADS": "1",
             "PYTHONPATH": provenance.search_path(), "SSL_TRANSFER_OUTPUTS": str(folder / "out")},
    )  # fmt: skip


def test_no_sweep_is_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "launchers", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: `--sweep` must name a sweep below `" + str(tmp_path / "out" / "sweeps") +
        "`, but is `latest`, but there is none.\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra/launcher=slurm"],
         "`sbatch` and `squeue` must be on the PATH for hydra/launcher=slurm, but are not; load "
         "the cluster's module, or use hydra/launcher=local."),
        (["hydra/launcher=slurm", "hydra.launcher.partitoin=gpu"],
         "`hydra.launcher.partitoin` is not a key of `hydra.launcher`; did you mean `partition`?"),
        (["hydra/launcher=slurm", "+hydra.launcher.partitoin=gpu"],
         "`hydra.launcher.partitoin` is not a key of `hydra.launcher`; did you mean `partition`?"),
        (["hydra/launcher=local", "hydra.launcher.n_jobs=many"],
         "`hydra.launcher.n_jobs` must be int or null, but is 'many'."),
    ],
)  # fmt: skip
def test_a_wrong_launcher_is_one_sentence_and_starts_nothing(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = run_py(tmp_path, "-m", "protocol=knn", *arguments, variables=ALONE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {said}\n"
    assert {path.name for path in tmp_path.glob("out/*")} <= {".cache"}


def test_packing_runs_of_several_processes_is_refused(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.says("sbatch")
    command = ["hydra/launcher=slurm", "hydra.launcher.runs_per_gpu=2", "hydra.launcher.nodes=2"]
    variables = {**ALONE, "PATH": str(slurm.folder)}
    done = run_py(tmp_path, "-m", "protocol=knn", *command, variables=variables)
    assert done.returncode == 2, done.stderr
    (told,) = done.stderr.splitlines()
    assert told.startswith("error: `runs_per_gpu` packs runs of a single process on one computer")
    assert slurm.calls("sbatch") == []
    assert not (tmp_path / "out" / "sweeps").exists()


def test_outputs_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    wrong = ["trainer.device=cpu", "hydra/launcher=local", "paths.outputs=file/out"]
    done = run_py(tmp_path, "-m", "protocol=knn", *wrong, variables=ALONE)
    assert done.returncode == 2, done.stderr
    (told,) = done.stderr.splitlines()
    assert told.startswith("error: `paths.outputs` must be a folder that can be written to, but `")
    assert f"{tmp_path}/file/out` cannot (Not a directory)" in told
    assert (tmp_path / "file").read_text() == "no folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_making_the_launchers_known_loads_neither_torch_nor_submitit(tmp_path: Path) -> None:
    code = (
        "import sys, launchers; launchers.register(); "
        "assert not {'torch', 'submitit', 'numpy'} & set(sys.modules)"
    )
    done = python(tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
