"""Published recipes as experiments: their cells, their numbers, and one real step of each."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from PIL import Image

import launchers
from launchers import sweep
from launchers.applicable import compose_cells
from launchers.composition import sweep_composer
from launchers.sweeper import products
from ssl_transfer.config import AXES, CONF, compose, options, plain, resolve
from ssl_transfer.datasets.transforms import augmentation
from ssl_transfer.protocols.logistic_regression import LogisticRegression
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems
from ssl_transfer.training.options import SampleOrder

Config = dict[str, Any]

# Those that pre-train are in test_pretraining_experiments.py.
EVALUATION = ("bn_tuning/", "transfer_2021/", "moco/", "swav/", "small_models/transfer_",
              "mixed_barlow_twins/linear_", "mixed_barlow_twins/transfer")  # fmt: skip
# Several networks as one encoder; they are in test_rich_experiments.py.
RICH = "rich_representations/"
# Measures of frozen encoders; they are in test_measurement_experiments.py.
MEASUREMENTS = (
    "invariances/classification",
    "invariances/extrinsic",
    "invariances/landmarks",
    "small_models/alignment_uniformity", "small_models/instance_discrimination",
    "small_models/measures", "small_models/best_nn", "small_models/tsne",
    "invariances/real_world",
    "invariances/synthetic",
)  # fmt: skip
PUBLISHED = [name for name in options("experiment") if name.startswith(EVALUATION)]


@pytest.fixture(scope="module")
def hydra() -> Iterator[Hydra]:
    launchers.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        instance = GlobalHydra.instance().hydra
        assert isinstance(instance, Hydra)
        yield instance


class Sweep:
    """An experiment as ``python run.py -m experiment=…`` sees it."""

    def __init__(self, hydra: Hydra, experiment: str) -> None:
        chosen = [f"experiment={experiment}"]
        master = hydra.compose_config("config", chosen, run_mode=RunMode.MULTIRUN)
        assert master.hydra.mode == RunMode.MULTIRUN
        self.swept = written(master.hydra.sweeper.params or {})
        self.grids = [written(grid) for grid in master.hydra.sweeper.grids or [{}]]
        self.composer = sweep_composer(hydra.config_loader, master)
        self.loader, self.master, self.chosen = hydra.config_loader, master, chosen
        self.first = axes(self.lines()[0])

    def lines(self, *narrowed: str) -> list[Sequence[str]]:
        """Return each run's overrides, as the sweeper makes them."""
        parser = OverridesParser.create(config_loader=self.loader)
        grids = [parser.parse_overrides(grid) for grid in self.grids]
        typed = parser.parse_overrides([*self.chosen, *narrowed])
        return list(products(parser.parse_overrides(self.swept), grids, typed))

    def config(self, *changes: str) -> Config:
        """Return the configuration of the first run, with changes."""
        line = {**self.first, **axes(changes)}
        # Only a choice of options takes time (0.2 s); the composer remembers it.
        return plain(self.composer.compose([f"{key}={value}" for key, value in line.items()]))


def written(grid: Mapping[str, Any]) -> list[str]:
    """Return the keys and values of a sweep as overrides."""
    return [f"{key}={values}" for key, values in grid.items()]


