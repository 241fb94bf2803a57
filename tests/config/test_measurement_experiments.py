"""Published measurements of frozen encoders as experiments: heads, cells, and one real run."""

from pathlib import Path
from typing import get_args

import pytest
from hydra._internal.hydra import Hydra
from test_experiments import MEASUREMENTS, Sweep, axes, folder_of_images, hydra, stated_runs

from launchers import currency, sweep
from ssl_transfer.config import compose, options, plain
from ssl_transfer.datasets.invariance_transforms import Name
from ssl_transfer.protocols.synthetic_invariance import SyntheticInvariance
from ssl_transfer.runs import Run
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.signature import problems

__all__ = ["hydra"]  # a fixture

EVERY = [name for name in options("experiment") if name.startswith(MEASUREMENTS)]
MODEL = "model=small_resnet"


def test_every_measurement_is_an_experiment() -> None:
    assert len(EVERY) >= len(MEASUREMENTS)


@pytest.mark.parametrize("experiment", EVERY)
def test_a_measurement_has_as_many_runs_as_its_head_states(hydra: Hydra, experiment: str) -> None:
    assert stated_runs(experiment) == len(Sweep(hydra, experiment).lines())


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EVERY)
def test_every_set_of_a_measurement_binds_under_a_name_of_its_own(
    hydra: Hydra, experiment: str
) -> None:
    one = Sweep(hydra, experiment)
    names = sorted({axes(line).get("dataset", "") for line in one.lines()})
    changes = {name: [f"dataset={name}"] if name else [] for name in names}
    # The small networks have a key that others lack.
    model = [] if experiment.startswith("small_models/") else [MODEL]
    configs = {name: one.config(*model, *changes[name]) for name in names}
    assert {name: problems(config) for name, config in configs.items()} == {
        name: [] for name in names
    }
    assert len({config["dataset"]["name"] for config in configs.values()}) == len(names)


def test_the_real_views_are_those_of_the_study_with_the_published_preprocessing(
    hydra: Hydra, tmp_path: Path
) -> None:
    one = Sweep(hydra, "invariances/real_world")
    config = one.config(MODEL, "dataset=coil100")
    node = config["protocol"]
    assert node["statistics"]["name"] == "imagenet"
    assert node["statistics_preprocessing"] == {"resize": 256, "size": 224}
    assert node["preprocessing"] == {"resize": 224, "size": 224}
    # One run on small images.
    folder_of_images(tmp_path / "images")
    images = plain(compose(["dataset=image_folder", f"dataset.root={tmp_path / 'images'}"]))
    stereo = plain(compose(["dataset=stereo_patches", "dataset.step=48"]))["dataset"]
    node |= {
        "statistics": images["dataset"],
        "statistics_preprocessing": {"resize": 18, "size": 16},
        "preprocessing": {"resize": 16, "size": 16},
    }
    config |= {
        "dataset": stereo,
        "paths": {
            **config["paths"],
            "outputs": str(tmp_path / "outputs"),
            "features": str(tmp_path / "features"),
        },
    }
    config["trainer"] = {**config["trainer"], "progress_bar": False, "device": "cpu"}
    run = Run(config)
    assert problems(config) == []
    assert sweep.execute_all([run]).failures == {}
    record = run.record()
    assert record["statistics_of"]["fingerprint"] != record["data"]["fingerprint"]
    assert record["whitening"]["images"] == 6
    scores = {score["metric"]: score["value"] for score in record["scores"]}
    published = (1 + scores["similarity"]) / 2  # of two views
    assert scores["similarity_with_self"] == pytest.approx(published)
    assert (run.folder / "objects.npz").is_file()
    # The record lists the files of both sets.
    assert currency.complaints([run]) == []
    (tmp_path / "images/test/class_0/0.png").unlink()
    (told,) = currency.complaints([run])
    assert told.startswith("further data changed since real_world_invariance of small_resnet")


def test_landmarks_are_regressed_with_the_published_numbers(hydra: Hydra) -> None:
    one = Sweep(hydra, "invariances/landmarks")
    configs = {name: one.config(MODEL, f"dataset={name}") for name in (
        "300w", "celeba_landmarks", "leeds_pose"
    )}  # fmt: skip
    for config in configs.values():
        node = config["protocol"]
        assert (node["alpha_values"], node["alpha_log10"], node["folds"]) == (45, [-5, 6], 5)
        assert node["preprocessing"] == {"size": 224, "resize": 224}
        assert not node["standardise"]
    truncated = {name: config["protocol"]["truncate_targets"] for name, config in configs.items()}
    assert truncated == {"300w": False, "celeba_landmarks": True, "leeds_pose": False}
    assert configs["leeds_pose"]["dataset"]["split_rule"] == "invariances"
    faces = configs["300w"]["dataset"]
    assert (faces["split_rule"], faces["unrounded_shift"], faces["margin"]) == (
        "invariances", True, 0.0,
    )  # fmt: skip


def test_the_synthetic_changes_are_those_of_the_study_with_the_options_of_its_code(
    hydra: Hydra,
) -> None:
    one = Sweep(hydra, "invariances/synthetic")
    config = one.config(MODEL)
    assert (config["dataset"]["name"], problems(config)) == ("imagenet", [])
    transforms = [axes(line)["protocol.transform"] for line in one.lines()]
    assert len(transforms) == 4 * 18
    assert set(transforms) == set(get_args(Name))
    node = config["protocol"]
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    assert SyntheticInvariance(**keys) == SyntheticInvariance(
        transform=transforms[0],
        images=1000,
        statistics="test",
        sampling="with_replacement",
        order="original_size",
        include_identity=True,
        grid="published",
        deformation="affine",
        interpolation="nearest",
        extra_shear_degrees=1,
        blur_kernel=23,
        shrinkage=0,
        factorisation="published",
        preprocessing={"resize": 256, "size": 224},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measurement", "pretraining"),
    [
        ("alignment_uniformity", "improved"),
        ("alignment_uniformity_baseline", "baseline"),
        ("instance_discrimination", "improved"),
    ],
)
def test_measured_small_models_are_those_that_their_pre_trainings_leave(
    hydra: Hydra, measurement: str, pretraining: str
) -> None:
    measured, trained = (
        Run(Sweep(hydra, f"small_models/{name}").config("model=mobilenet_v3_large"))
        for name in (measurement, pretraining)
    )
    assert [run.id for run in measured.sources.values()] == [
        run.id for run in trained.sources.values()
    ]
    assert measured.label == trained.label
    config = measured.resolved
    assert config["dataset"] | {"labels_per_class": 50, "val_fraction": 0} == config["dataset"]
    assert (config["protocol"]["name"], config["protocol"]["split"]) == (
        measurement.removesuffix("_baseline"), "train",
    )  # fmt: skip
    published = compose(["protocol=alignment_uniformity", "views@protocol=moco_v2"])
    assert config["protocol"]["views"] == plain(published)["protocol"]["views"]
