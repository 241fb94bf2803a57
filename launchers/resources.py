"""Cluster resources that a run requests."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from launchers.sweep import SweepRefused
from ssl_transfer.config.ranges import Count, Range
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import signature_problems

Few = Annotated[int, Range(1, cap=10**5)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """Keys of ``protocol.resources``, ``method.resources`` and ``hydra.launcher``.

    Args:
        nodes: computers per run.
        gpus_per_node: GPUs per computer, with one process each; 0: one process without a GPU.
        tasks_per_node: processes per computer, if their number differs from that of the GPUs.
        cpus_per_task: cores per process (``None``: the cluster's default).
        mem_gb: memory per computer in GiB (``None``: the cluster's default).
        timeout_min: time limit in minutes; a run that reaches it saves and resumes after a requeue.
        partition, qos, account, constraint, exclude, nodelist, gres: as of sbatch(1).
        additional: further flags of sbatch; ``True`` for a flag without a value.
        setup: shell commands before the run, e.g. ``module load cuda``.
        runs_per_gpu: parallel runs on one GPU, each in its own process.
        runs_per_job: consecutive runs in a job, without starting Python and torch again.
    """

    nodes: Few = 1
    gpus_per_node: Annotated[int, Range(0, cap=10**5)] = 1
    tasks_per_node: Few | None = None
    cpus_per_task: Few | None = None
    mem_gb: Annotated[float, Range(0, cap=10**6)] | None = None
    timeout_min: Count = 1440
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    gres: str | None = None
    additional: dict[str, str | int | bool] = dataclasses.field(default_factory=dict)
    setup: list[str] = dataclasses.field(default_factory=list)
    runs_per_gpu: Few = 1
    runs_per_job: Few = 1

    @property
    def processes(self) -> int:
        """Processes that share one run."""
        return self.nodes * self.tasks

    @property
    def tasks(self) -> int:
        """Processes per computer that share one run."""
        if self.tasks_per_node is not None:
            return self.tasks_per_node
        # With parallel runs, the GPUs of a job are divided among single-process runs.
        return 1 if self.runs_per_gpu > 1 else max(self.gpus_per_node, 1)

    @property
    def runs_in_a_job(self) -> int:
        """Number of runs per job."""
        return self.runs_per_job * self.slots

    @property
    def slots(self) -> int:
        """Number of runs that a job executes at the same time."""
        return self.runs_per_gpu * max(self.gpus_per_node, 1) if self.runs_per_gpu > 1 else 1

    def problems(self) -> list[str]:
        """Return one sentence for each contradiction between the keys."""
        sentences = []
        if self.runs_per_gpu > 1 and (self.nodes > 1 or self.tasks > 1):
            sentences.append(
                "`runs_per_gpu` packs runs of a single process on one computer, but "
                f"`nodes={self.nodes}` and `tasks_per_node={self.tasks}` give a run "
                f"{self.processes}; set one of them to 1."
            )
        if self.runs_per_job > 1 and self.processes > 1:
            sentences.append(
                f"`runs_per_job` packs runs of a single process, but nodes and GPUs give a run "
                f"{self.processes}: the failure of one would end the others; set it to 1."
            )
        if self.runs_per_gpu > 1 and self.gpus_per_node > 1:
            sentences.append(
                f"`gpus_per_node` must be 1 with `runs_per_gpu={self.runs_per_gpu}`, but is "
                f"{self.gpus_per_node}: jobs of one GPU each start sooner; set one of them to 1."
            )
        return sentences


def of(run: Run, launcher: Mapping[str, Any]) -> Resources:
    """Return a run's resources: those of its protocol or method, overridden by the launcher's.

    Args:
        run: the run to submit.
        launcher: options of ``hydra.launcher``; ``pretrain`` has those for pre-training only.

    Raises:
        SweepRefused: for an unknown key, a wrong type, or a contradiction.
    """
    owner = "method" if run.is_pretraining else "protocol"
    requests = {
        f"{owner}.resources": run.config[owner].get("resources") or {},
        "hydra.launcher": {f.name: launcher.get(f.name) for f in dataclasses.fields(Resources)},
    }
    if run.is_pretraining:
        requests["hydra.launcher.pretrain"] = launcher.get("pretrain") or {}
    chosen: dict[str, Any] = {}
    problems = []
    for path, keys in requests.items():
        options = {key: value for key, value in keys.items() if value is not None}
        problems += signature_problems(path, Resources, options, supplied=frozenset())
        chosen |= options
    if not problems:
        resources = Resources(**chosen)
        problems = resources.problems()
        warning = launcher.get("signal_delay_s") or 0
        if not problems and 60 * resources.timeout_min <= warning:
            problems.append(
                f"`timeout_min` must be longer than the warning before it, but is "
                f"{resources.timeout_min} min with `hydra.launcher.signal_delay_s={warning}`."
            )
    if problems:
        raise SweepRefused(problems)
    return resources
