"""The options that published recipes of linear probing, BN-tuning and fine-tuning need."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_tuning import SGD, context, encoder, tuning
from tiny_runs import run_all, tiny
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torchvision import transforms

from ssl_transfer import datasets, evaluate, models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Pipeline, centre_crop
from ssl_transfer.models.heads import build_head
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import require
from ssl_transfer.protocols.tuned_classifier import TunedClassifier, class_weights
from ssl_transfer.protocols.tuning import TuningRun
from ssl_transfer.runs import Run, builders
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import distributed
from ssl_transfer.training.options import SampleOrder, TrainingOptions


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return small_digits()


def small_digits() -> Dataset:
    node = resolve(plain(compose(["dataset=digits"])))["dataset"]
    return datasets.build({**node, "labels_per_class": 5, "test_per_class": 4})


def trained(folder, dataset, point=None, name="x", splits=("train",), **options):
    """Return a classifier trained by a protocol with these options."""
    folder.mkdir(exist_ok=True, parents=True)
    trial = TuningRun(tuning(**options), encoder(), dataset, context(folder, precision="fp64"))
    return trial.train([point or {}], list(splits), name)


def groups_seen(work):
    """Return (number of parameters, learning rate, weight decay) of every group of each step."""
    seen = []

    def look(optimizer, *_):
        seen.append(
            [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
        )

    hook = register_optimizer_step_pre_hook(look)
    try:
        work()
    finally:
        hook.remove()
    return seen


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.state_dict().items() if "extra" not in name)


# ---- budget and schedule ------------------------------------------------------------------------


def rates(recipe, samples):
    stream = SampleOrder(samples, recipe.batch_size, recipe.drop_last, seed=0)
    steps = recipe.length(stream)
    return [recipe.factor(step, steps, stream) for step in range(steps)]


def recipe(**options):
    return TrainingOptions(**{"epochs": 7, "batch_size": 4, "optimizer": SGD, **options})


def test_cosine_per_epoch_is_the_formula_of_mmcv():
    """lr(e) = (1 + cos(pi e / E)) / 2 at the start of epoch e (CosineAnnealingLrUpdaterHook)."""
    found = rates(recipe(schedule_per="epoch"), samples=20)
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 7)) for epoch in range(7) for _ in range(5)]
    assert found == pytest.approx(expected, abs=1e-15)


def test_an_epoch_that_begins_within_a_batch_counts_from_the_next_step_on():
    found = rates(recipe(epochs=4, schedule_per="epoch"), samples=10)  # 2.5 steps per epoch
    factors = [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    expected = [factors[epoch] for epoch in (0, 0, 0, 1, 1, 2, 2, 2, 3, 3)]
    assert found == pytest.approx(expected)


def torch_rates(scheduler, optimizer, steps, per_epoch=1):
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % per_epoch == 0:
            scheduler.step()
    return found


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_step_schedule_is_torchs_multi_step(per):
    chosen = recipe(schedule="step", milestones=[2, 3, 6], step_factor=0.2, schedule_per=per)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    judge = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3, 6], gamma=0.2)
    assert rates(chosen, samples=20) == pytest.approx(torch_rates(judge, optimizer, 35, 5))


def test_a_rate_that_falls_by_the_same_factor_every_epoch_ends_at_its_final_share():
    found = rates(recipe(schedule="exponential", schedule_per="epoch", final_factor=1e-4), 20)
    expected = [1e-4 ** (epoch / 7) for epoch in range(7) for _ in range(5)]
    assert found == pytest.approx(expected)


def test_a_cosine_can_end_above_zero_as_in_barlow_twins():
    """main.py of facebookresearch/barlowtwins: q + 0.001 (1 - q) after ten warm-up epochs."""
    chosen = recipe(epochs=50, warmup_epochs=10, final_factor=0.001)
    found = rates(chosen, samples=20)
    cosine = [0.5 * (1 + math.cos(math.pi * (step - 50) / 200)) for step in range(50, 250)]
    assert found[50:] == pytest.approx([q + 0.001 * (1 - q) for q in cosine])


def test_without_milestones_a_tenth_remains_after_60_and_80_percent():
    found = rates(recipe(epochs=10, schedule="step"), samples=20)
    assert found == pytest.approx([1.0] * 30 + [0.1] * 10 + [0.01] * 10)


def test_steps_replace_epochs_and_the_cosine_covers_them():
    chosen = recipe(steps=13)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    judge = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=13)
    assert rates(chosen, samples=20) == pytest.approx(torch_rates(judge, optimizer, 13))


def test_every_training_of_a_grid_has_the_steps_that_were_asked_for(tmp_path, digits):
    protocol = tuning("all", steps=3, grid={"lr": [0.1, 0.01]}, augmentation="none")
    seen = groups_seen(lambda: list(protocol.run(encoder(), digits, context(tmp_path))))
    assert len(seen) == 3 * 3  # two points and the refit


# ---- learning rates and weight decay ------------------------------------------------------------


def test_encoder_and_head_have_their_learning_rates(tmp_path, digits):
    options = {"optimizer": {**SGD, "lr": 0.3}, "schedule": "constant", "steps": 1}
    (seen,) = groups_seen(lambda: trained(tmp_path, digits, encoder_lr=0.02, **options))
    parameters = len(list(encoder().parameters()))
    assert seen == [(2, 0.3, 0), (parameters, 0.02, 0)]
    point = {"lr": 0.4, "encoder_lr": 0.01}
    (seen,) = groups_seen(lambda: trained(tmp_path, digits, point, encoder_lr=0.02, **options))
    assert seen == [(2, 0.4, 0), (parameters, 0.01, 0)]


def test_the_learning_rate_of_the_encoder_is_chosen_from_a_grid(tmp_path, digits):
    grid = {"lr": [0.1], "encoder_lr": [1e-3, 1e-2]}
    surroundings = context(tmp_path)
    list(tuning("all", steps=2, grid=grid).run(encoder(), digits, surroundings))
    selection = surroundings.facts["selection"]
    assert [entry["encoder_lr"] for entry in selection["scores"]] == [1e-3, 1e-2]
    assert selection["chosen"].keys() == {"lr", "encoder_lr"}


def test_a_nominal_weight_decay_is_divided_by_each_learning_rate(tmp_path, digits):
    """Ericsson et al. 2021: the optimizer gets nominal / lr (finetune.py)."""
    options = {"steps": 3, "augmentation": "none", "optimizer": {**SGD, "weight_decay": 0.0}}
    point = {"lr": 0.1, "weight_decay": 1e-3}
    ours = trained(tmp_path / "a", digits, point, divide_weight_decay=True, **options)
    judge = trained(tmp_path / "b", digits, {"lr": 0.1, "weight_decay": 1e-3 / 0.1}, **options)
    plainly = trained(tmp_path / "c", digits, point, **options)
    assert same(ours, judge.state_dict())
    assert not same(ours, plainly.state_dict())
    (seen,) = groups_seen(
        lambda: trained(tmp_path / "d", digits, point, divide_weight_decay=True, encoder_lr=0.01,
                        **{**options, "steps": 1})
    )  # fmt: skip
    assert [decay for *_, decay in seen] == pytest.approx([1e-2, 1e-1])


# ---- heads --------------------------------------------------------------------------------------


def test_the_mlp_head_has_the_published_layers():
    head = build_head("mlp", 5, 3)
    shapes = {name: tuple(tensor.shape) for name, tensor in head.named_parameters()}
    assert shapes == {
        "0.weight": (2048, 5),
        "1.weight": (2048,),
        "1.bias": (2048,),
        "3.weight": (128, 2048),
        "3.bias": (128,),
        "4.weight": (128,),
        "4.bias": (128,),
        "5.weight": (3, 128),
        "5.bias": (3,),
    }
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.Linear]
    assert [type(layer) for layer in head] == kinds
    assert float(head[0].weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in (head[3], head[5]))


def test_the_affine_batch_norm_of_a_head_is_trained_before_its_linear_layer():
    norm, linear = build_head("bn_affine_linear", 5, 3)
    assert norm.affine
    assert (linear.in_features, linear.out_features) == (5, 3)


def test_heads_start_near_zero_or_as_the_framework_has_it():
    near, own = (build_head("linear", 400, 50, init) for init in (None, "torch"))
    assert float(near.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    # Uniform in +-1 / sqrt(400).
    assert float(own.weight.detach().abs().max()) == pytest.approx(0.05, rel=0.01)
    assert float(own.bias.detach().abs().max()) > 0


# ---- class weights ------------------------------------------------------------------------------


def test_class_weights_are_those_of_torchs_cross_entropy_over_all_images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    logits = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    head = nn.Linear(3, 3, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3))
        head.bias.zero_()
    counts = labels.bincount().numpy()
    for choice in ("train_frequency", "test_frequency", [3.0, 1.0, 0.5]):
        tested = np.array([1, 1, 2])
        ours = torch.from_numpy(class_weights(choice, counts, tested))
        learner = TunedClassifier(nn.Identity(), [head], class_weights=ours)
        found = learner((logits,), labels)["loss"]
        raw = {
            "train_frequency": 1 - counts / 10,
            "test_frequency": 1 - tested / 4,
        }.get(choice if isinstance(choice, str) else "", choice)
        weight = torch.tensor(np.array(raw, dtype=np.float64))
        torch.testing.assert_close(found, F.cross_entropy(logits, labels, weight=weight))


def test_weights_that_leave_nothing_to_learn_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        class_weights("train_frequency", np.array([4, 0]), np.array([1, 1]))


def test_weighted_classes_are_in_the_record_and_in_every_head_of_a_bank(tmp_path, digits):
    surroundings = context(tmp_path)
    options = {"class_weights": [3.0] + [1.0] * 9, "grid": {"lr": [0.1, 0.01]}, "steps": 2}
    list(tuning("head", **options).run(encoder(), digits, surroundings))
    noted = surroundings.facts["class_weights"]
    assert noted["by"] == "given"
    assert noted["values"] == pytest.approx([3 / 1.2] + [1 / 1.2] * 9)
    list(
        tuning("head", class_weights="test_frequency", steps=1).run(encoder(), digits, surroundings)
    )
    assert surroundings.facts["class_weights"]["by"] == "test_frequency"


# ---- best epoch ---------------------------------------------------------------------------------

BEST = {"epoch_selection": "best", "schedule": "constant", "augmentation": "none"}


def looks(monkeypatch, planned):
    """Let the epochs' scores be these, for every head, though they are really measured."""
    measure, left = TuningRun.scores, list(planned)

    def scores(trial, learner):
        assert len(measure(trial, learner)) == len(learner.heads)
        return [left.pop(0)] * len(learner.heads)

    monkeypatch.setattr(TuningRun, "scores", scores)