def axes(line: Sequence[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in line)


@pytest.fixture(scope="module")
def sweeps(hydra: Hydra) -> dict[str, Sweep]:
    return {name: Sweep(hydra, name) for name in PUBLISHED}


@pytest.fixture(scope="module")
def models(sweeps: dict[str, Sweep]) -> dict[tuple[str, str], Config]:
    """The nodes of all models that experiments name, by option and architecture."""
    every = {
        (axes(line).get("model", ""), axes(line).get("model.arch", "")): (one, line)
        for one in sweeps.values()
        for line in one.lines()
    }
    return {
        model: one.config(*(text for text in line if text.startswith("model")))["model"]
        for model, (one, line) in every.items()
    }


@pytest.mark.parametrize("experiment", ["demo", "demo_measures"])
def test_every_cell_of_the_demo_is_accepted(hydra: Hydra, experiment: str) -> None:
    one = Sweep(hydra, experiment)
    cells, _ = compose_cells(
        one.lines("seed=0"), lambda line: plain(one.composer.compose(line)), one.composer
    )
    assert [problem for cell in cells for problem in problems(cell)] == []


@pytest.mark.slow
@pytest.mark.parametrize("experiment", PUBLISHED)
def test_every_cell_of_an_experiment_composes_and_binds(
    sweeps: dict[str, Sweep], models: dict[tuple[str, str], Config], experiment: str
) -> None:
    one = sweeps[experiment]
    cells = [axes(line) for line in one.lines()]
    # Each option is composed once; a cell has the nodes of its options. That is the whole truth
    # where a recipe has one protocol, or where no recipe changes protocols by data set.
    assert experiment == "bn_tuning/many_shot" or "protocol" not in cells[0]
    by_dataset = {
        name: one.config(*([f"dataset={name}"] if name else []))
        for name in {cell.get("dataset") for cell in cells}
    }
    by_protocol = {
        name: one.config(*([f"protocol={name}"] if name else []))["protocol"]
        for name in {cell.get("protocol") for cell in cells}
    }
    fine: set[int] = set()
    for cell in cells:
        config = {
            **by_dataset[cell.get("dataset")],
            "model": models[cell.get("model", ""), cell.get("model.arch", "")],
        }
        if "protocol" in cell:
            config["protocol"] = by_protocol[cell["protocol"]]
        # Nodes bind or not whatever they stand beside, and asking takes 20 ms.
        nodes = {id(config[axis]) for axis in AXES}
        assert nodes <= fine or problems(config) == [], cell
        fine |= nodes
        # What is swept is what tables will call it, and a model brings weights of its own.
        assert config["dataset"]["name"] == cell.get("dataset", config["dataset"]["name"])
        assert config["model"]["weights"]["path"]


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_an_experiment_is_headed_by_command_cost_comparison_and_deviations(
    sweeps: dict[str, Sweep], experiment: str
) -> None:
    assert stated_runs(experiment) == len(sweeps[experiment].lines())


def stated_runs(experiment: str) -> int:
    """Return the number of runs that an experiment's head states, which must be complete."""
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert f"run.py -m experiment={experiment}" in head
    for word in ("https://", "# Cost: ", "GPU hours", "# Compare with: ", "# Deviations"):
        assert word in head, word
    stated = re.search(r"# Cost: (\d+) runs?\b", head)
    assert stated is not None
    return int(stated[1])


def test_the_command_line_narrows_an_experiment_and_each_set_keeps_its_numbers(
    sweeps: dict[str, Sweep],
) -> None:
    one = sweeps["bn_tuning/paper_linear"]
    lines = one.lines("dataset=dtd,aircraft", "model=swav", "protocol.clip_grad_norm=1")
    found = {}
    for line in lines:
        config = plain(one.composer.compose(line))
        # What the composer shares between runs is what Hydra composes for each of them.
        assert config == plain(one.loader.load_sweep_config(one.master, list(line)))
        found[config["dataset"]["name"]] = config["protocol"]
    assert list(found) == ["dtd", "aircraft"]
    assert [found[name]["batch_size"] for name in found] == [8, 128]
    assert [found[name]["preprocessing"]["mean"][0] for name in found] == [0.5327, 0.4894]
    assert {node["clip_grad_norm"] for node in found.values()} == {1}
    sound = one.config("dataset=dtd", "protocol.preprocessing=null", "protocol.batch_size=4")
    assert (sound["protocol"]["preprocessing"], sound["protocol"]["batch_size"]) == (None, 4)


def test_a_recipe_alone_serves_a_single_run() -> None:
    alone = plain(compose(["recipe=bn_tuning/paper", "dataset=dtd", "protocol=bn_tune"]))
    assert alone["protocol"]["preprocessing"]["mean"] == [0.5327, 0.4751, 0.4259]


def test_the_published_recipe_of_eurosat_flips_both_ways_and_never_crops() -> None:
    # _base_/datasets/eurosat.py of github.com/vpulab/bn_finetuning
    node = plain(compose(["recipe=bn_tuning/paper", "dataset=eurosat", "protocol=bn_tune"]))
    found = augmentation(node["protocol"]["augmentation"], flip=node["dataset"]["flip"])
    assert found is not None
    assert (found.flip_probability, found.vertical_flip_probability) == (0.5, 0.5)
    assert found.crop_scale is None
    drawn = [f.name for f in dataclasses.fields(found) if f.name.endswith("_probability")]
    assert {name for name in drawn if getattr(found, name)} == {
        "flip_probability", "vertical_flip_probability",
    }  # fmt: skip


class Published(NamedTuple):
    """A row of the table of configurations of github.com/vpulab/bn_finetuning (4a5f055)."""

    batch: int
    epochs: int
    lr: float = 0.01
    augmented: bool = True
    head: str = "linear"
    steps: int | None = None  # per epoch, where the sizes are official
    images: int = 0


PROBE = Published(8, 23)  # of cars, for those without a working file of their own
BN_TUNING: dict[tuple[str, str], Published] = {
    ("dtd", "bn_tune"): Published(16, 70, steps=235, images=3760),
    ("flowers", "bn_tune"): Published(16, 70, steps=128, images=2040),
    ("pets", "bn_tune"): Published(16, 70, steps=230, images=3680),
    ("mhist", "bn_tune"): Published(16, 70, steps=136, images=2175),
    ("aircraft", "bn_tune"): Published(16, 70, augmented=False, steps=417, images=6667),
    ("caltech101", "bn_tune"): Published(8, 70, augmented=False),
    ("cars", "bn_tune"): Published(8, 70, augmented=False),
    ("cifar10", "bn_tune"): Published(16, 70),
    ("cifar100", "bn_tune"): Published(128, 350, lr=0.1),
    ("cars", "linear_probe"): Published(8, 23, augmented=False, steps=1018, images=8144),
    ("aircraft", "linear_probe"): Published(
        128, 23, head="bn_affine_linear", steps=53, images=6667
    ),
    ("plantvillage", "linear_probe"): Published(256, 28, head="bn_affine_linear"),
    ("cifar10", "linear_probe"): Published(12, 28, lr=0.1),
    ("cifar100", "linear_probe"): Published(12, 28, lr=0.1),
    ("caltech101", "linear_probe"): PROBE._replace(augmented=False),
    ("dtd", "linear_probe"): PROBE,
    ("flowers", "linear_probe"): PROBE,
    ("pets", "linear_probe"): PROBE,
    ("mhist", "linear_probe"): PROBE,
}
STATISTICS = {  # mean and std of the same code's data files
    "dtd": ((0.5327, 0.4751, 0.4259), (0.2640, 0.2535, 0.2616)),
    "aircraft": ((0.4894, 0.5183, 0.5388), (0.2226, 0.2156, 0.2456)),
    "caltech101": ((0.5371, 0.5097, 0.4796), (0.3010, 0.2947, 0.3065)),
    "cars": ((0.4460, 0.4311, 0.4319), (0.2903, 0.2884, 0.2956)),
    "flowers": ((0.5179, 0.4110, 0.3297), (0.2971, 0.2496, 0.2855)),
    "pets": ((0.4864, 0.4483, 0.3963), (0.2612, 0.2557, 0.2623)),
    "mhist": ((0.7314, 0.6416, 0.7711), (0.1789, 0.2258, 0.1511)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
    "plantvillage": ((0.4394, 0.4767, 0.3735), (0.1970, 0.1746, 0.2135)),
}
WEIGHTED = {"caltech101": "test_frequency", "plantvillage": "train_frequency"}


@pytest.mark.parametrize(("dataset", "protocol"), BN_TUNING)
def test_the_bn_tuning_recipes_have_the_published_numbers(
    sweeps: dict[str, Sweep], dataset: str, protocol: str
) -> None:
    published = BN_TUNING[dataset, protocol]
    kind = {"bn_tune": "bn_tune", "linear_probe": "linear"}[protocol]
    one = sweeps[f"bn_tuning/paper_{kind}"]
    assert any(axes(line)["dataset"] == dataset for line in one.lines())
    node = one.config(f"dataset={dataset}")["protocol"]
    assert node["name"] == protocol
    assert (node["batch_size"], node["epochs"]) == (published.batch, published.epochs)
    assert {key: values for key, values in node["grid"].items() if values} == {"lr": [published.lr]}
    assert (node["augmentation"] != "none") == published.augmented
    assert node["head"] == published.head
    assert node.get("class_weights") == WEIGHTED.get(dataset)
    optimizer = [node["optimizer"][k] for k in ("name", "momentum", "nesterov", "weight_decay")]
    assert optimizer == ["sgd", 0.9, False, 1e-6]
    assert (node["schedule"], node["schedule_per"]) == ("cosine", "epoch")
    assert (node["selection"], node["epoch_selection"]) == ("test", "best")
    images = node["preprocessing"]
    assert (tuple(images["mean"]), tuple(images["std"])) == STATISTICS[dataset]
    assert images["channel_order"] == ("rgb" if "cifar" in dataset else "bgr")
    small = (dataset, protocol) == ("cifar100", "bn_tune")
    assert (images["size"], images["resize"]) == ((32, 32) if small else (224, 256))
    assert images["interpolation"] == ("bicubic" if dataset == "cifar10" else "bilinear")
    if protocol == "bn_tune":
        assert node["bn_scope"] == "published"
    if published.steps is not None:
        stream = SampleOrder(published.images, node["batch_size"], drop_last=False, seed=0)
        assert math.ceil(stream.steps_per_epoch) == published.steps


def test_every_set_of_the_bn_tuning_recipes_is_restated_here(sweeps: dict[str, Sweep]) -> None:
    for kind, protocol in (("bn_tune", "bn_tune"), ("linear", "linear_probe")):
        swept = {axes(line)["dataset"] for line in sweeps[f"bn_tuning/paper_{kind}"].lines()}
        assert swept == {dataset for dataset, name in BN_TUNING if name == protocol}


def test_many_shot_gives_its_three_protocols_one_budget_and_pipeline(
    sweeps: dict[str, Sweep],
) -> None:
    one = sweeps["bn_tuning/many_shot"]
    assert len(one.lines()) == 15 * 11 * 3
    nodes = [
        one.config(f"protocol={protocol}")["protocol"]
        for protocol in ("linear_probe", "bn_tune", "finetune")
    ]
    differing = {key for key in nodes[0] if len({str(node[key]) for node in nodes}) > 1}
    assert differing == {"name", "trainable"}
    shared = nodes[0]
    assert (shared["steps"], shared["selection"], shared["bn_scope"]) == (5000, "val", "all")
    assert shared["preprocessing"] is None


def test_logistic_regression_of_2021_goes_through_45_quarter_decades(
    sweeps: dict[str, Sweep],
) -> None:
    one = sweeps["transfer_2021/linear"]
    node = one.config("model=simclr_v1")["protocol"]
    keys = ("wd_values", "wd_log10", "solver")
    protocol = LogisticRegression(**{key: node[key] for key in keys})
    logs = np.log10(protocol.grid())
    assert logs == pytest.approx(np.arange(6, -5.01, -0.25))
    assert (node["solver"], node["calibration"]) == ("sklearn_2021", "test_folds")
    images = node["preprocessing"]
    assert images == {"size": 224, "resize": 224, "interpolation": "bicubic"}
    assert one.config("model=simclr_v1")["model"]["preprocessing"]["mean"] == [0, 0, 0]
    assert len(one.lines()) == 14 * 11


def test_fine_tuning_of_2021_has_its_grid_of_20_and_nominal_weight_decays(
    sweeps: dict[str, Sweep],
) -> None:
    one = sweeps["transfer_2021/finetune"]
    node = one.config("dataset=cifar10")["protocol"]
    assert sorted(node["grid"]["lr"]) == pytest.approx(np.logspace(-4, -1, 4))
    assert node["grid"]["weight_decay"] == pytest.approx([0, *np.logspace(-6, -3, 4)])
    assert node["grid"]["lr"][0] == 0.1  # from large to small: of equal scores the first wins
    assert (node["divide_weight_decay"], node["head_init"]) == (True, "torch")
    assert (node["steps"], node["batch_size"]) == (5000, 64)
    assert (node["optimizer"]["momentum"], node["optimizer"]["nesterov"]) == (0.9, True)
    assert (node["schedule"], node["schedule_per"]) == ("cosine", "step")
    assert node["augmentation"] == "crop_flip"
    images = node["preprocessing"]
    assert images == {"size": 224, "resize": 224, "interpolation": "bicubic"}
    assert node["selection"] == "val"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "finetune"])
