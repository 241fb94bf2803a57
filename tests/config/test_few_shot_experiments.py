"""Few-shot experiments of rich representations: all cells share the training of Chen et al."""

from typing import Any

import pytest

from ssl_transfer.config import compose, plain
from ssl_transfer.datasets.transforms import views
from ssl_transfer.runs import Run

SETS = {"mini_imagenet": ("miniimagenet", 400), "cub": ("cub200", 200)}
CHEN = {"batch_size": 16, "warmup_epochs": 0, "schedule": "constant"}


def recipe(name: str) -> str:
    return f"recipe=rich_representations/few_shot_{name}"


def composed(*line: str) -> dict[str, Any]:
    return plain(compose(["model=resnet18", *line]))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("method", ["supervised", "distill"])
def test_base_training_has_the_numbers_of_chen(name: str, method: str) -> None:
    # train.py, io_utils.py and data/datamgr.py of github.com/wyharveychen/CloserLookFewShot
    node = composed(f"method={method}", recipe(name))["method"]
    assert node["name"] == method
    assert {key: node[key] for key in CHEN} == CHEN
    optimizer = node["optimizer"]
    assert (optimizer["name"], optimizer["lr"], optimizer["betas"]) == ("adam", 1e-3, [0.9, 0.999])
    assert (optimizer["eps"], optimizer["weight_decay"]) == (1e-8, 0)
    (view,) = views(node["views"])
    assert (view.crop_scale, view.flip_probability, view.hue) == ((0.08, 1.0), 0.5, 0.0)
    assert (view.brightness, view.contrast, view.saturation) == (0.4, 0.4, 0.4)
    assert (node["pretrain_on"]["name"], node["epochs"]) == SETS[name]
    assert node["pretrain_on"].get("split_rule") == ("few_shot" if name == "cub" else None)


@pytest.mark.parametrize("name", SETS)
def test_members_and_teachers_are_the_networks_of_baseline_plus_plus(name: str) -> None:
    single = Run(composed("method=supervised", recipe(name), "method.head=cosine"))
    overrides = f'["{recipe(name)}","method.head=cosine"]'
    fused = Run(
        composed(
            "method=cat",
            "method.members.method=supervised",
            "method.members.seeds=[0,1]",
            f"method.members.overrides={overrides}",
        )
    )
    taught = Run(
        composed(
            "method=distill",
            recipe(name),
            "method.teachers.method=supervised",
            "method.teachers.seeds=[0,1]",
            f"method.teachers.overrides={overrides}",
        )
    )
    (network,) = single.requirements
    assert fused.requirements[0].id == network.id
    (student,) = taught.requirements
    assert [teacher.id for teacher in student.requirements] == [r.id for r in fused.requirements]
