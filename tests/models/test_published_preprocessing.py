"""Files beside weights: timm's ``config.json`` and transformers' ``preprocessor_config.json``.

Layouts: ``save_config_for_hf`` in ``timm/models/_hub.py`` and timm's own data configuration as the
judge; ``image_processing_*.py`` of clip, vit, convnext, levit, poolformer, deit, mobilevit in
https://github.com/huggingface/transformers 5.24 (keys, defaults, resizing). Images prepared by the
processors and by the values expected here were compared: they are equal but for rounding errors,
except where a deviation is told.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models._hub import save_config_for_hf
from torch import nn

from ssl_transfer import models
from ssl_transfer.models.published_preprocessing import stated_preprocessing
from ssl_transfer.preprocessing import Preprocessing

CLIP = {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_normalize": True,
    "do_resize": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    "resample": 3, "size": {"shortest_edge": 240},
}  # fmt: skip
VIT = {
    "do_normalize": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5], "resample": 2, "size": {"height": 96, "width": 96},
}  # fmt: skip


def beside(folder: Path, name: str, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)
    (folder / "model.safetensors").touch()
    return folder / "model.safetensors"


def stated(folder: Path, name: str, content: Any) -> Preprocessing:
    fields = stated_preprocessing(beside(folder, name, content), {}, "mine")
    return Preprocessing().replaced(values=fields)


def test_the_file_of_timm_means_what_timm_reads_from_it(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=3)
    network.pretrained_cfg.update(crop_pct=0.9, input_size=(3, 160, 160), mean=(0.1, 0.2, 0.3))
    save_config_for_hf(network, tmp_path / "config.json")
    judge = resolve_data_config(network.pretrained_cfg)
    found = stated(tmp_path, "config.json", (tmp_path / "config.json").read_text())
    assert (found.mean, found.std) == (judge["mean"], judge["std"])
    assert found.interpolation == judge["interpolation"]
    assert (found.size, found.resize) == (160, int(160 / 0.9))
    for left_out in ("crop_pct", "interpolation"):  # timm's defaults are used then
        del network.pretrained_cfg[left_out]
    judge = resolve_data_config(network.pretrained_cfg)
    content = {"pretrained_cfg": network.pretrained_cfg}
    found = stated(tmp_path, "config.json", json.dumps(content))
    assert found.interpolation == judge["interpolation"]
    assert found.resize == int(160 / judge["crop_pct"])


def test_a_crop_and_a_square_of_transformers(tmp_path: Path) -> None:
    clip = stated(tmp_path, "preprocessor_config.json", CLIP)
    assert clip == Preprocessing(224, 240, "bicubic", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    vit = stated(tmp_path, "preprocessor_config.json", VIT)
    assert vit == Preprocessing(96, None, "bilinear", (0.5,) * 3, (0.5,) * 3, square=True)


@pytest.mark.parametrize(
    ("content", "size", "resize", "square"),
    [
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
         224, 256, False),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.95,
          "size": {"shortest_edge": 224}}, 224, 235, False),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
         384, None, True),
        ({**CLIP, "image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}},
         224, 256, False),
        ({**CLIP, "image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.9,
          "size": {"shortest_edge": 224}}, 224, 248, False),
        ({**VIT, "size": 96}, 96, None, True),
        ({**CLIP, "size": 230, "crop_size": 224}, 224, 230, False),
    ],
)  # fmt: skip
def test_processors_with_a_resizing_of_their_own(
    tmp_path: Path, content: Any, size: int, resize: int | None, square: bool
) -> None:
    found = stated(tmp_path, "preprocessor_config.json", content)
    assert (found.size, found.resize, found.square) == (size, resize, square)


def test_processors_that_do_not_normalise_or_flip_channels(tmp_path: Path) -> None:
    mobilevit = {"do_flip_channel_order": True, "do_center_crop": True, "size": 288,
                 "crop_size": {"height": 256, "width": 256}, "rescale_factor": 1 / 255}  # fmt: skip
    found = stated(tmp_path, "preprocessor_config.json", mobilevit)
    assert (found.mean, found.channel_order) == ((0.0,) * 3, "bgr")
    assert found.std == pytest.approx((1.0,) * 3)
    bytes_ = {**VIT, "do_normalize": False, "do_rescale": False}
    assert stated(tmp_path, "preprocessor_config.json", bytes_).std == pytest.approx((1 / 255,) * 3)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("preprocessor_config.json", {**CLIP, "size": {"height": 256, "width": 256}},
         "squashed to 256x256 px before the crop"),
        ("preprocessor_config.json", {**CLIP, "do_center_crop": False}, "cropped to a square"),
        ("config.json", {"mean": [0] * 3, "std": [1] * 3, "input_size": [3, 90, 90],
                         "crop_mode": "squash", "crop_pct": 0.9}, "squashed to 100x100 px and cro"),
    ],
)  # fmt: skip
def test_what_is_carried_out_in_another_way_is_told(
    tmp_path: Path, name: str, content: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        stated(tmp_path, name, content)
    (message,) = (record.getMessage() for record in caplog.records)
    assert told in message


def test_another_scale_of_pixels_is_part_of_the_normalisation(tmp_path: Path) -> None:
    scaled = {**VIT, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}
    found = stated(tmp_path, "preprocessor_config.json", scaled)  # x in [0, 1] -> 2 x - 1
    assert found.mean == pytest.approx((0.5,) * 3)
    assert found.std == pytest.approx((0.5,) * 3)


class Plain(nn.Module):
    preprocessing: dict[str, Any] = {"size": 32, "resize": None}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.mean((2, 3)))


def plain() -> nn.Module:
    return Plain()


def built(path: Path, preprocessing: dict[str, Any] | None = None) -> models.Encoder:
    node = {"_target_": f"{__name__}.plain", "name": "mine", "preprocessing": preprocessing}
    return models.build({**node, "weights": {"path": str(path)}})


def test_an_encoder_is_prepared_as_its_weights_state_unless_told_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = beside(tmp_path, "preprocessor_config.json", VIT)
    torch.save(plain().state_dict(), path.with_suffix(".pth"))
    path.unlink()
    path = path.with_suffix(".pth")
    assert built(path).preprocessing.mean == (0.5,) * 3
    assert built(path).preprocessing.size == 96
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        mine = built(path, {"mean": [0.1, 0.1, 0.1], "size": 64, "resize": None})
    assert (mine.preprocessing.mean, mine.preprocessing.std) == ((0.1,) * 3, (0.5,) * 3)
    assert (mine.preprocessing.size, mine.preprocessing.square) == (64, False)
    (message,) = (record.getMessage() for record in caplog.records)
    assert "model.preprocessing.mean=[0.5,0.5,0.5]" in message
    assert "model.preprocessing.size=96" in message


def test_a_file_beside_several_weights_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {"mean": [0.1] * 3, "std": [0.2] * 3, "interpolation": "nearest"}
    path = beside(tmp_path, "config.json", content)
    other = tmp_path / "other.pth"
    other.touch()
    with caplog.at_level(logging.WARNING):
        assert stated_preprocessing(other, {}, "mine") == {}
    assert "2 files of weights lie beside it" in caplog.text
    # The hub gives these names to the weights that the file belongs to.
    assert stated_preprocessing(path, {}, "mine") == content


@pytest.mark.parametrize("content", [{"architectures": ["ViTModel"], "hidden_size": 768}, [1]])
def test_a_file_that_says_nothing_of_images_changes_nothing(tmp_path: Path, content: Any) -> None:
    assert stated_preprocessing(beside(tmp_path, "config.json", content), {}, "mine") == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", {"mean": [0.1], "std": [0.2] * 3}),
        ("config.json", {"mean": [0.1] * 3, "std": [0] * 3}),
        ("config.json", {"mean": [0.1] * 3, "std": [1] * 3, "input_size": [3, 4, 5]}),
        (
            "config.json",
            {"mean": [0] * 3, "std": [1] * 3, "input_size": [3, 4, 4], "crop_mode": "border"},
        ),
        ("preprocessor_config.json", {**VIT, "do_flip_channel_order": True, "do_normalize": True}),
        ("preprocessor_config.json", {**VIT, "resample": 7}),
        ("preprocessor_config.json", {**VIT, "size": {"longest_edge": 7}}),
    ],
)
def test_what_cannot_be_carried_out_is_refused(tmp_path: Path, name: str, content: Any) -> None:
    with pytest.raises(ValueError, match=r"must state how images are prepared.*model\.preproc"):
        stated_preprocessing(beside(tmp_path, name, content), {}, "mine")
