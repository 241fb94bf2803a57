"""The in-process launcher: one Python process for the whole sweep, requirements first."""

from collections.abc import Sequence
from pathlib import Path

from launchers import base, sweep
from ssl_transfer.runs import Run


class InProcessLauncher(base.ProjectLauncher):
    """Executes the runs of a sweep one after another in this process."""

    def carry_out(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Execute what is left of the runs and remember how it went."""
        from launchers.archive import Archive

        outcome, todo = sweep.prepare(runs)
        if not sweep.is_main_process():
            return sweep.execute_prepared(outcome, todo)
        archive = Archive.create(runs, outputs, {"name": "in_process"})
        archive.note(sweep.execute_prepared(outcome, todo))
        return outcome
