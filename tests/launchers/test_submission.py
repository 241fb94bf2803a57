"""Which runs share an array and behind whom they wait: planned without a SLURM."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm
from test_resources import options
from tiny_runs import METHOD, pretend_finished, tiny

from launchers import status, submission
from launchers.sweep import SweepRefused
from ssl_transfer.runs import Run, execution
from ssl_transfer.system import claims
from ssl_transfer.system.files import write_atomically

KNN = ("protocol=knn",)


def knn(outputs: Path, *overrides: str) -> Run:
    return tiny(outputs, *KNN, *overrides, tuned=False)


def describe(found: submission.Plan) -> list[tuple[list[str], list[str]]]:
    """Return each group's parents and runs."""
    return [(sorted(group.parents), [run.id for run in group.runs]) for group in found.groups]


def hold(run: Run, claim: dict[str, Any]) -> None:
    write_atomically(run.folder / "claim.json", json.dumps(claim).encode())


def test_equal_wishes_share_an_array_in_the_order_of_the_sweep(tmp_path: Path) -> None:
    runs = [knn(tmp_path, f"seed={seed}") for seed in (2, 0, 1)]
    found = submission.plan([*runs, runs[0]], options(runs_per_job=2))
    assert describe(found) == [([], [run.id for run in runs])]
    assert found.groups[0].jobs == [runs[:2], runs[2:]]
    assert found.live == found.outcome.failures == {}
    assert list(tmp_path.iterdir()) == []  # a plan is no deed


def test_different_wishes_are_different_arrays(tmp_path: Path) -> None:
    runs = [knn(tmp_path, f"seed={seed}") for seed in (0, 1, 2)]
    runs[1].config["protocol"]["resources"] = {"mem_gb": 64}
    found = submission.plan(runs, options())
    assert describe(found) == [([], [runs[0].id, runs[2].id]), ([], [runs[1].id])]
    assert [group.resources.mem_gb for group in found.groups] == [None, 64]


def test_children_wait_for_their_own_pretraining_alone(tmp_path: Path) -> None:
    runs = [
        knn(tmp_path, *METHOD, f"method.seed={method}", f"seed={seed}")
        for method in (0, 1)
        for seed in (0, 1)
    ]
    first, second = runs[0].requirements[0], runs[2].requirements[0]
    found = submission.plan(runs, options(pretrain={"gpus_per_node": 4}))
    assert describe(found) == [
        ([], [first.id, second.id]),
        ([first.id], [runs[0].id, runs[1].id]),
        ([second.id], [runs[2].id, runs[3].id]),
    ]
    assert [group.resources.gpus_per_node for group in found.groups] == [4, 1, 1]


def test_a_student_waits_for_its_teacher_and_its_evaluation_for_the_student(
    tmp_path: Path,
) -> None:
    teacher = "method.teacher={model:small_resnet,method:simclr}"
    own = [o for o in METHOD if o != "method=supervised"]
    own.append("method.teacher_output=features")  # nothing lies in the folder of a faked teacher
    runs = [knn(tmp_path, "method=seed", teacher, *own, f"seed={seed}") for seed in (0, 1)]
    (student,) = runs[0].requirements
    (taught_by,) = student.requirements
    found = submission.plan(runs, options())
    assert describe(found) == [
        ([], [taught_by.id]),
        ([taught_by.id], [student.id]),
        ([student.id], [run.id for run in runs]),
    ]
    pretend_finished(taught_by)
    assert describe(submission.plan(runs, options()))[0] == ([], [student.id])


def test_nobody_waits_for_what_is_finished(tmp_path: Path) -> None:
    runs = [knn(tmp_path, *METHOD, f"method.seed={seed}") for seed in (0, 1)]
    done = runs[0].requirements[0]
    pretend_finished(done)
    pretend_finished(runs[1])
    found = submission.plan(runs, options())
    assert describe(found) == [([], [runs[0].id])]  # the other needs nothing any more


