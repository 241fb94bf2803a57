"""The experiments on rich representations: their cells, and the published numbers."""

from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from test_experiments import RICH, Config, Sweep, axes, hydra, stated_runs

from ssl_transfer.config import compose, options, plain
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

__all__ = ["hydra"]  # a fixture

EVERY = [name for name in options("experiment") if name.startswith(RICH)]


@pytest.fixture(scope="module")
def sweeps(hydra: Hydra) -> dict[str, Sweep]:
    return {name: Sweep(hydra, name) for name in EVERY}


@pytest.mark.parametrize("experiment", EVERY)
def test_an_experiment_is_headed_by_command_cost_comparison_and_deviations(
    sweeps: dict[str, Sweep], experiment: str
) -> None:
    assert stated_runs(experiment) == len(sweeps[experiment].lines())


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EVERY)
def test_every_cell_composes_binds_and_is_a_run_of_its_own(
    sweeps: dict[str, Sweep], experiment: str
) -> None:
    one = sweeps[experiment]
    runs = [Run(plain(one.composer.compose(line))) for line in one.lines()]
    assert [problem for run in runs for problem in problems(run.config)] == []
    assert len({run.id for run in runs}) == len(runs)


@pytest.mark.parametrize("experiment", EVERY)
def test_the_first_cell_of_each_kind_composes_and_binds(
    sweeps: dict[str, Sweep], experiment: str
) -> None:
    one = sweeps[experiment]
    kinds: dict[tuple[Any, ...], Any] = {}
    for line in one.lines():
        cell = axes(line)
        kinds.setdefault((cell.get("method"), cell.get("protocol")), line)
    for line in kinds.values():
        assert problems(plain(one.composer.compose(line))) == []


def cell(*line: str) -> Config:
    return plain(compose(list(line)))


def test_weight_decay_of_the_source_is_the_only_difference_between_pairs(
    sweeps: dict[str, Sweep],
) -> None:
    one = sweeps[f"{RICH}weight_decay"]
    configs = [plain(one.composer.compose(line)) for line in one.lines()[:20]]
    found = {config["method"]["optimizer"]["weight_decay"] for config in configs}
    assert found == {0.0, 0.0005}
    assert {config["method"]["seed"] for config in configs} == set(range(5))
    assert {config["method"]["pretrain_on"]["name"] for config in configs} == {"cifar10"}
    for config in configs:
        config["method"]["optimizer"].pop("weight_decay")
        config["method"].pop("seed")
        config.pop("dataset")
    assert all(config == configs[0] for config in configs)


def test_seeds_of_swav_have_the_numbers_of_the_public_script_of_400_epochs() -> None:
    # scripts/swav_400ep_pretrain.sh of github.com/facebookresearch/swav.
    method = cell(f"experiment={RICH}source_swav")["method"]
    assert (method["epochs"], method["batch_size"], method["prototypes"]) == (400, 4096, 3000)
    optimizer = method["optimizer"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (4.8, 1e-6)
    assert method["final_factor"] * optimizer["lr"] == pytest.approx(0.0048)
    steps = 1_281_167 // 4096 * 400
    assert method["frozen_prototypes"] * steps == pytest.approx(312, abs=1)
    assert [(view["count"], view.get("size")) for view in method["views"]] == [(2, None), (6, 96)]