def test_sets_and_encoders_of_2021_are_those_of_the_published_code(
    sweeps: dict[str, Sweep], kind: str
) -> None:
    one = sweeps[f"transfer_2021/{kind}"]
    official = {"aircraft", "dtd", "flowers", "voc2007"}
    datasets = {axes(line)["dataset"] for line in one.lines()}
    assert len(datasets) == 11
    for name in datasets:
        node = one.config(f"dataset={name}")["dataset"]
        assert node.get("val_rule") == (None if name in official else "ericsson2021")
    voc = one.config("dataset=voc2007")["dataset"]
    assert (voc["difficult"], voc["metric"]) == ("negative", "map_11_point_sklearn")
    assert one.config("model=byol")["model"]["padding"] == "torchvision"
    assert plain(compose(["model=byol"]))["model"]["padding"] == "same"


def test_few_shot_of_2021_draws_its_episodes_from_squashed_images_of_all_splits(
    sweeps: dict[str, Sweep],
) -> None:
    one = sweeps["transfer_2021/few_shot"]
    assert len(one.lines()) == 14 * 4 * 3
    assert {axes(line)["protocol.shots"] for line in one.lines()} == {"5", "20", "50"}
    node = one.config("dataset=isic", "protocol.shots=20")["protocol"]
    assert (node["ways"], node["shots"], node["queries"], node["episodes"]) == (5, 20, 15, 600)
    assert (node["classifier"], node["pool"], node["normalise"]) == ("class_mean", "all", False)
    assert node["preprocessing"] == {
        "size": 224, "resize": int(224 * 1.15), "squash": True, "interpolation": "bilinear",
    }  # fmt: skip


