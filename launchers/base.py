"""Base class of this project's Hydra launchers; it composes each run once."""

import functools
import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from launchers import sweep
from launchers.applicable import compose_cells
from launchers.composition import (
    Composition,
    CompositionCache,
    sweep_composer,
    task_overrides,
)
from ssl_transfer.config import resolve
from ssl_transfer.config.composition import searched_folders
from ssl_transfer.config.references import expanded
from ssl_transfer.runs import Run
from ssl_transfer.system.files import let_group_write

log = logging.getLogger(__name__)


class ProjectLauncher(Launcher):
    """Composes every run of a sweep once; subclasses execute the runs in ``run_all``."""

    last_outcome: sweep.Outcome | None = None
    """The outcome of this process's sweep, for the tables that follow it."""

    optional_keys: Collection[str] = ()
    """Keys that the options of all runs may lack; the sweeper sets them."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store the objects that the composition needs."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Compose every run, then execute them.

        Raises:
            SweepRefused: before any work, if a command line does not compose or is invalid.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        let_group_write(self.config.paths)
        runs = self._compose(job_overrides)
        sweep.refuse_misspelt(runs)  # before the names of the runs are used
        # Cells that differ only in a key that their option lacks are one run.
        distinct: dict[str, Run] = {}
        for run in runs:
            distinct.setdefault(run.id, run)
        execute = self.show_plan if runs[0].config.get("dry_run") else self.run_all
        outcome = execute(list(distinct.values()), runs[0].folder.parent.parent)
        ProjectLauncher.last_outcome = outcome
        return [
            _job_return(run, overrides, outcome)
            for run, overrides in zip(runs, job_overrides, strict=True)
        ]

    def run_all(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Execute or submit the unfinished runs."""
        raise TypeError(f"{type(self).__name__} must define `run_all`.")

    def show_plan(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Print what ``run_all`` would execute, with its estimated cost."""
        from launchers import dry_run

        return dry_run.show(runs, outputs, self.at_once)

    @property
    def at_once(self) -> int:
        """Number of runs that the launcher executes at the same time."""
        return 1

    def _compose(self, job_overrides: Sequence[Sequence[str]]) -> list[Run]:
        loader = self.hydra_context.config_loader
        resolved = resolve({"paths": OmegaConf.to_container(self.config.paths)})
        sweep.refuse_paths(resolved)
        cache = CompositionCache(
            Path(resolved["paths"]["outputs"]) / ".cache" / "compositions.jsonl",
            search_path=searched_folders(loader),
            context=str(self.config.hydra.job.config_name),
        )
        composer = sweep_composer(loader, self.config)

        def compose(overrides: Sequence[str]) -> Composition:
            return cache.get(
                task_overrides(overrides), lambda: expanded(composer.compose_plain(overrides))
            )

        compositions, left_out = compose_cells(job_overrides, compose, composer, self.optional_keys)
        for line in left_out:
            log.warning("%s", line)
        runs = [
            Run({**composed, "paths": _absolute(json.dumps(composed["paths"]))})
            for composed in compositions
        ]
        refuse_default_datasets(runs, job_overrides)
        warn_of_unused_datasets(runs, job_overrides)
        return runs


def refuse_default_datasets(runs: Sequence[Run], overrides: Sequence[Sequence[str]]) -> None:
    """Refuse a sweep without a dataset whose protocols have different default datasets.

    Args:
        runs: the runs of the sweep.
        overrides: the overrides of each run.

    Raises:
        SweepRefused: the message has the override to add.
    """
    protocol_of: dict[str, str] = {}  # by the default dataset
    for run, line in zip(runs, overrides, strict=True):
        chosen = any(override.startswith("dataset=") for override in line)
        if not (chosen or run.is_pretraining):
            protocol_of.setdefault(run.names["dataset"], run.names["protocol"])
    if len(protocol_of) > 1:
        each = " and ".join(f"`{name}` has `{dataset}`" for dataset, name in protocol_of.items())
        raise sweep.SweepRefused([
            "a sweep over protocols with different default datasets must name its datasets, but "
            f"{each}; add `dataset={','.join(protocol_of)}`, or the sets that you mean, or send "
            "one command for each protocol if no set suits all."
        ])  # fmt: skip


def warn_of_unused_datasets(runs: Sequence[Run], overrides: Sequence[Sequence[str]]) -> None:
    """Warn if a data set is named for runs that only pre-train, whose images are the method's.

    Args:
        runs: the runs of a command.
        overrides: the overrides of each run.
    """
    if not all(run.is_pretraining for run in runs):
        return
    named = {text for line in overrides for text in line if text.startswith("dataset=")}
    methods = [run.config["method"] for run in runs]
    trained_on = {method["pretrain_on"]["name"] for method in methods if method.get("pretrain_on")}
    if named and trained_on:
        log.warning(
            "`%s` changes nothing with `protocol=pretrain`, which trains on `%s`; "
            "dataset@method.pretrain_on=NAME chooses its images",
            "`, `".join(sorted(named)), "`, `".join(sorted(trained_on)),
        )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _absolute(paths: str) -> dict[str, Any]:
    """Return the node ``paths`` with absolute paths, for use in other processes."""
    node = json.loads(paths)
    config = resolve({"paths": node})
    sweep.refuse_paths(config)
    resolved = config["paths"]
    if "${" in (node.get("stage") or ""):
        # Each computer has its own stage, and its own values of the variables in its path.
        resolved["stage"] = node["stage"]
    fixed = {key: str(Path(value).absolute()) for key, value in resolved.items()
             if isinstance(value, str) and "${" not in value}  # fmt: skip
    return {**resolved, **fixed}


def _job_return(run: Run, overrides: Sequence[str], outcome: sweep.Outcome) -> JobReturn:
    job = JobReturn(overrides=overrides)  # without the unused `cfg`, which takes 50 ms
    job.status = JobStatus.FAILED if run.id in outcome.failures else JobStatus.COMPLETED
    job.return_value = outcome.failures.get(run.id)
    return job
