"""DISTILL-n: each loss in closed form, frozen teachers, label sets, resuming, stored features."""

import copy
import functools
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

from ssl_transfer import datasets, methods
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import ViewDataset
from ssl_transfer.features import WithFeatures
from ssl_transfer.methods import pretraining
from ssl_transfer.methods.distill import (
    Distill,
    feature_distance,
    hard_target_loss,
    soft_target_loss,
)
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head, build_head, load_head
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import preflight
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import distributed, signals
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
STUDENTS, TEACHERS = (1 + T).sin(), 2 * (T / 2).cos()
BATCH = 16
SMALL = Preprocessing(size=8, resize=None)
TARGETS = ("features", "soft", "hard")


# The losses


def test_squared_differences_are_averaged_over_samples_and_features() -> None:
    total = sum((s - t) ** 2 for s, t in zip(STUDENTS.flatten(), TEACHERS.flatten(), strict=True))
    torch.testing.assert_close(feature_distance(STUDENTS, TEACHERS, "mse"), total / 32)


def test_the_distance_of_directions_is_two_minus_two_cosines() -> None:
    cosines = [s @ t / (s.norm() * t.norm()) for s, t in zip(STUDENTS, TEACHERS, strict=True)]
    expected = 2 - 2 * torch.stack(cosines).mean()
    torch.testing.assert_close(feature_distance(STUDENTS, TEACHERS, "cosine"), expected)
    torch.testing.assert_close(feature_distance(STUDENTS, 9 * TEACHERS, "cosine"), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_are_those_of_hinton(temperature: float) -> None:
    leaf = STUDENTS.clone().requires_grad_()
    total = torch.zeros(()).double()
    for s, t in zip(leaf, TEACHERS, strict=True):
        q = (s / temperature).exp() / (s / temperature).exp().sum()
        p = (t / temperature).exp() / (t / temperature).exp().sum()
        total = total - (p * q.log()).sum() + (p * p.log()).sum()
    loss = soft_target_loss(leaf, TEACHERS, temperature)
    torch.testing.assert_close(loss, temperature**2 * total / 8)
    (gradient,) = torch.autograd.grad(loss, leaf)
    # Their equation 2: T^2 times (q - p) / T of the mean over samples.
    q, p = ((x / temperature).softmax(dim=1) for x in (STUDENTS, TEACHERS))
    torch.testing.assert_close(gradient, temperature * (q - p) / 8)


def test_the_factor_keeps_the_gradient_of_hot_targets() -> None:
    def gradient(temperature: float) -> Tensor:
        leaf = STUDENTS.clone().requires_grad_()
        (found,) = torch.autograd.grad(soft_target_loss(leaf, TEACHERS, temperature), leaf)
        return found

    # Their equation 4: (s - t) / classes, of centred scores.
    s, t = (x - x.mean(dim=1, keepdim=True) for x in (STUDENTS, TEACHERS))
    torch.testing.assert_close(gradient(1e5), (s - t) / 4 / 8, rtol=1e-3, atol=1e-6)


def test_hard_targets_are_the_classes_that_the_teacher_predicts() -> None:
    rows = [s.exp().sum().log() - s[t.argmax()] for s, t in zip(STUDENTS, TEACHERS, strict=True)]
    loss = hard_target_loss(STUDENTS, TEACHERS)
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_no_gradient_reaches_the_teacher() -> None:
    losses = (
        functools.partial(feature_distance, distance="cosine"),
        functools.partial(feature_distance, distance="mse"),
        functools.partial(soft_target_loss, temperature=4.0),
        hard_target_loss,
    )
    for loss in losses:
        students, teachers = STUDENTS.clone().requires_grad_(), TEACHERS.clone().requires_grad_()
        loss(students, teachers).backward()
        assert students.grad is not None
        assert teachers.grad is None


# The method


def encoder(
    seed: int,
    *,
    width: int = 5,
    preprocessing: Preprocessing = SMALL,
    classes: Sequence[str] | None = ("a", "b", "c"),
    target: str = "class",
) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh()),
            *(nn.Conv2d(6, width, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        made = Encoder(backbone, width, preprocessing, f"net{seed}")
        if classes is not None:
            layers = build_head("linear", width, len(classes), init="torch").eval()
            made.head = Head(layers, "linear", tuple(classes), target)
    return made


def build(
    teachers: Sequence[Encoder] | None = None,
    *,
    student: Encoder | None = None,
    views: Sequence[dict[str, Any]] = ({},),
    **keys: Any,
) -> Distill:
    teachers = [encoder(1, width=7), encoder(2, width=4)] if teachers is None else teachers
    drawn = methods.augmentations({"views": views})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = student or encoder(0)
        return Distill(student, None, drawn, teachers=teachers, **keys).double()


def batch() -> Tensor:
    return NoisyViews().__getitems__([(0, index) for index in range(BATCH)]).views[0].double()


LABELS = torch.zeros(BATCH).long()


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_is_the_mean_over_teachers_each_with_its_own_head(target: str) -> None:
    method, images = build(target=target).train(), batch()
    teachers = [encoder(1, width=7).double().eval(), encoder(2, width=4).double().eval()]
    twin = build(target=target).train()  # for batch statistics of its own
    features = twin.encoder(images)
    losses = []
    for head, teacher in zip(twin.heads, teachers, strict=True):
        outputs = teacher(images)
        if target == "features":
            assert head.out_features == teacher.feature_dim
            losses.append(feature_distance(head(features), outputs, "cosine"))
            continue
        assert teacher.head is not None
        scores = teacher.head.layers.double()(outputs)
        loss = {"soft": functools.partial(soft_target_loss, temperature=4.0),
                "hard": hard_target_loss}[target]  # fmt: skip
        losses.append(loss(head(features), scores))
    torch.testing.assert_close(method((images,), LABELS)["loss"], sum(losses) / 2)
    assert not any(
        m.training for m in (*method.teachers.modules(), *method.teacher_heads.modules())
    )
    assert all(module.training for module in method.encoder.modules())


@pytest.mark.parametrize("target", TARGETS)
def test_gradients_reach_the_student_and_its_heads_alone(target: str) -> None:
    method = build(target=target).train()
    method((batch(),), LABELS)["loss"].backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in reached} == {"encoder", "heads"}
    assert reached == {name for name, p in method.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "keys", [{"head": "identity"}, {"head": "identity", "distance": "mse"}, {"target": "soft"}]
)
def test_an_equal_student_has_no_loss_at_the_teachers_weights(keys: dict[str, Any]) -> None:
    method = build([encoder(3), encoder(3)], student=encoder(3), **keys).eval()
    for head, teacher in zip(method.heads, method.teachers, strict=True):
        if keys.get("target") == "soft":
            head.load_state_dict(teacher.head.layers.state_dict())
    parts = method((batch(),), LABELS)
    assert parts["loss"].item() == 0
    assert parts["agreement" if "target" in keys else "cosine"].item() == pytest.approx(
        1, abs=1e-12
    )
    other = build([encoder(3)], student=encoder(4), head="identity").eval()
    assert other((batch(),), LABELS)["loss"].item() > 0.01


def test_the_order_of_teachers_changes_which_head_learns_what_and_not_the_loss() -> None:
    first, second = encoder(1, width=7), encoder(2, width=4)
    one, two = build([first, second]), build([second, first])
    assert [head.out_features for head in one.heads] == [7, 4]
    assert [head.out_features for head in two.heads] == [4, 7]
    for ours, theirs in zip(one.heads, reversed(two.heads), strict=True):
        theirs.load_state_dict(ours.state_dict())
    losses = [method.train()((batch(),), LABELS)["loss"] for method in (one, two)]
    torch.testing.assert_close(losses[0], losses[1])


def test_several_views_count_equally() -> None:
    shown = (batch(), batch().flip(0), batch().roll(1, dims=2))
    method = build(views=[{"count": 3}]).eval()
    single = build().eval()
    losses = [single((view,), LABELS)["loss"] for view in shown]
    torch.testing.assert_close(method(shown, LABELS)["loss"], sum(losses) / 3)


def test_each_teacher_sees_the_views_prepared_as_it_wants() -> None:
    one = Preprocessing(size=8, resize=None, mean=(0.1, 0.2, 0.3))
    two = Preprocessing(size=12, resize=None)
    teachers = [encoder(1, preprocessing=two), encoder(2), encoder(3, preprocessing=one),
                encoder(4, preprocessing=two)]  # fmt: skip
    method = build(teachers).eval()
    assert method.other_preprocessing == (two, one)
    large = F.interpolate(batch(), 12)
    shown = (batch(), large, batch() + 1)
    expected = [teacher.double().eval()(view) for teacher, view in zip(
        teachers, (large, batch(), batch() + 1, large), strict=True)]  # fmt: skip
    torch.testing.assert_close(method._taught(shown), expected)
    losses = [
        feature_distance(head(method.encoder(batch())), outputs, "cosine")
        for head, outputs in zip(method.heads, expected, strict=True)
    ]
    torch.testing.assert_close(method(shown, LABELS)["loss"], sum(losses) / 4)


def test_class_scores_may_come_from_cosine_heads() -> None:
    method = build(target="soft", head="cosine").eval()
    head, features = method.heads[1], method.encoder(batch())
    directions = head.weight / head.weight.norm(dim=1, keepdim=True)
    unit = features / (features.norm(dim=1, keepdim=True) + 1e-5)
    expected = 2 * (unit @ directions.T) * head.length
    torch.testing.assert_close(head(features), expected)


def test_the_mean_of_the_heads_stays_as_the_students_classifier() -> None:
    method, dataset = build(target="hard"), labelled("a", "b", "c")
    head = method.trained_head(dataset)
    assert head is not None
    assert head.classes == ("a", "b", "c")
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = (method.heads[0](features) + method.heads[1](features)) / 2
    torch.testing.assert_close(head.layers(features), mean)
    assert build().trained_head(dataset) is None
    assert build(target="soft", head="cosine").trained_head(dataset) is None
    others = [encoder(1), encoder(2, classes=("c", "b", "a"))]
    assert build(others, target="soft").trained_head(dataset) is None


# What does not fit


@functools.cache
def digits() -> Dataset:
    node = resolve(plain(compose(["dataset=digits"])))["dataset"]
    return datasets.build({**node, "labels_per_class": 4, "test_per_class": 1})


def labelled(*classes: str) -> Dataset:
    dataset = copy.copy(digits())
    object.__setattr__(dataset, "classes", classes)
    return dataset


@pytest.mark.parametrize("target", ["soft", "hard"])
def test_teachers_of_other_classes_are_refused_unless_they_are_wanted(target: str) -> None:
    teachers = [encoder(1), encoder(2, classes=("a", "x"))]
    with pytest.raises(
        ValueError,
        match=r"`method\.teachers\[1\]` \(`net2`\) must have the 3 classes of .* 2 others",
    ) as caught:
        build(teachers, target=target).check(labelled("a", "b", "c"))
    assert "method.label_sets=any" in str(caught.value)
    build(teachers, target=target, label_sets="any").check(labelled("a", "b", "c"))
    build(teachers).check(labelled("a", "b", "c"))  # features have no classes
    build(teachers, target=target).check(labelled())  # neither have images without labels
    build([encoder(1, classes=("c", "a", "b"))], target=target).check(labelled("a", "b", "c"))


def test_a_published_classifier_without_names_must_have_as_many_classes() -> None:
    teacher = encoder(1)
    teacher.head = Head(build_head("linear", 5, 3))
    build([teacher], target="hard").check(labelled("x", "y", "z"))
    with pytest.raises(ValueError, match="must have the 2 classes"):
        build([teacher], target="hard").check(labelled("x", "y"))


@pytest.mark.parametrize(
    ("teachers", "keys", "told"),
    [
        ([], {}, "must name at least one encoder"),
        ([{"classes": None}], {"target": "soft"}, r"teachers\[0\]` \(`net0`\) must have a class"),
        ([{}, {"target": "classes"}], {"target": "hard"}, r"`net1`\) .* several classes per image"),
        ([{"width": 5}, {"width": 7}], {"head": "identity"}, r"teachers\[1\]` has 7 for its 5"),
        ([{}], {"head": "identity", "target": "soft"}, "but the target is soft"),
        ([{}], {"head": "cosine"}, "must be linear or identity for `method.target=features`"),
        ([{}], {"temperature": 0.0}, "`method.temperature` must be positive"),
    ],
)
def test_a_mistake_is_told(teachers: list[dict[str, Any]], keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build([encoder(i, **one) for i, one in enumerate(teachers)], **keys)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("method.teachers=[]", "is an empty list"),
        ("method.teachers=swav", "is a single one"),
        ("method.teachers=???", "teachers"),
        ("method.target=logits", r"must be one of ['features', 'soft', 'hard']"),
    ],
)
def test_a_node_that_does_not_fit_is_told(override: str, told: str) -> None:
    said = problems(plain(compose(["method=distill", "method.teachers=[swav]", override])))
    assert len(said) == 1
    assert told in said[0]


