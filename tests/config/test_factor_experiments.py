"""Regression of factors and classification in the study of invariances: numbers, and real runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra._internal.hydra import Hydra
from test_experiments import Sweep, axes, hydra

from launchers import sweep
from ssl_transfer.config import compose, plain
from ssl_transfer.protocols.factor_regression import FactorRegression
from ssl_transfer.protocols.logistic_regression import LogisticRegression
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

__all__ = ["hydra"]  # a fixture

MODEL = ["model=small_resnet", "model.width=4", "model.preprocessing.size=8"]
SMALL = {"resize": 8, "size": 8}


def executed(config: dict[str, Any], outputs: Path) -> dict[str, Any]:
    """Return the record of a run of a changed configuration."""
    places = {"outputs": str(outputs), "features": str(outputs / "features")}
    config["paths"] = {**config["paths"], **places}
    config["trainer"] = {**config["trainer"], "progress_bar": False, "device": "cpu"}
    assert problems(config) == []
    run = Run(config)
    assert sweep.execute_all([run]).failures == {}
    return run.record()


def test_factors_have_the_published_grid_and_numbers_of_samples(
    hydra: Hydra, tmp_path: Path
) -> None:
    config = Sweep(hydra, "invariances/extrinsic").config(*MODEL)
    assert (config["dataset"]["name"], config["dataset"]["latents"]) == ("causal3dident", "latents")
    node = config["protocol"]
    assert node["preprocessing"] == {"size": 224, "resize": 224, "interpolation": "bilinear"}
    keys = ("alphas", "gammas", "folds", "max_train", "max_test", "circular")
    protocol = FactorRegression(**{key: node[key] for key in keys})
    grid = [(a, g) for a in np.logspace(0, -4, 5) for g in np.logspace(-5, 2, 8)]
    points = [(point["alpha"], point["gamma"]) for point in protocol.points()]
    np.testing.assert_allclose(points, grid)
    assert (protocol.folds, protocol.circular) == (5, "angle")
    # int(4096 * 5 / 64) and int(4096 * 10 / 64) batches of 64
    assert (protocol.max_train, protocol.max_test) == (320 * 64, 640 * 64)
    assert config["dataset"]["train_images"] == protocol.max_train
    # One run on small images.
    config["dataset"] = plain(compose(["dataset=shapes"]))["dataset"]
    config["protocol"] = node | {"preprocessing": SMALL, "gammas": [1e-3]}
    record = executed(config, tmp_path)
    assert record["fitted_samples"] == 400
    assert {score["metric"] for score in record["scores"]} >= {"r2", "r2_x", "r2_hue"}


def test_classification_has_the_published_grid_and_folds(hydra: Hydra, tmp_path: Path) -> None:
    one = Sweep(hydra, "invariances/classification")
    assert {line["dataset"] for line in map(axes, one.lines())} == {
        "cifar10", "caltech101", "flowers",
    }  # fmt: skip
    config = one.config(*MODEL, "dataset=flowers")
    node = config["protocol"]
    assert node["preprocessing"] == {"size": 224, "resize": 224, "interpolation": "bilinear"}
    keys = ("wd_values", "wd_log10", "selection", "folds", "stratified", "solver")
    protocol = LogisticRegression(**{key: node[key] for key in keys})
    np.testing.assert_allclose(protocol.grid(), 1 / np.logspace(-6, 5, 45))
    assert (protocol.selection, protocol.folds, protocol.stratified) == ("cv", 5, False)
    assert protocol.solver == "sklearn_2021"
    # One run on small images.
    small = ["dataset=digits", "dataset.labels_per_class=5", "dataset.test_per_class=4"]
    config["dataset"] = plain(compose(small))["dataset"]
    config["protocol"] = node | {"preprocessing": SMALL, "wd_values": 3, "wd_log10": [-1, 1]}
    record = executed(config, tmp_path)
    assert record["selection"]["split"] == "cv"
    assert len(record["selection"]["scores"]) == 3


@pytest.mark.parametrize(("combined", "ends"), [(1, (-4, 7)), (2, (-2, 9))])
def test_wider_representations_have_the_shifted_grid_that_the_header_states(
    combined: int, ends: tuple[int, int]
) -> None:
    # logspace(-6 + 2c, 5 + 2c) of eval_downstream.py
    assert ends == (-6 + 2 * combined, 5 + 2 * combined)
    grid = LogisticRegression(wd_log10=ends).grid()
    expected = {1: (1e4, 1e-7), 2: (1e2, 1e-9)}[combined]
    assert (grid[0], grid[-1]) == pytest.approx(expected)
