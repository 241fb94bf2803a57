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
def test_cells_with_each_method_and_each_protocol_compose_and_bind(
    sweeps: dict[str, Sweep], experiment: str
) -> None:
    one = sweeps[experiment]
    composed: set[tuple[str, Any]] = set()
    for line in one.lines():
        cell = axes(line)
        choices = {(axis, cell.get(axis)) for axis in ("method", "protocol")}
        if not choices <= composed:  # the test above has every pair
            composed |= choices
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


def test_small_images_share_their_networks_and_first_stages(sweeps: dict[str, Sweep]) -> None:
    one = sweeps[f"{RICH}small_images"]
    runs = [Run(plain(one.composer.compose(line))) for line in one.lines()]
    singles = [run for run in runs if run.names["method"] == "supervised"]
    networks = {run.id for single in singles for run in single.requirements}
    evaluations = {run.id for run in singles}
    assert len(networks) == 15 + 2 * 3
    for run in runs:
        if run.is_fused:  # every member and every first stage is a run that stands alone, too
            assert {required.id for required in run.requirements} <= networks | evaluations
    taught = [run for run in runs if run.names["method"] == "distill"]
    teachers = {
        needed.id
        for run in taught
        for student in run.requirements
        for needed in student.requirements
    }
    assert teachers <= networks
    assert len(teachers) == 15


def test_a_teacher_of_the_source_is_the_network_that_source_supervised_trains(
    sweeps: dict[str, Sweep],
) -> None:
    one = sweeps[f"{RICH}source_distill"]
    (student,) = Run(plain(one.composer.compose(one.lines()[0]))).requirements
    alone = Run(cell("experiment=rich_representations/_source", "method.seed=1"))
    assert alone.requirements[0].id in {run.id for run in student.requirements}


# Tables 2.2 to 2.4 of the notes on github.com/TjuJianyu/RRL.
DECAYS = {"linear_probe": [1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2], "finetune": [0, 1e-5, 1e-4, 5e-4]}


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_transfer_to_cifar_has_the_published_numbers(dataset: str) -> None:
    recipe = ["recipe=rich_representations/transfer", "model=resnet50", f"dataset={dataset}"]
    probe, tuned = (cell(*recipe, f"protocol={name}")["protocol"] for name in DECAYS)
    for node in (probe, tuned):
        assert node["grid"]["weight_decay"] == DECAYS[node["name"]]
        assert (node["batch_size"], node["bn_groups"], node["schedule_per"]) == (256, 1, "epoch")
        assert (node["selection"], node["epoch_selection"]) == ("test", "last")
        assert node["optimizer"]["momentum"] == 0.9
        assert node["optimizer"]["exclude_bias_and_norm"] is True
        assert node["augmentation"] == {"crop_scale": [0.8, 1.0]}
        assert node["preprocessing"]["mean"] == [0.4914, 0.4822, 0.4465]
        assert (node["preprocessing"]["size"], node["preprocessing"]["resize"]) == (224, 256)
    assert (probe["head"], probe["head_init"]) == ("bn_affine_linear", None)
    assert (probe["epochs"], probe["grid"]["lr"]) == (28, [0.01])
    assert (probe["milestones"], probe["step_factor"]) == ([8, 16, 24], 0.1)
    assert (probe["optimizer"]["nesterov"], tuned["optimizer"]["nesterov"]) == (True, False)
    assert (tuned["head"], tuned["head_init"], tuned["epochs"]) == ("linear", "torch", 100)
    assert tuned["grid"]["lr"] == [0.005, 0.01, 0.05]
    assert tuned["final_factor"] * 0.01 == pytest.approx(1e-7)


def test_two_stages_have_the_published_numbers() -> None:
    recipe = ["recipe=rich_representations/transfer", "protocol=two_stage_finetune"]
    for dataset, epochs in (("cifar10", 2), ("imagenet", 1)):
        node = cell(*recipe, f"dataset={dataset}")["protocol"]
        assert (node["optimizer"]["lr"], node["epochs"], node["schedule"]) == (
            0.001, epochs, "constant",
        )  # fmt: skip
        assert (node["batch_size"], node["optimizer"]["nesterov"]) == (256, True)
        first = node["first_stage"]
        assert (first["optimizer"]["lr"], first["epochs"], first["batch_size"]) == (0.01, 100, 256)
        assert (first["optimizer"]["nesterov"], first["schedule"]) == (False, "cosine")
        assert first["final_factor"] * 0.01 == pytest.approx(1e-7)
