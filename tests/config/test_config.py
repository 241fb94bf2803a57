"""Every option of the command line composes and binds; mistakes are told all at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_transfer import runs
from ssl_transfer.config import AXES, CONF, compose, options, plain, resolve
from ssl_transfer.config.hydra_errors import sentence
from ssl_transfer.runs.signature import problems

REQUIRED = {
    "cat": ["method.members=[resnet18]"],
    "cat_sub": ["method.members=[resnet18]"],
    "distill": ["method.teachers=[resnet18]"],
    "joint": ["model.arch=resnet18"],
    "fused": ["model.folder=kept"],
    "custom": ["model._target_=ssl_transfer.models.small_resnet.small_resnet"],
    "timm": ["model.arch=resnet18"],
    "torchvision": ["model.arch=resnet18"],
    "huggingface": ["dataset.path=saved"],
    "image_folder": ["dataset.root=photos"],
    "image_list": ["dataset.root=photos"],
    "image_table": ["dataset.path=cells.csv"],
    "lmdb": ["dataset.root=databases"],
    "static_views": ["dataset.root=static"],
    "unlabelled_folder": ["dataset.root=photos"],
    "seed": ["method.teacher=swav"],
    "webdataset": ["dataset.root=shards"],
}
"""What stands as ``???`` in an option's file."""

EVERY_OPTION = [(axis, option) for axis in AXES for option in options(axis)]
GROUPS = [("optimizer@protocol.optimizer", "optimizer"), ("trainer", "trainer")]
GROUPS += [("logger", "logger"), ("paths", "paths")]


def configuration(*overrides: str) -> dict[str, Any]:
    return plain(compose(overrides))


@pytest.mark.slow
@pytest.mark.parametrize(("axis", "option"), EVERY_OPTION)
def test_every_option_of_every_axis_composes_and_binds(axis: str, option: str) -> None:
    method = ["method=simclr"] if option == "pretrain" else []
    config = configuration(f"{axis}={option}", *method, *REQUIRED.get(option, []))
    assert problems(config) == []
    expected = {"timm": "timm_resnet18", "torchvision": "torchvision_resnet18"}
    expected |= {"joint": "joint2_resnet18"}
    expected |= {"moco": "moco_v2", "food": "food101"}  # aliases
    # The file, the option and the name in tables are one string.
    assert runs.Run(config).names[axis] == expected.get(option, option) or option == "pretrain"


@pytest.mark.parametrize(("override", "group"), GROUPS)
def test_every_option_of_the_other_groups_composes_and_binds(override: str, group: str) -> None:
    assert options(group)
    for option in options(group):
        assert problems(configuration(f"{override}={option}")) == [], option


@pytest.mark.parametrize("option", REQUIRED)
def test_what_must_be_given_is_asked_for_by_its_key(option: str) -> None:
    (axis,) = (axis for axis, name in EVERY_OPTION if name == option)
    (told,) = problems(configuration(f"{axis}={option}"))
    key = REQUIRED[option][0].partition("=")[0]
    assert told == f"`{key}` must be given; add `{key}=…` to the command line."


@pytest.mark.parametrize(
    ("node", "line"),
    [("method", ["method=simclr"]), ("protocol", ["protocol=finetune"])],
)
def test_the_mere_name_of_an_optimizer_is_told_once(node: str, line: list[str]) -> None:
    (told,) = problems(configuration(*line, f"{node}.optimizer=lars"))
    assert told.startswith(f"`{node}.optimizer`: there must be a mapping of keys, but is 'lars'")
    assert told.endswith(f"`optimizer@{node}.optimizer=lars`.")


def test_weights_as_they_are_cannot_be_pretrained() -> None:
    (told,) = problems(configuration("protocol=pretrain", "method=as_is"))
    assert told.startswith("`method` must pre-train for `protocol=pretrain`, but is 'as_is'")
    assert "barlow_twins, byol" in told


