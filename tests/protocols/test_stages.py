"""Trainings that start from earlier runs: exact starts, processes, interruptions."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import GlooPool
from torch import nn

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models import Encoder
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.heads import HEAD_FILE, Head, HeadKind, build_head
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols import tuning
from ssl_transfer.protocols.required import Evaluated
from ssl_transfer.protocols.stages import LinearProbeThenFinetune, TwoStageFinetune
from ssl_transfer.protocols.tuned_classifier import TunedClassifier
from ssl_transfer.protocols.tuning import Tuning, TuningRun
from ssl_transfer.system import distributed

SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.001}
TYPES = [(torch.float32, 1e-6), (torch.float64, 1e-12)]
PREPARED = Preprocessing(size=8, resize=None)


def toy(classes: int = 3) -> Dataset:
    def split(count: int, seed: int) -> Split:
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        targets = np.arange(count, dtype=np.int64) % classes
        return Split(ArrayImages(pixels), targets, [f"{seed}/{i}" for i in range(count)])

    splits = {"train": split(18, 1), "val": split(6, 2), "test": split(9, 3)}
    names = tuple("abcdef"[:classes])
    return Dataset("toy", names, "class", "top1", splits, True, "f" * 64, {})


def network(seed: int, dim: int = 5) -> Encoder:
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(3, dim, 3, stride=2), nn.BatchNorm2d(dim), nn.SiLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip
    return models.wrap(layers, PREPARED, name=f"m{seed}")


def used_head(
    kind: HeadKind, seed: int, dtype: torch.dtype, dim: int = 5, classes: int = 3
) -> Head:
    torch.manual_seed(100 + seed)
    layers = build_head(kind, dim, classes, "torch").to(dtype)
    layers(torch.randn(64, dim, dtype=dtype) * 3 + 1)
    return Head(layers.eval(), kind, tuple("abcdef"[:classes]))


def stage(
    start: Encoder, seed: int, kind: HeadKind = "linear", dtype: torch.dtype = torch.float32
) -> Evaluated:
    """Return a fine-tuning of an encoder: other weights in its architecture, and a head."""
    tuned = network(1000 + seed)
    return Evaluated(
        f"the fine-tuning of {start.name}",
        f"run{seed}",
        models.fingerprint(start),
        tuned.to(dtype).eval(),
        used_head(kind, seed, dtype),
    )


def two_members(
    kind: HeadKind = "linear", dtype: torch.dtype = torch.float32
) -> tuple[FusedEncoder, list[Evaluated]]:
    starts = [network(0), network(1)]
    stages = [stage(start, seed, kind, dtype) for seed, start in enumerate(starts)]
    return FusedEncoder(starts, "concatenate"), stages


def context(folder: Path, stages: list[Evaluated], **options: Any) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    required = {f"first_stage[{number}]": one for number, one in enumerate(stages)}
    features = folder / "features"
    return Context(folder, features, progress_bar=False, required=required, **options)


def two_stage(**options: Any) -> TwoStageFinetune:
    keys: dict[str, Any] = {"trainable": "head", "epochs": 2, "batch_size": 6, "optimizer": SGD}
    keys |= {"schedule": "constant", "first_stage": {}}
    return TwoStageFinetune(**{**keys, **options})


def scores(folder: Path) -> Any:
    return np.load(folder / "test_predictions.npz")["scores"]


def images(dataset: Dataset, dtype: torch.dtype) -> torch.Tensor:
    from ssl_transfer.datasets.transforms import Pipeline

    place: Any = {"seed": 0, "epochs": np.zeros(9, np.int64), "indices": np.arange(9)}
    return Pipeline(PREPARED)(list(dataset["test"].images), **place).to(dtype)


# ---- the start ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("kind", ["linear", "bn_affine_linear"])
def test_two_stages_start_at_the_average_of_the_members_class_scores(
    tmp_path: Path, kind: HeadKind, dtype: torch.dtype, tolerance: float
) -> None:
    dataset = toy()
    fused, stages = two_members(kind, dtype)
    precision = "fp64" if dtype == torch.float64 else "fp32"
    surroundings = context(tmp_path, stages, precision=precision)
    protocol = two_stage(optimizer={**SGD, "lr": 0.0})
    list(protocol.run(fused, dataset, surroundings))
    learner = TuningRun(protocol, fused, dataset, surroundings).learner([{}]).eval()
    pixels = images(dataset, dtype)
    with torch.no_grad():
        (ours,) = learner.logits(pixels)
        each = [one.head.layers(one.encoder(pixels)) for one in stages if one.head and one.encoder]
    mean = (each[0] + each[1]) / 2
    assert ours.dtype == dtype
    assert (ours - mean).abs().max() <= tolerance
    np.testing.assert_allclose(scores(tmp_path), mean.numpy(), rtol=0, atol=1e-6)
    assert surroundings.facts["first_stage"] == ["run0", "run1"]


def test_a_batch_norm_before_the_joint_head_loses_the_averaged_start(tmp_path: Path) -> None:
    dataset = toy()
    spread = {}
    for head in ("linear", "bn_affine_linear"):
        fused, stages = two_members()
        surroundings = context(tmp_path / head, stages)
        list(two_stage(head=head, optimizer={**SGD, "lr": 0.0}).run(fused, dataset, surroundings))
        spread[head] = scores(tmp_path / head)
    assert np.abs(spread["linear"] - spread["bn_affine_linear"]).max() > 0.05


@pytest.mark.parametrize(("init", "bound"), [(None, 0.06), ("torch", 0.4)])
def test_the_joint_head_can_start_at_random(tmp_path: Path, init: Any, bound: float) -> None:
    fused, stages = two_members()
    protocol = two_stage(head_start="random", head_init=init)
    head = protocol.initial_head(fused, toy(), context(tmp_path, stages))
    plain = Tuning(trainable="head", epochs=1, batch_size=6, optimizer=SGD, head_init=init)
    expected = plain.initial_head(fused, toy(), context(tmp_path, stages))
    assert isinstance(head, nn.Linear)
    assert isinstance(expected, nn.Linear)
    assert torch.equal(head.weight, expected.weight)
    assert 0 < float(head.weight.detach().abs().max()) < bound


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_members_start_fine_tuned_and_are_trained_only_if_asked_for(
    tmp_path: Path, trainable: str
) -> None:
    fused, stages = two_members()
    list(two_stage(trainable=trainable).run(fused, toy(), context(tmp_path, stages)))
    same = [
        models.fingerprint(member) == models.fingerprint(one.encoder)
        for member, one in zip(fused.encoders, stages, strict=True)
        if one.encoder is not None
    ]
    assert same == [trainable == "head"] * 2
    # The run's start is no encoder of this head, so that it is not left alone.
    assert not (tmp_path / HEAD_FILE).exists()
    kept = two_stage(trainable=trainable, keep_encoder=True)
    list(kept.run(two_members()[0], toy(), context(tmp_path, stages)))
    assert (tmp_path / HEAD_FILE).is_file()


def test_features_of_frozen_members_are_computed_once_without_augmentation(tmp_path: Path) -> None:
    calls = []
    fused, stages = two_members()
    for member in fused.encoders:
        member.backbone.register_forward_hook(lambda *_: calls.append(1))
    protocol = two_stage(augmentation="none", grid={"weight_decay": [0.0, 0.1]}, optimizer={
        key: value for key, value in SGD.items() if key != "weight_decay"
    })  # fmt: skip
    list(protocol.run(fused, toy(), context(tmp_path, stages)))
    assert len(calls) == 2 * 3  # members, splits
    again, stages = two_members()
    list(protocol.run(again, toy(), context(tmp_path, stages, seed=1)))
    assert len(calls) == 6


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("kind", ["linear", "bn_linear", "bn_affine_linear"])
def test_fine_tuning_starts_at_the_class_scores_of_the_probe(
    tmp_path: Path, kind: HeadKind, dtype: torch.dtype, tolerance: float
) -> None:
    dataset, encoder = toy(), network(0)
    head = used_head(kind, 0, dtype)
    probe = Evaluated("the probe", "run", models.fingerprint(encoder), copy.deepcopy(encoder), head)
    surroundings = context(tmp_path, [])
    surroundings.precision = "fp64" if dtype == torch.float64 else "fp32"
    surroundings.required = {"head_from": probe}
    keys: dict[str, Any] = {"epochs": 1, "batch_size": 6, "optimizer": SGD, "head_from": {}}
    protocol = LinearProbeThenFinetune(trainable="all", **keys)
    before = copy.deepcopy(encoder).to(dtype).eval()
    trial = TuningRun(protocol, copy.deepcopy(encoder), dataset, surroundings)
    learner = trial.learner([{}]).eval()
    pixels = images(dataset, dtype)
    with torch.no_grad():
        (ours,) = learner.logits(pixels)
        expected = head.layers(before(pixels))
    assert (ours - expected).abs().max() <= tolerance
    list(protocol.run(encoder, dataset, surroundings))
    assert np.abs(scores(tmp_path) - expected.numpy()).max() > 0.01  # it was trained


# ---- what does not fit --------------------------------------------------------------------------


def refused(folder: Path, change: dict[str, Any], *, fuse: Any = "concatenate") -> str:
    fused, stages = two_members()
    fused = FusedEncoder(fused.encoders, fuse)
    stages[1] = dataclasses.replace(stages[1], **change)
    with pytest.raises(ValueError) as raised:
        list(two_stage().run(fused, toy(), context(folder, stages)))
    return str(raised.value)


def test_members_that_do_not_fit_are_named(tmp_path: Path) -> None:
    name = "the fine-tuning of m1"
    mlp, more = (used_head(kind, 0, torch.float32, classes=n) for kind, n in
                 (("mlp", 3), ("linear", 4)))  # fmt: skip
    renamed = dataclasses.replace(used_head("linear", 0, torch.float32), classes=("c", "b", "a"))
    assert f"{name} must have left its classifier" in refused(tmp_path, {"head": None})
    assert "linear layer, but is mlp" in refused(tmp_path, {"head": mlp})
    assert f"of {name} must have the 3 classes of `toy`, but has 4" in refused(
        tmp_path, {"head": more}
    )
    assert "but has 3, but others or in another order" in refused(tmp_path, {"head": renamed})
    other = {"initial_sha256": "0" * 64}
    assert f"{name} must have started from the weights of today" in refused(tmp_path, other)
    assert "`method.fuse` must be concatenate" in refused(tmp_path, {}, fuse="mean")


def test_without_members_there_are_no_two_stages(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="but `m0` is a single encoder"):
        list(two_stage().run(network(0), toy(), context(tmp_path, [])))
    fused, _ = two_members()
    with pytest.raises(NotApplicable, match="needs runs of an earlier stage"):
        list(two_stage().run(fused, toy(), context(tmp_path, [])))


def test_a_head_of_an_encoder_that_its_run_changed_is_refused(tmp_path: Path) -> None:
    encoder = network(0)
    surroundings = context(tmp_path, [])
    surroundings.required = {"head_from": stage(encoder, 0)}
    keys: dict[str, Any] = {"epochs": 1, "batch_size": 6, "optimizer": SGD, "head_from": {}}
    protocol = LinearProbeThenFinetune(trainable="all", **keys)
    with pytest.raises(ValueError, match="`head_from` must leave the encoder as it is"):
        list(protocol.run(encoder, toy(), surroundings))


# ---- processes and interruptions ----------------------------------------------------------------


def carried_out(folder: str, trainable: str) -> tuple[Any, dict[str, Any]]:
    place = Path(folder) / str(distributed.rank())
    fused, stages = two_members()
    list(two_stage(trainable=trainable).run(fused, toy(), context(place, stages, precision="fp64")))
    kept = Path(folder) / "0"
    return scores(kept) if distributed.is_main() else None, fused.state_dict()


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_two_processes_train_two_stages_as_one(
    gloo_pool: GlooPool, tmp_path: Path, trainable: str
) -> None:
    alone, state = carried_out(str(tmp_path / "alone"), trainable)
    (ours, first), (_, second) = gloo_pool.run(carried_out, str(tmp_path / "both"), trainable)
    np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-6)
    for name, tensor in state.items():
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-8)
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_an_interrupted_second_stage_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: str
) -> None:
    after_step = TunedClassifier.after_step
    steps = []

    def interrupted(self: TunedClassifier, progress: float) -> None:
        after_step(self, progress)
        steps.append(progress)
        if len(steps) == 5:
            raise KeyboardInterrupt

    def run(folder: str) -> tuple[Any, Context, FusedEncoder]:
        fused, stages = two_members()
        surroundings = context(tmp_path / folder, stages, checkpoint_every_steps=1)
        list(two_stage(trainable=trainable).run(fused, toy(), surroundings))
        return scores(tmp_path / folder), surroundings, fused

    calm, _, tuned = run("calm")
    monkeypatch.setattr(TunedClassifier, "after_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("torn")
    torn, surroundings, again = run("torn")
    ((name, step),) = surroundings.facts["resumed_at"]
    assert (name, 0 < step < 8) == ("refit", True)
    assert np.array_equal(torn, calm)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in tuned.state_dict().items())


# ---- the linear probe of a concatenation --------------------------------------------------------


@pytest.mark.parametrize("head", ["bn_linear", "bn_affine_linear"])
def test_a_grid_of_weight_decays_on_standardised_features_takes_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: HeadKind
) -> None:
    fused, _ = two_members()
    fits, fit = [], tuning.fit
    monkeypatch.setattr(tuning, "fit", lambda *a, **k: (fits.append(k["name"]), fit(*a, **k)))
    decays = [0.0, 0.01, 10.0]
    protocol = Tuning(
        trainable="head", head=head, epochs=3, batch_size=6, augmentation="none",
        optimizer={key: value for key, value in SGD.items() if key != "weight_decay"},
        grid={"weight_decay": decays},
    )  # fmt: skip
    surroundings = context(tmp_path, [])
    list(protocol.run(fused, toy(), surroundings))
    assert fits == ["grid", "refit"]
    selection = surroundings.facts["selection"]
    assert [point["weight_decay"] for point in selection["scores"]] == decays
    assert surroundings.facts["trainable"]["head_parameters"] == 33 + 20 * ("affine" in head)
