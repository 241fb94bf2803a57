"""The cluster of these tests behaves like one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import GRACE_S, Cluster, SlurmError, processes_of

# Tells about signals and stays until it is killed, as a job that saves does.
STAYS = "trap 'echo warned' USR2; trap 'echo ended' TERM; echo life; while :; do sleep 0.1; done"


def started(cluster: Cluster, job: str, lives: int = 1) -> None:
    cluster.wait_for(lambda: cluster.output(job).count("life") == lives, 30)


def test_an_array_of_two_fills_both_nodes_and_sees_their_gpus(cluster: Cluster) -> None:
    command = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES; echo life; sleep 60"
    job = cluster.sbatch(command, "--array=0-1", "--gpus-per-node=2")
    elements = [f"{job}_0", f"{job}_1"]
    for element in elements:
        started(cluster, element)
    printed = sorted(cluster.output(element).splitlines()[0] for element in elements)
    assert printed == ["n1 0,1", "n2 0,1"]
    cluster.wait_for_queue(dict.fromkeys(elements, "RUNNING"))


def test_two_jobs_on_one_node_get_different_gpus(cluster: Cluster) -> None:
    command = "echo $CUDA_VISIBLE_DEVICES; echo life; sleep 60"
    options = ("--array=0-1", "--gpus-per-node=1", "--nodelist=n1")
    job = cluster.sbatch(command, *options)
    for element in (f"{job}_0", f"{job}_1"):
        started(cluster, element)
    assert sorted(cluster.output(f"{job}_{i}").splitlines()[0] for i in (0, 1)) == ["0", "1"]


def test_a_requeued_element_runs_again_with_its_count_raised(cluster: Cluster) -> None:
    job = cluster.sbatch("echo life ${SLURM_RESTART_COUNT:-none}; sleep 60", "--array=1-2")
    for element in (f"{job}_1", f"{job}_2"):
        started(cluster, element)
    cluster.requeue(f"{job}_2")
    cluster.start_now(f"{job}_2")
    started(cluster, f"{job}_2", lives=2)
    printed = [line for line in cluster.output(f"{job}_2").splitlines() if "life" in line]
    assert printed == ["life none", "life 1"]
    assert cluster.output(f"{job}_1").strip() == "life none"


def test_a_preempted_job_runs_again(cluster: Cluster) -> None:
    cluster.set_grace(0)
    job = cluster.sbatch("echo life; sleep 60", "--nodelist=n2")
    started(cluster, job)
    taker = cluster.preempt("n2")
    assert cluster.ended(taker) == "COMPLETED"
    cluster.start_now(job)
    started(cluster, job, lives=2)
    assert cluster.job_fields(job)["Restarts"] == "1"


@pytest.mark.parametrize(("warning", "first"), [(True, "warned"), (False, "ended")])
def test_preemption_begins_with_the_users_signal_where_the_site_allows_it_else_with_term(
    cluster: Cluster, warning: bool, first: str
) -> None:
    if not warning:
        cluster.without_warning()
    # In a step, because TERM leaves the batch shell alone.
    job = cluster.sbatch(f'srun bash -c "{STAYS}"', "--signal=USR2@30")
    started(cluster, job)
    cluster.preempt()
    cluster.wait_for(lambda: first in cluster.output(job), 30)
    assert {"warned", "ended"} & set(cluster.output(job).split()) == {first}


def nodes(output: str) -> list[str]:
    """Return the nodes on which a job lived; SLURM may write errors of its own between them."""
    return [line.split()[1] for line in output.splitlines() if line.startswith("life ")]


def test_a_job_of_a_broken_node_goes_on_elsewhere(cluster: Cluster) -> None:
    job = cluster.sbatch("echo life $SLURMD_NODENAME; sleep 60")
    started(cluster, job)
    (first,) = nodes(cluster.output(job))
    cluster.node_down(first)
    cluster.start_now(job)
    started(cluster, job, lives=2)
    assert sorted(nodes(cluster.output(job))) == ["n1", "n2"]


def test_jobs_outlive_a_controller_that_does_not_answer(cluster: Cluster) -> None:
    job = cluster.sbatch("echo life; while :; do sleep 0.1; done")
    started(cluster, job)
    cluster.kill_controller()
    with pytest.raises(SlurmError, match="squeue"):
        cluster.queue()
    assert processes_of(cluster.folder, of_jobs=True)
    cluster.start_controller()
    cluster.wait_for_queue({job: "RUNNING"})


def test_nothing_of_a_test_is_left_to_the_next(cluster: Cluster) -> None:
    job = cluster.sbatch(STAYS, "--array=0-9")
    started(cluster, f"{job}_0")
    cluster.without_warning()
    cluster.node_down("n1")
    cluster.restore()
    assert cluster.queue() == {}
    assert cluster.run("sinfo", "-h", "-N", "-p", "low", "-o", "%T").stdout.split() == ["idle"] * 2
    configuration = cluster.run("scontrol", "show", "config").stdout
    assert "preempt_send_user_signal" in configuration
    assert f"GraceTime={GRACE_S} " in cluster.run("scontrol", "show", "partition", "low").stdout


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_session_that_is_killed_leaves_no_process(cluster: Cluster, end: signal.Signals) -> None:
    # With a small array too, so that the option is seen to arrive.
    code = """
from cluster import Cluster
with Cluster(max_array_size=5) as other:
    job = other.sbatch("echo life; sleep 60", "--array=0-4", "--ntasks=1")
    other.wait_for(lambda: other.output(f"{job}_0"), 20)
    refused = other.run("sbatch", "--array=0-5", "--wrap", "true", check=False).returncode
    print(other.folder, refused, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as session:
        assert session.stdout is not None
        folder, refused = session.stdout.readline().split()
        assert refused == "1"
        assert len(processes_of(Path(folder))) > 4
        session.send_signal(end)
    cluster.wait_for(lambda: not Path(folder).exists(), 20)
    assert processes_of(Path(folder)) == []
