"""The product of the axes: Hydra's basic sweeper, without composing every run twice."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn

from launchers import restore_nulls
from launchers.sweep import SweepRefused


class GridSweeper(BasicSweeper):
    """Hands every combination to the launcher at once.

    The basic sweeper composes each run to see whether it composes, and writes a ``multirun.yaml``;
    here the launcher composes each run once and reports all problems together, and the sweep's
    command stands in its ``sweep.json``.
    """

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch the product of the arguments (and of ``hydra.sweeper.params``).

        Raises:
            SweepRefused: for several experiments, whose own grids Hydra would not read.
        """
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        # A later override of the same key wins, so the command line narrows an experiment.
        overrides = parser.parse_overrides([*self._parse_config(), *restore_nulls(arguments)])
        _refuse_several_experiments(overrides)
        (batch,) = self.split_arguments(overrides, max_batch_size=None)
        return [self.launcher.launch(batch, initial_job_idx=0)]


def _refuse_several_experiments(overrides: Sequence[Override]) -> None:
    for override in overrides:
        if override.key_or_group == "experiment" and override.is_sweep_override():
            raise SweepRefused(
                [
                    "`experiment` must be one experiment, since each has a grid of its own, but is "
                    f"`{(override.input_line or '').partition('=')[2]}`; send one command for each."
                ]
            )
