"""Files beside weights are part of a run: their values, its id and what is drawn of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run
from ssl_transfer.runs.stated import with_stated

GREY = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").touch()
    return tmp_path / "model.safetensors"


def state(weights: Path, content: Any) -> None:
    weights.with_name("config.json").write_text(json.dumps(content))


def config(weights: Path | str, *overrides: str) -> dict[str, Any]:
    return plain(compose([
        "model=timm", "model.arch=resnet18", f"model.weights.path={weights}", *overrides,
    ]))  # fmt: skip


def test_what_a_file_states_is_part_of_the_id(weights: Path) -> None:
    composed = config(weights)
    ids = [Run(composed).id]
    for content in (GREY, {**GREY, "mean": [0.4] * 3}, {"hidden_size": 768}):
        state(weights, content)
        ids.append(Run(composed).id)
    assert ids[3] == ids[0]  # it says nothing of images
    assert len(set(ids)) == 3


def test_a_frozen_configuration_keeps_what_the_file_stated(weights: Path) -> None:
    state(weights, GREY)
    run = Run(config(weights))
    assert run.config["model"]["preprocessing"] == GREY
    weights.with_name("config.json").unlink()
    assert Run(run.config).id == run.id
    written_out = [f"+model.preprocessing.{key}={value}" for key, value in GREY.items()]
    assert Run(config(weights, *written_out)).id == run.id


def test_values_of_the_command_line_are_kept(weights: Path) -> None:
    state(weights, {**GREY, "input_size": [3, 64, 64], "crop_pct": 1.0})
    node = with_stated(config(weights, "+model.preprocessing.size=32"))["model"]
    assert node["preprocessing"] == {"size": 32, **GREY}


def test_a_teacher_and_a_path_in_the_folder_of_weights(weights: Path) -> None:
    state(weights, GREY)
    folder = f"paths.weights={weights.parent}"
    path = "${paths.weights}/${.prefix}.safetensors"
    through = config(path, folder, "model.weights.prefix=model")
    assert with_stated(through)["model"]["preprocessing"] == GREY
    method = {"teacher": {"model": through["model"]}, "teachers": [{"model": through["model"]}]}
    found = with_stated({**config("gone.pth", folder), "method": method})["method"]
    assert found["teacher"]["model"]["preprocessing"] == GREY
    assert found["teachers"][0]["model"]["preprocessing"] == GREY


def test_nothing_is_added_without_a_file_or_by_one_that_cannot_be_used(weights: Path) -> None:
    for path in (weights, weights.parent, weights.parent / "gone.pth"):
        composed = config(path)
        assert with_stated(composed) is composed
    state(weights, {**GREY, "std": [0, 0, 0]})  # the pre-flight check refuses it
    assert with_stated(composed := config(weights)) is composed
