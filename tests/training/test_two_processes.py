"""One training on one process and on several: the same weights, for every method and protocol."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ssl_transfer import datasets, methods, models
from ssl_transfer.config import UNTRAINED, compose, options, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.tuning import Tuning, TuningRun
from ssl_transfer.system import distributed
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

METHODS = [name for name in options("method") if name not in UNTRAINED]
KINDS = ("head", "batch_norm", "norm", "bias", "last_block", "all")
LENGTHS = [
    ("fp64", 20, 1e-9),
    pytest.param("fp64", 200, 1e-9, marks=pytest.mark.slow),
    pytest.param("fp32", 50, 1e-4, marks=pytest.mark.slow),
]
BATCH = 16
STEPS_PER_EPOCH = 15  # as `photos` has at the published batch: those of a test lie in the warm-up


def encoder():
    """Return an encoder with BatchNorm; each such layer costs two messages per step.

    Smooth activations, since a ReLU turns a rounding error near 0 into another gradient; and none
    of its parameters is without effect, since Adam turns rounding errors into whole steps there.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.SiLU()),
            *(nn.Conv2d(8, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.SiLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
    return models.wrap(module, Preprocessing(size=16, resize=None))


def teacher():
    """Return an encoder with what it was trained with on top."""
    found = encoder()
    found.projector = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
    return found


class Views:
    """Noisy views of images of 16 x 16 px in four classes, cheap to make."""

    def __init__(self, sizes):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCH * STEPS_PER_EPOCH, 3, 16, 16, generator=generator)
        self.noise = torch.randn(997, 3, 16, 16, generator=generator)
        self.sizes = sizes

    def __len__(self):
        return len(self.images)

    def __getitems__(self, items):
        epochs, indices = torch.tensor(items).unbind(1)
        views = (
            self.images[indices] + self.noise[(1000 * epochs + 7 * indices + 501 * number) % 997]
            for number in range(len(self.sizes))
        )
        sized = zip(views, self.sizes, strict=True)
        return Batch(tuple(v[:, :, :size, :size] for v, size in sized), indices % 4, indices)


def composed(*overrides):
    return resolve(plain(compose(list(overrides))))


def context(folder, precision):
    place = Path(folder, str(distributed.world_size()), str(distributed.rank()))
    place.mkdir(parents=True)
    return Context(place, place / "features", precision=precision, progress_bar=False)


def gradients(learner, train):
    """Return every parameter's gradient in the last step of a training, as the optimizer saw it."""
    seen = {}

    def look(*_):
        seen.update({name: p.grad.clone() for name, p in learner.named_parameters()
                     if p.grad is not None})  # fmt: skip

    hook = register_optimizer_step_pre_hook(look)
    try:
        train()
    finally:
        hook.remove()
    return seen


def pretrain(folder, method, precision, steps, views=None):
    """Return the encoder's tensors, and the last gradients, by the method's own recipe."""
    node = composed(f"method={method}")["method"]
    node["views"] = views or node["views"]
    if "projector" in node:
        node["projector"]["dims"] = [32, 24]
    if method == "w_mse":  # the published sub-batch is larger than this batch
        node.update(sub_batch=BATCH // 2, eps=0.1)
    surroundings = context(folder, precision)
    trained = encoder()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        others = {"teacher": teacher()} if "teacher" in node else {}
        others |= {"teachers": [teacher(), teacher()]} if "teachers" in node else {}
        learner = methods.build(node, trained, 4, **others).to(surroundings.dtype)
    keys = ("optimizer", "schedule", "clip_grad_norm", "bn_groups")
    recipe = TrainingOptions(
        epochs=steps / STEPS_PER_EPOCH,
        batch_size=BATCH,
        drop_last=True,
        warmup_epochs=min(node["warmup_epochs"], steps / STEPS_PER_EPOCH),
        **{key: node[key] for key in keys},
    )
    data = Views([view.size or 16 for view in learner.views])
    found = gradients(learner, lambda: fit(learner, data, recipe, surroundings, name="pretrain"))
    return trained.state_dict(), found


def pretrain_on_small_views(folder, method, precision, steps):
    """Return what ``pretrain`` does with two smaller views."""
    return pretrain(folder, method, precision, steps, [{}, {"count": 2, "size": 12}])


def tune(folder, kind, precision, steps):
    """Return a tuned classifier's tensors (the linear probe's is a bank of heads)."""
    config = composed("dataset=digits", "protocol=finetune")
    node = {**config["dataset"], "labels_per_class": 5, "test_per_class": 1}
    dataset = datasets.build(node)
    protocol = Tuning(
        trainable=kind,
        trainable_modules=["3", "4"] if kind == "last_block" else None,
        epochs=steps * BATCH / len(dataset["train"]),
        batch_size=BATCH,
        optimizer={**config["protocol"]["optimizer"], "lr": 0.1},
    )
    trial = TuningRun(protocol, encoder(), dataset, context(folder, precision))
    points = [{"lr": 0.1}, {"lr": 0.01}] if kind == "head" else [{"lr": 0.1}]
    learner = trial.learner(points)
    trial.learner = lambda *_: learner  # the one whose gradients are looked at
    found = gradients(learner, lambda: trial.train(points, ["train"], "tune"))
    return learner.state_dict(), found


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


CASES = [(pretrain, name) for name in METHODS] + [(tune, kind) for kind in KINDS]
SEED = (pretrain, pretrain_on_small_views)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "steps", "tolerance"), LENGTHS)
@pytest.mark.parametrize(("train", "what"), CASES)
def test_two_processes_end_with_the_weights_of_one(
    gloo_pool, tmp_path, train, what, precision, steps, tolerance
):
    alone, _ = train(tmp_path, what, precision, steps)
    (first, _), (second, _) = gloo_pool.run(train, tmp_path, what, precision, steps)
    assert difference(alone, first) < tolerance
    assert difference(first, second) == 0


@pytest.mark.slow
@pytest.mark.parametrize("train", SEED)
def test_four_processes_end_with_the_student_of_one(gloo_pool, tmp_path, train):
    alone, _ = train(tmp_path, "seed", "fp64", 12)
    (first, _), *others = gloo_pool.run(train, tmp_path, "seed", "fp64", 12, processes=4)
    assert difference(alone, first) < 1e-9
    assert all(difference(first, other) == 0 for other, _ in others)


# Four processes of every method are slow: here two of each and four of some guard the gradients,
# and test_momentum.py has four of each method with a momentum encoder.
FOUR = [
    pytest.param(4, *case, marks=[] if case[1] in ("simclr", "barlow_twins") else pytest.mark.slow)
    for case in CASES
]


@pytest.mark.parametrize(
    ("processes", "train", "what"),
    [*((2, *case) for case in CASES), *FOUR, (4, pretrain_on_small_views, "seed")],
)
def test_every_gradient_of_several_processes_is_that_of_one(
    gloo_pool, tmp_path, processes, train, what
):
    _, alone = train(tmp_path, what, "fp64", 1)
    answers = gloo_pool.run(train, tmp_path, what, "fp64", 1, processes=processes)
    (_, first), *others = answers
    assert difference(alone, first) < 1e-11
    assert all(difference(first, other) == 0 for _, other in others)
    without = [name for name, gradient in alone.items() if gradient.abs().max() < 1e-9]
    # Only a bias whose effect the next BatchNorm or the loss takes away again has no gradient.
    assert all(name.startswith("projector") and name.endswith("bias") for name in without)
