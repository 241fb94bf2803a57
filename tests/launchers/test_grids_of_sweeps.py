"""Sweeps of several products, and how the command line narrows them."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from launchers.sweep import SweepRefused
from launchers.sweeper import products, unneeded_keys

GRIDS = [
    ["method=as_is", "protocol=linear_probe,finetune", "model=small_resnet,resnet18"],
    ["method=cat", "protocol=linear_probe,finetune", "method.members=[swav,byol],[swav,moco_v2]"],
    ["method=cat", "protocol=two_stage_finetune", "method.members=[swav,byol]"],
]


def lines(*typed: str, shared: tuple[str, ...] = ("dataset=cifar10",)) -> list[dict[str, str]]:
    parser = OverridesParser.create()
    grids = [parser.parse_overrides(grid) for grid in GRIDS]
    every = products(parser.parse_overrides(shared), grids, parser.parse_overrides(typed))
    return [dict(text.split("=", 1) for text in line) for line in every]


def test_a_sweep_has_the_product_of_each_grid_with_the_shared_keys() -> None:
    found = lines(shared=("dataset=cifar10,cifar100",))
    assert len(found) == 2 * (2 * 2 + 2 * 2 + 1)
    assert {line["dataset"] for line in found} == {"cifar10", "cifar100"}
    assert [line for line in found if line["protocol"] == "two_stage_finetune"] == [
        {"dataset": name, "method": "cat", "protocol": "two_stage_finetune",
         "method.members": "[swav,byol]"}
        for name in ("cifar10", "cifar100")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        (["protocol=linear_probe"], 2 + 2),
        (["protocol=two_stage_finetune"], 1),
        (["protocol=finetune,two_stage_finetune"], 2 + 2 + 1),
        (["method=cat"], 4 + 1),
        (["method=cat", "protocol=finetune"], 2),
        (["model=resnet18", "method=as_is"], 2),
        (["seed=0,1"], 2 * 9),
        (["method=distill"], 2 * 2 + 2 * 2 + 1),  # no grid has it: it replaces the method of all
    ],
)
def test_the_command_line_selects_from_the_grids(typed: list[str], count: int) -> None:
    found = lines(*typed)
    assert len(found) == count
    for override in typed:
        key, values = override.split("=")
        assert {line[key] for line in found if key in line} <= set(values.split(","))


def test_values_of_which_only_some_are_in_the_grids_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SweepRefused):
        lines("method=as_is,distill,cat,swav")
    assert "`as_is`, `cat` are and `distill`, `swav` are not; send method=as_is,cat and " in (
        capsys.readouterr().err
    )


def test_equal_lines_of_two_grids_are_one_run() -> None:
    # As `method=cat method.members=[swav,byol]` of two grids, whose protocol is replaced.
    found = lines("method=cat", "protocol=knn")
    assert len(found) == 2


def test_a_selection_that_no_grid_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SweepRefused):
        lines("method=as_is", "protocol=two_stage_finetune")
    assert "selects none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ([], set()),
        (["seed=1"], set()),
        (["protocol=linear_probe"], {"method", "protocol", "model", "method.members"}),
        (["model=resnet18"], {"method", "protocol", "model"}),
    ],
)
def test_keys_of_narrowed_grids_may_be_those_of_options_that_are_left_out(
    typed: list[str], keys: set[str]
) -> None:
    parser = OverridesParser.create()
    grids = [parser.parse_overrides(grid) for grid in GRIDS]
    assert unneeded_keys(grids, parser.parse_overrides(typed)) == keys
