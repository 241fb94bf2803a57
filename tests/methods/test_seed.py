"""SEED: golden numbers, the published formula retyped, the frozen teacher, queues, resuming."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from noisy_views import NoisyViews
from safetensors.torch import load_file
from tiny_runs import run_all, tiny
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import datasets, methods, models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.methods import pretraining
from ssl_transfer.methods.moco import info_nce
from ssl_transfer.methods.seed import SEED, similarity_distillation
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run, preflight
from ssl_transfer.system import distributed, signals
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
STUDENTS, TEACHERS = (1 + T).sin(), (T / 2).cos()
QUEUE = F.normalize((0.7 * torch.arange(24, dtype=torch.float64).reshape(6, 4)).cos())
BATCH = 16
SMALL = Preprocessing(size=8, resize=None)


@pytest.mark.parametrize(
    ("teacher_temperature", "expected"), [(1e-4, 4.366750043524049), (0.1, 4.220705929404656)]
)
def test_golden_numbers(teacher_temperature: float, expected: float) -> None:
    loss = similarity_distillation(
        STUDENTS, TEACHERS, QUEUE, temperature=0.2, teacher_temperature=teacher_temperature
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("teacher_temperature", [1e-4, 0.1])
def test_value_and_gradient_equal_the_published_formula(teacher_temperature: float) -> None:
    leaves = [x.clone().requires_grad_() for x in (STUDENTS, TEACHERS, QUEUE)]
    students, teachers, queue = leaves
    total = torch.zeros(()).double()
    for s, t in zip(students, teachers.detach(), strict=True):
        s, t = s / s.norm(), t / t.norm()
        against = torch.stack([t, *QUEUE])
        targets = torch.stack([t @ row for row in against]) / teacher_temperature
        targets = targets.exp() / targets.exp().sum() if teacher_temperature > 0.01 else (
            (targets - targets.max()).exp() / (targets - targets.max()).exp().sum()
        )  # fmt: skip
        scores = torch.stack([s @ row for row in against]) / 0.2
        total = total - (targets * (scores.exp() / scores.exp().sum()).log()).sum()
    expected = total / len(students)
    found = similarity_distillation(
        students, teachers, queue, temperature=0.2, teacher_temperature=teacher_temperature
    )
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(expected, students)
    found.backward()
    torch.testing.assert_close(students.grad, gradient)
    assert teachers.grad is None
    assert queue.grad is None


def test_a_cold_teacher_asks_for_what_moco_asks_for_and_a_hot_one_for_nothing() -> None:
    def loss(temperature: float) -> Tensor:
        return similarity_distillation(
            STUDENTS, TEACHERS, QUEUE, temperature=0.2, teacher_temperature=temperature
        )

    torch.testing.assert_close(loss(1e-7), info_nce(STUDENTS, TEACHERS, QUEUE, 0.2))
    students, teachers = F.normalize(STUDENTS), F.normalize(TEACHERS)
    own = (students * teachers).sum(dim=1, keepdim=True)
    every = torch.cat([own, students @ QUEUE.T], dim=1) / 0.2
    torch.testing.assert_close(loss(1e9), -every.log_softmax(dim=1).mean())


# The method


def encoder(seed: int, preprocessing: Preprocessing = SMALL, width: int = 5) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh()),
            *(nn.Conv2d(6, width, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
    return Encoder(backbone, width, preprocessing)


def build(
    teacher: Encoder | None = None, *, views: Sequence[dict[str, Any]] = ({},), **changes: Any
) -> SEED:
    teacher = teacher or encoder(1, width=7)
    keys = {"temperature": 0.2, "teacher_temperature": 0.1, "queue_size": 40, "mlp": "simple"}
    drawn = methods.augmentations({"views": views})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SEED(encoder(0), None, drawn, teacher=teacher, **{**keys, **changes}).double()


def batch() -> Tensor:
    return NoisyViews().__getitems__([(0, index) for index in range(BATCH)]).views[0].double()


def train(
    folder: Path,
    *,
    interrupt_at: int | None = None,
    bn_groups: int = 1,
    queue_size: int = 40,
    **options: Any,
) -> SEED:
    """Return the method after two epochs of three steps; a queue of 40 overflows in the third."""
    method = build(queue_size=queue_size)
    place = folder / f"{distributed.world_size()}-{distributed.rank()}"
    place.mkdir(parents=True, exist_ok=True)
    context = Context(place, place, precision="fp64", progress_bar=False, **options)
    recipe = TrainingOptions(
        epochs=2,
        batch_size=BATCH,
        optimizer={"name": "sgd", "lr": 0.1},
        bn_groups=bn_groups,
        drop_last=True,
    )
    fit(method, NoisyViews(interrupt_at=interrupt_at), recipe, context, name="pretrain")
    return method


def test_the_student_is_compared_with_the_teacher_in_eval_mode() -> None:
    method, images = build(), batch()
    queue, teacher = method.queue.rows.clone(), encoder(1, width=7).double().eval()
    parts = method.train()((images,), torch.zeros(BATCH).long())
    students = method.head(method.encoder(images))
    expected = similarity_distillation(
        students, teacher(images), queue, temperature=0.2, teacher_temperature=0.1
    )
    torch.testing.assert_close(parts["loss"], expected)
    rows = torch.cat([F.normalize(teacher(images)), queue])
    cosines = F.normalize(students) @ rows.T
    own = cosines.diagonal()
    hits = (own > cosines[:, BATCH:].amax(dim=1)).double().mean()
    assert parts["top1"].item() == hits.item()
    assert not any(module.training for module in method.teacher.modules())
    assert all(module.training for module in method.encoder.modules())


def test_gradients_reach_the_student_and_not_the_teacher() -> None:
    method = build().train()
    method((batch(),), torch.zeros(BATCH).long())["loss"].backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in reached} == {"encoder", "head"}
    assert reached == {name for name, p in method.named_parameters() if p.requires_grad}


def test_the_queue_takes_the_teachers_embeddings_after_the_step() -> None:
    method, images = build().train(), batch()
    start = method.queue.rows.clone()
    for half in images.chunk(2):  # gradient accumulation
        method((half,), torch.zeros(BATCH // 2).long())
    assert torch.equal(method.queue.rows, start)
    method.after_step(0.5)
    torch.testing.assert_close(method.queue.rows[:BATCH], F.normalize(method.teacher(images)))
    assert torch.equal(method.queue.rows[BATCH:], start[BATCH:])
    assert method.fresh == []


def test_the_teacher_stays_as_it_was_and_the_loss_falls(tmp_path: Path) -> None:
    method, before = train(tmp_path), encoder(1, width=7).double().state_dict()
    torch.testing.assert_close(method.teacher.state_dict(), before, rtol=0, atol=0)
    images, targets = batch(), torch.zeros(BATCH).long()
    fresh = build()
    fresh.queue.load_state_dict(method.queue.state_dict())
    losses = [m.train()((images,), targets)["loss"].item() for m in (fresh, method)]
    assert losses[1] < 0.95 * losses[0]


def test_an_interrupted_training_ends_as_an_uninterrupted_one_and_saves_no_teacher(
    tmp_path: Path,
) -> None:
    calm = train(tmp_path / "calm")
    with pytest.raises(signals.Interrupted):
        train(tmp_path / "disturbed", interrupt_at=3)
    saved = torch.load(tmp_path / "disturbed" / "1-0" / "checkpoint.pt", weights_only=True)
    parts = {name.partition(".")[0] for name in saved["learner"]}
    assert parts == {"encoder", "head", "queue"}
    resumed = train(tmp_path / "disturbed")
    torch.testing.assert_close(resumed.state_dict(), calm.state_dict(), rtol=0, atol=0)
    assert resumed.queue.pushed == 6 * BATCH


def _trained(folder: Path, options: dict[str, Any]) -> dict[str, Tensor]:
    state = train(folder, **options).state_dict()
    rows = state["queue.rows"]
    return {**state, "queue.rows": rows[rows[:, 0].argsort()]}


# With parts of batches, those of all processes come side by side: a queue that holds whole batches
# remembers the same rows in another order.
@pytest.mark.parametrize(
    "options", [{}, {"bn_groups": 4, "accumulate": 2, "queue_size": 2 * BATCH}]
)
def test_two_processes_end_with_the_weights_and_the_queue_of_one(
    gloo_pool: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    alone = _trained(tmp_path / "alone", {**options, "accumulate": 1})
    first, second = gloo_pool.run(_trained, tmp_path, options)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-9, atol=1e-9)


class Seen(nn.Module):
    """A teacher that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.images: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return self.scale * images.flatten(1)[:, :7]


