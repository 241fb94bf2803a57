"""The in-process launcher: one Python process for the whole sweep, requirements first."""

import functools
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from launchers import sweep
from launchers.composition import CompositionCache, task_overrides
from ssl_transfer.complaints import sentence
from ssl_transfer.config import resolve
from ssl_transfer.runs import Run


class InProcessLauncher(Launcher):
    """Executes the runs of a sweep one after another in this process."""

    last_outcome: sweep.Outcome | None = None
    """How the sweep of this process went, for the tables that follow it."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what composition needs."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Compose every run once, check them all, execute what is left.

        Raises:
            SweepRefused: before any work, if a command line does not compose or check.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        runs = self._compose(job_overrides)
        outputs = runs[0].folder.parent.parent
        outcome = sweep.execute_all(runs)
        if sweep.is_main_process():
            sweep.remember(outcome, outputs)
        type(self).last_outcome = outcome
        return [
            _job_return(run, overrides, outcome)
            for run, overrides in zip(runs, job_overrides, strict=True)
        ]

    def _compose(self, job_overrides: Sequence[Sequence[str]]) -> list[Run]:
        loader = self.hydra_context.config_loader
        searched = loader.get_search_path().get_path()
        folders = {entry.path.removeprefix("file://") for entry in searched if entry.path}
        outputs = resolve({"paths": OmegaConf.to_container(self.config.paths)})["paths"]["outputs"]
        cache = CompositionCache(
            Path(outputs) / ".cache" / "compositions.jsonl",
            search_path=sorted(f for f in folders if "://" not in f),
            context=str(self.config.hydra.job.config_name),
        )
        runs, problems = [], []
        for overrides in job_overrides:
            try:
                composed = cache.get(
                    task_overrides(overrides),
                    functools.partial(loader.load_sweep_config, self.config, list(overrides)),
                )
                runs.append(Run(composed))
            except HydraException as error:
                problems.append(sentence(error))
        if problems:
            raise sweep.SweepRefused(problems)
        return runs


def _job_return(run: Run, overrides: Sequence[str], outcome: sweep.Outcome) -> JobReturn:
    job = JobReturn(overrides=overrides)  # nobody asks for `cfg`, which takes 50 ms to build
    job.status = JobStatus.FAILED if run.id in outcome.failures else JobStatus.COMPLETED
    job.return_value = outcome.failures.get(run.id)
    return job