@pytest.mark.parametrize("trainable", ["head", "batch_norm", "all"])
def test_the_best_epoch_is_kept_and_looking_changes_nothing(
    tmp_path, digits, trainable, monkeypatch
):
    """With a constant learning rate, epoch 2 of 4 is what a training of 2 epochs ends with."""
    looks(monkeypatch, [0.3, 0.5, 0.5, 0.4])
    options = {**BEST, "trainable": trainable, "batch_size": 10}
    best = trained(tmp_path / "a", digits, epochs=4, **options)
    assert best.best.passes == [2.0]
    options["epoch_selection"] = "last"
    assert same(trained(tmp_path / "b", digits, epochs=2, **options), best.state_dict())


def test_heads_of_a_bank_have_their_own_best_epochs(tmp_path, digits, monkeypatch):
    planned = [[0.1, 0.9, None], [0.2, 0.8, None], [0.3, 0.7, 0.1], [0.3, 0.7, None]]
    left = list(planned)
    monkeypatch.setattr(TuningRun, "scores", lambda *_: left.pop(0))
    trial = TuningRun(
        tuning("head", epochs=4, batch_size=10, **BEST), encoder(), digits, context(tmp_path)
    )
    points = [{"lr": 0.1}, {"lr": 0.01}, {"lr": 0.02}]
    bank = trial.train(points, ["train"], "bank")
    assert bank.best.scores == [0.3, 0.9, 0.1]
    assert bank.best.passes == [3.0, 1.0, 3.0]
    monkeypatch.undo()
    for head, point, epochs in zip(bank.heads, points, (3, 1, 3), strict=True):
        options = {**BEST, "epoch_selection": "last", "batch_size": 10, "epochs": epochs}
        folder = tmp_path / str(point["lr"])
        folder.mkdir()
        alone = TuningRun(tuning("head", **options), encoder(), digits, context(folder))
        torch.testing.assert_close(
            alone.train([point], ["train"], "alone").heads[0].weight, head.weight
        )


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_an_interruption_between_epochs_forgets_no_best_one(
    tmp_path, digits, trainable, monkeypatch
):
    options = {**BEST, "trainable": trainable, "epochs": 5, "batch_size": 10}
    (tmp_path / "calm").mkdir()
    (tmp_path / "torn").mkdir()

    def run(folder, stop_at):
        surroundings = context(tmp_path / folder, precision="fp64", checkpoint_every_steps=1)
        trial = TuningRun(tuning(**options), encoder(), digits, surroundings)
        planned = iter([0.1, 0.6, 0.2, 0.3, 0.4] if stop_at or folder == "calm" else [0.3, 0.4])

        def scores(_, learner):
            score = next(planned)
            if score == stop_at:
                raise KeyboardInterrupt
            return [score, 1 - score][: len(learner.heads)]

        monkeypatch.setattr(TuningRun, "scores", scores)
        points = [{"lr": 0.1}, {"lr": 0.05}] if trainable == "head" else [{}]
        return trial.train(points, ["train"], "x"), surroundings.facts

    calm, _ = run("calm", None)
    with pytest.raises(KeyboardInterrupt):
        run("torn", 0.3)
    torn, facts = run("torn", None)
    ((_, step),) = facts["resumed_at"]
    assert 0 < step < 5 * len(digits["train"]) / 10
    assert torn.best.scores == calm.best.scores
    assert torn.best.passes == calm.best.passes
    assert torn.best.passes[0] == 2.0
    assert same(torn, calm.state_dict())


