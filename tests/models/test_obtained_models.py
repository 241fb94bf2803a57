"""Options of encoders whose files a user trains, or gets behind a password."""

from pathlib import Path

import pytest
import torch

from ssl_transfer import models
from ssl_transfer.config import compose, options, plain, resolve
from ssl_transfer.models import fingerprint
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.signature import problems

INVARIANCES = ("default", "ventral", "dorsal", "default_x3")
SMALL = ("mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "vit_tiny", "resnet18")
# Linear top-1 after 200 and 800 epochs: figure 1 of https://arxiv.org/abs/2107.14762
TOP1 = {
    "mobilenet_v3_small": (0.413, 0.410), "vit_tiny": (0.331, 0.386), "resnet18": (0.497, 0.557),
    "efficientnet_b0": (0.512, 0.559), "mobilenet_v3_large": (0.487, 0.479),
}  # fmt: skip


def composed(name: str, folder: Path) -> Run:
    config = plain(compose([f"model={name}", f"paths.weights={folder}"]))
    assert problems(config) == []
    return Run(config)


def missing(name: str, folder: Path) -> str:
    sentence = preflight.check(composed(name, folder))
    assert sentence is not None
    assert "\n" not in sentence
    return sentence


def test_the_options_are_all_here() -> None:
    expected = {f"invariances_{name}" for name in INVARIANCES}
    expected |= {f"ssl_small_{name}_{epochs}ep" for name in SMALL for epochs in (200, 800)}
    named = {name for name in options("model") if name.startswith(("invariances_", "ssl_small_"))}
    assert named == expected


@pytest.mark.parametrize("name", INVARIANCES)
def test_an_encoder_to_be_trained_names_the_command(tmp_path: Path, name: str) -> None:
    sentence = missing(f"invariances_{name}", tmp_path)
    assert f"train it with `python run.py experiment=invariances/{name}`" in sentence
    assert composed(f"invariances_{name}", tmp_path).label == f"invariances_{name}"


@pytest.mark.parametrize("name", SMALL)
def test_files_behind_a_password_name_their_place(tmp_path: Path, name: str) -> None:
    for epochs, top1 in zip((200, 800), TOP1[name], strict=True):
        option = f"ssl_small_{name}_{epochs}ep"
        sentence = missing(option, tmp_path)
        assert "behind a link with a password" in sentence
        assert "the README of https://github.com/WOWNICE/ssl-small" in sentence
        facts = composed(option, tmp_path).resolved["model"]["facts"]
        assert (facts["epochs"], facts["imagenet_top1"]) == (epochs, top1)


def test_a_checkpoint_of_moco_s_layout_is_read(tmp_path: Path) -> None:
    node = resolve(plain(compose(["model=resnet18"])))["model"]
    source = models.build(node, seed=3)
    state = {
        f"module.encoder_q.{key}": value for key, value in source.backbone.state_dict().items()
    }
    state |= {key.replace("encoder_q", "encoder_k"): value for key, value in state.items()}
    state |= {"module.encoder_q.fc.0.weight": torch.zeros(512, 512), "module.queue": torch.zeros(2)}
    file = tmp_path / "ssl_small" / "resnet18_800ep.pth.tar"
    file.parent.mkdir()
    torch.save({"epoch": 800, "arch": "resnet18", "state_dict": state}, file)
    run = composed("ssl_small_resnet18_800ep", tmp_path)
    assert fingerprint(models.build(run.resolved["model"], seed=0)) == fingerprint(source)
