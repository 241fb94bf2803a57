import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from ssl_transfer import datasets, models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.heads import build_head
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.tuned_classifier import TunedClassifier
from ssl_transfer.protocols.tuning import Tuning, TuningRun
from ssl_transfer.system import distributed
from ssl_transfer.training.trainer import NonFiniteLoss

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}
KINDS = ("head", "batch_norm", "all")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    node = resolve(plain(compose(["dataset=digits"])))["dataset"]
    return datasets.build({**node, "labels_per_class": 5, "test_per_class": 4})


def encoder(size=16):
    config = resolve(plain(compose([f"model.preprocessing.size={size}", "model.width=8"])))
    return models.build(config["model"])


def context(folder, **options):
    return Context(folder, folder / "features", progress_bar=False, **options)


def tuning(trainable="all", **options):
    values = {"epochs": 4, "batch_size": 20, "optimizer": SGD, **options}
    by_grid = {key for key, choices in values.get("grid", {}).items() if choices}
    values["optimizer"] = {k: v for k, v in values["optimizer"].items() if k not in by_grid}
    return Tuning(trainable=trainable, **values)


def changed(before, after):
    return {name for name, value in after.items() if not torch.equal(before[name], value)}


@pytest.mark.parametrize("trainable", KINDS)
def test_each_protocol_changes_what_it_trains_and_nothing_else(tmp_path, digits, trainable):
    judged = encoder()
    before = copy.deepcopy(judged.state_dict())
    scores = list(tuning(trainable).run(judged, digits, context(tmp_path)))
    names = changed(before, judged.state_dict())
    norms = {n for n, m in judged.named_modules() if isinstance(m, nn.BatchNorm2d)}
    if trainable == "head":
        assert names == set()  # weights and running statistics, bit for bit
    elif trainable == "batch_norm":
        assert {name.rpartition(".")[0] for name in names} == norms
    else:
        assert names == set(before)
    (score,) = [score for score in scores if score.primary]
    assert score.metric == "top1"
    predictions = np.load(tmp_path / "test_predictions.npz")["scores"].argmax(1)
    assert score.value == (predictions == digits["test"].targets).mean()


