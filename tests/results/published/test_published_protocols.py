"""The facts about published protocols, judged by this project's experiments that reproduce them."""

import csv
import functools
from typing import Any

import pytest
import yaml

from results.published.catalogue import PROTOCOLS, lines, names
from results.published.protocols import UNKNOWN, facts
from results.tables.protocol_differences import Differences, differences
from ssl_transfer.config import CONF, compose, plain, resolve
from ssl_transfer.preprocessing import Preprocessing

WITHOUT_RUNS = ("imagenet",)
"""Protocols of published tables that are none of this project."""


@functools.cache
def stated() -> list[dict[str, str]]:
    with PROTOCOLS.open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def document(*overrides: str) -> dict[str, Any]:
    """Return what a record holds about the configuration that these overrides make."""
    config = resolve(plain(compose(overrides)))
    return {"config": config, "encoder": {"preprocessing": config["model"]["preprocessing"]}}


def against(table: str, protocol: str, dataset: str, *overrides: str) -> Differences:
    run = document(f"dataset={dataset}", *overrides)
    return differences(run, facts(table, protocol, dataset))


EXPERIMENTS = (
    ("transfer_2021_table1", "finetune", "pets", "transfer_2021/finetune model=swav"),
    ("transfer_2021_few_shot", "few_shot shots=5", "isic", "transfer_2021/few_shot model=swav"),
    ("moco_linear", "linear_probe", "imagenet", "moco/linear_eval model=moco_v2"),
)
OTHERS = (
    ("transfer_2021_table1", "finetune", "voc2007", "transfer_2021/finetune model=swav"),
    ("transfer_2021_table1", "logistic_regression", "dtd", "transfer_2021/linear model=swav"),
    ("transfer_2021_ece", "logistic_regression", "cars", "transfer_2021/linear model=swav"),
    ("barlow_twins_linear", "linear_probe", "imagenet",
     "mixed_barlow_twins/linear_imagenet model=barlow_twins"),
    ("mixed_barlow_twins", "linear_probe", "stl10", "mixed_barlow_twins/linear_stl10"),
    ("mixed_barlow_twins", "knn", "cifar10",
     "mixed_barlow_twins/linear_cifar10 recipe=mixed_barlow_twins/knn"),
    ("w_mse_table1", "linear_probe", "cifar10", "ssl_sota/cifar10"),
    ("w_mse_table1", "knn", "cifar10", "ssl_sota/cifar10 recipe=ssl_sota/knn"),
    ("small_models_readme", "alignment_uniformity", "imagenet",
     "small_models/alignment_uniformity"),
    ("rich_representations_supervised_finetune", "finetune", "cifar100",
     "rich_representations/supervised_cifar protocol=finetune model=rrl_resnet50_run0"),
    ("rich_representations_supervised_linear", "linear_probe", "cifar10",
     "rich_representations/supervised_cifar model=rrl_resnet50_run0"),
    ("mixed_barlow_twins", "linear_probe", "tiny_imagenet",
     "mixed_barlow_twins/linear_tiny_imagenet"),
    ("small_models_readme", "instance_discrimination", "imagenet",
     "small_models/instance_discrimination"),
    ("rich_representations_supervised_finetune", "two_stage_finetune", "cifar100",
     "rich_representations/supervised_cifar protocol=two_stage_finetune method=cat "
     "method.members=[rrl_resnet50_run0,rrl_resnet50_run1] model=rrl_resnet50_run0"),
    ("rich_representations_supervised_finetune", "finetune", "inaturalist18",
     "rich_representations/supervised_inat18 protocol=finetune model=rrl_resnet50_run0"),
    ("rich_representations_supervised_linear", "linear_probe", "inaturalist18",
     "rich_representations/supervised_inat18 protocol=linear_probe model=rrl_resnet50_run0"),
    ("rich_representations_seer", "linear_probe", "cifar10",
     "rich_representations/seer model=seer_regnet_32gf"),
    ("rich_representations_camelyon17", "linear_probe", "camelyon17",
     "rich_representations/camelyon17"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("table", "protocol", "dataset", "overrides"),
    [*EXPERIMENTS, *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)],
)
def test_an_experiment_that_reproduces_a_table_differs_in_no_setting(
    table: str, protocol: str, dataset: str, overrides: str
) -> None:
    differ = against(table, protocol, dataset, *f"experiment={overrides}".split())
    assert [str(setting) for setting in differ.differing] == []
    assert differ.unrecorded == []
    assert len(differ.agreeing) >= 3


