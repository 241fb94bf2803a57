"""What is shown to be typed reads, in a shell and by Hydra, as what was meant."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

import launchers
from launchers.sweeper import combinations
from ssl_transfer.config import compose
from ssl_transfer.config.arguments import argument as typed
from ssl_transfer.config.hydra_errors import sentence

TEXTS = [
    "/data/müller", "a#b", "it's", "2024", "1e3", "null", "true", "nan", "", "a=b", "v1,v2", "[x]",
    "{a:b}", "a(b)", "~/x", "~", "$HOME/x", "100%", "a\\b", "a\\", "a\\\\", 'a"b', 'a\\"b', '"',
    "'", "trail ", "a b", "a:b", "choice(a)", "range(1,2)", "a;b&c|d", "`x`", "a!b", "a\nb",
    "<>", "*?", "no value", "${seed}/x", "epoch=9-step=99.ckpt", "-x", "+x", "a@b", "A/b.c",
]  # fmt: skip


def read(argument: str) -> object:
    return OverridesParser.create().parse_override(argument).value()


def swept(*arguments: str) -> list[list[str]]:
    """Return the command lines of the runs of a sweep."""
    line = launchers.restore_nulls(launchers.defer_axis_keys(["-m", *arguments])[1:])
    return combinations(OverridesParser.create().parse_overrides(line))


@pytest.mark.parametrize("text", TEXTS)
def test_a_typed_argument_reads_as_its_text_alone_and_in_a_sweep(text: str) -> None:
    (argument,) = shlex.split(typed("dataset.root", text))
    assert read(argument) == text
    ((single,),) = swept(argument)
    assert read(single) == text


ARGUMENTS = [
    "dataset.x=", "dataset.x=null", "dataset.x=1", 'dataset.x="1"', "dataset.x=1.0",
    "dataset.x= a ",
    r"dataset.x=a\,b", "dataset.x=str(3)", "dataset.x=[1,'2',\"a b\",{e:'null'}]",
    '+dataset.x={a:"2024",b:[null,"a,b"]}',
    r'method.teacher={model:resnet18,overrides:["model.name=\"2024\"","a=b"]}',
    "paths.outputs='#ü'",
]  # fmt: skip


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_a_sweep_keeps_the_value_and_its_type(argument: str) -> None:
    ((single,),) = swept(argument)
    assert (read(single), type(read(single))) == (read(argument), type(read(argument)))


def test_texts_with_quotes_among_several_values_stay_texts() -> None:
    lines = swept('dataset.name="2024",b', "dataset.root='ü','#'", "seed=range(0,2)")
    assert [[read(argument) for argument in line] for line in lines] == [
        [name, root, seed] for name in ("2024", "b") for root in ("ü", "#") for seed in (0, 1)
    ]


def test_an_interval_is_refused_with_what_to_write() -> None:
    with pytest.raises(HydraException, match="write them as dataset"):
        swept("dataset.x=interval(1,2)")


REFUSED = [
    "/data/müller", "a#b", "it's", "a=b", "v1,v2", "a(b)", "choice(a)", "range(1,2)", "a;b&c|d",
    "`x`", "a!b", "<>", "~/x", "epoch=9-step=99.ckpt", "[x", "{a", "a[b]", "a{b}", 'a"b',
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_the_advice_for_an_argument_without_quotes_gives_that_text(text: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose(["dataset=image_folder", f"dataset.root={text}"])
    assert typed("dataset.root", text) in sentence(caught.value)
    arguments = shlex.split(typed("dataset.root", text))
    assert compose(["dataset=image_folder", *arguments]).dataset.root == text


def test_a_comma_gets_the_advice_for_a_list_and_for_one_text() -> None:
    with pytest.raises(HydraException) as caught:
        compose(["dataset=image_folder", "dataset.root=v1,v2"])
    told = sentence(caught.value)
    assert "'dataset.root=[v1,v2]' for a list" in told
    assert "'dataset.root=\"v1,v2\"' for one text" in told


def test_a_file_where_an_option_belongs_gets_advice_that_hydra_reads() -> None:
    from ssl_transfer.config import plain

    with pytest.raises(HydraException) as caught:
        plain(compose(["method=simclr", "method.start_from='a=b/it,s ü.pt'"]))
    told = sentence(caught.value)
    (argument,) = shlex.split(told.partition("; write ")[2].partition(" with the option")[0])
    (override,) = read(argument)["overrides"]
    assert read(override) == "a=b/it,s ü.pt"
