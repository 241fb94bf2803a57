"""Optimizers from mappings, LARS, and schedules as functions of the step."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from ssl_transfer.training import optim

CONFIGS: list[dict[str, Any]] = [
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"name": "adam", "lr": 0.1, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.01},
    {"name": "adamw", "lr": 0.1, "betas": [0.8, 0.9], "weight_decay": 0.01},
    {"name": "lars", "lr": 0.1, "momentum": 0.8, "weight_decay": 0.01, "trust": 0.01},
]


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> list[Any]:
    torch.manual_seed(1)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(8, 3).double()).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("config", CONFIGS[:3], ids=lambda config: config["name"])
def test_a_mapping_gives_torchs_optimizer(config: dict[str, Any]) -> None:
    model, twin = _model(), _model()
    found = _steps(model, optim.build(config, [{"params": list(model.parameters())}]))
    keys = {key: value for key, value in config.items() if key != "name"}
    judge = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    expected = _steps(twin, judge[config["name"]](twin.parameters(), **keys))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS[:3], ids=lambda config: config["name"])
def test_a_parameter_may_get_its_first_gradient_in_a_later_step(config: dict[str, Any]) -> None:
    keys = {key: value for key, value in config.items() if key != "name"}
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    ours, judge = ([nn.Parameter(torch.ones(3)) for _ in range(2)] for _ in range(2))
    optimizers = [
        optim.build(config, [{"params": ours}]),
        kinds[config["name"]](judge, foreach=False, **keys),
    ]
    for step in range(4):
        for parameters, optimizer in zip((ours, judge), optimizers, strict=True):
            parameters[0].grad = torch.full((3,), 0.5 + step)
            parameters[1].grad = torch.full((3,), 0.25) if step > 1 else None
            optimizer.step()
    torch.testing.assert_close([*ours], [*judge])


@pytest.mark.parametrize("config", CONFIGS[:3], ids=lambda config: config["name"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_and_parameters_may_lie_in_memory_in_different_orders(
    config: dict[str, Any], layout: torch.memory_format
) -> None:
    results = []
    for parameter_layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        filters = torch.randn(4, 3, 2, 2).contiguous(memory_format=parameter_layout)
        parameter = nn.Parameter(filters)
        optimizer = optim.build(config, [{"params": [parameter]}])
        for _ in range(3):
            parameter.grad = torch.randn(4, 3, 2, 2).contiguous(memory_format=layout)
            optimizer.step()
        assert optimizer.param_groups[0]["fused"]
        results.append(parameter.detach().contiguous())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("config", CONFIGS[:3], ids=lambda config: config["name"])
def test_moving_averages_of_a_checkpoint_may_have_another_layout(config: dict[str, Any]) -> None:
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        first, second = (nn.Parameter(torch.ones(4, 3, 2, 2)) for _ in range(2))
        before = optim.build(config, [{"params": [first]}])
        first.grad = torch.randn(4, 3, 2, 2)
        before.step()
        second.data = first.detach().contiguous(memory_format=layout)
        after = optim.build(config, [{"params": [second]}])
        after.load_state_dict(before.state_dict())
        second.grad = torch.randn(4, 3, 2, 2).contiguous(memory_format=layout)
        after.step()
        results.append(second.detach().contiguous())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("config", CONFIGS[:3], ids=lambda config: config["name"])
def test_a_parameter_that_does_not_fill_its_memory_is_trained_as_any_other(
    config: dict[str, Any],
) -> None:
    results = []
    for memory in (torch.ones(4, 8), torch.ones(4, 4)):
        parameter = nn.Parameter(memory[:, :4])
        optimizer = optim.build(config, [{"params": [parameter]}])
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        torch.manual_seed(0)
        for _ in range(3):
            scaler.scale((parameter * torch.randn(4, 4)).sum()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


def test_an_optimizer_of_a_checkpoint_without_fused_steps_goes_on_without_them() -> None:
    parameter = nn.Parameter(torch.ones(3))
    old = torch.optim.Adam([parameter], lr=0.1)
    parameter.grad = torch.ones(3)
    old.step()
    new = optim.build({"name": "adam", "lr": 0.1}, [{"params": [parameter]}])
    new.load_state_dict(old.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(1))
    parameter.grad = torch.full((3,), 4.0)
    scaler.unscale_(new)
    scaler.step(new)
    assert not new.param_groups[0]["fused"]
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.8))


def test_lars_takes_the_published_first_step() -> None:
    # Golden number: the update of facebookresearch/barlowtwins main.py, computed in float64.
    p = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    p.grad = torch.tensor([[0.1, -0.2], [0.3, 0.4]], dtype=torch.float64)
    config = {"name": "lars", "lr": 0.2, "weight_decay": 1e-6, "trust": 1e-3}
    optim.build(config, [{"params": [p]}]).step()
    expected = [
        [0.9997999994666752, 2.0003999930667082],
        [2.9993999984000257, 3.9991999978667008],
    ]
    torch.testing.assert_close(p.data, torch.tensor(expected).double(), rtol=1e-7, atol=0)
    exact = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(p.data, exact, rtol=1e-14, atol=0)


def test_lars_follows_the_formula_over_several_steps() -> None:
    model, twin = _model(), _model()
    config = CONFIGS[3]
    found = _steps(model, optim.build(config, [{"params": list(model.parameters())}]))
    momenta = [torch.zeros_like(p) for p in twin.parameters()]
    torch.manual_seed(1)
    for _ in range(3):
        twin.zero_grad()
        twin(torch.randn(8, 3).double()).square().mean().backward()
        with torch.no_grad():
            for p, mu in zip(twin.parameters(), momenta, strict=True):
                assert p.grad is not None
                g = p.grad
                if p.ndim > 1:
                    g = g + 0.01 * p
                    g = g * 0.01 * p.norm() / g.norm()
                mu.copy_(0.8 * mu + g)
                p -= 0.1 * mu
    torch.testing.assert_close(found, [p.detach() for p in twin.parameters()])


def test_lars_trains_biases_at_a_rate_of_their_own() -> None:
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    config = {"name": "lars", "lr": 0.8, "bias_lr": 0.0024, "weight_decay": 0.5}
    optimizer = optim.build(config, [{"params": [weight, bias]}])
    weight.grad, bias.grad = torch.ones(2, 2), torch.full((2,), 3.0)
    optim.scale_learning_rate(optimizer, 0.5)
    optimizer.step()
    # Neither decayed nor scaled to its norm, at half its own rate.
    torch.testing.assert_close(bias.detach(), torch.full((2,), 1 - 0.5 * 0.0024 * 3.0))
    # (1 + 0.5) · 0.001 · ‖1‖ / ‖1.5‖ = 0.001 at half of 0.8
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 1 - 0.5 * 0.8 * 1e-3))


def test_lars_leaves_the_gradient_as_it_is_where_a_norm_is_zero() -> None:
    p = nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.ones(2, 2)
    optim.build({"name": "lars", "lr": 0.5}, [{"params": [p]}]).step()
    assert torch.equal(p.data, torch.full((2, 2), -0.5))


def test_biases_and_norms_are_spared_from_decay_when_asked() -> None:
    model = _model()
    params = list(model.parameters())
    config = {"name": "sgd", "lr": 0.1, "weight_decay": 0.5, "exclude_bias_and_norm": True}
    groups = optim.build(config, [{"params": params}]).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [decays[id(p)] for p in params] == [0.5 if p.ndim > 1 else 0.0 for p in params]


def test_each_group_may_have_its_own_values() -> None:
    heads = [nn.Linear(2, 2) for _ in range(3)]
    groups = [
        {"params": list(head.parameters()), "lr": lr, "weight_decay": decay}
        for head, lr, decay in zip(heads, (1.0, 0.1, 0.01), (0.0, 0.1, 0.2), strict=True)
    ]
    optimizer = optim.build({"name": "sgd", "lr": 5.0, "momentum": 0.7}, groups)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.1, 0.01]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1, 0.2]
    optim.scale_learning_rate(optimizer, 0.5)
    optim.scale_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.025, 0.0025]
    assert groups[0]["lr"] == 1.0, "the caller's groups stay as they are"


def test_a_restored_optimizer_goes_on_with_the_same_base() -> None:
    model = _model()
    first = optim.build(CONFIGS[0], [{"params": list(model.parameters())}])
    optim.scale_learning_rate(first, 0.5)
    second = optim.build(CONFIGS[0], [{"params": list(model.parameters())}])
    second.load_state_dict(first.state_dict())
    optim.scale_learning_rate(second, 0.1)
    assert second.param_groups[0]["lr"] == pytest.approx(0.01)


def test_frozen_parameters_are_left_out() -> None:
    model = _model()
    model[0].requires_grad_(False)  # type: ignore[index]
    params = [{"params": list(model.parameters())}]
    optimizer = optim.build(CONFIGS[0], params)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="all are frozen"):
        optim.build(CONFIGS[0], params)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"name": "adamax", "lr": 1.0}, r"must be one of \['sgd', 'adam', 'adamw', 'lars'\]"),
        ({"name": "sgd", "lr": 1.0, "betas": [0.9, 0.9]}, "known keys: lr, momentum, nesterov"),
        ({"name": "adam"}, "`optimizer.lr` must be given"),
    ],
)
def test_what_is_unknown_or_missing_is_named(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        optim.build(config, [{"params": list(_model().parameters())}])
    assert len(optim.problems(config)) == 1


def test_an_unknown_key_of_a_group_is_named() -> None:
    group = {"params": list(_model().parameters()), "decay": 0.1}
    with pytest.raises(ValueError, match=r"`optimizer.decay` is not a key of sgd"):
        optim.build({"name": "sgd", "lr": 0.1}, [group])


def test_cosine_falls_from_the_base_after_the_warm_up() -> None:
    def rate(step: int) -> float:
        return optim.learning_rate(step, steps=110, base=2.0, warmup_steps=10, final=0.1)

    assert [rate(0), rate(4), rate(9)] == pytest.approx([0.2, 1.0, 2.0])
    assert rate(10) == 2.0
    assert rate(60) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rate(35) == pytest.approx(2.0 * (0.1 + 0.45 * (1 + math.cos(math.pi / 4))))
    assert rate(110) == pytest.approx(0.2)


def test_constant_and_step_schedules() -> None:
    assert {optim.learning_rate(s, steps=10, base=3.0, schedule="constant") for s in range(10)} == {
        3.0
    }
    rates = [optim.learning_rate(s, steps=10, schedule="step") for s in range(10)]
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 2)


def test_an_exponential_schedule_is_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.01)
    judge = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1e-4 ** (1 / 200))
    for epoch in range(200):
        rate = optim.learning_rate(epoch, steps=200, base=0.01, schedule="exponential", final=1e-4)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        judge.step()
    assert judge.gamma == pytest.approx(0.954993, abs=5e-7)  # linear.py of wgcban/mix-bt, printed
    last = optim.learning_rate(200, steps=200, base=0.01, schedule="exponential", final=1e-4)
    assert last == pytest.approx(1e-6)


@pytest.mark.parametrize(("total", "cycles"), [(100, 5), (17, 4), (6, 1)])
def test_a_cyclic_schedule_is_equation_2_of_snapshot_ensembles(total: int, cycles: int) -> None:
    length = math.ceil(total / cycles)
    published = [
        0.2 / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1) for t in range(1, total + 1)
    ]
    rates = [
        optim.learning_rate(step, steps=total, base=0.2, schedule="cyclic", cycles=cycles)
        for step in range(total)
    ]
    assert rates == pytest.approx(published, rel=1e-12, abs=1e-15)


def test_cycles_follow_the_warm_up_as_torchs_restarts_and_may_end_above_zero() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    judge = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, eta_min=0.1)
    for step in range(30):
        rate = optim.learning_rate(
            step + 4, steps=34, warmup_steps=4, schedule="cyclic", cycles=3, final=0.1
        )
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        judge.step()


def test_a_training_may_be_all_warm_up() -> None:
    rates = [optim.learning_rate(s, steps=2, warmup_steps=4) for s in range(2)]
    assert rates == [0.25, 0.5]


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(ValueError, match=r"must be one of \['cosine', 'constant', 'step'"):
        optim.learning_rate(0, steps=1, schedule="linear")
