"""What a run asks of a cluster."""

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
        gpus_per_node: GPUs per computer, one process each; 0: none, one process.
        tasks_per_node: processes per computer, where they are not as many as GPUs.
        cpus_per_task: cores per process (``None``: the cluster's default).
        mem_gb: memory per computer in GiB (``None``: the cluster's default).
        timeout_min: time limit in minutes; a run that reaches it saves, and goes on in a new turn.
        partition, qos, account, constraint, exclude, nodelist, gres: as of sbatch(1).
        additional: further flags of sbatch, ``True`` for one without a value.
        setup: shell commands before the run, e.g. ``module load cuda``.
        runs_per_gpu: runs side by side on one GPU, a process each.
        runs_per_job: runs one after another in a job, without starting Python and torch again.
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
        # Side by side, the GPUs of a job are shared out among single-process runs.
        return 1 if self.runs_per_gpu > 1 else max(self.gpus_per_node, 1)

    @property
    def runs_in_a_job(self) -> int:
        """Runs that one job takes."""
        return self.runs_per_job * self.slots

    @property
    def slots(self) -> int:
        """Runs that a job carries out at the same time."""
        return self.runs_per_gpu * max(self.gpus_per_node, 1) if self.runs_per_gpu > 1 else 1

    def problems(self) -> list[str]:
        """Return one sentence for everything that contradicts itself."""
        found = []
        if self.runs_per_gpu > 1 and (self.nodes > 1 or self.tasks > 1):
            found.append(
                "`runs_per_gpu` packs runs of a single process on one computer, but "
                f"`nodes={self.nodes}` and `tasks_per_node={self.tasks}` give a run "
                f"{self.processes}; set one of them to 1."
            )
        if self.runs_per_job > 1 and self.processes > 1:
            found.append(
                f"`runs_per_job` packs runs of a single process, but nodes and GPUs give a run "
                f"{self.processes}: the failure of one would end the others; set it to 1."
            )
        if self.runs_per_gpu > 1 and self.gpus_per_node > 1:
            found.append(
                f"`gpus_per_node` must be 1 with `runs_per_gpu={self.runs_per_gpu}`, but is "
                f"{self.gpus_per_node}: jobs of one GPU each start sooner; set one of them to 1."
            )
        return found


def of(run: Run, launcher: Mapping[str, Any]) -> Resources:
    """Return what a run asks for: its protocol's or method's wish, overridden by the launcher's.

    Args:
        run: to be submitted.
        launcher: options of ``hydra.launcher``; those for pre-training alone under ``pretrain``.

    Raises:
        SweepRefused: for an unknown key, a wrong type, or a contradiction.
    """
    owner = "method" if run.is_pretraining else "protocol"
    wishes = {
        f"{owner}.resources": run.config[owner].get("resources") or {},
        "hydra.launcher": {f.name: launcher.get(f.name) for f in dataclasses.fields(Resources)},
    }
    if run.is_pretraining:
        wishes["hydra.launcher.pretrain"] = launcher.get("pretrain") or {}
    chosen: dict[str, Any] = {}
    problems = []
    for path, keys in wishes.items():
        given = {key: value for key, value in keys.items() if value is not None}
        problems += signature_problems(path, Resources, given, supplied=frozenset())
        chosen |= given
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
