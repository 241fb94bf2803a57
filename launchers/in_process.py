"""The in-process launcher: one Python process executes the whole sweep, requirements first."""

from collections.abc import Sequence
from pathlib import Path

from launchers import base, sweep
from ssl_transfer.runs import Run


class InProcessLauncher(base.ProjectLauncher):
    """Executes the runs of a sweep one after another in this process."""

    def run_all(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Execute the unfinished runs and record the outcome."""
        from launchers.sweep_folder import SweepFolder

        outcome, todo = sweep.prepare(runs)
        if not sweep.is_main_process():
            return sweep.execute_prepared(outcome, todo)
        sweep_folder = SweepFolder.create(runs, outputs, {"name": "in_process"})
        sweep_folder.note(sweep.execute_prepared(outcome, todo))
        return outcome
