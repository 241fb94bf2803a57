"""A training's numbers are judged when they are written down, not after a night of work."""

import pytest

from ssl_transfer.config import compose, plain
from ssl_transfer.runs.signature import problems
from ssl_transfer.training.options import TrainingOptions

GOOD = {"epochs": 1, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 0.1}}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "`epochs` must be positive"),
        ({"epochs": -1.5}, "`epochs` must be positive, but is -1.5"),
        ({"epochs": float("inf")}, "`epochs` must be at most 1000000, but is inf"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, but is 0"),
        ({"bn_groups": 0}, "`bn_groups` must be at least 1, but is 0"),
        ({"clip_grad_norm": 0.0}, "`clip_grad_norm` must be positive"),
        ({"warmup_epochs": 1.5}, r"at most `epochs` \(1\), .* but is 1.5; lower it"),
        ({"warmup_epochs": -5}, "`warmup_epochs` must be at least 0, but is -5"),
        ({"optimizer": {"name": "sgd", "lr": -1}}, "`optimizer.lr` must be at least 0"),
        ({"optimizer": {"name": "sgd", "lr": float("nan")}}, "`optimizer.lr` must be at least 0"),
        (
            {"optimizer": {"name": "adam", "lr": 1, "weight_decay": -1}},
            "`optimizer.weight_decay` must be",
        ),
        ({"optimizer": {"name": "lars", "lr": 1, "bias_lr": -1}}, "`optimizer.bias_lr` must be"),
    ],
)
def test_what_trains_nothing_or_backwards_is_refused(wrong: dict[str, object], told: str) -> None:
    TrainingOptions(**GOOD)
    with pytest.raises(ValueError, match=told):
        TrainingOptions(**{**GOOD, **wrong})


@pytest.mark.parametrize(
    "key", ["epochs=0", "epochs=-1", "batch_size=0", "bn_groups=0", "clip_grad_norm=0",
            "warmup_epochs=-1", "optimizer.lr=-1"],
)  # fmt: skip
def test_the_command_line_is_told_by_the_key(key: str) -> None:
    (problem,) = problems(plain(compose(["method=simclr", "protocol=pretrain", f"method.{key}"])))
    assert problem.startswith(f"`method.{key.partition('=')[0]}` must be")
