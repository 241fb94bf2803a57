"""Sweeps through a real SLURM: sent as a user sends them, disturbed as clusters disturb them."""

import dataclasses
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster

from launchers import status
from launchers.sweep_folder import SweepFolder

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "model=custom",
    "model.preprocessing={size: 16}",
    "dataset.labels_per_class=4",
    "dataset.test_per_class=2",
    "trainer.progress_bar=false",
    "trainer.device=cpu",
]
JOBS = [
    "hydra/launcher=slurm",
    "hydra.launcher.gpus_per_node=0",
    # The nodes of these tests have no names on the network.
    "hydra.launcher.setup=['export MASTER_ADDR=127.0.0.1']",
]
SOUND = "model._target_=encoders.Smooth"
TRAINING = ["protocol=finetune", "protocol.batch_size=20", "protocol.grid.lr=[0.1]"]


@dataclasses.dataclass
class Sweeps:
    """Sends sweeps from a folder of its own, as a user does."""

    cluster: Cluster
    folder: Path
    code: Path = ROOT

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def send(self, *overrides: str, code: int = 0, path: str = "") -> str:
        """Run the command line and return what it printed."""
        command = [sys.executable, str(self.code / "run.py"), "-m", *JOBS, *TINY, *overrides]
        return self._run(command, code, path)

    def launchers(self, *arguments: str, code: int = 0) -> str:
        return self._run([sys.executable, "-m", "launchers", *arguments], code)

    def _run(self, command: Sequence[str], code: int, path: str = "") -> str:
        done = self.cluster.run(
            *command, cwd=self.folder, check=False, timeout=120, environment=self.environment(path)
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def environment(self, path: str = "") -> dict[str, str]:
        search = f"{path}:{self.cluster.environment['PATH']}" if path else ""
        return {
            "PYTHONPATH": f"{self.code}:{Path(__file__).parent}",
            "OMP_NUM_THREADS": "1",
            **({"PATH": search} if search else {}),
        }

    def stand(self) -> list[status.RunStatus]:
        return status.survey(SweepFolder.find(self.outputs))

    def states(self) -> list[str]:
        return sorted(run.state for run in self.stand())

    def settled(self, seconds: float = 90) -> list[str]:
        """Wait until no run waits or runs and return the states."""
        self.cluster.wait_for(lambda: not set(self.states()) & {"waiting", "running"}, seconds)
        return self.states()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in self.outputs.glob("*/*/record.json")]

    def step(self) -> int:
        """Return the last step that a training has logged."""
        lines = [
            line
            for path in self.outputs.glob("*/*/metrics.jsonl")
            for line in path.read_text().splitlines()
            if '"step"' in line
        ]
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def wait_for_steps(self, more_than: int, seconds: float = 60) -> int:
        self.cluster.wait_for(lambda: self.step() > more_than, seconds)
        return self.step()


@pytest.fixture
def sweeps(cluster: Cluster, tmp_path: Path) -> Sweeps:
    return Sweeps(cluster, tmp_path)