def test_the_defaults_differ_from_a_published_protocol_as_their_files_say() -> None:
    differ = against("transfer_2021_table1", "finetune", "pets", "protocol=finetune", "model=swav")
    assert [str(setting) for setting in differ.differing] == [
        "epochs 30 for 5000 steps",
        "lr [1, 0.1, 0.01] for [0.1, 0.01, 0.001, 0.0001]",
        "weight_decay 0.0001 for [0, 1e-06, 1e-05, 0.0001, 0.001]",
        "divide_weight_decay false for true",
        "head_init none for torch",
        "preprocessing.resize 256 for 224",
        "preprocessing.interpolation bilinear for bicubic",
        "dataset.val_rule none for ericsson2021",
    ]
    assert {"batch_size", "schedule", "selection", "preprocessing.size"} <= set(differ.agreeing)


def test_every_protocol_of_a_table_has_facts_and_every_fact_a_table() -> None:
    pairs = {(t, line["protocol"].split(" ")[0]) for t in names() for line in lines(t)}
    for table, protocol in pairs:
        if protocol not in WITHOUT_RUNS:
            own = {
                key for line in stated() for key in [line["key"] or line["comment"]]
                if table in line["table"].split(";")
                and line["protocol"] in (protocol, "*")
            }  # fmt: skip
            assert own, (table, protocol)
    datasets_of = {table: {entry["dataset"] for entry in lines(table)} for table in names()}
    for line in stated():
        for table in line["table"].split(";"):
            assert table == "*" or (table, line["protocol"]) in pairs or line["protocol"] == "*"
            datasets = datasets_of.get(table, set())
            assert not line["datasets"] or datasets & set(line["datasets"].split(";"))


@functools.cache
def keys_of(path: str) -> set[str]:
    return set(yaml.safe_load((CONF / path).read_text(encoding="utf-8")))


def test_every_key_is_one_of_the_configuration_and_every_remark_has_a_text() -> None:
    known = {
        "dataset": keys_of("dataset/_base.yaml") | {"val_rule", "difficult", "split"},
        "protocol.preprocessing": set(Preprocessing.__dataclass_fields__),
        "protocol.optimizer": keys_of("optimizer/sgd_nesterov.yaml")
        | keys_of("optimizer/sgd.yaml"),
        "protocol.grid": set(yaml.safe_load((CONF / "protocol/_tuning.yaml").read_text())["grid"]),
    }
    for line in stated():
        group, _, name = line["key"].rpartition(".")
        if group == "protocol":
            files = [f"protocol/{file}.yaml" for file in (line["protocol"], "_tuning", "_frozen")]
            assert name in set().union(*map(keys_of, files)), line
        elif group:
            assert name in known[group], line
        elif line["key"] != "seed":
            assert line["comment"], line
            assert not line["value"]


def test_what_is_stated_nowhere_is_unknown() -> None:
    found = {
        fact.key: fact.value for fact in facts("mixed_barlow_twins", "linear_probe", "cifar10")
    }
    assert found["protocol.epoch_selection"] == UNKNOWN
    assert found["protocol.epochs"] == 200
    imagenet = facts("mixed_barlow_twins", "linear_probe", "imagenet")
    assert {fact.key: fact.value for fact in imagenet}["protocol.epochs"] == 100
