"""The local launcher: every GPU of this computer, or ``n_jobs`` processes, as a queue."""

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
        n_jobs: slots on a computer without GPUs (``None``: as many as cores).
        runs_per_gpu: slots per GPU.
        threads: CPU threads per slot (``None``: the cores shared out evenly).
    """

    n_jobs: Slot | None = None
    runs_per_gpu: Slot = 1
    threads: Slot | None = None


class LocalLauncher(base.ProjectLauncher):
    """Carries out a sweep side by side on this computer.

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
        """Carry out what is left, show each run as it ends, remember how the sweep went."""
        return send(runs, outputs, self.options)


def send(asked: Sequence[Run], outputs: Path, options: dict[str, Any]) -> sweep.Outcome:
    """Carry out runs in the slots of this computer, and return how it went."""
    from launchers.sweep_folder import SweepFolder

    outcome, todo = sweep.prepare(asked)
    todo = [run for run in todo if run.id not in outcome.failures]
    sweep_folder = SweepFolder.create(asked, outputs, {"name": "local", **options})
    if not todo:
        sweep_folder.note(outcome)
        return outcome
    gpus = pool.visible_gpus()
    if gpus and options["n_jobs"] is None:
        wanted = len(gpus) * options["runs_per_gpu"]
    else:
        wanted = options["n_jobs"] or len(os.sched_getaffinity(0))
    logs = [sweep_folder.jobs / f"slot{n}_log.out" for n in range(min(wanted, len(todo)))]
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
