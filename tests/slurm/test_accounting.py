"""What only a cluster with accounting can show."""

from cluster import Cluster

from ssl_transfer.system import slurm


def test_sacct_knows_how_a_job_ended(cluster: Cluster) -> None:
    job = cluster.sbatch("exit 3")

    def row() -> str:
        options = ("-X", "-n", "-P", "-o", "State,ExitCode,AllocTRES", "-j", job)
        text = cluster.run("sacct", *options).stdout.strip()
        return text if text.startswith("FAILED") else ""

    assert cluster.wait_for(row, 60).split("|")[1] == "3:0"


def test_sacct_shows_a_requeued_job_once_per_life(cluster: Cluster) -> None:
    job = cluster.sbatch('[ -n "$SLURM_RESTART_COUNT" ] || sleep 60', "--gpus-per-node=1")
    cluster.wait_for(lambda: cluster.job_state(job) == "RUNNING", 60)
    cluster.requeue(job)
    cluster.start_now(job)

    def lives() -> list[str]:
        options = ("-X", "-D", "-n", "-P", "-o", "State", "-j", job)
        states = cluster.run("sacct", *options).stdout.split()
        return states if "COMPLETED" in states else []

    assert cluster.wait_for(lives, 60) == ["REQUEUED", "COMPLETED"]


def test_status_learns_how_jobs_ended_that_the_queue_has_forgotten(cluster: Cluster) -> None:
    failed = cluster.sbatch("exit 3")
    waiting = cluster.sbatch("true", "--array=0-1", "--begin=now+1hour")
    assert cluster.ended(failed) == "FAILED"
    cluster.cancel(waiting)
    wanted = {failed, f"{waiting}_1"}

    def ended() -> dict[str, str]:
        told = {job: known.describe() for job, known in slurm.history(wanted).items()}
        return told if "cancelled" in told.get(f"{waiting}_1", "") else {}

    told = cluster.wait_for(ended, 60)
    # An element that never started has no row of its own in the accounts, but its array has.
    assert told[f"{waiting}_1"].startswith("cancelled")
    assert told[failed].startswith("failed (exit code 3:0 on n")