def jobs_of(sweeps: Sweeps) -> list[str]:
    return sorted({run.owner.split()[1] for run in sweeps.stand() if run.owner})


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Return what of a record must not depend on interruptions."""
    keys = ("run_id", "status", "scores", "selection", "trainable", "weights_sha256", "data")
    return {key: record.get(key) for key in keys}


def test_an_array_is_computed_once_and_what_failed_again_when_asked(sweeps: Sweeps) -> None:
    broken = sweeps.folder / "broken"
    broken.touch()
    command = ["model._target_=encoders.BrokenWhile", f"+model.file={broken},{broken}-not",
               "protocol=knn,logistic_regression"]  # fmt: skip
    printed = sweeps.send(*command)
    assert "4 runs submitted as job" in printed
    assert f"logs: {sweeps.outputs}/sweeps/" in printed
    jobs = jobs_of(sweeps)
    assert [job.partition("_")[2] for job in jobs] == ["0", "1", "2", "3"]
    assert sweeps.settled() == ["done", "done", "failed", "failed"]
    (failed, *_) = [run for run in sweeps.stand() if run.state == "failed"]
    assert failed.detail == "ArithmeticError: the encoder is broken on 0"
    assert sweeps.cluster.ended(failed.owner.split()[1]) == "FAILED"
    shown = sweeps.launchers("logs", "--failed")
    assert shown.count("Traceback (most recent call last)") >= 2
    assert "encoders.py" in shown

    assert "0 runs submitted" in sweeps.send(*command, code=1)
    broken.unlink()
    assert "2 runs submitted" in sweeps.launchers("retry")
    assert sweeps.settled() == ["done"] * 2
    assert len(sweeps.records()) == 4
    assert not list(sweeps.outputs.glob("*/*/claim.json"))
    assert "0 runs submitted; 4 were finished" in sweeps.send(*command)


def test_what_waits_is_frozen_and_named_when_sent_again(sweeps: Sweeps) -> None:
    copy = sweeps.folder / "clone"
    for name in ("conf", "launchers", "results", "ssl_transfer"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / "run.py", copy)
    theirs = dataclasses.replace(sweeps, code=copy)
    command = [SOUND, "protocol=knn", "hydra.launcher.additional={hold: true}"]
    theirs.send(*command)
    (job,) = jobs_of(sweeps)
    again = theirs.send(*command)
    assert "0 runs submitted" in again
    assert f"job {job} has it already" in again

    option = copy / "conf/protocol/knn.yaml"
    option.write_text(option.read_text().replace("k: 200", "k: 3"))
    with (copy / "ssl_transfer/metrics/classification.py").open("a") as file:
        file.write("# edited while the job waited\n")
    sweeps.cluster.run("scontrol", "release", job)
    assert sweeps.settled() == ["done"]
    (record,) = sweeps.records()
    assert record["config"]["protocol"]["k"] == 200
    assert record["code"]["changed_since_submission"] is True
    assert "the code changed since" in sweeps.launchers("logs", record["run_id"])


def test_jobs_of_a_snapshot_do_not_see_later_edits(sweeps: Sweeps) -> None:
    copy = sweeps.folder / "clone"
    sweeps.cluster.run("git", "clone", "-q", str(ROOT), str(copy))
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, tracked):  # as the working tree is now
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    sweeps.cluster.run("git", "add", "-A", cwd=copy)
    theirs = dataclasses.replace(sweeps, code=copy)
    theirs.send(SOUND, "protocol=knn", "hydra.launcher.snapshot=true",
                "hydra.launcher.additional={hold: true}")  # fmt: skip
    (job,) = jobs_of(sweeps)
    (copy / "ssl_transfer/metrics/classification.py").write_text("raise SystemExit('edited')\n")
    sweeps.cluster.run("scontrol", "release", job)
    assert sweeps.settled() == ["done"]
    (record,) = sweeps.records()
    assert record["code"]["changed_since_submission"] is False


def test_the_first_rank_that_fails_ends_the_job_and_is_named(sweeps: Sweeps) -> None:
    (sweeps.folder / "broken").touch()
    sweeps.send("model._target_=encoders.BrokenWhile", f"+model.file={sweeps.folder}/broken",
                "+model.rank=3", *TRAINING, "hydra.launcher.nodes=2",
                "hydra.launcher.tasks_per_node=2")  # fmt: skip
    assert sweeps.settled() == ["failed"]
    (run,) = sweeps.stand()
    assert run.detail == "ArithmeticError: the encoder is broken on 3"
    job = run.owner.split()[1]
    assert sweeps.cluster.ended(job) == "FAILED"
    assert sweeps.cluster.job_fields(job)["NumNodes"] == "2"


@pytest.mark.timeout(600)  # five starts of one run, each through the queue
def test_a_run_disturbed_in_every_way_ends_as_if_left_alone(sweeps: Sweeps) -> None:
    calm = dataclasses.replace(sweeps, folder=sweeps.folder / "calm")
    calm.folder.mkdir()
    training = [SOUND, "+model.seconds=0.1", *TRAINING, "protocol.epochs=50", "trainer.workers=1",
                "hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=2"]  # fmt: skip
    calm.send(*training)
    sweeps.send(*training)
    (job,) = jobs_of(sweeps)
    cluster = sweeps.cluster
    seen = [sweeps.wait_for_steps(5)]

    def comes_back() -> None:
        cluster.start_now(job)
        seen.append(sweeps.wait_for_steps(sweeps.step() + 5))

    cluster.cancel(job, "--signal=USR2")  # what precedes a time limit
    comes_back()
    cluster.requeue(job)
    comes_back()
    cluster.preempt("n1")
    comes_back()
    cluster.without_warning()
    cluster.preempt("n2")
    comes_back()
    assert sweeps.settled() == calm.settled() == ["done"]

    (record,), (expected,) = sweeps.records(), calm.records()
    assert comparable(record) == comparable(expected)
    resumed = [step for _, step in record["resumed_at"]]
    assert resumed == sorted(resumed)
    assert len(resumed) == 4
    # It went on at the very step: none that was logged before the signal was taken twice.
    assert all(step >= before for step, before in zip(resumed, seen, strict=False))
    assert "resumed_at" not in expected


def test_a_single_process_survives_a_warning_and_a_broken_node(sweeps: Sweeps) -> None:
    training = [SOUND, "+model.seconds=0.05", *TRAINING, "protocol.epochs=60", "trainer.workers=1"]
    sweeps.send(*training)
    (job,) = jobs_of(sweeps)
    cluster = sweeps.cluster
    first = sweeps.wait_for_steps(5)
    cluster.cancel(job, "--signal=USR2")
    cluster.start_now(job)
    second = sweeps.wait_for_steps(first + 10)
    cluster.node_down(cluster.job_fields(job)["NodeList"])
    cluster.start_now(job)
    sweeps.wait_for_steps(second + 1)
    assert sweeps.settled() == ["done"]
    (record,) = sweeps.records()
    resumed = [step for _, step in record["resumed_at"]]
    assert len(resumed) == 2
    assert first <= resumed[0] <= second <= resumed[1]


def test_a_cancelled_job_stays_cancelled_and_goes_on_when_sent_again(sweeps: Sweeps) -> None:
    training = [SOUND, "+model.seconds=0.1", *TRAINING, "protocol.epochs=20"]
    sweeps.send(*training)
    (job,) = jobs_of(sweeps)
    reached = sweeps.wait_for_steps(3)
    assert "1 job cancelled" in sweeps.launchers("cancel")
    assert sweeps.settled() == ["lost"]
    (run,) = sweeps.stand()
    assert f"job {job}: cancelled" in run.detail
    sweeps.cluster.wait_for_queue({})

    assert "1 run submitted" in sweeps.send(*training)
    assert sweeps.settled() == ["done"]
    (record,) = sweeps.records()
    ((_, step),) = record["resumed_at"]
    assert step >= reached


def test_a_finished_run_sent_again_by_force_waits_and_is_computed(sweeps: Sweeps) -> None:
    command = [SOUND, "protocol=knn"]
    sweeps.send(*command)
    assert sweeps.settled() == ["done"]
    (first,) = sweeps.records()
    sweeps.send(*command, "force=true", "hydra.launcher.additional={hold: true}")
    (job,) = jobs_of(sweeps)
    assert "1 waiting" in sweeps.launchers("status")  # which clears up after finished sweeps only
    sweeps.cluster.run("scontrol", "release", job)
    assert sweeps.settled() == ["done"]
    (second,) = sweeps.records()
    assert (second["job"], second["scores"]) == (job, first["scores"])
    assert first["job"] != job


def test_a_site_that_forbids_requeueing_costs_no_step(sweeps: Sweeps) -> None:
    training = [SOUND, "+model.seconds=0.1", *TRAINING, "protocol.epochs=20"]
    sweeps.send(*training, "hydra.launcher.additional={requeue: true, export: NONE}")
    (job,) = jobs_of(sweeps)
    reached = sweeps.wait_for_steps(3)
    sweeps.cluster.run("scontrol", "update", f"jobid={job}", "requeue=0")
    sweeps.cluster.cancel(job, "--signal=USR2")
    sweeps.cluster.wait_for(lambda: "cannot be requeued" in sweeps.launchers("logs", "custom"), 30)
    assert sweeps.states() == ["running"]  # SLURM decides what becomes of it
    sweeps.cluster.cancel(job)
    assert sweeps.settled() == ["lost"]
    sweeps.send(*training)
    assert sweeps.settled() == ["done"]
    (record,) = sweeps.records()
    ((_, step),) = record["resumed_at"]
    assert step >= reached


def test_what_a_killed_launcher_left_is_submitted_by_the_next(sweeps: Sweeps) -> None:
    tools = sweeps.folder / "tools"
    tools.mkdir()
    real = shutil.which("sbatch", path=sweeps.cluster.environment["PATH"])
    # Between claiming the runs and submitting them: the command kills who calls it.
    (tools / "sbatch").write_text(
        f'#!/bin/sh\ncase $* in *--test-only*) exec {real} "$@";; esac\nkill -9 $PPID\n'
    )
    (tools / "sbatch").chmod(0o755)
    command = [SOUND, "protocol=knn", "seed=0,1"]
    sweeps.send(*command, code=-signal.SIGKILL, path=str(tools))
    assert len(list(sweeps.outputs.glob("*/*/claim.json"))) == 2
    assert sweeps.states() == ["lost", "lost"]
    assert "2 runs submitted" in sweeps.send(*command)
    assert sweeps.settled() == ["done", "done"]


def test_a_refusal_in_the_middle_leaves_the_rest_for_later(sweeps: Sweeps) -> None:
    tools = sweeps.folder / "tools"
    tools.mkdir()
    real = shutil.which("sbatch", path=sweeps.cluster.environment["PATH"])
    (tools / "sbatch").write_text(
        f'#!/bin/sh\ncase $* in *--test-only*) exec {real} "$@";; esac\n'
        f"if [ -e {tools}/once ]; then\n"
        "echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; fi\n"
        f'touch {tools}/once; exec {real} "$@"\n'
    )
    (tools / "sbatch").chmod(0o755)
    command = [SOUND, "protocol=knn", "seed=0,1,2", "hydra.launcher.array_size=2"]
    printed = sweeps.send(*command, code=2, path=str(tools))
    assert "after 2 of 3 runs it said" in printed
    assert "QOSMaxSubmitJobPerUserLimit" in printed
    again = sweeps.send(*command)
    assert "1 run submitted" in again
    assert sweeps.settled() == ["done"] * 3


def test_a_sweep_beyond_the_largest_array_takes_several(sweeps: Sweeps) -> None:
    seeds = ",".join(map(str, range(14)))  # MaxArraySize is 12 here
    printed = sweeps.send(
        SOUND, "protocol=knn", f"seed={seeds}", "hydra.launcher.additional={hold: true}"
    )
    assert "14 runs submitted as jobs" in printed
    arrays = [job.partition("_")[0] for job in sweeps.cluster.queue()]
    assert sorted(arrays.count(array) for array in set(arrays)) == [2, 12]


def test_a_failed_parent_ends_its_children_with_a_sentence(sweeps: Sweeps) -> None:
    (sweeps.folder / "broken").touch()
    sweeps.send("model._target_=encoders.BrokenWhile", f"+model.file={sweeps.folder}/broken",
                "method=supervised", "dataset@method.pretrain_on=digits", "method.epochs=1",
                "method.warmup_epochs=0", "method.pretrain_on.labels_per_class=4",
                "method.pretrain_on.test_per_class=2", "method.batch_size=16",
                "protocol=knn,logistic_regression")  # fmt: skip
    assert sweeps.settled() == ["failed"] * 3
    parent, *children = sweeps.stand()
    assert parent.place.startswith("pretrain/")
    for child in children:
        assert child.detail.startswith("requires pretrain of custom-supervised")
        assert child.detail.endswith("which failed: ArithmeticError: the encoder is broken on 0")


def test_waiting_ends_with_the_tables_and_an_exit_code(sweeps: Sweeps) -> None:
    broken = sweeps.folder / "broken"
    broken.touch()
    printed = sweeps.send("model._target_=encoders.BrokenWhile",
                          f"+model.file={broken},{broken}-not", "protocol=knn",
                          "hydra.launcher.wait=true", code=1)  # fmt: skip
    assert "1 failed, 1 done" in printed
    assert "knn: top1 in %" in printed
    (folder,) = sweeps.outputs.glob("sweeps/*/jobs")

    def is_tidied() -> bool:
        sweeps.launchers("status")  # a job that was still completing kept its files until now
        return {path.suffix for path in folder.iterdir()} == {".out", ".sh"}

    # A log per job and the batch file: file systems limit the number of files.
    sweeps.cluster.wait_for(is_tidied, 60)


def test_runs_share_a_job_side_by_side_and_one_after_another(sweeps: Sweeps) -> None:
    broken = sweeps.folder / "broken"
    broken.touch()
    sweeps.send("model._target_=encoders.BrokenWhile", f"+model.file={broken},{broken}-not",
                "protocol=knn", "seed=0,1", "hydra.launcher.runs_per_gpu=2",
                "hydra.launcher.gpus_per_node=1", "hydra.launcher.runs_per_job=2")  # fmt: skip
    assert sweeps.settled() == ["done", "done", "failed", "failed"]
    (job,) = jobs_of(sweeps)  # one for all four
    assert sweeps.cluster.ended(job) == "FAILED"
    (folder,) = sweeps.outputs.glob("sweeps/*/jobs")
    slots = sorted(folder.glob("*_slot*_log.out"))
    assert len(slots) == 2
    assert all("knn of custom" in path.read_text() for path in slots)


def test_a_packed_job_that_is_requeued_skips_what_it_finished(sweeps: Sweeps) -> None:
    sweeps.send(SOUND, "+model.seconds=0.1", *TRAINING, "protocol.epochs=12", "seed=0,1,2",
                "hydra.launcher.runs_per_job=3")  # fmt: skip
    (job,) = jobs_of(sweeps)
    cluster = sweeps.cluster
    cluster.wait_for(lambda: sweeps.records(), 60)
    cluster.wait_for(lambda: len(list(sweeps.outputs.glob("*/*/metrics.jsonl"))) >= 2, 60)
    finished = len(sweeps.records())
    cluster.cancel(job, "--signal=USR2")
    cluster.start_now(job)
    assert sweeps.settled() == ["done"] * 3
    log = sweeps.launchers("logs", "--lines=100", sweeps.records()[0]["run_id"])
    assert finished <= log.count("finished before") <= finished + 1  # one may end meanwhile
    assert len([record for record in sweeps.records() if "resumed_at" in record]) <= 1


def test_a_sweep_sent_from_inside_a_job_is_a_sweep_like_any_other(sweeps: Sweeps) -> None:
    line = shlex.join([sys.executable, str(ROOT / "run.py"), "-m", *JOBS, *TINY, SOUND,
                       "protocol=knn", "seed=0,1"])  # fmt: skip
    exports = "".join(f"export {k}={shlex.quote(v)}; " for k, v in sweeps.environment().items())
    inside = f"cd {sweeps.folder}; {exports} srun --ntasks=2 -n1 {line}"
    outer = sweeps.cluster.sbatch(inside, "--ntasks=2", "--cpus-per-task=1")
    assert sweeps.cluster.ended(outer, 120) == "COMPLETED"
    assert sweeps.settled() == ["done", "done"]
    assert all(job.partition("_")[0] != outer for job in jobs_of(sweeps))


def test_a_controller_that_does_not_answer_is_no_loss(sweeps: Sweeps) -> None:
    sweeps.send(SOUND, "+model.seconds=0.05", *TRAINING, "protocol.epochs=240")
    sweeps.wait_for_steps(3)
    sweeps.cluster.kill_controller()
    printed = sweeps.launchers("status")
    assert "controller does not answer" in printed
    assert "SLURM does not answer" in printed
    sweeps.cluster.start_controller()
    assert sweeps.settled() == ["done"]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("hydra.launcher.partition=gpus", "invalid partition specified: gpus"),
        ("hydra.launcher.nodes=5", "Requested node configuration is not available"),
    ],
)
def test_what_slurm_would_refuse_is_refused_before_anything_is_sent(
    sweeps: Sweeps, override: str, complaint: str
) -> None:
    printed = sweeps.send(SOUND, "protocol=knn", override, code=2)
    (refusal,) = [line for line in printed.splitlines() if not line.startswith("`digits`: ")]
    assert refusal.startswith("error: ")
    assert complaint in refusal
    assert not list(sweeps.outputs.glob("sweeps/*"))
    assert not list(sweeps.outputs.glob("*/*/claim.json"))


def test_a_dry_run_shows_the_jobs_and_submits_none(sweeps: Sweeps) -> None:
    printed = sweeps.send(SOUND, "protocol=knn", "seed=0,1", "hydra.launcher.dry_run=true",
                          "hydra.launcher.partition=high")  # fmt: skip
    assert printed.count("new      knn of custom on digits") == 2
    assert "#SBATCH --partition=high" in printed
    assert "#SBATCH --array=0-1%2" in printed
    assert "accepted: Job" in printed
    assert sweeps.cluster.queue() == {}
    assert [path.name for path in sweeps.outputs.iterdir()] == [".cache"]


def test_members_are_pretrained_and_fine_tuned_in_parallel_by_dependencies(
    sweeps: Sweeps,
) -> None:
    """One sweep: two pre-trainings, behind each its fine-tuning, behind both the joint head."""
    pretraining = ["dataset@method.pretrain_on=digits", "method.pretrain_on.labels_per_class=4"]
    pretraining += ["method.batch_size=16", "method.epochs=1", "method.warmup_epochs=0"]
    shared = ",".join(f"'{one}'" for one in pretraining)
    members = [f"{{method:supervised,seed:{seed},overrides:[{shared}]}}" for seed in (0, 1)]
    first = ["epochs=1", "batch_size=20", "optimizer.weight_decay=0.01", "grid.lr=[0.1]"]
    two_stage = ["method=cat", f"method.members=[{','.join(members)}]", SOUND,
                 "protocol=two_stage_finetune", "protocol.batch_size=20",
                 *(f"protocol.first_stage.{key}" for key in first)]  # fmt: skip
    assert "5 runs submitted" in sweeps.send(*two_stage)
    assert sweeps.settled(240) == ["done"] * 5
    by_protocol: dict[str, list[dict[str, Any]]] = {}
    for record in sweeps.records():
        by_protocol.setdefault(record["protocol"], []).append(record)
    (joint,) = by_protocol["two_stage_finetune"]
    tuned = {record["run_id"]: record for record in by_protocol["finetune"]}
    assert set(joint["first_stage"]) == tuned.keys()
    assert len(by_protocol["pretrain"]) == len(tuned) == 2
    jobs = {record["run_id"]: record["job"] for record in sweeps.records()}
    assert len(set(jobs.values())) == 5  # each run has a job of its own
    for record in sweeps.records():
        for required in record["requires"]:
            assert required in jobs
    own = ["method=supervised", *pretraining, "protocol=finetune", SOUND,
           *(f"protocol.{key}" for key in first)]  # fmt: skip
    assert "0 runs submitted" in sweeps.send(*own, "method.seed=0,1")
