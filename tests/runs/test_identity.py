"""Different computations have different ids; the same computation has one."""

import copy
import dataclasses
import functools
import inspect
import json
import random
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ssl_transfer.config import AXES, CONF, compose, locate, options, plain
from ssl_transfer.datasets import Options
from ssl_transfer.datasets.transforms import View
from ssl_transfer.methods.projector import Projector
from ssl_transfer.models.weights import load_weights
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.runs import Run, identity
from ssl_transfer.runs.config_parts import signature_of_labels
from ssl_transfer.training.options import TrainingOptions

HOW = re.compile(
    r"(trainer|logger|paths)\..*|retry|force|dry_run|tables"
    r"|(model|method\.(teacher|teachers\.0|start_from)\.model)"
    r"\.(facts(\..*)?|weights\.(url|download|obtain|terms|package))"
    r"|(.*\.)?(method|protocol)\.resources(\..*)?"
    r"|(dataset|(.*\.)?method\.pretrain_on)\.(download|verify)"
    r"|protocol(\.(first_stage|head_from))?\.(keep_encoder|resources(\..*)?)"
    r"|(.*\.)?method\.snapshots"
)
"""Keys that change no score."""


@functools.lru_cache(maxsize=1)
def base() -> dict[str, Any]:
    return plain(compose([]))


def option(group: str, name: str) -> dict[str, Any]:
    """Return what an option's file, and those in its defaults list, say of a node.

    Composing each option by Hydra would take most of this file's time.
    """
    own = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    entries = own.pop("defaults", ["_self_"])
    node: dict[str, Any] = {}
    for entry in entries if "_self_" in entries else [*entries, "_self_"]:
        if entry == "_self_":
            found = own
        elif isinstance(entry, str):
            found = option(group, entry)
        else:
            ((key, chosen),) = entry.items()
            other, _, place = key.removeprefix("override ").removeprefix("/").partition("@")
            found = option(other, chosen)
            found = found if place == "_here_" else {place: found}
        node = merged(node, found)
    return node


def merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    both = {k: merged(one[k], v) for k, v in two.items() if isinstance(v, dict) and k in one
            and isinstance(one[k], dict)}  # fmt: skip
    return copy.deepcopy({**one, **two, **both})


def with_options(**names: str) -> dict[str, Any]:
    """Return a configuration with an option per axis; a teacher is an encoder like any other."""
    config = {**base(), **{axis: option(axis, name) for axis, name in names.items()}}
    teacher = {"model": option("model", "swav"), "method": AS_IS}
    if config["method"].get("teacher") == "???":
        config["method"]["teacher"] = teacher
    if config["method"].get("teachers") == "???":
        config["method"]["teachers"] = [teacher]
    return config


AS_IS = {"name": "as_is", "_target_": None, "seed": 0}


@functools.lru_cache(maxsize=1)
def every_option() -> list[dict[str, Any]]:
    """Return configurations in which every option of every group of a run occurs."""
    configs = [with_options(**{axis: name}) for axis in AXES for name in options(axis)
               if name != "pretrain"]  # fmt: skip
    configs += [with_options(method=name, protocol="pretrain") for name in options("method")[1:]]
    byol, tuned = with_options(method="byol"), with_options(protocol="finetune")
    for name in options("dataset"):
        node = option("dataset", name)
        configs.append(changed(byol, ("method", "pretrain_on"), node))
    for name in options("optimizer"):
        node = option("optimizer", name)
        configs.append(changed(byol, ("method", "optimizer"), node))
        configs.append(changed(tuned, ("protocol", "optimizer"), node))
    for name in options("views"):
        configs.append({**byol, "method": merged(byol["method"], option("views", name))})
    return configs


@pytest.fixture(scope="module")
def configs() -> list[dict[str, Any]]:
    return every_option()


@pytest.fixture(scope="module")
def identifiers(configs: list[dict[str, Any]]) -> list[str]:
    return [Run(config).id for config in configs]


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the path and value of every leaf, and of every empty mapping or list."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(value, dict | list) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def changed(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return config