def test_trainable_parameters_and_their_share_are_recorded(tmp_path, digits):
    surroundings = context(tmp_path)
    judged = encoder()
    list(tuning("batch_norm", epochs=1).run(judged, digits, surroundings))
    norms = [m for m in judged.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = sum(2 * m.num_features for m in norms)
    total = sum(p.numel() for p in judged.parameters())
    head = (judged.feature_dim + 1) * 10
    assert surroundings.facts["trainable"] == {
        "parameters": affine + head,
        "encoder_trained": affine,
        "encoder_parameters": total,
        "share": affine / total,
        "head_parameters": head,
    }


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
def test_a_linear_probe_trains_nothing_of_the_encoder(tmp_path, digits, augmentation):
    surroundings = context(tmp_path)
    list(tuning("head", epochs=1, augmentation=augmentation).run(encoder(), digits, surroundings))
    assert surroundings.facts["trainable"]["encoder_trained"] == 0


def test_published_scope_leaves_the_other_layers_in_eval_mode(tmp_path, digits):
    judged = encoder()
    before = copy.deepcopy(judged.state_dict())
    list(tuning("batch_norm", bn_scope="published").run(judged, digits, context(tmp_path)))
    layers = {name.rpartition(".")[0] for name in changed(before, judged.state_dict())}
    assert "backbone.bn1" in layers
    assert "backbone.layer1.0.bn2" in layers
    assert not any(name.endswith(("layer1.0.bn1", "downsample.1")) for name in layers)


def test_an_encoder_without_batch_norm_is_not_applicable(tmp_path, digits):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    judged = models.wrap(module, Preprocessing(size=8, resize=None))
    with pytest.raises(NotApplicable):
        list(tuning("batch_norm").run(judged, digits, context(tmp_path)))


POINTS = [{"lr": lr, "weight_decay": decay} for lr in (0.3, 0.03) for decay in (0.0, 0.01)]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_each_head_of_a_bank_is_that_head_trained_alone(tmp_path, digits, clip):
    protocol = tuning("head", clip_grad_norm=clip)
    trial = TuningRun(protocol, encoder(), digits, context(tmp_path))
    bank = copy.deepcopy(trial.train(POINTS, ["train"], "bank").heads)
    for head, point in zip(bank, POINTS, strict=True):
        alone = trial.train([point], ["train"], "alone").heads[0]
        for ours, theirs in zip(head.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def carried_out(folder, protocol, dataset, **options):
    folder.mkdir()
    surroundings = context(folder, **options)
    scores = list(protocol.run(encoder(), dataset, surroundings))
    return (
        scores,
        surroundings.facts["selection"],
        np.load(folder / "test_predictions.npz")["scores"],
    )


DECAYING = {**SGD, "weight_decay": 0.1}  # what makes too large a rate diverge for certain


@pytest.mark.parametrize(("trainable", "head"), [*((k, "linear") for k in KINDS), ("head", "mlp")])
def test_a_diverging_point_of_the_grid_is_left_out_and_leaves_nothing_behind(
    tmp_path, digits, caplog, trainable, head
):
    options = {"optimizer": DECAYING, "epochs": 1, "head": head}
    alone = carried_out(
        tmp_path / "alone", tuning(trainable, grid={"lr": [0.1]}, **options), digits
    )
    values = {}
    for name, rates in {"first": [1e30, 0.1], "last": [0.1, 1e30]}.items():
        protocol = tuning(trainable, grid={"lr": rates}, **options)
        scores, selection, predictions = carried_out(tmp_path / name, protocol, digits)
        assert scores == alone[0]
        assert np.array_equal(predictions, alone[2])
        assert selection["chosen"] == {"lr": 0.1}
        values[name] = {point["lr"]: point["value"] for point in selection["scores"]}
        assert (
            "1 of 2 points of the grid are left out, because their training diverged: "
            in caplog.text
        )
        assert "[{'lr': 1e+30}]" in caplog.text
        caplog.clear()
    assert values["first"] == values["last"]
    assert values["last"][1e30] is None
    assert 0 <= values["last"][0.1] <= 1


@pytest.mark.parametrize("trainable", KINDS)
def test_a_grid_of_which_no_point_converges_is_named(tmp_path, digits, trainable):
    protocol = tuning(trainable, grid={"lr": [1e30, 9e29]}, optimizer=DECAYING)
    said = r"none of \[{'lr': 1e\+30}, {'lr': 9e\+29}\] does; lower the learning rates"
    with pytest.raises(NonFiniteLoss, match=said):
        carried_out(tmp_path / "run", protocol, digits)


def test_a_point_that_only_the_last_step_breaks_is_refused_as_well(tmp_path, digits):
    protocol = tuning("all", steps=1, optimizer={**DECAYING, "lr": 1e30})
    with pytest.raises(NonFiniteLoss, match="must give finite class scores, but some are not"):
        carried_out(tmp_path / "run", protocol, digits)


class Counting(nn.Module):
    """Its features depend on a buffer that no state holds and every training step changes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 6)
        self.register_buffer("steps", torch.ones(()), persistent=False)

    def forward(self, images):
        if self.training:
            self.steps += 1
        return self.layer(images.flatten(1)) / self.steps


def test_a_buffer_outside_of_the_state_starts_again_with_every_training(tmp_path, digits):
    trial = TuningRun(
        tuning("all", epochs=1),
        models.wrap(Counting(), Preprocessing(size=16, resize=None)),
        digits,
        context(tmp_path),
    )
    heads = [trial.train([{}], ["train"], name).heads[0].weight.clone() for name in ("a", "b")]
    assert torch.equal(*heads)


def bank(size=2):
    learner = TunedClassifier(
        nn.Identity(), [build_head("linear", 3, 4) for _ in range(size)]
    ).train()
    return learner, torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


def test_a_dropped_head_gets_no_gradient_so_that_a_scaler_goes_on():
    learner, features = bank()
    with torch.no_grad():
        learner.heads[0].weight.fill_(torch.inf)
    labels = torch.zeros(8, dtype=torch.int64)
    learner((features,), labels)["loss"].backward()
    assert learner.heads[0].weight.grad.isnan().any()
    learner.after_step(0.5)
    assert learner.alive.tolist() == [False, True]
    learner.zero_grad()
    learner((features,), labels)["loss"].backward()
    assert not learner.heads[0].weight.grad.any()
    assert learner.heads[1].weight.grad.any()


def test_a_bank_ends_with_its_last_head():
    learner, features = bank()
    with torch.no_grad():
        for head in learner.heads:
            head.weight.fill_(torch.nan)
    learner((features,), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(NonFiniteLoss, match="that of none does"):
        learner.after_step(0.5)


def test_tuning_learns_more_than_chance(tmp_path, digits):
    scores = list(tuning("all", epochs=20, augmentation="none").run(
        encoder(), digits, context(tmp_path)))  # fmt: skip
    found = {score.metric: score.value for score in scores}
    assert set(found) == {"top1", "top5", "mean_per_class"}
    assert found["top1"] > 0.4  # chance is 0.1
    assert found["top1"] < found["top5"] <= 1


def test_selection_follows_validation_and_never_sees_the_test_split(tmp_path, digits):
    grid = {"lr": [1e-6, 0.1]}
    surroundings = context(tmp_path / "a")
    (tmp_path / "a").mkdir()
    list(tuning("head", grid=grid).run(encoder(), digits, surroundings))
    first = surroundings.facts["selection"]
    assert first["split"] == "val"
    assert first["chosen"] == {"lr": 0.1}
    # Other test labels change the test score only.
    test = digits["test"]
    turned = dataclasses.replace(test, targets=(test.targets + 1) % 10)
    other = dataclasses.replace(digits, splits={**digits.splits, "test": turned})
    surroundings = context(tmp_path / "b")
    (tmp_path / "b").mkdir()
    list(tuning("head", grid=grid).run(encoder(), other, surroundings))
    assert surroundings.facts["selection"] == first


def test_stored_features_give_what_passing_the_images_gives(tmp_path, digits):
    scores = {}
    for stored in (True, False):
        folder = tmp_path / str(stored)
        folder.mkdir()
        # A crop of the whole image without a flip is no augmentation, but the pipeline runs.
        augmentation = "none" if stored else {"crop_scale": [1, 1], "crop_ratio": [1, 1]}
        judged = tuning("head", augmentation=augmentation, epochs=20)
        found = judged.run(encoder(), digits, context(folder))
        (scores[stored],) = (score for score in found if score.primary)
        assert (folder / "features").exists() == stored
    assert abs(scores[True].value - scores[False].value) < 0.03
    assert scores[True].value > 0.15


def logits_of(folder, trainable):
    node = resolve(plain(compose(["dataset=digits"])))["dataset"]
    dataset = datasets.build({**node, "labels_per_class": 5, "test_per_class": 3})
    surroundings = context(folder / str(distributed.rank()), precision="fp64")
    trial = TuningRun(tuning(trainable, epochs=2), encoder(), dataset, surroundings)
    learner = trial.train([{}], ["train"], "both")
    return trial.predict(learner, "test")[0]


@pytest.mark.parametrize("trainable", KINDS)
def test_two_processes_train_and_predict_as_one(gloo_pool, tmp_path, trainable):
    alone = logits_of(tmp_path / "alone", trainable)
    first, second = gloo_pool.run(logits_of, tmp_path, trainable)
    assert alone.shape == (30, 10)
    np.testing.assert_allclose(first, alone, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(first, second)


def scores_after_divergence(folder):
    node = resolve(plain(compose(["dataset=digits"])))["dataset"]
    dataset = datasets.build({**node, "labels_per_class": 5, "test_per_class": 3})
    protocol = tuning("all", epochs=1, grid={"lr": [1e30, 0.1]}, optimizer=DECAYING)
    surroundings = context(folder, precision="fp64")
    list(protocol.run(encoder(), dataset, surroundings))
    return surroundings.facts["selection"]["scores"]


def test_two_processes_drop_a_diverging_point_as_one(gloo_pool, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone = scores_after_divergence(tmp_path / "one")
    assert [point["value"] is None for point in alone] == [True, False]
    assert gloo_pool.run(scores_after_divergence, tmp_path / "two") == [alone, alone]


def test_heads_are_what_their_names_say():
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    heads = {
        kind: build_head(kind, 5, 3) for kind in ("linear", "bn_linear", "cosine", "l2_linear")
    }
    norm = x / x.norm(dim=1, keepdim=True)
    linear = heads["l2_linear"][1]
    torch.testing.assert_close(heads["l2_linear"](x), norm @ linear.weight.T + linear.bias)
    weight = heads["cosine"].weight
    expected = 10 * norm @ (weight / weight.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(heads["cosine"](x), expected)
    standard = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    linear = heads["bn_linear"][1]
    torch.testing.assert_close(heads["bn_linear"](x), standard @ linear.weight.T + linear.bias)
    assert heads["linear"].bias.abs().max() == 0
