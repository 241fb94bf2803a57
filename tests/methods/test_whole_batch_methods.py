"""Methods whose losses compare a whole batch, through the trainer: resuming, views of two sizes."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from noisy_views import SAMPLES, NoisyViews
from torch import nn

from ssl_transfer import methods
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import signals
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

BATCH = 16
METHODS: dict[str, dict[str, Any]] = {
    "barlow_twins": {"offdiag_target": -1},
    "mixed_barlow_twins": {"lambda_reg_warmup": 0.7, "mix_beta": [2.0, 1.0], "second_target": "b"},
    "swav": {"prototypes": 20, "queue_size": 20, "queue_start": 0.2, "frozen_prototypes": 0.4},
    "vicreg": {},
    "w_mse": {"sub_batch": 8, "iterations": 2, "eps": 0.01},
}


@functools.cache
def composed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = resolve(plain(compose([f"method={name}"])))["method"]
    return found


def train(
    folder: Path, name: str, steps: int, sizes: list[int], interrupt_at: int | None = None
) -> methods.Method:
    """Return the method, trained by its own recipe."""
    config = copy.deepcopy(composed(name))
    config["projector"]["dims"] = [12, 7]
    config["views"] = [{**config["views"][0], "count": len(sizes)}]
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    encoder = Encoder(backbone, 6, Preprocessing(size=8, resize=None))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = methods.build({**config, **METHODS[name]}, encoder, None)
        nn.init.trunc_normal_(backbone[0].weight)
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(folder, folder / "features", progress_bar=False)
    keys = {
        "epochs": steps * BATCH / SAMPLES,
        "batch_size": BATCH,
        "drop_last": True,
        "warmup_epochs": 0,
    }
    fit(
        learner,
        NoisyViews(sizes, interrupt_at),
        TrainingOptions.of({**config, **keys}),
        context,
        name="p",
    )
    return learner


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_training_ends_bit_for_bit_as_an_uninterrupted_one(
    tmp_path: Path, name: str
) -> None:
    with torch.random.fork_rng():
        calm = train(tmp_path / "calm", name, 6, [8, 8])
    with pytest.raises(signals.Interrupted):
        train(tmp_path / "disturbed", name, 6, [8, 8], interrupt_at=3)
    assert (tmp_path / "disturbed" / "checkpoint.pt").exists()
    resumed = train(tmp_path / "disturbed", name, 6, [8, 8])
    torch.testing.assert_close(resumed.state_dict(), calm.state_dict(), rtol=0, atol=0)
    untrained = train(tmp_path / "short", name, 1, [8, 8])
    assert not torch.equal(untrained.encoder.backbone[0].weight, resumed.encoder.backbone[0].weight)


@pytest.mark.parametrize(("name", "sizes"), [("swav", [8, 8, 5, 5, 5]), ("w_mse", [8, 8, 8, 8])])
def test_more_views_and_views_of_two_sizes_are_trained_on(
    tmp_path: Path, name: str, sizes: list[int]
) -> None:
    learner = train(tmp_path, name, 3, sizes)
    assert len(learner.views) == len(sizes)
    assert all(p.isfinite().all() for p in learner.parameters())
