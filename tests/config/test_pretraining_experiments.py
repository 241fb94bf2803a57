"""Published pre-trainings as experiments: one command per row, their numbers, some real steps."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from test_experiments import (
    EVALUATION,
    MEASUREMENTS,
    RICH,
    Config,
    Sweep,
    folder_of_images,
    hydra,
    stated_runs,
)

from launchers import sweep
from ssl_transfer.config import CONF, compose, options, plain
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems
from ssl_transfer.training.options import SampleOrder, TrainingOptions

__all__ = ["hydra"]  # a fixture

OTHERS = ("demo", "study/", RICH, *EVALUATION, *MEASUREMENTS)
EVERY = [name for name in options("experiment") if not name.startswith(OTHERS)]
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000, "stl10": 105_000,
          "imagenet": 1_281_167}  # fmt: skip


def composed(*line: str) -> Config:
    return plain(compose(list(line)))


class Configs(dict[str, Config]):
    """Experiments' configurations, as one run of each has it, composed when they are wanted."""

    def __missing__(self, experiment: str) -> Config:
        self[experiment] = composed(f"experiment={experiment}")
        return self[experiment]


@pytest.fixture(scope="module")
def configs() -> Configs:
    return Configs()


def test_every_published_row_has_a_command_of_its_own() -> None:
    small = ("cifar10", "cifar100", "stl10", "tiny_imagenet")
    expected = {f"mixed_barlow_twins/{name}_resnet{d}" for name in small for d in (18, 50)}
    expected |= {"mixed_barlow_twins/imagenet", "mixed_barlow_twins/imagenet_1000ep"}
    expected |= {f"ssl_sota/{name}" for name in small}
    expected |= {f"ssl_sota/w_mse_{name}" for name in small}
    expected |= {f"small_models/{kind}{one}" for kind in ("improved", "baseline")
                 for one in ("", "_resnet18")}  # fmt: skip
    expected |= {f"invariances/{name}" for name in ("default", "default_x3", "dorsal", "ventral")}
    assert set(EVERY) == expected


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EVERY)
def test_an_experiment_binds_trains_on_all_images_and_is_judged_on_its_own_set(
    configs: dict[str, Config], experiment: str
) -> None:
    config = configs[experiment]
    assert problems(config) == []
    assert stated_runs(experiment) >= 1
    given, judged = config["method"]["pretrain_on"], config["dataset"]
    assert (given["name"], given["val_fraction"]) == (judged["name"], 0.0)
    assert judged["val_fraction"] == 0.2
    assert config["protocol"]["name"] == "linear_probe"


@pytest.mark.parametrize(
    "experiment", ["mixed_barlow_twins/imagenet", "small_models/improved", "ssl_sota/cifar10"]
)
def test_a_swept_experiment_has_as_many_runs_as_its_head_states(
    hydra: Hydra, experiment: str
) -> None:
    one = Sweep(hydra, experiment)
    lines = one.lines()
    assert stated_runs(experiment) == len(lines)
    runs = [Run(one.config(*line)) for line in lines]
    assert all(problems(run.config) == [] for run in runs)
    # Each has an encoder of its own, under a name of its own.
    assert len({run.label for run in runs}) == len({run.id for run in runs}) == len(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "recipe"),
    [
        ("mixed_barlow_twins/stl10_resnet18", "mixed_barlow_twins/knn"),
        ("mixed_barlow_twins/cifar10_resnet50", "mixed_barlow_twins/transfer"),
        ("ssl_sota/tiny_imagenet", "ssl_sota/knn"),
        ("invariances/dorsal", "pretrain"),
    ],
)
def test_the_recipe_of_the_evaluation_changes_no_pretraining(
    configs: dict[str, Config], experiment: str, recipe: str
) -> None:
    config = composed(f"experiment={experiment}", f"recipe={recipe}")
    assert problems(config) == []
    run = Run(config)
    (required,) = Run(configs[experiment]).requirements
    assert (run if run.is_pretraining else run.requirements[0]).id == required.id


def steps_of(config: Config) -> tuple[int, float]:
    """Return the number of steps of a pre-training, and the first epoch after its warm-up."""
    method = config["method"]
    recipe = TrainingOptions.of(method, drop_last=True)
    stream = SampleOrder(IMAGES[method["pretrain_on"]["name"]], method["batch_size"], True, seed=0)
    return recipe.length(stream), method["warmup_epochs"] * stream.steps_per_epoch


