"""Hydra callback after every multirun: prints what the sweep answers and sets the exit code."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ssl_transfer.system import provenance
from ssl_transfer.system.plain_text import printable


class TablesAfterSweep(Callback):
    """Runs ``python -m results summary`` on the sweep; exits with 1 if a run has no record."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the answer and write the tables."""
        from launchers.base import ProjectLauncher

        outcome = ProjectLauncher.last_outcome
        if outcome is None or outcome.folder is None:
            return
        if config.tables and not outcome.pending:
            self._print(outcome.folder)
        else:
            for identifier, reason in outcome.failures.items():
                print(f"failed [{identifier[:8]}]: {printable(reason)}")
        if outcome.failures:
            raise SystemExit(outcome.exit_code)

    def _print(self, folder: Path) -> None:
        sys.stdout.flush()
        command = [sys.executable, "-P", "-m", "results", "summary", "--sweep", str(folder)]
        command += ["--outputs", str(folder.parent.parent)]
        environment = {**os.environ, "PYTHONPATH": provenance.search_path()}
        subprocess.run(command, env=environment, check=False)
