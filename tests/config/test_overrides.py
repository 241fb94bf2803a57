"""A record says by which overrides its run is composed again."""

from pathlib import Path

import pytest
from tiny_runs import METHOD, tiny

from ssl_transfer.config import compose, plain
from ssl_transfer.config.overrides import overrides_of
from ssl_transfer.runs import Run

MEMBER = '{model:small_resnet,method:simclr,seed:1,overrides:["method.epochs=3"]}'


def composed(*lines: str) -> Run:
    return Run(plain(compose(list(lines))))


def lines_of(run: Run) -> list[str]:
    overrides = overrides_of(run.config)
    assert None not in overrides.values()
    return [line for lines in overrides.values() for line in lines or ()]


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([], ["model=small_resnet", "method=as_is", "dataset=digits", "protocol=linear_probe"]),
        (
            ["model=torchvision", "model.arch=resnet18", "protocol=knn", "protocol.k=7"],
            ["model=torchvision", "model.arch=resnet18", "protocol=knn", "protocol.k=7"],
        ),
        (
            ["method=simclr", "dataset@method.pretrain_on=cifar10", "method.epochs=3"],
            ["method=simclr", "dataset@method.pretrain_on=cifar10", "method.epochs=3"],
        ),
        (["method=barlow_twins", "optimizer@method.optimizer=adamw"], []),
        (
            ["dataset=image_folder", 'dataset.name="own, 50 %"', 'dataset.root="/somewhere/a b"'],
            ["dataset=image_folder", 'dataset.name="own, 50 %"', 'dataset.root="/somewhere/a b"'],
        ),
        (["protocol=finetune", "protocol.grid={lr:[0.1,0.3]}", "protocol.augmentation=none"], []),
        ([f"method.members=[{MEMBER},small_resnet]", "method=cat"], []),
        (["paths.outputs=/elsewhere", "paths.data=${oc.env:HOME}/d"], ["paths.outputs=/elsewhere"]),
    ],
)
def test_the_overrides_compose_the_same_run(lines: list[str], shown: list[str]) -> None:
    run = composed(*lines)
    again = composed(*lines_of(run))
    assert again.id == run.id
    assert again.folder == run.folder
    assert set(shown) <= set(lines_of(run))


def test_a_node_of_foreign_code_has_no_overrides() -> None:
    config = composed().config
    foreign = {"_target_": "my_package.make_encoder", "name": "mine"}
    assert overrides_of({**config, "model": foreign})["model"] is None


def test_a_key_that_a_user_removed_or_added_is_one_override() -> None:
    config = composed("method=simclr").config
    method = {k: v for k, v in config["method"].items() if k != "temperature"}
    overrides = overrides_of({**config, "method": {**method, "further": [1, None, "x y"]}})
    assert overrides["method"] == [
        "method=simclr", "~method.temperature", '+method.further=[1,null,"x y"]'
    ]  # fmt: skip


def test_a_pretraining_has_neither_a_dataset_nor_a_protocol(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=knn", *METHOD, tuned=False)
    (pretraining,) = run.requirements
    assert overrides_of(pretraining.config).keys() == {"model", "method", "paths"}
    assert overrides_of(pretraining.config)["method"] == overrides_of(run.config)["method"]