def test_few_shot_classifiers_of_bn_tuning_have_one_budget(sweeps: dict[str, Sweep]) -> None:
    one = sweeps["bn_tuning/few_shot"]
    assert len(one.lines()) == 15 * 4 * 3 * 3
    node = one.config("dataset=eurosat", "protocol.classifier=bn_tune")["protocol"]
    assert (node["steps"], node["batch_size"], node["bn_statistics"]) == (100, None, "support")
    of_2021 = sweeps["transfer_2021/few_shot"].config("dataset=eurosat")["protocol"]
    for key in ("pool", "preprocessing", "ways", "queries", "episodes", "normalise"):
        assert node[key] == of_2021[key]


def test_moco_linear_evaluation_has_the_published_numbers(sweeps: dict[str, Sweep]) -> None:
    config = sweeps["moco/linear_eval"].config()
    node = config["protocol"]
    assert (node["name"], config["dataset"]["name"]) == ("linear_probe", "imagenet")
    assert (node["grid"]["lr"], node["epochs"], node["batch_size"]) == ([30.0], 100, 256)
    assert (node["schedule"], node["milestones"], node["step_factor"]) == ("step", [60, 80], 0.1)
    assert (node["optimizer"]["weight_decay"], node["optimizer"]["nesterov"]) == (0.0, False)
    assert (node["head"], node["head_init"], node["augmentation"]) == ("linear", None, "crop_flip")


