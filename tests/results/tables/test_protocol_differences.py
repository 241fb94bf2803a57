from typing import Any

import pytest

from results.published.protocols import UNKNOWN, Fact
from results.tables.protocol_differences import Differences, differences, summary


def differing(config: dict[str, Any], *facts: tuple[str, Any], **document: Any) -> list[str]:
    run = {"config": config, **document}
    found = differences(run, [Fact(key, value, "") for key, value in facts])
    return [str(setting) for setting in found.differing]


@pytest.mark.parametrize(
    ("protocol", "fact", "text"),
    [
        ({"epochs": 50, "steps": None}, ("protocol.steps", 5000), "epochs 50 for 5000 steps"),
        ({"epochs": 30, "steps": 100}, ("protocol.steps", 5000), "steps 100 for 5000 steps"),
        ({"epochs": 30, "steps": 5000}, ("protocol.epochs", 30), "steps 5000 for 30 epochs"),
        ({"selection": "val"}, ("protocol.selection", "test"), "selection val for test"),
        ({"grid": {"lr": [1.0, 0.1]}}, ("protocol.grid.lr", [30]), "lr [1, 0.1] for 30"),
        ({"grid": {"lr": None}, "optimizer": {"lr": 0.5}}, ("protocol.grid.lr", [30]),
         "lr 0.5 for 30"),
        ({"optimizer": {"weight_decay": 1e-4}, "grid": {"weight_decay": None}},
         ("protocol.optimizer.weight_decay", 0), "weight_decay 0.0001 for 0"),
        ({"head_init": None}, ("protocol.head_init", "torch"), "head_init none for torch"),
        ({"augmentation": {"crop_scale": [0.5, 1.0]}}, ("protocol.augmentation", "crop_flip"),
         "augmentation {crop_scale: [0.5, 1]} for crop_flip"),
    ],
)  # fmt: skip
def test_a_setting_that_differs_is_told_with_both_values(
    protocol: dict[str, Any], fact: tuple[str, Any], text: str
) -> None:
    assert differing({"protocol": protocol}, fact) == [text]


@pytest.mark.parametrize(
    ("protocol", "fact"),
    [
        ({"steps": 5000, "epochs": 30}, ("protocol.steps", 5000)),
        ({"epochs": 100}, ("protocol.epochs", 100)),
        ({"grid": {"lr": [0.1, 0.001, 0.01]}}, ("protocol.grid.lr", [0.01, 0.1, 0.001])),
        ({"grid": {"lr": None}, "optimizer": {"lr": 30}}, ("protocol.grid.lr", [30.0])),
        ({"grid": {"lr": [0.3]}, "optimizer": {"lr": None}}, ("protocol.optimizer.lr", 0.3)),
        ({"optimizer": {"momentum": 0.9}}, ("protocol.optimizer.momentum", 0.9)),
        ({"milestones": [60, 80]}, ("protocol.milestones", [60, 80])),
    ],
)
def test_the_same_setting_in_another_notation_does_not_differ(
    protocol: dict[str, Any], fact: tuple[str, Any]
) -> None:
    assert differing({"protocol": protocol}, fact) == []


@pytest.mark.parametrize(
    ("protocol", "size", "resize"),
    [
        ({}, 224, 256),
        ({"preprocessing": {"resize": 224}}, 224, 224),
        ({"preprocessing": {"resize": None}}, 224, 224),
        ({"image_size": 112}, 112, 128),
        ({"preprocessing": {"size": 384}}, 384, 439),  # round(256 · 384 / 224)
    ],
)
def test_the_preprocessing_is_the_encoder_s_unless_the_protocol_replaces_it(
    protocol: dict[str, Any], size: int, resize: int
) -> None:
    own = {"size": 224, "resize": 256, "interpolation": "bilinear"}
    facts = [("protocol.preprocessing.size", size), ("protocol.preprocessing.resize", resize),
             ("protocol.preprocessing.squash", False)]  # fmt: skip
    config = {"protocol": protocol, "model": {"preprocessing": {"size": 32}}}
    assert differing(config, *facts, encoder={"preprocessing": own}) == []
    (text,) = differing(
        config, ("protocol.preprocessing.interpolation", "bicubic"), encoder={"preprocessing": own}
    )
    assert text == "preprocessing.interpolation bilinear for bicubic"


def test_unknown_and_unrecorded_settings_are_neither_equal_nor_different() -> None:
    facts = [
        Fact("protocol.epochs", UNKNOWN, ""),
        Fact("protocol.pool", "all", ""),
        Fact("", "", "episodes are not seeded"),
    ]
    found = differences({"config": {"protocol": {"epochs": 3}}}, facts)
    assert found == Differences([], [], ["epochs"], ["pool"], ["episodes are not seeded"])
    assert differences({}, facts[1:2]).unrecorded == ["pool"]
    text = summary([("dtd", found)])
    assert text == (
        "has no setting to compare. Not stated there: epochs. Not recorded here: pool. "
        "Also there: episodes are not seeded"
    )


def test_one_sentence_tells_where_a_setting_differs_unless_everywhere() -> None:
    def run(epochs: int, selection: str = "val") -> Differences:
        config = {"protocol": {"epochs": epochs, "selection": selection}}
        facts = [Fact("protocol.epochs", 10, ""), Fact("protocol.selection", "val", "")]
        return differences({"config": config}, facts)

    cells = [("dtd", run(3, "test")), ("pets", run(3)), ("cars", run(3))]
    assert summary(cells) == "differs: epochs 3 for 10 epochs; selection test for val (dtd)"
    assert summary([("dtd", run(10))]) == "is as published in all 2 settings that are compared"
    five = [*((name, run(3)) for name in "abcde"), ("f", run(10))]
    assert summary(five) == "differs: epochs 3 for 10 epochs (a, b, c and 2 more)"
