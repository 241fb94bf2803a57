"""Methods with a target network, a queue or a predictor, through the trainer.

One process = two, interrupted = uninterrupted, gradients do not reach targets.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from noisy_views import SAMPLES, NoisyViews
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ssl_transfer import methods
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.methods.momentum import cosine_momentum, follow, target_of
from ssl_transfer.metrics.collapse import spread
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs.signature import problems, signature_problems
from ssl_transfer.system import distributed, signals
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

METHODS = ("byol", "simsiam", "moco_v1", "moco_v2", "moco_v2_small", "dino")
# A queue of 40 is no multiple of the batch, and overflows in the third step.
SMALL: dict[str, dict[str, Any]] = {
    "byol": {"predictor_dim": 16},
    "simsiam": {"predictor_dim": 4},
    "moco_v1": {"queue_size": 40, "dim": 6, "bn_groups": 4},
    "moco_v2": {"queue_size": 40, "dim": 6, "bn_groups": 4},
    "moco_v2_small": {"queue_size": 40, "dim": 6, "bn_groups": 4},
    "dino": {"hidden_dims": [16], "bottleneck_dim": 6, "out_dim": 20},
}
BATCH = 16


def node(name: str, **changes: Any) -> dict[str, Any]:
    """Return the option as it is composed, its networks made small."""
    found: dict[str, Any] = resolve(plain(compose([f"method={name}"])))["method"]
    if "projector" in found:
        found["projector"]["dims"] = [12, 8]
    return {**found, **SMALL[name], **changes}


def encoder() -> Encoder:
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.Tanh(),  # smooth: rounding cannot flip a unit
        nn.Conv2d(6, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    preprocessing = Preprocessing(size=8, resize=None)
    return Encoder(backbone=backbone, feature_dim=5, preprocessing=preprocessing, name="tiny")


def two_views(interrupt_at: int | None = None) -> NoisyViews:
    return NoisyViews((8, 8), interrupt_at, torch.float64)


def build(config: dict[str, Any], dtype: torch.dtype = torch.float64) -> methods.Method:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return methods.build(config, encoder(), None).to(dtype)


class Lines:
    def __init__(self) -> None:
        self.losses: list[float] = []

    def log(self, values: dict[str, Any]) -> None:
        self.losses.append(values["loss"])


def train(
    folder: Path, config: dict[str, Any], steps: int, *, interrupt_at: int | None = None
) -> tuple[methods.Method, dict[str, Tensor], float]:
    """Return the trained method, its last gradients and its last loss."""
    lines, learner = Lines(), build(config)
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(
        folder, folder / "features", precision="fp64", progress_bar=False, logger=lines
    )
    keys = ("optimizer", "schedule", "clip_grad_norm", "bn_groups")
    recipe = TrainingOptions(
        epochs=steps * BATCH / SAMPLES,
        batch_size=BATCH,
        drop_last=True,
        warmup_epochs=min(config["warmup_epochs"], steps * BATCH / SAMPLES),
        **{key: config[key] for key in keys},
    )
    gradients: dict[str, Tensor] = {}

    def look(*_: Any) -> None:
        gradients.update(
            (name, parameter.grad.clone())
            for name, parameter in learner.named_parameters()
            if parameter.grad is not None
        )

    hook = register_optimizer_step_pre_hook(look)
    try:
        fit(
            learner,
            two_views(interrupt_at),
            recipe,
            context,
            name="pretrain",
        )
    finally:
        hook.remove()
    return learner, gradients, lines.losses[-1] if lines.losses else math.nan


def observed(folder: Path, config: dict[str, Any], steps: int) -> dict[str, Tensor]:
    """Return all tensors, gradients and the (global) loss after some steps."""
    place = folder / f"{distributed.world_size()}-{distributed.rank()}"
    learner, gradients, loss = train(place, config, steps)
    found = dict(learner.state_dict())
    found |= {f"gradient of {name}": gradient for name, gradient in gradients.items()}
    if distributed.is_main():
        found["loss"] = torch.tensor(loss)
    return found


VARIANTS = [(name, {}) for name in METHODS] + [
    ("byol", {"bn_groups": 4}),
    ("simsiam", {"bn_groups": 2, "constant_predictor_lr": True}),
    ("moco_v2", {"symmetric": True}),
    ("moco_v2", {"shuffle_bn": False}),
    ("moco_v2", {"bn_groups": 1}),
    ("moco_v2", {"mlp": "deep"}),
    ("dino", {"bn_groups": 2, "teacher_temperature_warmup": 0.6, "teacher_temperature": 0.07}),
    ("dino", {"batch_norm": False, "frozen_last_layer": 0.5, "keep": "student"}),
]


@pytest.mark.parametrize(
    ("processes", "name", "changes"),
    [(2, *variant) for variant in VARIANTS] + [(4, name, {"bn_groups": 2}) for name in METHODS],
)
def test_processes_see_the_losses_gradients_targets_and_queues_of_one(
    gloo_pool: Any, tmp_path: Path, processes: int, name: str, changes: dict[str, Any]
) -> None:
    config = node(name, **changes)
    alone = observed(tmp_path, config, 4)
    first, *others = gloo_pool.run(observed, tmp_path, config, 4, processes=processes)
    torch.testing.assert_close(first, alone, rtol=1e-8, atol=1e-8)
    del first["loss"]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    assert max(v.abs().max() for k, v in alone.items() if "gradient of encoder" in k) > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_training_ends_bit_for_bit_as_an_uninterrupted_one(
    tmp_path: Path, name: str
) -> None:
    config = node(name)
    calm, _, loss = train(tmp_path / "calm", config, 6)
    with pytest.raises(signals.Interrupted):
        train(tmp_path / "disturbed", config, 6, interrupt_at=3)
    assert (tmp_path / "disturbed" / "checkpoint.pt").exists()
    resumed, _, again = train(tmp_path / "disturbed", config, 6)
    assert again == loss
    torch.testing.assert_close(resumed.state_dict(), calm.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_all_that_is_trained_and_nothing_else(name: str) -> None:
    method = build(node(name))
    views = two_views().__getitems__([(0, index) for index in range(BATCH)]).views
    method(tuple(view.double() for view in views), torch.zeros(BATCH).long())["loss"].backward()
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n, p in method.named_parameters() if p.grad is not None} == trained
    assert {n.split(".")[0] for n in trained} <= {"encoder", "projector", "predictor", "head"}
    follows = name != "simsiam"
    assert any(not p.requires_grad for p in method.parameters()) == follows


@pytest.mark.parametrize("name", METHODS)
def test_a_short_training_lowers_the_loss(name: str) -> None:
    method = build(node(name))
    views = two_views().__getitems__([(0, index) for index in range(BATCH)]).views
    batch = tuple(view.double() for view in views)
    adam = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=0.01)
    losses = []
    torch.manual_seed(0)
    for step in range(60):
        loss = method(batch, torch.zeros(BATCH).long())["loss"]
        adam.zero_grad()
        loss.backward()
        method.before_step(step / 60)
        adam.step()
        if not name.startswith("moco"):  # whose queue would soon hold these same images only
            method.after_step((step + 1) / 60)
        losses.append(loss.item())
    least = -1.0 if name == "simsiam" else 0.0
    # Random rows stay in the way of MoCo's queries.
    share = 0.9 if name.startswith("moco") else 0.7
    assert losses[-1] - least < share * (losses[0] - least)


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_computed_in_float32_inside_autocast(name: str) -> None:
    method = build(node(name), torch.float32)
    views = two_views().__getitems__([(0, index) for index in range(BATCH)]).views
    targets = torch.zeros(BATCH).long()
    torch.manual_seed(0)
    expected = method(views, targets)["loss"]
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(views, targets)["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.1, abs=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_an_option_is_its_names_file_and_binds_to_its_class(name: str) -> None:
    config = node(name)
    assert config["name"] == name
    assert set(methods.TRAINING_KEYS) <= set(config)
    supplied = frozenset({"encoder", "num_classes", "views"})
    keys = methods.own_keys(config)
    assert signature_problems("method", type(build(config)), keys, supplied=supplied) == []


def test_published_schedules_by_epoch_may_be_asked_for() -> None:
    line = ["method=moco_v1", "+method.schedule_per=epoch", "+method.milestones=[120,160]"]
    config = plain(compose(line))
    assert problems(config) == []
    assert "milestones" not in methods.own_keys(config["method"])


@pytest.mark.parametrize("name", ["byol", "simsiam", "dino"])
def test_a_batch_of_one_is_refused_before_the_first_step(tmp_path: Path, name: str) -> None:
    config = node(name)
    context = Context(tmp_path, tmp_path, progress_bar=False)
    recipe = TrainingOptions(epochs=1, batch_size=1, optimizer=config["optimizer"])
    with pytest.raises(ValueError, match="`batch_size` must be at least 2 for"):
        fit(
            build(config, torch.float32),
            two_views(),
            recipe,
            context,
            name="pretrain",
        )


@pytest.mark.parametrize("name", ["byol", "moco_v2", "dino"])
def test_a_momentum_outside_0_and_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"`method.momentum` must lie in \[0, 1\], but is 1.5"):
        build(node(name, momentum=1.5))


def test_a_target_starts_as_a_copy_and_follows_by_the_closed_form() -> None:
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    target = target_of(online)
    start = {k: v.clone() for k, v in target.state_dict().items()}
    torch.testing.assert_close(start, dict(online.state_dict()), rtol=0, atol=0)
    with torch.no_grad():
        for parameter in online.parameters():
            parameter += 1.0
    online[1].running_mean += 5
    for _ in range(10):
        follow(target, online, 0.9)
    # The distance to something that stands still shrinks by the momentum each time.
    for name, parameter in target.named_parameters():
        expected = start[name] + (1 - 0.9**10)
        torch.testing.assert_close(parameter, nn.Parameter(expected, requires_grad=False))
    torch.testing.assert_close(target[1].running_mean, start["1.running_mean"])


def test_momentum_0_copies_and_momentum_1_changes_nothing() -> None:
    online, target = nn.Linear(3, 2), target_of(nn.Linear(3, 2))
    before = target.weight.clone()
    follow(target, online, 1.0)
    assert torch.equal(target.weight, before)
    follow(target, online, 0.0)
    assert torch.equal(target.weight, online.weight)


def test_the_cosine_momentum_has_the_published_values() -> None:
    found = [cosine_momentum(0.99, quarter / 4) for quarter in range(5)]
    assert found == pytest.approx([0.99, 0.991464, 0.995, 0.998536, 1.0], abs=5e-7)


def _spread(rank_rows: Tensor) -> float:
    return spread(rank_rows.chunk(distributed.world_size())[distributed.rank()]).item()


def test_spread_is_0_for_collapsed_and_1_for_evenly_spread_embeddings(gloo_pool: Any) -> None:
    assert spread(torch.ones(8, 3) * torch.arange(1, 9)[:, None]).item() == pytest.approx(
        0.0, abs=1e-3
    )
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    assert spread(corners).item() == pytest.approx(1.0)
    torch.manual_seed(0)
    z = torch.randn(8, 5, dtype=torch.float64)
    unit = z / z.norm(dim=1, keepdim=True)
    expected = (unit.std(dim=0, unbiased=False).mean() * math.sqrt(5)).item()
    assert spread(z).item() == pytest.approx(expected)
    assert gloo_pool.run(_spread, z) == pytest.approx([expected, expected])
