import inspect
from pathlib import Path

import pytest
import yaml

from ssl_transfer import datasets
from ssl_transfer.config import locate
from ssl_transfer.datasets import Options

CONF = Path(__file__).parents[2] / "conf" / "dataset"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))
EMBEDDED = ("digits", "photos", "textures")


def node(option: str) -> dict:
    return yaml.safe_load((CONF / f"{option}.yaml").read_text())


def test_the_options_are_those_of_the_readme() -> None:
    assert {*EMBEDDED, "image_folder", "image_list", "cifar10", "dtd"} <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_options_file_shows_every_key_of_its_reader(option: str) -> None:
    config = node(option)
    assert (CONF / f"{option}.yaml").read_text().startswith("# ")
    assert config["name"] == option
    parameters = inspect.signature(locate(config.pop("_target_"))).parameters
    assert set(config) == set(parameters)
    for key, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty and key != "flip":
            assert config[key] == parameter.default


@pytest.mark.parametrize("option", OPTIONS)
def test_all_options_share_the_same_keys(option: str) -> None:
    assert set(inspect.signature(Options).parameters) <= set(node(option))


@pytest.mark.parametrize("option", EMBEDDED)
def test_embedded_options_build(option: str) -> None:
    dataset = datasets.build(node(option) | {"name": "renamed"})
    assert dataset.name == "renamed"
    assert dataset.flip is (option != "digits")
    assert {"train", "val", "test"} <= set(dataset.splits)
    assert all(split.images[0].mode == "RGB" for split in dataset.splits.values())