# Behind the teacher's projector


def projector() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4))


def taught(**changes: Any) -> SEED:
    teacher = encoder(1, width=7)
    teacher.projector = projector()
    return build(teacher, teacher_output="embeddings", **changes)


def test_embeddings_are_those_behind_the_projector_in_eval_mode() -> None:
    method, images = taught(), batch()
    assert method.head[-1].out_features == 4
    assert method.queue.rows.shape == (40, 4)
    queue = method.queue.rows.clone()
    features = encoder(1, width=7).double().eval()(images)
    teachers = projector().double().eval()(features)
    loss = method.train()((images,), torch.zeros(BATCH).long())["loss"]
    students = method.head(method.encoder(images))
    expected = similarity_distillation(
        students, teachers, queue, temperature=0.2, teacher_temperature=0.1
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    method.after_step(0.5)
    torch.testing.assert_close(method.queue.rows[:BATCH], F.normalize(teachers))
    assert all(p.grad is None for p in method.teacher.parameters())
    before = projector().double().state_dict()
    held = {name: method.state_dict()[f"teacher.projector.{name}"] for name in before}
    torch.testing.assert_close(held, before, rtol=0, atol=0)
    assert {f"teacher.projector.{name}" for name in before} < method.constant()


SHARED = ["method.epochs=1", "method.warmup_epochs=0", "method.batch_size=16",
          "dataset@method.pretrain_on=digits", "method.pretrain_on.labels_per_class=4",
          "method.pretrain_on.test_per_class=2", "method.queue_size=16"]  # fmt: skip


def test_a_pretraining_leaves_the_projector_that_its_students_learn_from(tmp_path: Path) -> None:
    inner = ",".join(f'"{o}"' for o in [*SHARED, "method.dim=6"])
    teacher = f"method.teacher={{method:moco_v2,overrides:[{inner}]}}"
    run = tiny(tmp_path, "method=seed", "protocol=pretrain", *SHARED, teacher,
               tuned=False, data=False)  # fmt: skip
    assert preflight.check(run) is None  # with a teacher that is still to be trained
    outcome = run_all(run)
    assert (outcome.failures, outcome.computed) == ({}, 2)
    (source,) = run.requirements
    kept, own = (load_file(r.folder / "projector.safetensors") for r in (source, run))
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "0.weight": (16, 16), "0.bias": (16,), "2.weight": (6, 16), "2.bias": (6,),
    }  # fmt: skip
    assert own["2.weight"].shape == (6, 16)  # the student's head
    (source.folder / "projector.safetensors").unlink()
    told = preflight.check(run)
    assert told is not None
    assert "but that of `small_resnet` is not beside its weights" in told
    features = tiny(tmp_path, "method=seed", "protocol=pretrain", *SHARED, teacher,
                    "method.teacher_output=features", tuned=False, data=False)  # fmt: skip
    assert preflight.check(features) is None
    before = copy.deepcopy(features.config)  # as frozen before there was the key
    del before["method"]["teacher_output"]
    assert Run(before).id == features.id != run.id