@pytest.mark.parametrize(
    ("dataset", "order", "area", "grey"),
    [
        ("cifar10", None, [0.08, 1.0], 0.2),
        ("cifar100", None, [0.08, 1.0], 0.2),
        ("tiny_imagenet", ["jitter", "grayscale", "crop", "blur", "solarize"], [0.2, 1.0], 0.1),
        ("stl10", ["jitter", "grayscale", "crop", "blur", "solarize"], [0.2, 1.0], 0.1),
    ],
)
def test_linear_evaluation_of_mixed_barlow_twins_has_the_published_numbers(
    sweeps: dict[str, Sweep], dataset: str, order: Any, area: list[float], grey: float
) -> None:
    # linear.py and utils.py of github.com/wgcban/mix-bt at e2c6af0
    one = sweeps[f"mixed_barlow_twins/linear_{dataset}"]
    config = one.config()
    node = config["protocol"]
    assert (config["dataset"]["name"], node["name"]) == (dataset, "linear_probe")
    assert config["model"]["name"] == f"mixed_bt_r18_{dataset}"
    assert (node["encoder_mode"], node["head_init"], node["preprocessing"]) == (
        "train", "torch", None,
    )  # fmt: skip
    assert (node["epochs"], node["batch_size"], node["grid"]["lr"]) == (200, 512, [0.01])
    optimizer = node["optimizer"]
    assert (optimizer["name"], optimizer["betas"], optimizer["weight_decay"]) == (
        "adam", [0.9, 0.999], 5e-6,
    )  # fmt: skip
    assert (node["schedule"], node["schedule_per"]) == ("exponential", "epoch")
    assert 0.01 * node["final_factor"] == pytest.approx(1e-6)
    assert (node["selection"], node["epoch_selection"]) == ("val", "last")
    drawn = node["augmentation"]
    assert drawn.get("order") == order
    assert (drawn["crop_scale"], drawn["grayscale_probability"]) == (area, grey)
    strengths = ("jitter_probability", "brightness", "contrast", "saturation", "hue")
    assert [drawn[key] for key in strengths] == [0.8, 0.4, 0.4, 0.4, 0.1]
    # Equal to a view of its pre-training, whose numbers stand elsewhere.
    views = {"cifar10": "cifar", "cifar100": "cifar"}.get(dataset, dataset)
    composed = plain(compose(["method=mixed_barlow_twins", f"views@method={views}"]))
    (view,) = composed["method"]["views"]
    assert {key: value for key, value in view.items() if key != "count"} == {
        "flip_probability": 0.5, **drawn,
    }  # fmt: skip


