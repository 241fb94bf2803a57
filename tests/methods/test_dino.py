"""DINO: the formula retyped, closed forms, lightly as judge, its head, centre and schedules."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import methods
from ssl_transfer.methods.dino import DINO, Head, dino, warmed_up
from ssl_transfer.methods.momentum import target_of
from ssl_transfer.methods.multi_crop import encode
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import distributed

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B, M = (1 + T).sin(), (T / 2).cos(), (0.3 * T).sin()
CENTRE = torch.tensor([0.3, -0.2, 0.1, 0.05]).double()
TEMPERATURES = {"student_temperature": 0.1, "teacher_temperature": 0.04}


def _retyped(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Algorithm 1 of the paper, extended to more views as equation 3 says."""
    total, terms = torch.zeros(()).double(), 0
    for i, t in enumerate(teacher):
        probabilities = F.softmax((t - CENTRE) / 0.04, dim=1).detach()
        for j, s in enumerate(student):
            if i != j:
                total = total - (probabilities * F.log_softmax(s / 0.1, dim=1)).sum(dim=1).mean()
                terms += 1
    return total / terms


@pytest.mark.parametrize("views", [2, 3])
def test_value_and_gradient_equal_the_papers_algorithm(views: int) -> None:
    student = [x.clone().requires_grad_() for x in (A, B, M)[:views]]
    teacher = [x.clone().requires_grad_() for x in (B, M)]
    expected = _retyped(student, teacher)
    found = dino(torch.stack(student, 1), torch.stack(teacher, 1), CENTRE, **TEMPERATURES)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, student, retain_graph=True),
        torch.autograd.grad(expected, student),
    )
    found.backward()
    assert all(x.grad is None for x in teacher)


def test_lightly_computes_the_same_loss_and_centre() -> None:
    loss = pytest.importorskip("lightly.loss").DINOLoss(4).double()
    loss.center = CENTRE.clone().view(1, 1, 4)
    expected = loss([B, M], [A, B, M])
    found = dino(torch.stack([A, B, M], 1), torch.stack([B, M], 1), CENTRE, **TEMPERATURES)
    torch.testing.assert_close(found, expected)
    centre = CENTRE.lerp(torch.cat([B, M]).mean(dim=0), 0.1)
    torch.testing.assert_close(loss.center.flatten(), centre)


def test_a_student_that_guesses_has_the_logarithm_of_the_outputs() -> None:
    teacher = torch.randn(5, 2, 7)
    found = dino(torch.zeros(5, 2, 7), teacher, torch.zeros(7), **TEMPERATURES)
    assert found.item() == pytest.approx(math.log(7), rel=1e-6)


def test_the_teacher_temperature_rises_linearly() -> None:
    found = [warmed_up(0.04, 0.07, 0.5, progress) for progress in (0, 0.25, 0.5, 1)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert warmed_up(0.04, 0.07, 0.0, 0.0) == 0.07


def test_outputs_are_cosines_whatever_the_last_layers_length() -> None:
    torch.manual_seed(0)
    head = Head(5, [6, 6], 4, 9, batch_norm=False)
    features = torch.randn(3, 5)
    bottleneck = head.mlp(features)
    expected = F.cosine_similarity(bottleneck[:, None], head.last_layer.weight[None], dim=2)
    torch.testing.assert_close(head(features), expected)
    with torch.no_grad():
        head.last_layer.weight *= 3
    torch.testing.assert_close(head(features), expected)


def test_the_head_has_the_published_layers() -> None:
    # facebookresearch/dino, DINOHead: three layers with biases, GELU between, then unit rows.
    head = Head(5, [6, 6], 4, 9, batch_norm=False)
    kinds = [type(layer) for layer in head.mlp]
    assert kinds == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]
    assert all(torch.equal(layer.bias, torch.zeros(len(layer.bias))) for layer in head.mlp[::2])
    assert head.last_layer.bias is None
    torch.manual_seed(0)
    wide = Head(500, [400], 4, 9, batch_norm=True).mlp
    assert [type(layer) for layer in wide] == [nn.Linear, nn.BatchNorm1d, nn.GELU, nn.Linear]
    assert wide[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    with pytest.raises(ValueError, match="widths of DINO's head must be positive"):
        Head(5, [0], 4, 9, batch_norm=False)


def _method(**changes: Any) -> DINO:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5))
    encoder = Encoder(backbone, 5, Preprocessing(size=2, resize=None))
    keys = {
        "momentum": 0.9,
        "hidden_dims": [6],
        "bottleneck_dim": 4,
        "out_dim": 7,
        "batch_norm": True,
        "student_temperature": 0.1,
        "teacher_temperature": 0.07,
        "teacher_temperature_start": 0.04,
        "teacher_temperature_warmup": 0.5,
        "centre_momentum": 0.9,
        "frozen_last_layer": 0.25,
    }
    views = methods.augmentations({"views": [{}, {}]})
    return DINO(encoder, None, views, **{**keys, **changes}).double()


