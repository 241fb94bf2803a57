"""Recipes: every file takes effect in the cell that its place names, and in no other way."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ssl_transfer.config import CONF, compose, groups, options, plain
from ssl_transfer.config.composition import _loader

RECIPES = options("recipe")
PARTS = {
    (recipe, path.parent.name, path.stem): path
    for recipe in RECIPES
    for path in (CONF / "recipe" / recipe).rglob("*.yaml")
}
Leaves = dict[str, Any]


def leaves(node: Mapping[str, Any], before: str = "") -> Leaves:
    """Return the values of a configuration by dotted key; a list is one value."""
    found: Leaves = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def stated(path: Path) -> Leaves:
    """Return what a file of a recipe states, itself or by the file that it includes."""
    node = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(node, dict)
    found: Leaves = {}
    for other in node.pop("defaults", []):
        if isinstance(other, str) and other.startswith("/recipe/"):
            found |= stated(CONF / f"{other[1:]}.yaml")
    return found | leaves(node)


def cell(recipe: str, kind: str, name: str) -> list[str]:
    """Return the command line of a run that a file of a recipe is for."""
    axes = {kind: name}
    if kind == "task":
        protocol = max((p for p in options("protocol") if name.endswith(f"_{p}")), key=len)
        axes = {"dataset": name.removesuffix(f"_{protocol}"), "protocol": protocol}
    elif kind == "dataset" and recipe != "transfer_2021/shared":
        # Of protocols whose own numbers for this data set are the same.
        own = {other for of, part, other in PARTS if (of, part) == (recipe, "task")}
        axes["protocol"] = next(
            p for p in ("linear_probe", "bn_tune", "finetune") if f"{name}_{p}" not in own
        )
    return [f"recipe={recipe}", *(f"{axis}={option}" for axis, option in axes.items())]


@functools.cache
def composed(*line: str) -> Leaves:
    return leaves(plain(compose(list(line))))


def test_every_recipe_is_of_a_paper_but_those_of_all_experiments() -> None:
    assert {name for name in RECIPES if "/" not in name} == {"none", "pretrain"}
    every = {path.relative_to(CONF / "recipe") for path in (CONF / "recipe").rglob("*.yaml")}
    reached = {Path(f"{name}.yaml") for name in RECIPES}
    reached |= {path.relative_to(CONF / "recipe") for path in PARTS.values()}
    assert every == reached


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "kind", "name"), PARTS)
def test_every_file_of_a_recipe_takes_effect_in_its_cell(recipe: str, kind: str, name: str) -> None:
    # Hydra passes over an optional file that it does not find, a misspelt one among them.
    line = cell(recipe, kind, name)
    given = stated(PARTS[recipe, kind, name])
    found = composed(*line)
    assert {key: found[key] for key in given} == given
    # Without it, the recipe's shared numbers stand there, or the option's own.
    shared = stated(CONF / "recipe" / f"{recipe}.yaml")
    options_alone = {
        key: value
        for choice in line[1:]
        for key, value in composed(choice).items()
        if key.startswith(choice.partition("=")[0])
    }
    without = {**options_alone, **shared}
    assert any(without.get(key, "none") != value for key, value in given.items())


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "none"])
def test_a_recipe_has_numbers_of_its_own(recipe: str) -> None:
    assert composed(f"recipe={recipe}") != composed()


@pytest.mark.parametrize(
    "experiment", ["bn_tuning/paper_linear", "mixed_barlow_twins/cifar10_resnet18"]
)
def test_the_command_line_leaves_an_experiments_recipe_out(experiment: str) -> None:
    chosen = [f"experiment={experiment}", "dataset=cifar10", "recipe=none"]
    found = plain(compose(chosen))["protocol"]
    assert found == plain(compose(["protocol=linear_probe"]))["protocol"]


def test_names_of_options_are_those_that_a_user_can_choose() -> None:
    for group in groups():
        names = options(group)
        assert names == sorted(names)
        assert all(part[0] != "_" for name in names for part in name.split("/"))
        assert all((CONF / group / f"{name}.yaml").is_file() for name in names)
    assert "mixed_barlow_twins/cifar10_resnet18" in options("experiment")
    assert not any("dataset/" in name for name in RECIPES)
    chosen = {*_loader().list_groups("")} - {"hydra"}
    assert chosen == {group for group in groups() if "/" not in group}