@pytest.mark.parametrize(
    ("dataset", "depth", "epochs", "steps", "weight", "mixed"),
    [  # README of github.com/wgcban/mix-bt; epochs: its scripts
        ("cifar10", 18, 2000, 195, 0.0078125, 4.0),
        ("cifar10", 50, 1000, 195, 0.0078125, 4.0),
        ("cifar100", 18, 2000, 195, 0.0078125, 4.0),
        ("cifar100", 50, 1000, 195, 0.0078125, 4.0),
        ("tiny_imagenet", 18, 2000, 390, 0.0009765, 4.0),
        ("tiny_imagenet", 50, 2000, 390, 0.0009765, 4.0),
        ("stl10", 18, 2000, 410, 0.0078125, 2.0),
        ("stl10", 50, 2000, 410, 0.0078125, 2.0),
    ],
)
def test_mixed_barlow_twins_on_small_images_has_the_published_numbers(
    configs: dict[str, Config],
    dataset: str,
    depth: int,
    epochs: int,
    steps: int,
    weight: float,
    mixed: float,
) -> None:
    config = configs[f"mixed_barlow_twins/{dataset}_resnet{depth}"]
    model, method = config["model"], config["method"]
    assert (model["name"], method["pretrain_on"]["name"]) == (f"resnet{depth}", dataset)
    assert method["name"] == "mixed_bt_${method.pretrain_on.name}"
    assert (method["epochs"], method["batch_size"]) == (epochs, 256)
    assert steps_of(config) == (epochs * steps, 10 * steps)
    assert (method["lambda_bt"], method["lambda_reg"]) == (weight, mixed)
    assert method["projector"] == {
        "dims": [512, 1024], "batch_norm": True, "hidden_bias": False, "last_bias": True,
        "last_batch_norm": False,
    }  # fmt: skip
    # Lengths of 1, then torch.std without an epsilon; README's formula of both targets.
    kinds = ("normalise", "unbiased", "eps", "second_target", "lambda_reg_warmup", "mix_beta")
    assert [method[key] for key in kinds] == [True, True, 0.0, "a", 0.0, [1.0, 1.0]]
    optimizer = method["optimizer"]
    assert (optimizer["name"], optimizer["lr"], optimizer["weight_decay"]) == ("adam", 0.01, 1e-6)
    assert (method["schedule"], method["final_factor"]) == ("cosine", 0.001)
    assert method["pretrain_on"].get("unlabelled", False) == (dataset == "stl10")
    # The network and its images are those of the released weights.
    released = composed(f"model=mixed_bt_r{depth}_{dataset}")["model"]
    assert model["stem"] == released["stem"]
    assert model["preprocessing"] == released["preprocessing"]
    assert model["stem_init"] == "torch"


@pytest.mark.parametrize(
    ("experiment", "epochs", "weight", "warm"),
    [("mixed_barlow_twins/imagenet", 300, 0.5, 1 / 30),
     ("mixed_barlow_twins/imagenet_1000ep", 1000, 1.0, 0.01)],
)  # fmt: skip
def test_mixed_barlow_twins_on_imagenet_has_the_published_numbers(
    configs: dict[str, Config], experiment: str, epochs: int, weight: float, warm: float
) -> None:
    config = configs[experiment]
    method, optimizer = config["method"], config["method"]["optimizer"]
    assert (method["epochs"], method["batch_size"], method["warmup_epochs"]) == (epochs, 1024, 10)
    # --learning-rate-weights 0.2, --learning-rate-biases 0.0048 per 256 images; 8 processes
    assert optimizer["lr"] == pytest.approx(0.2 * 1024 / 256)
    assert optimizer["bias_lr"] == pytest.approx(0.0048 * 1024 / 256 / 8)
    rest = ("name", "momentum", "weight_decay", "trust", "exclude_bias_and_norm")
    assert [optimizer[key] for key in rest] == ["lars", 0.9, 1e-6, 0.001, True]
    assert method["projector"]["dims"] == [8192, 8192, 8192]
    assert not method["projector"]["hidden_bias"]
    assert not method["projector"]["last_bias"]
    assert method["lambda_bt"] == 0.0051
    # The published term is halved, and its weight rises over ten epochs.
    assert method["lambda_reg"] == weight
    assert method["lambda_reg_warmup"] == pytest.approx(warm, abs=1e-6)
    assert (method["second_target"], method["normalise"], method["unbiased"]) == ("b", False, True)
    assert method["final_factor"] == 0.001
    assert config["model"]["zero_init_residual"] is True
    first, second = method["views"]
    assert (first["blur_probability"], second["blur_probability"]) == (1.0, 0.1)
    assert (first.get("solarize_probability", 0.0), second["solarize_probability"]) == (0.0, 0.2)


