"""Compositions whose nodes are merged once equal those that Hydra makes alone."""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal import defaults_list
from hydra.core.default_element import InputDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode

from ssl_transfer.config import CONF, inserted_choices, options, plain
from ssl_transfer.config.composer import Composer
from ssl_transfer.config.references import expanded

Config = dict[str, Any]
Compose = Callable[[Sequence[str]], Config]


def composers(folder: Path) -> tuple[Compose, Composer]:
    """Return Hydra's own composition of a folder's files, and ours."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

    def whole(line: Sequence[str]) -> Any:
        return loader.load_configuration("config", list(line), run_mode=RunMode.RUN)

    def by_hydra(line: Sequence[str]) -> Config:
        with pytest.MonkeyPatch.context() as patch:
            as_before = inserted_choices._map_of_choices, inserted_choices._insert_by_grammar
            patch.setattr(defaults_list, "_create_interpolation_map", as_before[0])
            patch.setattr(InputDefault, "_resolve_interpolation_impl", as_before[1])
            return plain(whole(line))

    return by_hydra, Composer(loader, whole)


@pytest.fixture(scope="module")
def project() -> tuple[Compose, Composer]:
    return composers(CONF)


def cell(chance: random.Random) -> list[str]:
    """Return random options of all groups, and values of keys that all have."""
    line = [f"{a}={chance.choice(options(a))}" for a in ("model", "method", "dataset", "protocol")]
    further = [
        f"recipe={chance.choice(options('recipe'))}",
        f"experiment={chance.choice(options('experiment'))}",
        f"seed={chance.randrange(9)}",
        "method.seed=3",
        "model.name=x",
        "logger=wandb",
        "debug=true",
        "trainer.checkpoint_every_steps=7",
    ]
    return line + chance.sample(further, k=chance.randrange(4))


def outcome(compose: Compose, line: Sequence[str]) -> Any:
    """Return a configuration with the order of its keys, or the kind of the error."""
    try:
        config = compose(line)
    except HydraException as error:
        return type(error)
    return repr(config)


@pytest.mark.parametrize("cells", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_random_cells_are_those_of_hydra_to_the_order_of_their_keys(
    project: tuple[Compose, Composer], cells: int
) -> None:
    by_hydra, composer = project
    chance = random.Random(cells)
    for _ in range(cells):
        line = cell(chance)
        expected = outcome(by_hydra, line)
        assert outcome(lambda line: plain(composer.compose(line)), line) == expected, line
        assert outcome(lambda line: expanded(composer.compose_plain(line)), line) == expected, line


def files(folder: Path, **texts: str) -> Path:
    """Write configuration files; ``__`` in a name stands for the folder's slash."""
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("a", "line"),
    [
        ("x: {y: 1}", ["a.x.y=2"]),
        ("x: {y: [1, 2]}", ["a.x.y=[3]"]),
        ("x: ${b.x}", ["b.x=3"]),
        ("x: ${b}", ["a.x=3"]),
        ("x: ???", ["a.x=null"]),
        ("x: [1, {y: 2}]", ["a.x=4"]),
        ("x: {y: 1}", ["a.x=4"]),
        ("x: 1", ["a.x={y: 4}"]),
        ("x: 1", ["a.x='${b.x}'"]),
        ("x: 1", ["a.x='???'"]),
        ("x: 1", ["a.x='1'", "a.x=true"]),
        ("x: {y: {z: 1}}", ["a.x.y.z=1.5", "a.x.y.z=x"]),
    ],
)
def test_values_are_set_as_hydra_sets_them(tmp_path: Path, a: str, line: list[str]) -> None:
    folder = files(
        tmp_path, config="defaults: [a: one, b: one]\n", a__one=f"{a}\nname: n\n", b__one="x: 1\n"
    )
    by_hydra, composer = composers(folder)
    expected, untouched = outcome(by_hydra, line), outcome(by_hydra, [])
    for _ in range(2):  # what one command line sets is nobody else's
        assert outcome(composer.compose_plain, line) == expected
        assert outcome(lambda line: plain(composer.compose(line)), line) == expected
        assert outcome(composer.compose_plain, []) == untouched


LATER = ["a: {x: {own: 2}}", "a: {x: 3}", "a: {x: null}", "b: {y: 2}", "hydra: {verbose: true}"]
EARLIER = ["x: ${b}", "x: ${b.y}", "x: p${b.y}", "x: [1]", "x: {z: 1}"]
# Each of the earlier ones with two of the later ones, and each of these with two of those.
PAIRS = [
    pytest.param(earlier, later, marks=[] if (i - j) % 5 < 2 else pytest.mark.slow)
    for (i, earlier), (j, later) in itertools.product(enumerate(EARLIER), enumerate(LATER))
]


@pytest.mark.parametrize(("earlier", "later"), PAIRS)
def test_a_file_that_replaces_an_interpolation_is_merged_as_hydra_does(
    tmp_path: Path, earlier: str, later: str
) -> None:
    folder = files(
        tmp_path,
        config="defaults: [a: one, b: one, c: null]\n",
        a__one=f"{earlier}\n",
        b__one="y: {z: 5}\n",
        c__one=f"# @package _global_\n{later}\n",
    )
    by_hydra, composer = composers(folder)
    assert composer.compose_plain([])["b"] == {"y": {"z": 5}}
    expected = outcome(by_hydra, ["c=one"])
    assert outcome(lambda line: plain(composer.compose(line)), ["c=one"]) == expected
    assert outcome(composer.compose_plain, ["c=one"]) == expected


@pytest.mark.parametrize(
    "name", ["${a}", "p_${a}", "${b.c}", "${a}_${b}", "${oc.env:HOME}", "\\${a}", "${nothing}"]
)
def test_a_choice_is_inserted_into_a_name_as_hydra_inserts_it(tmp_path: Path, name: str) -> None:
    folder = files(
        tmp_path,
        config=f"defaults: [a: one, b: one, optional c: '{name}']\n",
        a__one="x: 1\n",
        a__two="x: 2\n",
        b__one="x: 1\n",
        c__one="x: 3\n",
        c__p_two="x: 4\n",
        c__two_one="x: 5\n",
    )
    by_hydra, composer = composers(folder)
    for line in ([], ["a=two"]):
        assert outcome(composer.compose_plain, line) == outcome(by_hydra, line)