def another(value: Any, chance: random.Random) -> Any:
    """Return a different value of the same kind; of null, some value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + chance.choice([1, 0.5, -3])
    if isinstance(value, str):
        return value + chance.choice(["_", "/other", "1"])
    return chance.choice([3, "other", 0.25, True, [1, 2]])


def enters(path: tuple[Any, ...], config: dict[str, Any]) -> bool:
    """Say, without the tables under test, whether a key may change what a run computes."""
    name = ".".join(str(part) for part in path)
    if HOW.fullmatch(name):
        return False
    # A fused encoder consists of its members, whose nodes name their models.
    if "members" in config["method"] and path[0] == "model":
        return False
    downstream = ("dataset", "protocol", "seed")
    is_pretraining = config["protocol"]["name"] == "pretrain"
    return not is_pretraining or path[0] not in downstream or name == "protocol.name"


@pytest.mark.slow
def test_changing_one_key_changes_the_id_unless_it_only_says_how(
    configs: list[dict[str, Any]],
) -> None:
    chance = random.Random(12)
    for config in configs:
        before = Run(config).id
        places = [
            (path, value)
            for path, value in leaves(config)
            if path[-1] not in ("_target_", "debug") and path != ("protocol", "name")
            # A pre-training leaves all of its snapshots, whichever is taken from it.
            if path != ("method", "snapshot") or config["protocol"]["name"] != "pretrain"
        ]
        for path, value in chance.sample(places, min(10, len(places))):
            other = Run(changed(config, path, another(value, chance)))
            assert (other.id != before) == enters(path, config), (path, value)


@pytest.mark.parametrize("changes", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_two_options_and_no_two_changes_share_an_id(
    configs: list[dict[str, Any]], identifiers: list[str], changes: int
) -> None:
    chance = random.Random(3)
    seen: dict[str, str] = {}
    drawn = list(zip(configs, identifiers, strict=True))
    for _ in range(changes):
        config = chance.choice(configs)
        places = [path for path, _ in leaves(config) if path[0] in AXES and enters(path, config)]
        other = changed(config, chance.choice(places), chance.randrange(10**9))
        drawn.append((other, Run(other).id))
    for config, identifier in drawn:
        computed = json.dumps(
            {key: config[key] for key in (*AXES, "seed", "precision")}, sort_keys=True
        )
        if config["protocol"]["name"] != "pretrain":
            assert seen.setdefault(identifier, computed) == computed
    assert len(seen) > 300


def test_the_order_of_keys_and_a_walk_through_json_leave_every_id(
    configs: list[dict[str, Any]], identifiers: list[str]
) -> None:
    chance = random.Random(5)

    def shuffled(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(chance.sample(pairs, len(pairs)))

    for config, identifier in zip(configs, identifiers, strict=True):
        again = json.loads(json.dumps(config), object_pairs_hook=shuffled)
        assert Run(again).id == identifier


def test_an_alias_is_the_same_run() -> None:
    runs = [Run(plain(compose([f"model={name}"]))) for name in ("moco", "moco_v2")]
    assert runs[0].id == runs[1].id
    for alias, name in (("food", "food101"), ("flowers102", "flowers")):
        if alias in options("dataset"):
            assert Run(with_options(dataset=alias)).id == Run(with_options(dataset=name)).id


def test_a_key_with_its_neutral_value_is_as_good_as_none() -> None:
    nodes = {
        config[axis].get("_target_"): (config, axis) for config in every_option() for axis in AXES
    }
    nodes["model"] = (with_options(model="dinov2_small"), "model")
    nodes["method"] = (with_options(method="byol"), "method")
    nodes["ssl_transfer.protocols"] = (with_options(protocol="knn"), "protocol")
    nodes["ssl_transfer.datasets"] = (with_options(dataset="digits"), "dataset")
    for owner, neutral in identity._NEUTRAL.items():
        config, axis = copy.deepcopy(nodes[owner])
        for path, value in neutral.items():
            config[axis].pop(path, None)
            without = Run(config).id
            assert Run(changed(config, (axis, path), value)).id == without
            assert Run(changed(config, (axis, path), "another")).id != without


def test_neutral_values_are_what_a_missing_key_means() -> None:
    for owner, neutral in identity._NEUTRAL.items():
        shared = {
            "model": signature_of_labels,
            "method": TrainingOptions,
            "ssl_transfer.protocols": FrozenProtocol,
            "ssl_transfer.datasets": Options,
        }
        target = shared.get(owner) or locate(owner)
        defaults = inspect.signature(target).parameters
        for path, value in neutral.items():
            assert defaults[path].default == value, (owner, path)


def called() -> dict[str, Any]:
    """Return every callable of this project that keys of a configuration go to."""
    targets: dict[str, Any] = {}

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            if str(node.get("_target_")).startswith("ssl_transfer."):
                targets[node["_target_"]] = locate(node["_target_"])
            for value in node.values():
                collect(value)

    for config in every_option():
        collect(config)
    return targets | {t.__name__: t for t in (load_weights, Projector, TrainingOptions)}


def test_null_is_the_default_wherever_it_is_left_out() -> None:
    """Where it is not (a view's ``crop_scale``), nulls must be in ``_NULL_COUNTS``."""
    found = 0
    for name, target in called().items():
        function = target.__init__ if inspect.isclass(target) else target
        hints = typing.get_type_hints(function)
        for key, parameter in inspect.signature(target).parameters.items():
            assert parameter.kind is not parameter.VAR_KEYWORD, name
            admits_null = type(None) in typing.get_args(hints.get(key))
            if admits_null and parameter.default is not parameter.empty:
                assert parameter.default is None, (name, key)
                found += 1
            kinds = [hints.get(key), *typing.get_args(hints.get(key))]
            if any(typing.get_origin(kind) in (dict, typing.get_origin(typing.Mapping[str, int]))
                   for kind in kinds):  # fmt: skip
                known = (
                    key in ("grid", "optimizer", "projector", "columns")
                    or ("protocol", key) in identity._AXES_INSIDE
                    or key
                    in identity._rules(
                        "protocol" if ".protocols." in name else "model", name
                    ).null_counts
                )
                assert known, f"do nulls inside `{key}` of {name} count?"
    assert found > 50
    assert View(crop_scale=None) != View()  # hence `views` in `_NULL_COUNTS`


CUSTOM = {"_target_": "mine.make", "name": "custom", "weights": {"path": None, "layout": "auto"}}
TIMM = {"_target_": "ssl_transfer.models.backbones.timm_backbone", "name": "t", "arch": "resnet18"}


def ids(config: dict[str, Any], changes: list[tuple[str, Any]]) -> list[str]:
    """Return the id of a configuration with each change of one dotted key."""
    return [Run(changed(config, tuple(path.split(".")), value)).id for path, value in changes]


@pytest.mark.parametrize(
    ("nodes", "changes"),
    [
        ({"protocol": "finetune"}, [("protocol.preprocessing", {"size": 32}),
                                 ("protocol.preprocessing", {"size": 32, "resize": None})]),
        ({"protocol": "knn"}, [("protocol.preprocessing", {"size": 32}),
                            ("protocol.preprocessing", {"size": 32, "resize": None})]),
        # It replaces what the encoder has, which may be anything.
        ({"protocol": "knn"}, [("protocol.preprocessing", {"size": 32}),
                            ("protocol.preprocessing", {"size": 32, "channel_order": "rgb"}),
                            ("protocol.preprocessing", {"size": 32, "square": False})]),
        ({"protocol": "finetune"}, [("protocol.augmentation", {}),
                                 ("protocol.augmentation", {"crop_scale": None})]),
        ({"method": "byol"}, [("method.views", [{"count": 2}]),
                           ("method.views", [{"count": 2, "crop_scale": None}])]),
        ({"model": "resnet50"}, [("model.preprocessing", {"size": 224}),
                              ("model.preprocessing", {"size": 224, "resize": None})]),
        ({"model": TIMM}, [("model.options", {"global_pool": "avg"}),
                              ("model.options", {"global_pool": "avg", "drop": None})]),
        ({"model": CUSTOM}, [("model.url", "a"), ("model.url", "b"), ("model.url", None)]),
        ({"model": CUSTOM}, [("model.download", True), ("model.download", False)]),
        ({"model": CUSTOM}, [("model.resources", {"a": 1}), ("model.resources", {"a": 2})]),
        ({"model": CUSTOM}, [("model.inner", {"url": "a"}), ("model.inner", {"url": "b"}),
                  ("model.inner", {"url": None}), ("model.inner", {})]),
        ({"model": CUSTOM}, [("model.sizes", "warn"), ("model.sizes", "strict")]),
        ({"model": CUSTOM}, [("model.path", "kept"), ("model.path", "kept/encoder.safetensors")]),
        ({"model": CUSTOM}, [("model.padding", "torchvision"), ("model.padding", None)]),
        ({"model": CUSTOM}, [("model.width", 1), ("model.width", "1"), ("model.width", True)]),
    ],
)  # fmt: skip
def test_different_computations_have_different_ids(
    nodes: dict[str, Any], changes: list[tuple[str, Any]]
) -> None:
    ((axis, node),) = nodes.items()
    config = {**base(), axis: option(axis, node) if isinstance(node, str) else node}
    assert len(set(ids(config, changes))) == len(changes)


@pytest.mark.parametrize("key", ["metric", "keep_encoder", "sizes", "download", "url", "padding"])
@pytest.mark.parametrize("axis", AXES)
def test_every_keyword_of_foreign_code_counts(axis: str, key: str) -> None:
    config = {**with_options(method="byol"), axis: {"_target_": "mine.thing", "name": "mine"}}
    config["method"] = {"seed": 0, **config["method"]}
    values = [None, False, True, "warn", "strict", "cosine", {}, {"url": None}, {"url": "a"}]
    found = ids(config, [(f"{axis}.{key}", value) for value in values])
    assert len({Run(config).id, *found}) == len(values) + 1


def test_what_the_project_reads_of_foreign_nodes_is_as_everywhere() -> None:
    config = {**with_options(method="byol"), "model": CUSTOM}
    config["method"]["_target_"] = "mine.Method"
    same = [("model.weights.url", "a"), ("model.facts", {"epochs": 3}),
            ("method.resources", {"gpus": 2}), ("method.clip_grad_norm", None),
            ("method.pretrain_on.download", True)]  # fmt: skip
    assert set(ids(config, same)) == {Run(config).id}


def test_a_value_that_another_node_gives_counts_as_that_value() -> None:
    plainly = with_options(method="byol", protocol="finetune")
    config = changed(plainly, ("method", "seed"), "${seed}")
    runs = [Run({**config, "seed": seed}) for seed in (0, 1)]
    assert runs[0].id != runs[1].id
    assert [run.requirements[0].seed for run in runs] == [0, 1]
    (same,) = Run(changed(plainly, ("method", "seed"), 1)).requirements
    assert runs[1].requirements[0].id == same.id
    config = changed(plainly, ("protocol", "epochs"), "${trainer.batch_size_eval}")
    assert len(set(ids(config, [("trainer.batch_size_eval", n) for n in (64, 128)]))) == 2


def test_a_value_of_the_environment_counts_but_a_place_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = changed(with_options(dataset="dtd"), ("protocol", "epochs"), "${oc.env:EPOCHS}")
    found = []
    for value in ("3", "4"):
        monkeypatch.setenv("EPOCHS", value)
        found.append(Run(config).id)
    assert found[0] != found[1]
    monkeypatch.setenv("SSL_TRANSFER_DATA", "/elsewhere")
    assert Run(config).id == found[1]


def test_what_does_not_resolve_is_left_for_the_checks() -> None:
    config = changed(base(), ("protocol", "epochs"), "${nowhere}")
    assert Run(config).config["protocol"]["epochs"] == "${nowhere}"


def test_the_tables_name_what_there_is() -> None:
    owners = {*AXES, "ssl_transfer.datasets", "ssl_transfer.protocols", *called()}
    tables = (identity._OUTSIDE, identity._SAME, identity._NEUTRAL, identity._NULL_COUNTS)
    assert not {owner for table in tables for owner in table} - owners
    assert {field.name for field in dataclasses.fields(TrainingOptions)} < identity._READ_HERE[
        "method"
    ]