def test_the_teacher_sees_two_views_and_the_student_also_the_small_ones() -> None:
    method = _method().eval()
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), *method.encoder.backbone)
    method.encoder.backbone = pooled
    method.teacher = target_of(method.student)
    sizes = (6, 6, 4, 4, 4)
    views = tuple(torch.randn(8, 3, size, size, dtype=torch.float64) for size in sizes)
    student = torch.stack([method.student(view) for view in views], dim=1)
    teacher = torch.stack([method.teacher(view) for view in views[:2]], dim=1)
    expected = dino(
        student, teacher, method.centre, student_temperature=0.1, teacher_temperature=0.04
    )
    found = method(views, torch.zeros(8).long())
    torch.testing.assert_close(found["loss"], expected)


def test_views_of_one_size_share_batch_statistics_and_sizes_do_not() -> None:
    torch.manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    views = [torch.randn(8, 3, size, size, dtype=torch.float64) for size in (6, 6, 4)]
    large = norm(torch.cat(views[:2]))
    expected = torch.stack([large[:8], large[8:], norm(views[2])], dim=1)
    torch.testing.assert_close(encode(norm, views), expected)


def _step(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre, temperature and the teacher's entropy after steps without an optimizer."""
    method = _method()
    generator = torch.Generator().manual_seed(2)
    for step in range(count):
        views = tuple(torch.randn(8, 3, 2, 2, generator=generator).double() for _ in range(2))
        own = tuple(v.chunk(distributed.world_size())[distributed.rank()] for v in views)
        # In eval mode: here it is the centre that must not depend on processes.
        parts = method.eval()(own, torch.zeros(len(own[0])).long())
        method.after_step((step + 1) / 4)
    return method.centre, method.temperature, parts["teacher_entropy"]


def test_the_centre_is_the_running_mean_of_the_global_batch(gloo_pool: Any) -> None:
    method = _method().eval()
    generator = torch.Generator().manual_seed(2)
    centre = torch.zeros(7).double()
    for temperature in (0.04, 0.055, 0.07):
        views = [torch.randn(8, 3, 2, 2, generator=generator).double() for _ in range(2)]
        outputs = method.teacher(torch.cat(views))
        shares = ((outputs - centre) / temperature).softmax(dim=1).mean(dim=0)
        centre = 0.9 * centre + 0.1 * outputs.mean(dim=0)
    expected = (centre.detach(), torch.tensor(0.07).double(), -(shares * shares.log()).sum())
    torch.testing.assert_close(_step(3), tuple(e.detach() for e in expected))
    for found in gloo_pool.run(_step, 3):
        torch.testing.assert_close(found, _step(3), rtol=1e-10, atol=1e-12)


def test_the_last_layer_stays_in_the_beginning_only() -> None:
    method = _method()
    views = tuple(torch.randn(8, 3, 2, 2).double() for _ in range(2))
    for progress, frozen in ((0.0, True), (0.2, True), (0.25, False), (0.9, False)):
        method.zero_grad()
        method(views, torch.zeros(8).long())["loss"].backward()
        method.before_step(progress)
        assert (method.head.last_layer.weight.grad is None) == frozen
        assert method.head.mlp[0].weight.grad is not None


def test_the_teacher_follows_by_the_published_schedule() -> None:
    # facebookresearch/dino, cosine_scheduler: the steps count from 0, so that the last of K has the
    # value of K - 1 and the teacher never stands still.
    method, views = _method(), tuple(torch.randn(8, 3, 2, 2).double() for _ in range(2))
    schedule = 1.0 + 0.5 * (0.9 - 1.0) * (1 + np.cos(np.pi * np.arange(4) / 4))
    weight, distance = method.teacher[1].mlp[0].weight, 1.0
    with torch.no_grad():
        method.head.mlp[0].weight.copy_(weight + distance)
    for step, momentum in enumerate(schedule):
        method(views, torch.zeros(8).long())
        method.before_step(step / 4)
        method.after_step((step + 1) / 4)
        distance *= momentum
        found = method.head.mlp[0].weight - weight
        torch.testing.assert_close(found, torch.full_like(found, distance))


@pytest.mark.parametrize("keep", ["teacher", "student"])
def test_the_training_leaves_the_encoder_to_keep(keep: Any) -> None:
    method = _method(keep=keep)
    views = tuple(torch.randn(8, 3, 2, 2).double() for _ in range(2))
    with torch.no_grad():
        method.encoder.backbone[1].weight += 1.0
    method(views, torch.zeros(8).long())
    student = {k: v.clone() for k, v in method.encoder.state_dict().items()}
    teacher = {k: v.clone() for k, v in method.teacher[0].state_dict().items()}
    assert not torch.equal(student["backbone.1.weight"], teacher["backbone.1.weight"])
    method.before_step(1.0)  # a momentum of 1: the teacher stands still
    method.after_step(1.0)
    expected = teacher if keep == "teacher" else student
    torch.testing.assert_close(dict(method.encoder.state_dict()), expected, rtol=0, atol=0)


def test_every_parameter_is_clipped_on_its_own() -> None:
    method = _method()
    groups = method.clip_groups()
    assert all(len(group) == 1 for group in groups)
    assert sum(len(group) for group in groups) == len(
        [p for p in method.parameters() if p.requires_grad]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_temperature": 0.0}, "`method.student_temperature` must be positive, but is 0.0"),
        ({"momentum": -0.1}, r"`method.momentum` must lie in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _method(**changes)