def test_linear_evaluation_of_mixed_barlow_twins_on_imagenet_is_that_of_barlow_twins(
    sweeps: dict[str, Sweep],
) -> None:
    node = sweeps["mixed_barlow_twins/linear_imagenet"].config()["protocol"]
    assert (node["epochs"], node["batch_size"], node["grid"]["lr"]) == (100, 256, [0.3])
    assert (node["schedule"], node["schedule_per"]) == ("cosine", "epoch")
    optimizer = [node["optimizer"][k] for k in ("name", "momentum", "nesterov", "weight_decay")]
    assert optimizer == ["sgd", 0.9, False, 1e-6]
    assert (node["encoder_mode"], node["head_init"]) == ("eval", None)
    assert (node["selection"], node["epoch_selection"]) == ("test", "best")
    assert len(sweeps["mixed_barlow_twins/linear_imagenet"].lines()) == 7


# data_statistics.py of github.com/wgcban/mix-bt
TRANSFER: dict[str, tuple[list[float], list[float]]] = {
    "aircraft": ([0.486, 0.507, 0.525], [0.266, 0.260, 0.276]),
    "cub200": ([0.483, 0.491, 0.424], [0.228, 0.224, 0.259]),
    "dtd": ([0.533, 0.474, 0.426], [0.261, 0.250, 0.259]),
    "fashionmnist": ([0.348] * 3, [0.347] * 3),
    "flowers": ([0.518, 0.410, 0.329], [0.296, 0.249, 0.285]),
    "mnist": ([0.170] * 3, [0.320] * 3),
    "traffic_sign": ([0.335, 0.291, 0.295], [0.267, 0.249, 0.251]),
}