@pytest.mark.parametrize(
    ("dataset", "epochs", "rate", "dim", "per_epoch", "size"),
    [  # README of github.com/htdt/self-supervised, whose batch is 512
        ("cifar10", 1000, 0.003, 64, 97, 32),
        ("cifar100", 1000, 0.003, 64, 97, 32),
        ("stl10", 2000, 0.002, 128, 205, 64),
        ("tiny_imagenet", 1000, 0.002, 128, 195, 64),
    ],
)
def test_w_mse_and_its_baselines_have_the_published_numbers(
    configs: dict[str, Config],
    dataset: str,
    epochs: int,
    rate: float,
    dim: int,
    per_epoch: int,
    size: int,
) -> None:
    experiments = [f"ssl_sota/{dataset}", f"ssl_sota/w_mse_{dataset}"]
    byol = composed(f"experiment={experiments[0]}", "method=byol")
    for config in (*(configs[name] for name in experiments), byol):
        method = config["method"]
        steps, warm = steps_of(config)
        assert (steps, round(warm)) == (epochs * per_epoch, 500)
        assert (method["batch_size"], method["epochs"]) == (512, epochs)
        assert (method["schedule"], method["milestones"]) == ("step", [epochs - 50, epochs - 25])
        assert method["step_factor"] == 0.2
        optimizer = method["optimizer"]
        assert (optimizer["name"], optimizer["lr"]) == ("adam", rate)
        assert optimizer["weight_decay"] == 1e-6
        assert method["projector"]["dims"] == [1024, dim]
        assert method["projector"]["hidden_bias"]
        assert method["projector"]["last_bias"]
        (view,) = method["views"]
        assert (view["count"], view["crop_scale"]) == (2, [0.2, 1.0])
        assert view["grayscale_probability"] == 0.1
        assert config["model"]["preprocessing"]["size"] == size
    assert byol["method"]["momentum"] == 0.99
    simclr, w_mse = (configs[name]["method"] for name in experiments)
    assert (simclr["temperature"], simclr["projector"]["last_batch_norm"]) == (0.5, True)
    assert (w_mse["sub_batch"], w_mse["iterations"]) == ((128, 1) if size == 32 else (256, 4))
    assert w_mse["eps"] == 0.0


@pytest.mark.parametrize(("dataset", "per_epoch"), [("cifar100", 195), ("stl10", 410)])
def test_the_stated_command_makes_w_mse_4(dataset: str, per_epoch: int) -> None:
    name = f"ssl_sota/w_mse_{dataset}"
    text = (CONF / "experiment" / f"{name}.yaml").read_text().replace("\\\n#", "")
    (line,) = [row for row in text.splitlines() if "w_mse_4" in row]
    command = line.split(" -m ")[1].split()
    config = composed(*command)
    assert problems(config) == []
    method = config["method"]
    assert (method["name"], method["views"][0]["count"]) == ("w_mse_4", 4)
    assert (method["batch_size"], method["iterations"]) == (256, 1)
    assert round(steps_of(config)[1]) == 500
    assert steps_of(config)[0] == method["epochs"] * per_epoch