# Through the training loop


def train(
    folder: Path,
    target: str,
    *,
    interrupt_at: int | None = None,
    bn_groups: int = 1,
    **options: Any,
) -> Distill:
    """Return the method after two epochs of three steps."""
    method = build(target=target)
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


def test_an_interrupted_training_ends_as_an_uninterrupted_one_and_saves_no_teacher(
    tmp_path: Path,
) -> None:
    calm = train(tmp_path / "calm", "soft")
    with pytest.raises(signals.Interrupted):
        train(tmp_path / "disturbed", "soft", interrupt_at=3)
    saved = torch.load(tmp_path / "disturbed" / "1-0" / "checkpoint.pt", weights_only=True)
    assert {name.partition(".")[0] for name in saved["learner"]} == {"encoder", "heads"}
    resumed = train(tmp_path / "disturbed", "soft")
    torch.testing.assert_close(resumed.state_dict(), calm.state_dict(), rtol=0, atol=0)
    before = encoder(1, width=7).double().state_dict()
    torch.testing.assert_close(resumed.teachers[0].state_dict(), before, rtol=0, atol=0)


def _trained(folder: Path, target: str, options: dict[str, Any]) -> dict[str, Tensor]:
    return train(folder, target, **options).state_dict()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("options", [{}, {"bn_groups": 4, "accumulate": 2}])