def test_transfer_of_mixed_barlow_twins_squeezes_images_and_has_each_sets_statistics(
    sweeps: dict[str, Sweep],
) -> None:
    one = sweeps["mixed_barlow_twins/transfer"]
    assert {axes(line)["dataset"] for line in one.lines()} == set(TRANSFER)
    for dataset, (mean, std) in TRANSFER.items():
        config = one.config(f"dataset={dataset}")
        node = config["protocol"]
        assert node["preprocessing"] == {
            "square": True, "interpolation": "bilinear", "mean": mean, "std": std,
        }  # fmt: skip
        assert (node["epochs"], node["batch_size"], node["grid"]["lr"]) == (100, 128, [0.01])
        assert (node["milestones"], node["step_factor"]) == ([60, 80], 0.1)
        assert (node["optimizer"]["momentum"], node["optimizer"]["weight_decay"]) == (0.9, 0.0)
        assert (node["augmentation"], node["encoder_mode"]) == ("none", "train")
        assert (node["selection"], node["epoch_selection"]) == ("test", "best")
        assert config["dataset"].get("bounding_box", False) == (dataset == "aircraft")
        drawn = dataset in ("flowers", "traffic_sign")
        assert config["dataset"].get("split_rule") == ("mix_bt" if drawn else None)


@pytest.mark.parametrize(
    ("kind", "dataset", "lr", "epochs", "milestones", "factor", "area", "resize"),
    [
        ("linear", "cifar10", 1.5, 60, [40], 0.1, [0.6, 1.0], 224),
        ("linear", "cifar100", 1.5, 60, [40], 0.1, [0.6, 1.0], 224),
        ("linear", "caltech101", 2.0, 60, [40], 0.1, [0.6, 1.0], 256),
        ("finetune", "cifar10", 0.01, 100, [40, 70], 0.2, [0.2, 1.0], 224),
        ("finetune", "cifar100", 0.01, 100, [40, 70], 0.2, [0.2, 1.0], 224),
        ("finetune", "caltech101", 0.01, 100, [40, 70], 0.2, [0.2, 1.0], 256),
    ],
)
def test_transfer_of_small_models_has_the_numbers_its_authors_ran(
    sweeps: dict[str, Sweep],
    kind: str,
    dataset: str,
    lr: float,
    epochs: int,
    milestones: list[int],
    factor: float,
    area: list[float],
    resize: int,
) -> None:
    one = sweeps[f"small_models/transfer_{kind}"]
    config = one.config(f"dataset={dataset}", "model=efficientnet_b0")
    assert config["model"]["variant"] == "ssl_small"  # the network that is pre-trained, too
    node = config["protocol"]
    assert (node["grid"]["lr"], node["epochs"], node["batch_size"]) == ([lr], epochs, 256)
    assert (node["milestones"], node["step_factor"]) == (milestones, factor)
    assert node["augmentation"] == {"crop_scale": area}
    assert (node["preprocessing"]["resize"], node["preprocessing"]["size"]) == (resize, 224)
    assert node["preprocessing"]["interpolation"] == "bicubic"
    assert (node["head"], node["optimizer"]["weight_decay"]) == ("l2_linear", 0.0)
    path = resolve(config)["model"]["weights"]["path"]
    assert path.endswith("small_models/efficientnet_b0.safetensors")


@pytest.mark.parametrize(
    ("percent", "encoder_lr", "head_lr"), [("1", 0.02, 5.0), ("10", 0.01, 0.2)]
)
def test_fine_tuning_with_few_labels_is_that_of_swav(
    sweeps: dict[str, Sweep], percent: str, encoder_lr: float, head_lr: float
) -> None:
    # README.md and eval_semisup.py of github.com/facebookresearch/swav at 57eac59
    config = sweeps[f"swav/labels_{percent}pct"].config()
    node = config["protocol"]
    assert (node["encoder_lr"], node["grid"]["lr"]) == (encoder_lr, [head_lr])
    assert (node["epochs"], node["batch_size"], node["bn_groups"]) == (20, 256, 1)
    assert (node["milestones"], node["step_factor"]) == ([12, 16], 0.2)
    assert (node["optimizer"]["weight_decay"], node["head_init"]) == (0.0, "torch")
    assert node["preprocessing"]["std"] == [0.228, 0.224, 0.225]
    assert config["dataset"]["name"] == f"imagenet_{percent}pct"
    assert config["dataset"]["subset"].endswith(f"/{percent}percent.txt")


