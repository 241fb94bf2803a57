"""What only a cluster with accounting can show."""

from cluster import Cluster


def test_sacct_knows_how_a_job_ended(cluster: Cluster) -> None:
    job = cluster.sbatch("exit 3")

    def row() -> str:
        options = ("-X", "-n", "-P", "-o", "State,ExitCode,AllocTRES", "-j", job)
        text = cluster.run("sacct", *options).stdout.strip()
        return text if text.startswith("FAILED") else ""

    assert cluster.wait_for(row, 20).split("|")[1] == "3:0"


def test_sacct_shows_a_requeued_job_once_per_life(cluster: Cluster) -> None:
    job = cluster.sbatch('[ -n "$SLURM_RESTART_COUNT" ] || sleep 60', "--gpus-per-node=1")
    cluster.wait_for(lambda: cluster.job_state(job) == "RUNNING", 10)
    cluster.requeue(job)
    cluster.start_now(job)

    def lives() -> list[str]:
        options = ("-X", "-D", "-n", "-P", "-o", "State", "-j", job)
        states = cluster.run("sacct", *options).stdout.split()
        return states if "COMPLETED" in states else []

    assert cluster.wait_for(lives, 20) == ["REQUEUED", "COMPLETED"]