def test_mistakes_everywhere_are_told_at_once_each_with_its_place() -> None:
    config = configuration(
        "method=simclr",
        "+model.widht=3",
        "+method.temprature=1.0",
        "+method.projector.dimms=[8]",
        "+method.optimizer.momentun=0.5",
        "+method.pretrain_on.flipp=true",
        "++method.views=[{crop_scael:[0.2,1.0]}]",
        "method.batch_size=many",
        "+dataset.lables_per_class=3",
        "+protocol.epohcs=3",
        "+protocol.optimizer.nesterof=true",
        "protocol.selection=test_set",
        "+protocol.grid.momentmu=[0.5]",
        "precision=fp8",
        "trainer.workers=-1",
    )
    told = "\n".join(problems(config))
    for key, meant in [
        ("model.widht", "width"),
        ("method.temprature", "temperature"),
        ("method.projector.dimms", "dims"),
        ("method.optimizer.momentun", None),  # adam has none
        ("method.pretrain_on.flipp", "flip"),
        ("method.views[0].crop_scael", "crop_scale"),
        ("dataset.lables_per_class", "labels_per_class"),
        ("protocol.epohcs", "epochs"),
        ("protocol.optimizer.nesterof", "nesterov"),
        ("protocol.optimizer.momentmu", "momentum"),
    ]:
        hint = f"did you mean `{meant}`?" if meant else "known keys: "
        assert f"`{key}` is not a key of `{key.rpartition('.')[0]}`; {hint}" in told
    assert "`method.batch_size` must be int, but is 'many'." in told
    assert "`protocol.selection` must be one of ['val', 'id_val', 'ood_val', 'test']" in told
    assert "`precision` must be one of ['fp32', 'bf16', 'fp16', 'fp64'], but is 'fp8'." in told
    assert "`trainer.workers` must be at least 0, but is -1." in told
    assert len(told.splitlines()) == 14


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("metod=simclr", "`metod` is not a key of the configuration; did you mean `method`?"),
        ("protocol.epoch=3", "`protocol.epoch` is not a key of `protocol=linear_probe`; did "
         "you mean `epochs`?"),
        ("protocol.grid.x=1", "`protocol.grid.x` is not a key of `protocol.grid`; known keys: lr, "
         "weight_decay, encoder_lr, penalty_weight."),
        ("protocol=kn", f"`protocol` must be one of {', '.join(options('protocol'))}, but is `kn`; "
         "did you mean `knn`?"),
        ("logger=x", "`logger` must be one of none, tensorboard, wandb, but is `x`."),
        ("protocol=knn,finetune", "`protocol=knn,finetune` names several values; add -m to run "
         "every combination, or write key=[a,b] for a list."),
        ("~protocol", "each of model, method, dataset, protocol and recipe must name one option, "
         "as in `protocol=knn`, but one of them is removed or has another kind of value."),
        ("foo", "every argument must read as key=value, such as protocol=knn, but is `foo`."),
    ],
)  # fmt: skip
def test_what_does_not_compose_is_one_sentence_without_hydras_internals(
    override: str, said: str
) -> None:
    with pytest.raises(HydraException) as caught:
        compose([override])
    assert sentence(caught.value) == said


def edited(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    config = configuration("method=simclr")
    change(config)
    return config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["method"].update(_target_="simclr"), "`simclr` cannot"),
        (lambda c: c["method"].update(_target_="nowhere.SimCLR"), "'nowhere'); PYTHONPATH must"),
        (lambda c: c["model"].update(_target_="math.pi"), "is neither"),
        (lambda c: c["model"].pop("_target_"), "`model._target_`"),
        (lambda c: c["protocol"].update(_target_=None), "`protocol._target_`"),
        (lambda c: c["dataset"].update(_target_=3), "`dataset._target_`"),
        (lambda c: c.update(protocol="knn"), "`protocol` must be an option of its group"),
        (lambda c: c.update(dataset=None), "`dataset`"),
        (lambda c: c["method"].update(optimizer=None), "`method.optimizer`"),
        (lambda c: c["method"].update(optimizer="adam"), "`method.optimizer`"),
        (lambda c: c["method"]["optimizer"].update(name="adamm"), "`method.optimizer.name`"),
        (lambda c: c["method"].update(projector=[64]), "`method.projector`"),
        (lambda c: c["method"].update(views=None), "`method.views`"),
        (lambda c: c["method"].update(views=["crop"]), "`method.views[0]`"),
        (lambda c: c["method"].update(pretrain_on="photos"), "`method.pretrain_on`"),
        (lambda c: c["model"].update(weights="encoder.pth"), "`model.weights`"),
        (lambda c: c["model"].update(preprocessing=32), "`model.preprocessing`"),
        (lambda c: c["protocol"].update(optimizer="sgd"), "`protocol.optimizer`"),
        (lambda c: c["protocol"].update(grid=[0.1]), "`protocol.grid`"),
        (lambda c: c["model"].update(name="${nowhere}"), "every interpolation must resolve"),
    ],
)
def test_a_node_of_the_wrong_kind_is_a_sentence_and_never_a_crash(
    change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    told = problems(edited(change))
    assert any(said in sentence for sentence in told), told


UNSETTLED: dict[str, Any] = {
    "nothing": {},
    "a reference": {"a": "${b}", "b": 3, "c": {"d": "${b}", "e": "x${.d}"}},
    "a reference from below": {"a": {"b": {"c": "${..d} ${...seed}"}, "d": 1}, "seed": 2},
    "a container": {"a": "${b}", "b": {"c": ["${d}", 1]}, "d": None},
    "a chain": {"a": "${b.c}", "b": {"c": "${d.0}"}, "d": ["e"]},
    "an element": {"a": "${b[0].c}", "b": [{"c": (1, (2,))}]},
    "a name put together": {"a": "${${b}.c}", "b": "d", "d": {"c": 5}, "e": 1},
    "two names put together": {"a": "${b.${c}}", "b": {"d": 5}, "c": "d"},
    "a resolver": {"a": "${oc.dict.keys:b}", "b": {"c": 1}, "d": 2},
    "a resolver with a choice": {"a": "${oc.select:b,1}", "c": "${oc.select:d,1}", "d": 2},
    "a quoted name": {"a": "${oc.select:'b'}", "b": 2},
    "the environment": {"a": "${oc.env:HOME}/x", "b": "${oc.env:NOBODY_SETS_THIS,b}"},
    "an escape": {"a": "\\${b}", "c": "\\\\${b}", "b": 1},
    "no reference": {"a": "$b {c} \\", "b": "\\\\"},
    "tuples and numbers": {"a": (1, [2.0, (True, None)]), "b": {"c": (), "d": {}}},
    "keys of all kinds": {"a": {1: {True: "x"}}, "b": "${a}"},
    "files": {"a": Path("x"), "b": "y"},
    "missing": {"a": "???", "b": {"c": "${a}"}},
    "nowhere": {"a": "${nowhere}", "b": 1},
    "nowhere below": {"a": "${b.nowhere}", "b": {"c": 1}},
    "broken": {"a": "${b", "b": 1},
    "unknown resolver": {"a": "${nobody:b}", "b": 1},
    "an object": {"a": object, "b": 1},
    "a circle": {"a": "${b}", "b": "${a}"},
}


@pytest.mark.parametrize("kind", UNSETTLED)
def test_a_configuration_resolves_as_omegaconf_resolves_the_whole_of_it(kind: str) -> None:
    config = UNSETTLED[kind]

    def outcome(function: Callable[[dict[str, Any]], Any]) -> tuple[type, str]:
        try:
            found = function(config)
        except (OmegaConfBaseException, RecursionError) as error:
            return type(error), str(error).splitlines()[0]
        return dict, repr(found)  # tells 1 from True, and lists from tuples

    def whole(config: dict[str, Any]) -> Any:
        return OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)

    assert outcome(resolve) == outcome(whole)
    plural = {f"own_{key}": {"as": key} for key in map(str, config)}
    config = {**plural, **config}
    assert outcome(resolve) == outcome(whole)