def test_two_processes_end_with_the_weights_of_one(
    gloo_pool: Any, tmp_path: Path, target: str, options: dict[str, Any]
) -> None:
    alone = _trained(tmp_path / "alone", target, {**options, "accumulate": 1})
    first, second = gloo_pool.run(_trained, tmp_path, target, options)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-9, atol=1e-9)


# Teachers' features that are computed once


CONSTANT = [{"crop_scale": None, "flip_probability": 0.0}]


class Counting(Encoder):
    """An encoder that counts the images that pass through it."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


def pretrained(folder: Path, views: list[dict[str, Any]], **keys: Any) -> tuple[Encoder, Counting]:
    """Return a student and its teacher after two epochs on digits, which see no flips."""
    node = resolve(plain(compose(["method=distill"])))["method"]
    node |= {"epochs": 2, "batch_size": 10, "warmup_epochs": 0, "views": views, **keys}
    other = Preprocessing(size=8, resize=10)
    source = encoder(1, width=7, preprocessing=other, classes=digits().classes)
    teacher = Counting(source.backbone, 7, source.preprocessing, "counting")
    teacher.head = source.head
    student = encoder(0)
    context = Context(folder, folder, precision="fp64", progress_bar=False)
    folder.mkdir(parents=True, exist_ok=True)
    pretraining.train(student, digits(), context, node, teachers=[teacher])
    return student, teacher


@pytest.mark.parametrize("target", ["features", "soft"])
def test_without_augmentation_teachers_see_each_image_once_and_teach_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    student, teacher = pretrained(tmp_path / "once", CONSTANT, target=target)
    assert teacher.seen == len(digits()["train"])
    monkeypatch.setattr(pretraining, "_is_constant", lambda view: False)
    twin, busy = pretrained(tmp_path / "often", CONSTANT, target=target)
    assert busy.seen == 2 * len(digits()["train"])
    torch.testing.assert_close(student.state_dict(), twin.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("views", "constant"),
    [
        (CONSTANT, True),
        ([{"crop_scale": None}], True),  # flips are removed: a mirrored digit is another sign
        ([{}], False),
        ([{**CONSTANT[0], "blur_probability": 0.1}], False),
        ([{**CONSTANT[0], "count": 2}], False),
    ],
)
def test_views_are_constant_if_nothing_in_them_is_drawn(
    tmp_path: Path, views: list[dict[str, Any]], constant: bool
) -> None:
    context = Context(tmp_path, tmp_path, precision="fp64", progress_bar=False)
    data = pretraining.training_data(build(views=views), digits(), context)
    assert isinstance(data, WithFeatures if constant else ViewDataset)
    shown = data.__getitems__([(0, 3), (5, 0)]).views
    count = views[0].get("count", 1)
    assert [view.ndim for view in shown] == [4] * count + [2, 2] * constant


# As runs


SHARED = ["method.epochs=1", "method.warmup_epochs=0", "method.batch_size=16",
          "dataset@method.pretrain_on=digits", "method.pretrain_on.labels_per_class=4",
          "method.pretrain_on.test_per_class=2"]  # fmt: skip


def supervised(*more: str) -> str:
    inner = ",".join(f'"{o}"' for o in [*SHARED, *more])
    return f"{{method:supervised,seeds:[0,1],overrides:[{inner}]}}"


def distilled(folder: Path, *more: str, teachers: str | None = None) -> Any:
    named = f"method.teachers={teachers or supervised()}"
    return tiny(folder, "method=distill", "protocol=pretrain", *SHARED, named, *more,
                tuned=False, data=False)  # fmt: skip


def test_supervised_teachers_are_trained_first_and_leave_their_class_scores(tmp_path: Path) -> None:
    run = distilled(tmp_path, "method.target=soft")
    assert [source.seed for source in run.sources.values()] == [0, 1]
    assert preflight.check(run) is None  # with teachers that are still to be trained
    outcome = run_all(run)
    assert (outcome.failures, outcome.computed) == ({}, 3)
    heads = [load_head(r.folder) for r in (*run.requirements, run)]
    assert [head.classes for head in heads if head] == [tuple("0123456789")] * 3
    assert all("head.safetensors" in r.record()["files"] for r in (*run.requirements, run))
    (run.requirements[0].folder / "head.safetensors").unlink()
    again = distilled(tmp_path, "method.target=hard")
    told = preflight.check(again)
    assert told is not None
    assert "`method.teachers[0]` (`small_resnet`) must have a classifier" in told
    assert preflight.check(distilled(tmp_path)) is None  # features do without


def test_snapshots_teach_with_the_class_scores_of_their_epoch(tmp_path: Path) -> None:
    inner = ",".join(f'"{o}"' for o in [*SHARED, "method.epochs=2"])
    teachers = f"{{method:supervised,epochs:[1,2],overrides:[{inner}]}}"
    run = distilled(tmp_path, "method.target=soft", teachers=teachers)
    outcome = run_all(run)
    assert (outcome.failures, outcome.computed) == ({}, 2)
    heads = [load_head(source.encoder_folder) for source in run.sources.values()]
    first, second = (head.layers.weight for head in heads if head is not None)
    assert not torch.equal(first, second)


def test_teachers_of_another_set_are_told_before_any_work(tmp_path: Path) -> None:
    teachers = supervised("dataset@method.pretrain_on=textures")
    run = distilled(tmp_path, "method.target=hard", teachers=teachers)
    told = preflight.check(run)
    assert told is not None
    assert "`method.teachers[0]` (`small_resnet`) must have the 10 classes of `digits`" in told
    wanted = distilled(tmp_path, "method.target=hard", "method.label_sets=any", teachers=teachers)
    assert preflight.check(wanted) is None


def test_a_supervised_run_can_be_scored_as_it_is(tmp_path: Path) -> None:
    run = tiny(tmp_path, "method=supervised", "protocol=score_as_is", *SHARED, tuned=False)
    assert run_all(run).failures == {}
    assert run.record()["status"] == "finished"
    (source,) = run.requirements
    assert load_file(source.folder / "head.safetensors")["weight"].shape == (10, 16)