MOCO = {"momentum": 0.999, "queue_size": 65536, "dim": 128, "warmup_epochs": 0,
        "schedule": "cosine", "schedule_per": "epoch"}  # fmt: skip


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [  # README of github.com/WOWNICE/ssl-small; --cj 1 --grey-scale 0.5
        ("small_models/improved",
         {"epochs": 800, "batch_size": 512, "lr": 0.06, "temperature": 0.1, "mlp": "wide",
          "grey": 0.5, "hue": 0.4, "brightness": 0.8}),
        ("small_models/baseline",
         {"epochs": 200, "batch_size": 256, "lr": 0.03, "temperature": 0.2, "mlp": "simple",
          "grey": 0.2, "hue": 0.1, "brightness": 0.4}),
        ("invariances/default",
         {"epochs": 200, "batch_size": 256, "lr": 0.03, "temperature": 0.2, "mlp": "simple",
          "grey": 0.2, "hue": 0.1, "brightness": 0.4}),
    ],
)  # fmt: skip
def test_moco_on_imagenet_has_the_published_numbers(
    configs: dict[str, Config], experiment: str, expected: dict[str, Any]
) -> None:
    names = [experiment]
    if experiment.startswith("small"):
        names.append(f"{experiment}_resnet18")
        assert configs[experiment]["model"]["variant"] == "ssl_small"
        assert configs[names[1]]["model"]["name"] == "resnet18"
    for name in names:
        method = configs[name]["method"]
        (view,) = method["views"]
        found = {**method, "lr": method["optimizer"]["lr"], "grey": view["grayscale_probability"]}
        found |= {key: view[key] for key in ("hue", "brightness")}
        assert {key: found[key] for key in {**MOCO, **expected}} == {**MOCO, **expected}
        optimizer = [method["optimizer"][key] for key in ("name", "momentum", "weight_decay")]
        assert optimizer == ["sgd", 0.9, 1e-4]
        assert (view["count"], view["crop_scale"], view["blur_probability"]) == (2, [0.2, 1], 0.5)


def test_models_of_the_study_of_invariances_differ_in_their_views_or_width_alone(
    configs: dict[str, Config],
) -> None:
    default, ventral, dorsal, wide = (
        configs[f"invariances/{name}"] for name in ("default", "ventral", "dorsal", "default_x3")
    )
    for other in (ventral, dorsal, wide):
        differing = {key for key in default["method"]
                     if default["method"][key] != other["method"][key]}  # fmt: skip
        assert differing == {"name", "dim" if other is wide else "views"}
    (spatial,), (appearance,) = ventral["method"]["views"], dorsal["method"]["views"]
    assert (spatial["crop_scale"], spatial.get("jitter_probability", 0.0)) == ([0.2, 1.0], 0.0)
    assert (appearance["crop_scale"], appearance["flip_probability"]) == ([1.0, 1.0], 0.0)
    assert (wide["model"]["name"], wide["method"]["dim"]) == ("resnet50w3", 384)
    assert {one["model"]["name"] for one in (default, ventral, dorsal)} == {"resnet50"}


STEPS: list[tuple[str, list[str]]] = [
    ("mixed_barlow_twins/cifar10_resnet18", []),
    ("mixed_barlow_twins/stl10_resnet18", []),
    ("mixed_barlow_twins/imagenet", ["method.projector.dims=[64,64]"]),
    ("ssl_sota/cifar10", ["method=byol"]),
    ("ssl_sota/w_mse_stl10", ["method.sub_batch=4", "method.projector.dims=[64,2]"]),
    ("small_models/improved_resnet18", ["method.queue_size=64"]),
    ("invariances/dorsal", ["model=resnet18", "method.queue_size=64"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "narrowed"), STEPS)
def test_a_pretraining_takes_real_steps_and_its_encoder_is_judged(
    tmp_path: Path, experiment: str, narrowed: list[str]
) -> None:
    shared = ["debug=true", "trainer.progress_bar=false", "trainer.device=cpu"]
    line = [f"experiment={experiment}", *narrowed, *shared, f"paths.outputs={tmp_path / 'outputs'}"]
    config = composed(*line, "method.batch_size=16", "model.preprocessing.size=32",
                      "model.preprocessing.resize=36", "protocol.batch_size=8")  # fmt: skip
    folder_of_images(tmp_path / "images", per_class=12)
    images = composed("dataset=image_folder", f"dataset.root={tmp_path / 'images'}")["dataset"]
    for node in (config, config["method"]):
        key = "dataset" if node is config else "pretrain_on"
        node[key] = {**copy.deepcopy(images), "name": node[key]["name"]}
    config["method"]["pretrain_on"]["val_fraction"] = 0.0
    run = Run(config)
    assert problems(config) == []
    assert sweep.execute_all([run]).failures == {}
    (pretraining,) = run.requirements
    losses = (pretraining.folder / "metrics.jsonl").read_text()
    assert '"loss"' in losses
    scores = {score["metric"]: score["value"] for score in run.record()["scores"]}
    assert 0 <= scores["top1"] <= 1
