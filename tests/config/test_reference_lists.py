"""One mapping that stands for several encoder references, and references to exact copies."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from tiny_runs import METHOD, tiny

import launchers
from launchers.sweeper import combinations
from ssl_transfer.config import compose, plain
from ssl_transfer.config.hydra_errors import sentence
from ssl_transfer.config.roles import gathered
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.signature import problems


def method(*overrides: str) -> dict[str, Any]:
    config = plain(compose(["method=cat", "protocol=knn", *overrides]))
    node = config["method"]
    assert isinstance(node, dict)
    return node


LISTED = "method.members=[{method:supervised,seed:3},{method:supervised,seed:1}]"


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.members={method:supervised,seeds:[3,1]}"],
        ["method.members=[{method:supervised,seeds:[3,1]}]"],
        ["method.members=[{method:supervised,seeds:[3]},{method:supervised,seed:1}]"],
        ["method.members.method=supervised", "method.members.seeds=[3,1]"],
        ["method.members={method:supervised}", "method.members.seeds=[3,1]"],
        ["method.members.seeds=[0]", "method.members.method=supervised",
         "method.members.seeds=[3,1]"],
    ],
)  # fmt: skip
def test_a_mapping_with_seeds_stands_for_one_reference_per_seed(overrides: list[str]) -> None:
    assert method(*overrides) == method(LISTED)


def test_the_model_and_the_overrides_of_a_mapping_hold_for_each_seed() -> None:
    members = method(
        "method.members.method=supervised",
        "method.members.model=small_resnet",
        "method.members.overrides=['model.width=8','method.epochs=3']",
        "method.members.seeds=[0,5]",
    )["members"]
    assert [m["method"]["seed"] for m in members] == [0, 5]
    assert [(m["model"]["width"], m["method"]["epochs"]) for m in members] == [(8, 3)] * 2


def test_seeds_and_epochs_stand_for_their_product_in_order() -> None:
    members = method("method.members={method:supervised,seeds:[4,2],epochs:[9,3]}")["members"]
    expected = [(4, 9), (4, 3), (2, 9), (2, 3)]
    assert [(m["method"]["seed"], m["method"]["snapshot"]) for m in members] == expected


def test_teachers_take_a_mapping_as_members_do() -> None:
    line = ["method=supervised", "+method.teachers={method:byol,seeds:[0,1]}"]
    teachers = plain(compose(line))["method"]["teachers"]
    assert [(t["method"]["name"], t["method"]["seed"]) for t in teachers] == [
        ("byol", 0),
        ("byol", 1),
    ]


def test_a_sweep_over_seeds_sweeps_over_lists_of_members() -> None:
    arguments = ["-m", "method=cat", "method.members.method=supervised"]
    arguments += ["method.members.seeds=[0],[0,1]", "protocol=knn"]
    swept = launchers.restore_nulls(launchers.defer_axis_keys(arguments)[1:])
    lines = combinations(OverridesParser.create().parse_overrides(swept))
    nodes = [plain(compose(line))["method"] for line in lines]
    assert [[m["method"]["seed"] for m in node["members"]] for node in nodes] == [[0], [0, 1]]


def test_keys_of_references_are_gathered_and_all_else_stays() -> None:
    line = ["-m", "a=1", "method.teacher.method=byol", "method.seed=1", "method.teacher.seed=2"]
    assert gathered(line) == ["-m", "a=1", "method.teacher={method:byol,seed:2}", "method.seed=1"]
    # A key inside of a node, and one of a list, are Hydra's.
    for kept in (
        ["method.start_from.method.seed=1"],
        ["method.members=[a,b]", "method.members.seeds=[0,1]"],
        ["+method.members.seeds=[0]"],
    ):
        assert gathered(kept) == kept
    assert gathered(["method.members={}", "method.members.seeds=[0]"]) == [
        "method.members={seeds:[0]}"
    ]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ("{seeds:[0,1],seed:2}", "`method.members` must have one of `seed` and `seeds`, but has"),
        (
            "{seeds:[]}",
            "`method.members.seeds` must be a list of one integer or more, but is empty",
        ),
        ("{seeds:2}", "must be a list of one integer or more, but is 2; write [2]"),
        ("{seeds:[0,a]}", "but is [0, 'a'], of which 'a' is none"),
        ("{seeds:[true]}", "of which True is none"),
        ("[swav,{seeds:[0.5]}]", "`method.members[1].seeds` must be a list of one"),
        (
            "{sedes:[0]}",
            "`method.members` must have no keys but epoch, epochs, method, model, ",
        ),
        ("{sedes:[0]}", "but has `sedes`; did you mean `seeds`?"),
    ],
)
def test_a_wrong_mapping_is_one_sentence(members: str, told: str) -> None:
    with pytest.raises(HydraException) as caught:
        method(f"method.members={members}")
    assert told in sentence(caught.value)


def test_a_mapping_of_a_single_reference_is_no_list() -> None:
    config = plain(compose(["method=cat", "method.members.method=supervised", "protocol=knn"]))
    (told,) = problems(config)
    assert told == (
        "`method.members`: there must be a list of encoders, but is a single one; write [A,B], or "
        "{…,seeds:[0,1]}."
    )


def test_a_key_of_members_is_left_out_or_refused_where_there_are_none() -> None:
    with pytest.raises(HydraException) as caught:
        compose(["method=as_is", "method.members.seeds=[0]"])
    assert "`method.members` is not a key of `method=as_is`" in sentence(caught.value)


def test_several_encoders_as_one_are_no_member(tmp_path: Path) -> None:
    member = "{method:cat,overrides:['method.members=[resnet18]']}"
    run = tiny(tmp_path, "method=cat", "protocol=knn", f"method.members=[{member}]", tuned=False)
    assert preflight.check(run) == (
        "`method.members[0]` must be a single encoder, but its method is `cat`; name each of its "
        "members in the list instead."
    )


OVERRIDES = ",".join(f"'{override}'" for override in METHOD[1:])


@pytest.mark.parametrize(
    ("members", "copies"),
    [
        (f"{{method:supervised,seeds:[0,1,0],overrides:[{OVERRIDES}]}}", (2, 0)),
        ("[swav,moco_v2,swav]", (2, 0)),
        ("{model:swav,seeds:[0,1]}", (1, 0)),  # the file is read whatever the seed
        (f"{{method:supervised,seeds:[0,1],overrides:[{OVERRIDES}]}}", None),
        ("{seeds:[0,1]}", None),  # random weights
    ],
)
def test_an_exact_copy_of_a_member_is_refused(
    members: str, copies: tuple[int, int] | None, tmp_path: Path
) -> None:
    run = tiny(tmp_path, "method=cat", "protocol=knn", f"method.members={members}", tuned=False)
    told = preflight.check(run)
    if copies is None:
        assert told is None
    else:
        assert told is not None
        later, first = (f"`members[{number}]`" for number in copies)
        assert f"{later} is an exact copy of {first}" in told
        assert "different seeds" in told


def test_the_label_of_a_distilled_encoder_names_its_teachers() -> None:
    labels = {
        Run(plain(compose(["method=distill", f"method.teachers={teachers}"]))).label
        for teachers in ("{method:supervised,seeds:[0,1]}", "[swav,{method:supervised,seed:0}]")
    }
    assert labels == {
        "small_resnet-distill(2x-small_resnet-supervised)",
        "small_resnet-distill(swav+small_resnet-supervised)",
    }
