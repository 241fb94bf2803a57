"""The local launcher: parallel runs on this computer's GPUs, or in ``n_jobs`` processes."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from launchers import base, pool, sweep
from launchers.naming import descriptions
from ssl_transfer.config.ranges import Range
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import signature_problems

Slot = Annotated[int, Range(1, cap=4096)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slots:
    """Keys of ``hydra.launcher``.

    Args:
        n_jobs: number of slots on a computer without GPUs (``None``: the number of cores).
        runs_per_gpu: slots per GPU.
        threads: CPU threads per slot (``None``: the cores are divided evenly).
    """

    n_jobs: Slot | None = None
    runs_per_gpu: Slot = 1
    threads: Slot | None = None


class LocalLauncher(base.ProjectLauncher):
    """Executes the runs of a sweep in parallel on this computer.

    Args:
        options: keys of ``Slots``.

    Raises:
        SweepRefused: for an unknown key, a wrong type, or a number below 1.
    """

    def __init__(self, **options: Any) -> None:
        problems = signature_problems("hydra.launcher", Slots, options, supplied=frozenset())
        if problems:
            raise sweep.SweepRefused(problems)
        self.options = dataclasses.asdict(Slots(**options))

    def run_all(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Execute the unfinished runs, print each one as it ends, and record the outcome."""
        return send(runs, outputs, self.options)

    @property
    def at_once(self) -> int:
        """Number of slots."""
        return _num_slots(self.options, pool.visible_gpus())


def _num_slots(options: dict[str, Any], gpus: Sequence[str]) -> int:
    if gpus and options["n_jobs"] is None:
        return len(gpus) * int(options["runs_per_gpu"])
    return int(options["n_jobs"] or len(os.sched_getaffinity(0)))


def send(runs: Sequence[Run], outputs: Path, options: dict[str, Any]) -> sweep.Outcome:
    """Execute runs in the slots of this computer and return the outcome."""
    from launchers.sweep_folder import SweepFolder

    outcome, todo = sweep.prepare(runs)
    todo = [run for run in todo if run.id not in outcome.failures]
    sweep_folder = SweepFolder.create(runs, outputs, {"name": "local", **options})
    if not todo:
        sweep_folder.note(outcome)
        return outcome
    gpus = pool.visible_gpus()
    num_slots = min(_num_slots(options, gpus), len(todo))
    logs = [sweep_folder.jobs / f"slot{n}_log.out" for n in range(num_slots)]
    slots = pool.slots_for(logs, gpus=gpus, threads=options["threads"])
    sweep.say(
        f"{sweep.count(len(todo), 'run')} in {sweep.count(len(slots), 'slot')}; "
        f"logs: {sweep_folder.jobs}"
    )
    ended = 0
    described = descriptions(todo)

    def show(run: Run, answer: dict[str, Any]) -> None:
        nonlocal ended
        ended += 1
        how = answer.get("said") or f"failed: {answer['failure']}"
        sweep.say(f"[{ended}/{len(todo)}] {described[run.id]}: {how}")

    try:
        failures = pool.serve(todo, slots, done=show)
    except BaseException:
        sweep_folder.note(outcome)
        raise
    outcome.failures |= failures
    outcome.computed = len(todo) - len(failures)
    sweep_folder.note(outcome)
    return outcome