def test_a_published_files_projector_teaches(tmp_path: Path) -> None:
    source = models.build(resolve(plain(compose(["model.width=4"])))["model"], seed=3)
    state = {f"module.encoder_q.{n}": t for n, t in source.backbone.state_dict().items()}
    for place, (rows, columns) in {0: (16, 16), 2: (5, 16)}.items():
        state[f"module.encoder_q.fc.{place}.weight"] = torch.randn(rows, columns)
        state[f"module.encoder_q.fc.{place}.bias"] = torch.randn(rows)
    torch.save({"state_dict": state}, tmp_path / "moco.pth")
    path = f"model.weights.path={tmp_path}/moco.pth"
    inner = f'"model.width=4","model.preprocessing.size=16","{path}"'
    teacher = f"method.teacher={{model:small_resnet,overrides:[{inner}]}}"
    run = tiny(tmp_path, "method=seed", "protocol=pretrain", *SHARED, teacher,
               tuned=False, data=False)  # fmt: skip
    assert run_all(run).failures == {}
    left = load_file(run.folder / "projector.safetensors")
    assert left["2.weight"].shape == (5, 16)


def test_features_are_those_before_it() -> None:
    teacher = encoder(1, width=7)
    teacher.projector = projector()
    losses = [
        build(made, teacher_output="features")((batch(),), torch.zeros(BATCH).long())["loss"]
        for made in (teacher, encoder(1, width=7))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (None, "that of `encoder` is not beside its weights"),
        (nn.Sequential(nn.Linear(6, 4)), "that of `encoder` takes 6 features for its 7"),
    ],
)
def test_a_teacher_without_its_projector_is_refused(kept: nn.Module | None, told: str) -> None:
    teacher = encoder(1, width=7)
    teacher.projector = kept
    with pytest.raises(ValueError, match=told) as caught:
        build(teacher, teacher_output="embeddings")
    assert "`method.teacher_output=features`" in str(caught.value)


# Multi-crop