@pytest.mark.parametrize("selection", ["val", "test"])
def test_the_record_says_on_what_the_epoch_was_selected(tmp_path, digits, selection):
    surroundings = context(tmp_path)
    protocol = tuning("head", **BEST, epochs=6, batch_size=10, selection=selection)
    scored = []
    trial_scores = TuningRun.scores

    def scores(self, learner):
        scored.append(trial_scores(self, learner)[0])
        return [scored[-1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TuningRun, "scores", scores)
        (score,) = (s for s in protocol.run(encoder(), digits, surroundings) if s.primary)
    found = surroundings.facts["selection"]
    assert found["split"] == selection
    # Validation cannot choose the epoch of a classifier that it was trained on.
    images = len(digits["train"]) + (len(digits["val"]) if selection == "test" else 0)
    borders = [math.ceil(e * images / 10) * 10 / images for e in range(1, 7)]
    assert len(scored) == 6
    assert found["best_epoch"] == pytest.approx(borders[int(np.argmax(scored))])
    if selection == "test":
        assert score.value == max(scored)


# ---- several processes --------------------------------------------------------------------------

PUBLISHED = {
    "trainable": "batch_norm",
    "head": "mlp",
    "class_weights": "train_frequency",
    "encoder_lr": 0.01,
    "schedule_per": "epoch",
    "epoch_selection": "best",
    "epochs": 3,
    "batch_size": 10,
    "preprocessing": {"channel_order": "bgr", "mean": [0.5, 0.4, 0.3]},
}


def published(folder):
    learner = trained(folder / str(distributed.rank()), small_digits(), **PUBLISHED)
    return learner.state_dict(), learner.best.passes


def test_one_process_equals_two_with_all_options(gloo_pool, tmp_path):
    alone, passes = published(tmp_path / "alone")
    (first, one), (second, other) = gloo_pool.run(published, tmp_path)
    assert one == other == passes
    for name, tensor in alone.items():
        if "extra" not in name:
            torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-8)
            assert torch.equal(first[name], second[name])