def test_what_is_resolved_is_nobody_elses() -> None:
    config = configuration("dataset=cifar10")
    resolve(config)["model"]["name"] = resolve(config)["dataset"]["name"] = "changed"
    assert config == configuration("dataset=cifar10")


def test_wrong_nodes_are_told_again_and_good_ones_are_bound_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs_of_a_sweep = [configuration(f"seed={n}", "+model.never_seen=1") for n in range(2)]
    first, second = (problems(config) for config in runs_of_a_sweep)
    assert first == second != []
    good = configuration("model.name=never_seen_before")
    assert problems(good) == []
    monkeypatch.setattr(
        "ssl_transfer.runs.signature.locate", lambda target: pytest.fail("bound again")
    )
    assert problems({**good, "seed": 5}) == []
    with pytest.raises(pytest.fail.Exception):
        problems({**good, "model": {**good["model"], "name": "yet_another"}})


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    config = configuration("method=simclr", "protocol.batch_size=10", "method.batch_size=128")
    assert problems(config, processes=2) == []
    (told,) = problems(config, processes=4)
    assert told == (
        "`protocol.batch_size` must be a multiple of processes × trainer.accumulate (4 × 1), "
        "but is 10."
    )
    config["trainer"]["accumulate"] = 10
    assert len(problems(config, processes=2)) == 2
    (told,) = problems(configuration("protocol.bn_groups=3"))
    assert "`protocol.bn_groups` must divide the batch (64)" in told


def test_a_wrong_protocol_does_not_hide_in_a_pretraining() -> None:
    config = configuration("method=simclr", "protocol=pretrain", "+protocol.epochs=3")
    assert len(problems(config)) == 1


def test_the_pretraining_that_a_run_requires_is_the_option_pretrain() -> None:
    assert configuration("protocol=pretrain")["protocol"] == runs.PRETRAIN


def test_every_option_says_first_what_it_is() -> None:
    for path in CONF.rglob("*.yaml"):
        first, *others = path.read_text(encoding="utf-8").splitlines()
        if first == "# @package _global_":
            first = others[0]
        assert first.startswith("# "), path
        assert len(first) > 20, path
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path


def test_every_item_of_a_list_is_judged():
    wrong = [*[1.0] * 40, "a"]
    line = ["protocol=linear_probe", f"protocol.grid.lr={wrong}"]
    for _ in range(5):
        (found,) = problems(plain(compose(line)))
        assert "`protocol.grid` must be" in found