STEPS = [
    ("bn_tuning/many_shot", ["protocol=linear_probe"]),
    ("bn_tuning/many_shot", ["protocol=bn_tune"]),
    ("bn_tuning/many_shot", ["protocol=finetune"]),
    ("bn_tuning/paper_bn_tune", ["dataset=caltech101"]),
    ("bn_tuning/paper_linear", ["dataset=aircraft"]),
    ("transfer_2021/linear", ["dataset=dtd"]),
    ("transfer_2021/finetune", ["dataset=pets"]),
    ("moco/linear_eval", []),
    ("small_models/transfer_linear", ["dataset=cifar10"]),
    ("small_models/transfer_finetune", ["dataset=caltech101"]),
    ("swav/labels_1pct", []),
    ("swav/labels_10pct", []),
    ("mixed_barlow_twins/linear_stl10", []),
    ("mixed_barlow_twins/linear_imagenet", []),
    ("mixed_barlow_twins/transfer", ["dataset=flowers"]),
]
ALIKE = {f"mixed_barlow_twins/linear_{name}" for name in ("cifar10", "cifar100", "tiny_imagenet")}
# Their episodes have no recipe of training steps that a width could break.
ALIKE |= {"bn_tuning/few_shot", "transfer_2021/few_shot"}


def folder_of_images(root: Path, classes: int = 2, per_class: int = 3) -> None:
    chance = np.random.default_rng(0)
    for split, label in itertools.product(("train", "val", "test"), range(classes)):
        place = root / split / f"class_{label}"
        place.mkdir(parents=True)
        for number in range(per_class):
            pixels = chance.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "narrowed"), STEPS)
def test_a_recipe_takes_real_steps_with_a_resnet50_and_its_published_batch(
    sweeps: dict[str, Sweep], tmp_path: Path, experiment: str, narrowed: list[str]
) -> None:
    shared = ["debug=true", "trainer.progress_bar=false", "trainer.device=cpu", "model=resnet50"]
    if "small" in experiment:
        shared.append("~model.variant=ssl_small")  # there is one ResNet-50
    config = sweeps[experiment].config(*narrowed, *shared, f"paths.outputs={tmp_path / 'outputs'}")
    folder_of_images(tmp_path / "images")
    images = plain(compose(["dataset=image_folder", f"dataset.root={tmp_path / 'images'}"]))
    config["dataset"] = {**images["dataset"], "name": config["dataset"]["name"]}
    config["model"]["weights"]["path"] = None
    node = config["protocol"]
    for key, values in node.get("grid", {}).items():  # one training of up to twenty
        node["grid"][key] = values and values[-1:]
    if node.get("batch_size", 64) > 16:  # 256 images of 224 px would take 23 GB
        sized = {"size": 16, "resize": 18}
        node["preprocessing"] = {**(node["preprocessing"] or {}), **sized}
    run = Run(config)
    assert problems(config) == []
    assert sweep.execute_all([run]).failures == {}
    record = run.record()
    scores = {score["metric"]: score["value"] for score in record["scores"]}
    assert 0 <= scores["top1"] <= 1
    if "grid" in node:
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()
        assert any('"step"' in line for line in lines)


def test_every_recipe_is_among_those_that_take_steps() -> None:
    assert {experiment for experiment, _ in STEPS} == set(PUBLISHED) - ALIKE


@pytest.mark.parametrize(
    "experiment",
    [
        "transfer_2021/linear",
        "transfer_2021/finetune",
        "bn_tuning/paper_linear",
        "bn_tuning/paper_bn_tune",
    ],
)
@pytest.mark.parametrize("axis", [("dataset", "food", "food101"), ("model", "moco", "moco_v2")])
def test_a_recipe_is_the_same_for_an_alias(experiment: str, axis: tuple[str, str, str]) -> None:
    key, alias, name = axis
    ids = {
        Run(plain(compose([f"experiment={experiment}", f"{key}={one}"]))).id
        for one in (alias, name)
    }
    assert len(ids) == 1
