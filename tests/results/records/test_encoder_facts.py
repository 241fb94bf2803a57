from pathlib import Path

import pytest

from results.published.catalogue import read_published
from results.records.encoder_facts import EncoderFacts, family_of
from results.records.reading import Results, Row, read

FAMILIES = {
    "moco": ["moco_v1", "moco_v2", "MoCo-v2", "moco_v2_small", "moco"],
    "pcl": ["pcl_v1", "pcl-v2"],
    "simclr": ["simclr_v1", "simclr_v2", "simclr"],
    "swav": ["swav", "swav_400ep_resnet50w2", "swav_400ep_seed5"],
    "resnet": ["resnet34", "resnet50", "resnet101", "resnet152", "resnet50w5"],
    "densenet": ["densenet121", "densenet201"],
    "mobilenet": ["mobilenet_v2", "mobilenet_v3_large"],
    "mnasnet": ["mnasnet1_0"],
    "dino": ["dino_resnet50", "dino_vit_small", "dinov2_base"],
    "mixed_bt": ["mixed_bt_r18_cifar10", "mixed_bt_r50_imagenet_reg0p1"],
    "small_resnet": ["small_resnet"],
    "conv": ["conv4", "conv6"],
    "vit": ["vit_base_16_augreg", "vit_large_16"],
    "barlow_twins": ["barlow_twins"],
}


@pytest.mark.parametrize(("family", "names"), FAMILIES.items())
def test_names_that_differ_in_version_and_architecture_are_of_one_family(
    family: str, names: list[str]
) -> None:
    assert {family_of(name) for name in names} == {family}


def test_a_name_of_nothing_but_a_number_is_its_own_family() -> None:
    assert family_of("50") == "50"


def test_facts_of_a_released_encoder_are_those_of_its_record(write, outputs: Path) -> None:
    write(
        model="moco_v2",
        method="as_is",
        config={"model": {"facts": {"imagenet_top1": 0.711}}},
        parameters=7,
        feature_dim=3,
    )
    results = read(outputs)
    assert results.facts("moco_v2-as_is") == EncoderFacts(7, 3, 0.711, "moco")


def test_a_trained_encoder_has_its_methods_family_and_no_published_accuracy(
    write, outputs: Path
) -> None:
    write(
        model="resnet50",
        method="simclr",
        parameters=7,
        config={"model": {"facts": {"imagenet_top1": 0.7, "family": "resnets"}}},
    )
    assert read(outputs).facts("resnet50-simclr") == EncoderFacts(7, None, None, "simclr")


def test_old_records_and_unusable_values_are_unknown(write, outputs: Path) -> None:
    write(
        model="swav",
        method="as_is",
        config={"model": {"facts": {"imagenet_top1": "good"}}},
        feature_dim="wide",
    )
    results = read(outputs)
    assert results.facts("swav-as_is") == EncoderFacts(None, None, None, "swav")
    assert results.facts("nobody") == EncoderFacts()


def test_another_protocols_record_completes_the_facts(write, outputs: Path) -> None:
    write(model="swav", method="as_is", protocol="knn")
    write(
        model="swav",
        method="as_is",
        protocol="finetune",
        trainable={"encoder_parameters": 9},
    )
    assert read(outputs).facts("swav-as_is").parameters == 9


def test_averaged_scores_have_the_parameters_of_all_members(write, outputs: Path) -> None:
    members = [write(f"{n}" * 16, parameters=5, config={"method": {"epochs": n}}) for n in (1, 2)]
    runs = [f"{count:08x}{0:08x}" for count in (1, 2)]
    write("c" * 16, model="2x", method="cat_sub", requires=runs)
    assert len(members) == 2
    assert read(outputs).facts("2x-cat_sub").parameters == 10


def test_published_tables_state_facts_in_columns_or_in_the_table_of_imagenet() -> None:
    published = read_published(["transfer_2021_table1", "rich_representations_swav"])
    assert published.facts("moco_v2") == EncoderFacts(None, None, 0.711, "moco")
    assert published.facts("resnet50-swav").parameters == 23508032


def test_facts_of_own_results_in_memory_are_unknown() -> None:
    row = Row("e", "e", "knn", "d", 0, "m", 0.5, "fraction", True, True, "test", "run")
    assert Results([row]).facts("e") == EncoderFacts()
