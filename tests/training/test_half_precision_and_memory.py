"""Trainings in fp16, and with channels last in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import SGD, Images, Net, difference, net, train
from torch import nn

from ssl_transfer.config import compose, plain
from ssl_transfer.context import Context
from ssl_transfer.runs import Run, builders
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

# fp16


class Overflowing(Net):
    """A learner whose gradient overflows in one step."""

    def forward(self, views: tuple[torch.Tensor, ...], targets: torch.Tensor) -> Any:
        parts = super().forward(views, targets)
        steps = round(float(self.progress) * 12)
        return {"loss": parts["loss"] * (1e35 if steps == 3 else 1.0) * 1e-3}


def overflowing(folder: Path, **options: Any) -> tuple[dict[str, torch.Tensor], Context]:
    folder.mkdir(exist_ok=True)
    context = Context(folder, folder, precision="fp16", progress_bar=False, **options)
    torch.manual_seed(0)
    learner = Overflowing()
    recipe = TrainingOptions(epochs=12 * 16 / 40, batch_size=16, optimizer=SGD, clip_grad_norm=1.0)
    fit(learner, Images(), recipe, context, name="test")
    return learner.state_dict(), context


def test_a_step_whose_gradient_overflows_is_left_out_and_the_scale_halves(tmp_path: Path) -> None:
    state, _ = overflowing(tmp_path, checkpoint_every_steps=10)
    assert all(torch.isfinite(value).all() for value in state.values())
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["scaler"]["scale"] == 2**15  # from 2**16
    assert saved["optimizer"]["state"]


def test_an_interrupted_fp16_training_goes_on_with_its_scale(tmp_path: Path) -> None:
    calm, _ = overflowing(tmp_path / "calm")

    class Gone:
        def log(self, values: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        # The last step logs, before which step 10 has saved.
        overflowing(tmp_path / "broken", checkpoint_every_steps=10, logger=Gone())
    state, context = overflowing(tmp_path / "broken", checkpoint_every_steps=11)
    assert context.facts["resumed_at"] == [["test", 10]]
    assert difference(calm, state) == 0
    saved = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    assert (saved["step"], saved["scaler"]["scale"]) == (11, 2**15)


def test_fp16_without_a_gpu_is_refused_in_a_sentence() -> None:
    run = Run(plain(compose(["precision=fp16"])))
    with pytest.raises(ValueError, match="`precision=fp16` must have a GPU"):
        builders.make_context(run, torch.device("cpu"))


# Channels last


class Formats(Net):
    """A learner that remembers how images and filters lie in memory."""

    def forward(self, views: tuple[torch.Tensor, ...], targets: torch.Tensor) -> Any:
        filters = self.body[0]
        assert isinstance(filters, nn.Conv2d)
        for tensor in (*views, filters.weight):
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()
        return super().forward(views, targets)


@pytest.mark.parametrize("bn_groups", [1, 4])
def test_channels_last_trains_the_same_and_leaves_weights_as_they_were(
    tmp_path: Path, bn_groups: int
) -> None:
    usual, _ = train(tmp_path / "a", bn_groups=bn_groups)
    other, _ = train(tmp_path / "b", bn_groups=bn_groups, channels_last=True)
    assert difference(usual, other) < 1e-12
    assert all(value.is_contiguous() for value in other.values())
    learner = Formats().double()
    learner.load_state_dict(net().state_dict())
    context = Context(tmp_path, tmp_path, precision="fp64", progress_bar=False, channels_last=True)
    fit(
        learner,
        Images(),
        TrainingOptions(epochs=1, batch_size=16, optimizer=SGD),
        context,
        name="formats",
    )