def test_small_views_add_their_loss_against_a_queue_of_their_own() -> None:
    method = build(views=[{}, {"count": 3, "size": 6}]).train()
    large, teacher = batch(), encoder(1, width=7).double().eval()
    small = [batch()[:, :, :6, :6].roll(shift, dims=2) for shift in range(3)]
    queues = [queue.rows.clone() for queue in method.queues]
    assert not torch.equal(*queues)
    twin = build().train()  # for batch statistics of its own
    loss = method((large, *small), torch.zeros(BATCH).long())["loss"]
    # As `forward` in seed/small_patch_builder.py: the small views of an image side by side.
    together = torch.stack(small, dim=1).flatten(0, 1)
    expected = torch.zeros(()).double()
    for images, queue in zip((large, together), queues, strict=True):
        expected = expected + similarity_distillation(
            twin.head(twin.encoder(images)), teacher(images), queue,
            temperature=0.2, teacher_temperature=0.1,
        )  # fmt: skip
    torch.testing.assert_close(loss, expected)
    for (name, one), (_, two) in zip(
        method.encoder.named_buffers(), twin.encoder.named_buffers(), strict=True
    ):
        torch.testing.assert_close(one, two, msg=name)
    method.after_step(0.5)
    for kept, images, start in zip(method.queues, (large, small[0]), queues, strict=True):
        torch.testing.assert_close(kept.rows[:BATCH], F.normalize(teacher(images)))
        assert torch.equal(kept.rows[BATCH:], start[BATCH:])


def test_the_teacher_may_want_every_view_prepared_otherwise() -> None:
    other = Preprocessing(size=8, resize=None, mean=(0.1, 0.2, 0.3))
    views = [{}, {"count": 2, "size": 6}]
    method = build(encoder(1, other, width=7), views=views)
    same = build(views=views)
    own = (batch(), batch()[:, :, :6, :6], batch()[:, :, 2:, 2:])
    theirs = tuple(view + 1 for view in own)
    teachers = method._taught(theirs)
    method(own + theirs, torch.zeros(BATCH).long())
    torch.testing.assert_close(method.fresh[0][1], F.normalize(teachers[:, 1]))
    same(own, torch.zeros(BATCH).long())
    assert not torch.allclose(same.fresh[0][1], method.fresh[0][1])


@pytest.mark.parametrize(
    ("views", "told"),
    [
        ([{}, {"size": 16}], "one `size` for SEED, but for smaller ones after the first one, but"),
        ([{}, {"size": 6}, {"size": 4}], r"after the first must have one `size` .* \[4, 6\]"),
    ],
)
def test_small_views_are_smaller_and_of_one_size(views: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build(views=views)


@pytest.mark.parametrize("size", [8, 16])
def test_the_teacher_sees_the_students_crop_prepared_as_it_wants(tmp_path: Path, size: int) -> None:
    colours = Preprocessing(
        size=size, resize=None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), channel_order="bgr"
    )
    seen = Seen()
    node = resolve(plain(compose(["method=seed"])))["method"]
    node |= {"epochs": 1, "batch_size": 20, "queue_size": 20, "warmup_epochs": 0}
    node["teacher_output"] = "features"
    digits = resolve(plain(compose(["dataset=digits"])))["dataset"]
    dataset = datasets.build({**digits, "labels_per_class": 4, "test_per_class": 1})
    student = encoder(0)
    shown: list[Tensor] = []
    student.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    context = Context(tmp_path, tmp_path, progress_bar=False)
    pretraining.train(student, dataset, context, node, teacher=Encoder(seen, 7, colours))

    def pixels(images: Tensor, prepared: Preprocessing) -> Tensor:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (prepared.mean, prepared.std))
        raw = images * std + mean
        return raw.flip(1) if prepared.channel_order == "bgr" else raw

    (own,), (theirs,) = shown, seen.images
    assert theirs.shape == (20, 3, size, size)
    mine, found = pixels(own, SMALL), pixels(theirs, colours)
    if size == 8:
        torch.testing.assert_close(found, mine)
    else:
        error = (F.avg_pool2d(found, 2) - mine).abs().mean()
        assert error < 0.3 * (mine.roll(1, dims=0) - mine).abs().mean()


def test_a_teacher_that_wants_the_same_images_gets_the_very_same() -> None:
    assert build().other_preprocessing == ()
    other = Preprocessing(size=16, resize=None)
    assert build(encoder(1, other)).other_preprocessing == (other,)


@pytest.mark.parametrize("key", ["temperature", "teacher_temperature"])
def test_temperatures_must_be_positive(key: str) -> None:
    zero: dict[str, Any] = {key: 0}
    with pytest.raises(ValueError, match=f"`method.{key}` must be positive, but is 0"):
        build(**zero)


def test_the_head_ends_with_the_width_of_the_teacher() -> None:
    layers = [layer for layer in build().head if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(5, 5), (5, 7)]