# ---- which layers move --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet50():
    return models.build(resolve(plain(compose(["model=resnet50"])))["model"] | {"weights": None})


@pytest.mark.parametrize(
    ("trainable", "scope", "moving", "parameters"),
    [
        ("head", "all", 0, 0),
        ("batch_norm", "published", 33, 37_888),
        ("batch_norm", "all", 53, 53_120),
        ("all", "all", 53, 23_508_032),
    ],
)
def test_running_statistics_of_a_resnet50_move_where_the_protocol_trains(
    tmp_path, digits, resnet50, trainable, scope, moving, parameters
):
    judged = copy.deepcopy(resnet50)
    judged.preprocessing = Preprocessing(size=32, resize=None)
    layers = {n: m for n, m in judged.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {name: layer.running_mean.clone() for name, layer in layers.items()}
    stem = judged.backbone.conv1.weight.clone()
    surroundings = context(tmp_path)
    protocol = tuning(trainable, bn_scope=scope, steps=1, batch_size=2)
    trial = TuningRun(protocol, judged, digits, surroundings)
    assert trial.count_parameters()["encoder_trained"] == parameters
    trial.train([{}], ["train"], "x")
    moved = [name for name, m in layers.items() if not torch.equal(before[name], m.running_mean)]
    assert len(moved) == moving
    assert torch.equal(stem, judged.backbone.conv1.weight) == (trainable != "all")


# ---- a frozen encoder in train mode -------------------------------------------------------------


STATISTICS = {"trainable": "head", "encoder_mode": "train", "batch_size": 10, "steps": 4}


def test_statistics_of_a_frozen_encoder_in_train_mode_are_those_of_the_batches(tmp_path, digits):
    """linear.py of wgcban/mix-bt: parameters frozen, the whole network in train mode."""
    ours = trained(tmp_path, digits, augmentation="none", schedule="constant", **STATISTICS)
    judge = encoder().double().requires_grad_(False)
    head = nn.Linear(judge.feature_dim, 10).double()
    head.load_state_dict(learner_at_start(tmp_path / "start", digits).heads[0].state_dict())
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    stream = SampleOrder(len(digits["train"]), 10, drop_last=False, seed=0)
    view = Pipeline(judge.preprocessing)
    judge.train()
    for step in range(4):
        indices = np.array([index for _, index in stream.batch(step)])
        pictures = [digits["train"].images[i] for i in indices.tolist()]
        images = view(pictures, seed=0, epochs=np.zeros_like(indices), indices=indices)
        targets = torch.from_numpy(digits["train"].targets[indices])
        optimizer.zero_grad()
        F.cross_entropy(head(judge(images.double())), targets).backward()
        optimizer.step()
    found = ours.encoder.state_dict()
    for name, tensor in judge.state_dict().items():
        torch.testing.assert_close(found[name], tensor)
    torch.testing.assert_close(ours.heads[0].weight, head.weight)
    untouched = dict(encoder().named_parameters())
    assert all(torch.equal(p, untouched[n].double()) for n, p in ours.encoder.named_parameters())


def learner_at_start(folder, dataset):
    folder.mkdir()
    trial = TuningRun(tuning(**STATISTICS), encoder(), dataset, context(folder, precision="fp64"))
    return trial.learner([{}])


def test_moved_statistics_are_kept_tested_with_and_told(tmp_path, digits):
    surroundings = context(tmp_path)
    judged = encoder()
    before = copy.deepcopy(judged.state_dict())
    grid = {"lr": [0.1, 0.01]}
    list(tuning(**STATISTICS, grid=grid, epoch_selection="best").run(judged, digits, surroundings))
    changed = {n for n, t in judged.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {n for n, _ in judged.named_buffers()}
    assert "move" in surroundings.facts["trainable"]["statistics"]
    assert surroundings.facts["trainable"]["encoder_trained"] == 0
    assert len(surroundings.facts["selection"]["scores"]) == 2
    other = context(tmp_path)
    list(tuning("head", steps=1).run(encoder(), digits, other))
    assert "statistics" not in other.facts["trainable"]


def test_an_interruption_forgets_no_statistics(tmp_path, digits, monkeypatch):
    options = {**STATISTICS, "epoch_selection": "best", "steps": 12}
    (tmp_path / "calm").mkdir()
    (tmp_path / "torn").mkdir()

    def run(folder, stop_at):
        surroundings = context(tmp_path / folder, precision="fp64", checkpoint_every_steps=1)
        trial = TuningRun(tuning(**options), encoder(), digits, surroundings)
        calls = []

        def scores(_, learner):
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return [float(learner.heads[0].weight.detach().norm())]

        monkeypatch.setattr(TuningRun, "scores", scores)
        return trial.train([{}], ["train"], "x"), surroundings.facts

    calm, _ = run("calm", None)
    with pytest.raises(KeyboardInterrupt):
        run("torn", 2)
    torn, facts = run("torn", None)
    assert facts["resumed_at"]
    assert same(torn, calm.state_dict())


# ---- preprocessing ------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_squeezed_image_is_torchvisions(interpolation):
    """Resize((32, 32)), which ignores the ratio of the sides: evaluate_transfer.py of mix-bt."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8)
    prepared = Preprocessing(size=64, resize=70, interpolation=interpolation).replaced(
        32, {"square": True}
    )
    kind = transforms.InterpolationMode(interpolation)
    wanted = transforms.Resize((32, 32), kind)(Image.fromarray(pixels))
    found = centre_crop(Image.fromarray(pixels), prepared)
    assert np.array_equal(np.asarray(found), np.asarray(wanted))
    assert "square" not in Preprocessing().identity()
    assert prepared.identity()["square"] is True


def test_bgr_is_what_swapped_channels_give(digits):
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    straight, swapped = (
        [Image.fromarray(np.ascontiguousarray(a)) for a in arrays[..., order]]
        for order in ([0, 1, 2], [2, 1, 0])
    )
    rgb = Preprocessing(size=16, resize=20)
    bgr = rgb.replaced(values={"channel_order": "bgr"})
    place = {"seed": 0, "epochs": np.zeros(3, np.int64), "indices": np.arange(3)}
    assert torch.equal(Pipeline(bgr)(straight, **place), Pipeline(rgb)(swapped, **place))


def test_bgr_features_are_others_in_the_store_and_rgb_ones_keep_their_key():
    before = {"size": 224, "resize": 256, "interpolation": "bilinear"}
    before |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert Preprocessing().identity() == before
    assert Preprocessing(channel_order="bgr").identity() == {**before, "channel_order": "bgr"}


def test_a_replaced_size_keeps_the_share_of_the_crop_unless_resize_is_given():
    own = Preprocessing(size=224, resize=256)
    assert own.replaced(112).resize == 128
    assert own.replaced(values={"size": 112}).resize == 128
    assert own.replaced(112, {"resize": 112}).resize == 112
    assert own.replaced(values={"mean": [0, 0, 0]}).mean == (0.0, 0.0, 0.0)
    assert own.replaced() == own


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
def test_preprocessing_replaces_that_of_the_encoder(tmp_path, digits, augmentation):
    values = {"mean": [0.1, 0.2, 0.3], "channel_order": "bgr", "resize": 20}
    ours = trained(tmp_path / "a", digits, trainable="head", augmentation=augmentation,
                   preprocessing=values)  # fmt: skip
    judged = encoder()
    judged.preprocessing = dataclasses.replace(
        judged.preprocessing, mean=(0.1, 0.2, 0.3), channel_order="bgr", resize=20
    )
    surroundings = context(tmp_path, precision="fp64")
    protocol = tuning("head", augmentation=augmentation)
    theirs = TuningRun(protocol, judged, digits, surroundings).train([{}], ["train"], "x")
    assert same(ours, theirs.state_dict())
    other = trained(tmp_path / "b", digits, trainable="head", augmentation=augmentation)
    assert not same(ours, other.state_dict())


# ---- several classes per image ------------------------------------------------------------------


def with_several_classes(dataset):
    """Return a set whose images show their digit's class and, if it is even, a last one."""

    def several(split):
        numbers = split.targets
        rows = np.zeros((len(numbers), 11), dtype=np.int64)
        rows[np.arange(len(numbers)), numbers] = 1
        rows[:, 10] = numbers % 2 == 0
        rows[::5, 3] = -1
        return dataclasses.replace(split, targets=rows)

    splits = {name: several(split) for name, split in dataset.splits.items()}
    return dataclasses.replace(
        dataset, splits=splits, classes=(*dataset.classes, "even"), target="classes",
        metric="map_11_point", extra_metrics=(), fingerprint="several",
    )  # fmt: skip


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_several_classes_per_image_are_learnt_and_scored(tmp_path, digits, trainable):
    dataset = with_several_classes(digits)
    grid = {"lr": [1.0, 1e-6]}
    surroundings = context(tmp_path)
    protocol = tuning(trainable, epochs=10, augmentation="none", grid=grid)
    (score,) = protocol.run(encoder(), dataset, surroundings)
    assert score.metric == "map_11_point"
    values = [entry["value"] for entry in surroundings.facts["selection"]["scores"]]
    assert values[0] > values[1]


def test_class_weights_of_several_classes_are_refused_before_any_work(digits):
    protocol = tuning("head", class_weights="train_frequency")
    with pytest.raises(ValueError, match="must be null for images of several classes"):
        evaluate(encoder(), with_several_classes(digits), protocol)


def test_class_weights_that_teach_nothing_are_refused_before_any_work(digits):
    train = digits["train"]
    ones = train.subset(np.flatnonzero(train.targets == 1))
    dataset = dataclasses.replace(digits, splits={**digits.splits, "train": ones})
    with pytest.raises(ValueError, match=r"all have 0 by train_frequency; give numbers, or set it"):
        tuning("head", class_weights="train_frequency").check(dataset)
    missing = train.subset(np.flatnonzero(train.targets != 1))
    dataset = dataclasses.replace(digits, splits={**digits.splits, "train": missing})
    protocol = tuning("head", class_weights="train_frequency")
    protocol.check(dataset)  # what is never shown needs no weight
    weights = protocol.loss_weights(dataset, ["train"])
    assert weights[missing.targets].mean() == pytest.approx(1)


def test_too_few_class_weights_are_refused_before_any_run(tmp_path):
    run = tiny(tmp_path, "protocol=linear_probe", "protocol.class_weights=[1,2]")
    outcome = run_all(run)
    ((said, *_),) = [
        value if isinstance(value, tuple | list) else (value,)
        for value in outcome.failures.values()
    ]
    assert "must be 10 numbers, one per class of `digits`, but are 2" in str(said)
    assert not (run.folder / "metrics.jsonl").exists()


# ---- what is left behind ------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["bn_tune", "linear_probe"])
def test_the_kept_encoder_and_head_give_the_predictions_of_the_run(tmp_path, protocol):
    run = tiny(tmp_path, f"protocol={protocol}", "protocol.keep_encoder=true", "protocol.epochs=3")
    assert run_all(run).failures == {}
    weights = run.folder / "encoder.safetensors"
    node = copy.deepcopy(run.resolved["model"])
    node["weights"] = {"path": str(weights)}
    again = models.build(node)
    assert models.fingerprint(again) == models.fingerprint(models.build(run.resolved["model"])) \
        or protocol == "bn_tune"  # fmt: skip
    head = build_head("linear", again.feature_dim, 10)
    head.load_state_dict(load_file(run.folder / "head.safetensors"))
    dataset = datasets.build(run.resolved["dataset"])
    place = {"seed": 0, "epochs": np.zeros(20, np.int64), "indices": np.arange(20)}
    images = Pipeline(again.preprocessing)(list(dataset["test"].images), **place)
    with torch.no_grad():
        scores = head(again.eval()(images))
    kept = np.load(run.folder / "test_predictions.npz")
    np.testing.assert_allclose(scores.numpy(), kept["scores"], rtol=1e-4, atol=1e-5)
    assert kept["files"].tolist() == list(dataset["test"].names)
    assert kept["targets"].tolist() == dataset["test"].targets.tolist()
    assert kept["classes"].tolist() == list(dataset.classes)
    assert run.record()["data"]["classes"] == list(dataset.classes)


def test_nothing_is_kept_unless_asked_for(tmp_path):
    run = tiny(tmp_path, "protocol=bn_tune")
    run_all(run)
    assert not list(run.folder.glob("*.safetensors"))


def test_an_encoder_tuned_on_other_pixels_says_so_when_it_is_loaded(tmp_path):
    replaced = "protocol.preprocessing={channel_order:bgr}"
    run = tiny(tmp_path, "protocol=bn_tune", "protocol.keep_encoder=true", replaced)
    assert run_all(run).failures == {}
    node = copy.deepcopy(run.resolved["model"])
    node["weights"] = {"path": str(run.folder)}
    with pytest.raises(ValueError, match=r"model\.preprocessing\.channel_order=bgr"):
        models.build(node)
    node["preprocessing"]["channel_order"] = "bgr"
    assert models.build(node).preprocessing.channel_order == "bgr"


def test_a_script_gets_the_encoder_too_and_files_without_an_order_of_channels_are_rgb(
    tmp_path, digits
):
    judged = encoder()
    options = ["protocol.keep_encoder=true", "protocol.steps=2", "protocol.grid.lr=[0.1]"]
    options += ["trainer.progress_bar=false", "trainer.device=cpu"]
    evaluate(judged, digits, "bn_tune", overrides=options, folder=tmp_path)
    facts = tmp_path / "encoder.yaml"
    facts.write_text(facts.read_text().replace("  channel_order: rgb\n", ""))
    assert "channel_order" not in facts.read_text()
    tuned = encoder()
    models.load_encoder(tuned, tmp_path)
    assert models.fingerprint(tuned) != models.fingerprint(judged)


def test_the_end_of_a_grid_is_noted(tmp_path, digits, caplog):
    surroundings = context(tmp_path)
    list(tuning("head", grid={"lr": [1e-9, 1e-8, 0.1]}).run(encoder(), digits, surroundings))
    assert surroundings.facts["selection"]["at_edge"] == ["lr"]
    assert "`lr` lies at an end" in caplog.text


# ---- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "overrides", "said"),
    [
        ("finetune", ["milestones=[2]"], "unless `schedule` is step"),
        ("finetune", ["step_factor=0.2"], "unless `schedule` is step"),
        ("finetune", ["schedule=step", "milestones=[3,2]"], "ascending order"),
        ("finetune", ["schedule=step", "step_factor=0"], r"lie in \(0, 1\]"),
        ("finetune", ["schedule=step", "final_factor=0.1"], "unless `schedule` is cosine, ex"),
        ("finetune", ["schedule=cyclic"], "`cycles` must be a number for `schedule=cyclic`"),
        ("finetune", ["cycles=2"], "and null for other schedules, but is 2 for cosine"),
        ("finetune", ["schedule=cyclic", "cycles=0"], "`protocol.cycles` must be at least 1"),
        ("finetune", ["schedule=exponential"], "above 0 for `schedule=exponential`"),
        ("finetune", ["final_factor=1.5"], r"lie in \[0, 1\]"),
        ("finetune", ["encoder_mode=train"], "`encoder_mode` must be eval where"),
        ("linear_probe", ["encoder_mode=both"], r"one of \['eval', 'train'\]"),
        ("finetune", ["steps=0"], "`protocol.steps` must be at least 1"),
        ("linear_probe", ["encoder_lr=0.1"], "`encoder_lr` must be null"),
        ("linear_probe", ["grid.encoder_lr=[0.1]"], "`encoder_lr` must be null"),
        ("bn_tune", ["encoder_lr=0"], "`protocol.encoder_lr` must be positive"),
        (
            "finetune",
            ["divide_weight_decay=true", "grid.lr=[0.1,0]"],
            "every item of `grid.lr` must be positive",
        ),
        ("finetune", ["optimizer.lr=0.5"], r"set `protocol\.grid\.lr=\[0\.5\]`"),
        ("bn_tune", ["grid.weight_decay=[0.0,0.1]"], r"`protocol\.optimizer\.weight_decay=null`"),
        ("finetune", ["encoder_lr=0.1", "grid.encoder_lr=[0.2]"], r"grid\.encoder_lr=\[0\.1\]"),
        ("linear_probe", ["grid.lr=null"], r"`protocol\.optimizer\.lr` must be"),
        ("finetune", ["head=cosine", "head_init=torch"], "null for a cosine head"),
        ("finetune", ["head=cubic"], "bn_affine_linear"),
        ("finetune", ["class_weights=often"], "train_frequency"),
        ("finetune", ["class_weights=[1,-1]"], "must not be negative"),
        ("finetune", ["class_weights=[0,0]"], "one of them must be above 0"),
        ("finetune", ["class_weights=[1,inf]"], r"\[1, inf\]"),
        ("finetune", ["milestones=often"], "must be a list of numbers or null"),
        ("finetune", ["epoch_selection=first"], r"one of \['last', 'best'\]"),
        ("finetune", ["+preprocessing.sice=3"], "sice"),
        ("finetune", ["+preprocessing.channel_order=gbr"], "channel_order"),
        ("finetune", ["+preprocessing.std=[0,1,1]"], "positive"),
        ("finetune", ["image_size=32", "+preprocessing.size=32"], "given once"),
        ("finetune", ["+augmentation.crop_scale=[2,3]"], "crop_scale"),
    ],
)
def test_a_mistake_is_told_before_any_work(protocol, overrides, said):
    changed = [f"+protocol.{o[1:]}" if o[0] == "+" else f"protocol.{o}" for o in overrides]
    clear = ["protocol.augmentation={}"] if "augmentation" in overrides[0] else []
    config = plain(compose([f"protocol={protocol}", *clear, *changed]))
    (found,) = problems(config)
    with pytest.raises(ValueError, match=said):
        raise ValueError(found)


def test_a_value_in_place_of_a_grid_is_one_training_with_that_value():
    """Either place gives the same optimizer: the first of two grids' or the only one's."""
    lines = (["protocol.grid.lr=null", "protocol.optimizer.lr=0.5"], ["protocol.grid.lr=[0.5]"])
    runs = [Run(plain(compose(["protocol=finetune", *line]))) for line in lines]
    assert all(problems(run.config) == [] for run in runs)
    built = [builders.protocol_of(run.resolved["protocol"]) for run in runs]
    one, two = (
        {**built_one.options().optimizer, **built_one.group(built_one.points()[0])}
        for built_one in built
    )
    assert one == two
    assert one["lr"] == 0.5


def test_a_task_must_have_validation_images_but_a_pretraining_need_not():
    node = resolve(plain(compose(["dataset=digits", "dataset.val_fraction=0.0"])))["dataset"]
    without = datasets.build({**node, "labels_per_class": 5})
    assert len(without["train"]) == 50
    with pytest.raises(ValueError, match=r"validation images, but `digits` has none; .* above 0"):
        require(tuning("head"), without)


def test_all_options_together_are_fine():
    options = ["steps=5", "schedule=step", "milestones=[1,2]", "step_factor=0.2", "head=mlp",
               "schedule_per=epoch", "encoder_lr=0.01", "head_init=torch", "keep_encoder=true",
               "class_weights=train_frequency", "epoch_selection=best", "divide_weight_decay=true",
               "preprocessing={mean:[0,0,0],channel_order:bgr}"]  # fmt: skip
    config = plain(compose(["protocol=finetune", *(f"protocol.{option}" for option in options)]))
    assert problems(config) == []
