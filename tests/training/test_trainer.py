import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_transfer.context import Context
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.system import distributed
from ssl_transfer.training.learner import Learner
from ssl_transfer.training.options import SampleOrder, TrainingOptions
from ssl_transfer.training.trainer import NonFiniteLoss, fit

SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}


class Images(torch.utils.data.Dataset):
    """Forty images whose class is their mean colour; a pure function of (epoch, index)."""

    def __init__(self, samples=40):
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitems__(self, items):
        indices = torch.tensor([index for _, index in items])
        phases = torch.tensor([float(100 * epoch + index) for epoch, index in items])
        grid = torch.arange(3 * 8 * 8, dtype=torch.float32).view(1, 3, 8, 8)
        view = torch.sin(grid * 0.37 + phases.view(-1, 1, 1, 1)) + (indices % 2).view(-1, 1, 1, 1)
        return Batch((view,), indices % 2, indices)


class Net(Learner):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, views, targets):
        features = self.body(views[0]).mean((2, 3))
        return {"loss": F.cross_entropy(self.head(features), targets)}

    def after_step(self, progress):
        self.progress.fill_(progress)


def net(dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().to(dtype)


def train(folder, *, steps=10, precision="fp64", workers=0, bn_groups=1, **options):
    context = Context(
        Path(folder), Path(folder), precision=precision, workers=workers, progress_bar=False,
        **options,
    )  # fmt: skip
    learner = net(context.dtype)
    recipe = TrainingOptions(
        epochs=steps * 16 / 40, batch_size=16, optimizer=SGD, bn_groups=bn_groups
    )
    fit(learner, Images(), recipe, context, name="test")
    return learner.state_dict(), context.facts


def states(folder, options):
    return train(f"{folder}/{distributed.rank()}", **options)[0]


def difference(a, b):
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


@pytest.mark.parametrize("steps", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_one_process_equals_two_in_float64(gloo_pool, tmp_path, steps):
    alone, _ = train(tmp_path / "alone", steps=steps)
    first, second = gloo_pool.run(states, str(tmp_path), {"steps": steps})
    assert difference(alone, first) < 1e-9
    assert difference(first, second) == 0


def test_one_process_equals_two_over_50_steps_in_float32(gloo_pool, tmp_path):
    options = {"steps": 50, "precision": "fp32"}
    alone, _ = train(tmp_path / "alone", **options)
    first, _ = gloo_pool.run(states, str(tmp_path), options)
    assert difference(alone, first) < 1e-4


def test_accumulated_micro_batches_equal_one_batch(tmp_path):
    whole, _ = train(tmp_path / "whole", bn_groups=4)
    parts, _ = train(tmp_path / "parts", bn_groups=4, accumulate=4)
    assert difference(whole, parts) < 1e-12


def test_loader_processes_change_nothing(tmp_path):
    alone, _ = train(tmp_path / "a", steps=4)
    helped, _ = train(tmp_path / "b", steps=4, workers=2)
    assert difference(alone, helped) == 0


def test_every_batch_is_full_and_every_epoch_holds_each_sample_once():
    stream = SampleOrder(samples=10, batch_size=4, drop_last=False, seed=3)
    items = [item for step in range(5) for item in stream.batch(step)]
    assert sorted(items[:10]) == [(0, index) for index in range(10)]
    assert sorted(items[10:]) == [(1, index) for index in range(10)]


def test_dropping_the_last_keeps_epochs_apart():
    stream = SampleOrder(samples=10, batch_size=4, drop_last=True, seed=3)
    batches = [stream.batch(step) for step in range(4)]
    assert [{epoch for epoch, _ in batch} for batch in batches] == [{0}, {0}, {1}, {1}]
    assert len({index for _, index in batches[0] + batches[1]}) == 8


def test_steps_follow_from_epochs_and_samples():
    recipe = TrainingOptions(epochs=3, batch_size=4, optimizer=SGD)
    stream = SampleOrder(10, 4, drop_last=False, seed=0)
    assert recipe.length(stream) == 8  # 30 samples in batches of 4
    assert recipe.length(dataclasses.replace(stream, drop_last=True)) == 6
    assert dataclasses.replace(recipe, steps=5000).length(stream) == 5000


def test_a_loss_that_is_not_finite_stops_with_step_and_value(tmp_path):
    class Exploding(Net):
        def forward(self, views, targets):
            parts = super().forward(views, targets)
            return {"loss": parts["loss"] / (self.progress < 0.25)}

    context = Context(tmp_path, tmp_path, progress_bar=False)
    recipe = TrainingOptions(epochs=4, batch_size=10, optimizer=SGD)
    with pytest.raises(NonFiniteLoss, match=r"inf at step 4 of `test`.*learning rate"):
        fit(Exploding(), Images(), recipe, context, name="test")


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ({"batch_size": 15}, {"accumulate": 2}, "multiple of processes"),
        ({"batch_size": 80, "drop_last": True}, {}, "at least one whole batch"),
        ({"batch_size": 16, "bn_groups": 1}, {"accumulate": 2}, "bn_groups"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path, recipe, options, message):
    context = Context(tmp_path, tmp_path, progress_bar=False, **options)
    with pytest.raises(ValueError, match=message):
        fit(
            net(torch.float32),
            Images(),
            TrainingOptions(epochs=1, optimizer=SGD, **recipe),
            context,
            name="x",
        )


SCRIPT = """
    import sys, time
    sys.path[:0] = {paths!r}
    import torch, test_trainer
    torch.set_num_threads(1)
    class Slow(test_trainer.Images):
        def __getitems__(self, items):
            time.sleep(0.02)
            return super().__getitems__(items)
    test_trainer.Images = Slow
    state, facts = test_trainer.train({folder!r}, steps=60, checkpoint_every_steps=3, workers=1)
    torch.save((state, facts), {folder!r} + "/end.pt")
"""


def start(folder):
    Path(folder).mkdir(exist_ok=True)
    root = Path(__file__).parents[2]
    paths = [str(path) for path in (root, root / "tests" / "helpers", Path(__file__).parent)]
    script = SCRIPT.format(paths=paths, folder=str(folder))
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE)


def checkpointed(folder, process):
    import time

    while not (folder / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_killed_and_started_again_ends_as_if_left_alone(tmp_path, number):
    undisturbed, _ = train(tmp_path / "calm", steps=60)
    folder = tmp_path / "killed"
    process = start(folder)
    checkpointed(folder, process)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (75 if number == signal.SIGTERM else -number)
    process = start(folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    state, facts = torch.load(folder / "end.pt", weights_only=False)
    ((name, step),) = facts["resumed_at"]
    assert name == "test"
    assert 0 < step < 60
    assert difference(undisturbed, state) == 0


def test_a_damaged_checkpoint_starts_anew_with_a_warning(tmp_path, caplog):
    calm, _ = train(tmp_path / "calm", steps=4)
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(b"PK\x03\x04 torn")
    state, facts = train(folder, steps=4)
    assert "cannot be resumed (it is cut, empty, or was written by other code)" in caplog.text
    assert difference(calm, state) == 0
    assert "resumed_at" not in facts


def test_metrics_are_one_object_per_line(tmp_path):
    lines = []

    class Logger:
        def log(self, values):
            lines.append(json.dumps(values))

    train(tmp_path, steps=3, logger=Logger())
    last = json.loads(lines[-1])
    assert last["step"] == 3
    assert last["training"] == "test"
    assert np.isfinite(last["loss"])
    assert os.listdir(tmp_path) == []  # noqa: PTH208
