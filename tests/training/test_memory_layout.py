"""``trainer.channels_last``: the rule of ``auto``, and trainings that continue or are shared."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from test_trainer import SGD, Images, Net, difference, states, train
from torch import nn

from ssl_transfer.config import compose, plain
from ssl_transfer.context import Context
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.runs import Run, builders
from ssl_transfer.training import memory_layout
from ssl_transfer.training.memory_layout import is_faster_last
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit


@pytest.mark.parametrize(
    ("make", "on_cpu", "on_gpu"),
    [
        (small_resnet, False, True),
        (lambda: timm.create_model("vit_tiny_patch16_224"), False, False),
        (torchvision.models.resnet18, True, True),
        (torchvision.models.mobilenet_v3_small, True, True),
    ],
    ids=["small_resnet", "vit_tiny", "resnet18", "mobilenet_v3_small"],
)
def test_auto_selects_channels_last_for_wide_convolutions_and_in_half_precision(
    make: Callable[[], nn.Module], on_cpu: bool, on_gpu: bool
) -> None:
    with torch.device("meta"):  # without memory and values
        encoder = make()
    assert is_faster_last(encoder, "cpu", "fp32") is on_cpu
    assert is_faster_last(encoder, "cuda", "bf16") is on_gpu
    assert is_faster_last(encoder, "cuda", "fp16") is on_gpu
    assert is_faster_last(encoder, "cpu", "bf16") is on_cpu
    for device, precision in (("cpu", "fp64"), ("cuda", "fp32"), ("mps", "fp32")):
        assert not is_faster_last(encoder, device, precision)


def test_auto_refrains_from_networks_that_torch_cannot_convert_and_from_heads() -> None:
    wide = nn.Sequential(nn.Conv2d(3, 512, 3), nn.Conv2d(512, 512, 1))
    assert is_faster_last(wide, "cpu", "fp32")
    assert not is_faster_last(wide.append(nn.Conv3d(1, 1, 1)), "cpu", "fp32")
    assert not is_faster_last(nn.Linear(512, 512), "cuda", "bf16")


def test_the_layout_is_no_part_of_an_id_and_reaches_the_context() -> None:
    ids = set()
    for value, parsed in {"auto": "auto", "true": True, "false": False}.items():
        run = Run(plain(compose([f"trainer.channels_last={value}"])))
        assert builders.make_context(run, torch.device("cpu")).channels_last == parsed
        ids.add(run.id)
    assert len(ids) == 1


def test_auto_trains_as_the_layout_that_it_selects_and_leaves_weights_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"precision": "fp32", "channels_last": "auto"}
    usual, facts = train(tmp_path / "a", precision="fp32")
    narrow, _ = train(tmp_path / "b", **options)
    assert difference(usual, narrow) == 0
    assert "channels_last" not in facts
    monkeypatch.setattr(memory_layout, "WIDE", 4)
    monkeypatch.setattr(memory_layout, "_convolutions", lambda network: [network.body[0]] * 2)
    selected, facts = train(tmp_path / "c", **options)
    last, _ = train(tmp_path / "d", precision="fp32", channels_last=True)
    assert facts["channels_last"] is True
    assert difference(selected, last) == 0
    assert all(value.is_contiguous() for value in selected.values())


class Layouts(Net):
    """A learner that records in which layout its images arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.last: set[bool] = set()

    def forward(self, views: tuple[torch.Tensor, ...], targets: torch.Tensor) -> Any:
        self.last.add(views[0].is_contiguous(memory_format=torch.channels_last))
        return super().forward(views, targets)


def trained(folder: Path, **options: Any) -> tuple[Layouts, Context]:
    context = Context(folder, folder, progress_bar=False, **options)
    torch.manual_seed(0)
    learner = Layouts()
    recipe = TrainingOptions(epochs=4, batch_size=16, optimizer=SGD, clip_grad_norm=0.1)
    fit(learner, Images(), recipe, context, name="test")
    return learner, context


class Gone:
    """A logger that interrupts the run at the first line of the log."""

    def log(self, values: dict[str, Any]) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("began", [True, False])
@pytest.mark.parametrize("configured", ["auto", True, False])
def test_a_killed_training_continues_in_the_layout_in_which_it_began(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, began: bool, configured: Any
) -> None:
    (calm, broken) = (tmp_path / "calm", tmp_path / "broken")
    broken.mkdir()
    undisturbed, _ = trained(calm, channels_last=began)
    with pytest.raises(KeyboardInterrupt):
        trained(broken, channels_last=began, checkpoint_every_steps=5, logger=Gone())
    with caplog.at_level(logging.WARNING):
        resumed, context = trained(broken, channels_last=configured)
    assert context.facts["resumed_at"] == [["test", 5]]
    assert resumed.last == {began}
    assert difference(undisturbed.state_dict(), resumed.state_dict()) == 0
    assert all(value.is_contiguous() for value in resumed.state_dict().values())
    changed = configured in (True, False) and configured != began
    assert ("`trainer.channels_last=" in caplog.text) == changed


def test_one_process_equals_two_with_channels_last(gloo_pool: Any, tmp_path: Path) -> None:
    alone, _ = train(tmp_path / "alone", channels_last=True)
    first, second = gloo_pool.run(states, str(tmp_path), {"channels_last": True})
    assert difference(alone, first) < 1e-12
    assert difference(first, second) == 0