def test_what_somebody_computes_is_left_out_named_and_waited_for(
    tmp_path: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    runs = [knn(outputs, *METHOD, f"seed={seed}") for seed in (0, 1, 2, 3)]
    (parent,) = runs[0].requirements
    hold(parent, {"job": "12_0"})
    hold(runs[0], {"job": "12_1"})
    hold(runs[1], {"job": "11"})
    hold(runs[2], {**claims.owner(), "host": "elsewhere"})
    slurm.queue("12_0|RUNNING|None|n1", "12_1|PENDING|Dependency|", "11|CANCELLED|None|")
    found = submission.plan(runs, options())
    assert describe(found) == [([parent.id], [runs[1].id, runs[3].id])]
    assert list(found.live) == [parent.id, runs[0].id, runs[2].id]
    assert found.live[parent.id]["job"] == "12_0"
    (asked,) = [call for call in slurm.calls("squeue") if "11" in call]
    assert asked.endswith("-j 11,12")
    status.show_plan(submission.Plan(found.outcome, [], found.live), outputs, options())
    printed = capsys.readouterr().out
    assert f"running  {runs[0].describe()}  job 12_1\n" in printed
    assert "elsewhere\n" in printed
    assert printed.endswith("nothing was submitted (hydra.launcher.dry_run=true)\n")


def test_what_cannot_be_asked_for_is_taken_for_alive(tmp_path: Path, slurm: FakeSlurm) -> None:
    run = knn(tmp_path / "outputs")
    hold(run, {"job": "12"})
    slurm.is_silent()
    found = submission.plan([run], options())
    assert (found.groups, list(found.live)) == ([], [run.id])


def test_children_of_what_failed_are_not_submitted_and_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [knn(tmp_path, *METHOD, f"method.seed={seed}") for seed in (0, 1)]
    failed, sound = (run.requirements[0] for run in runs)
    execution.fail(failed, "the loss must stay finite, but is nan.", trace="", stage="work")
    found = submission.plan(runs, options())
    assert describe(found) == [([], [sound.id]), ([sound.id], [runs[1].id])]
    why = "the loss must stay finite, but is nan. (failed earlier; `retry=true` runs it again)"
    assert found.outcome.failures == {
        failed.id: why,
        runs[0].id: f"requires {failed.describe()}, which failed: {why}",
    }


def test_a_batch_that_the_processes_cannot_share_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny(tmp_path, "protocol=finetune")
    with pytest.raises(SweepRefused):
        submission.plan([run], options(gpus_per_node=3))
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: `protocol.batch_size` must be a multiple of ")
    assert "but is 20" in told
    assert len(submission.plan([run], options(gpus_per_node=4)).groups) == 1


def test_the_batch_file_says_what_was_asked_for(tmp_path: Path, slurm: FakeSlurm) -> None:
    for command in ("srun", "scontrol"):
        slurm.says(command, "MaxArraySize = 1001\n")
    submission.slurm.configuration.cache_clear()
    runs = [knn(tmp_path / "outputs", f"seed={seed}") for seed in range(3)]
    given = options(
        mem_gb=1.5, cpus_per_task=3, partition="gpu", setup=["module load cuda"],
        additional={"reservation": "x", "exclusive": True}, array_parallelism=2, comment="c",
    )  # fmt: skip
    (group,) = submission.plan(runs, given).groups
    text = submission.batch_file(group, tmp_path / "jobs", given)
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines()]
    for line in ("array=0-2%2", "cpus-per-task=3", "gpus-per-node=1", "mem=1536M", "nodes=1",
                 "ntasks-per-node=1", "partition=gpu", "time=1440", "signal=USR2@120", "requeue",
                 "reservation=x", "exclusive", "comment=c", "job-name=ssl_transfer",
                 "module load cuda"):  # fmt: skip
        assert line in lines, line
    assert any("--kill-on-bad-exit=1" in line for line in lines)
    assert not (tmp_path / "jobs").exists()
    submission.slurm.configuration.cache_clear()
