"""``model.columns``: encoders that keep a range of their network's features."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_transfer import models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.sources import network
from ssl_transfer.models.weights import load_weights, save_encoder
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

NODE: dict[str, Any] = {
    "_target_": "ssl_transfer.models.small_resnet.small_resnet",
    "name": "small",
    "width": 8,
    "preprocessing": {"size": 32, "resize": None},
}


def sliced(first: int, last: int, **keys: Any) -> models.Encoder:
    return models.build({**NODE, "columns": [first, last], **keys}).eval()


def test_slices_side_by_side_are_the_whole_network_s_features() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole, parts = models.build(NODE).eval(), [sliced(0, 12), sliced(12, 32)]
    assert [part.feature_dim for part in parts] == [12, 20]
    with torch.no_grad():
        assert torch.equal(torch.cat([part(images) for part in parts], dim=1), whole(images))
        assert torch.equal(FusedEncoder(parts, "concatenate")(images), whole(images))
        assert torch.equal(copy.deepcopy(parts[0])(images), whole(images)[:, :12])


def test_slices_are_encoders_of_their_own() -> None:
    encoders = [models.build(NODE), sliced(0, 32), sliced(0, 16), sliced(16, 32)]
    assert len({models.fingerprint(encoder) for encoder in encoders}) == 4
    assert len({network(encoder.backbone) for encoder in encoders}) == 4
    runs = [
        Run(plain(compose(["model=small_resnet", *overrides])))
        for overrides in ([], ["model.columns=null"], ["model.columns=[0,16]"],
                          ["model.columns=[16,32]"])
    ]  # fmt: skip
    assert [run.id == runs[0].id for run in runs] == [True, True, False, False]
    assert runs[2].id != runs[3].id


@pytest.mark.parametrize("columns", [[0, 33], [5, 5], [9, 3]])
def test_a_range_outside_of_the_features_is_one_sentence(columns: list[int]) -> None:
    expected = (
        r"`model\.columns` must be \[first, last\) with 0 <= first < last <= 32, the number of "
        rf"features of `small`, but is \[{columns[0]}, {columns[1]}\]\."
    )
    with pytest.raises(ValueError, match=expected):
        sliced(*columns)


@pytest.mark.parametrize("columns", ["[0]", "[0,1,2]", "[-1,4]", "[0,1.5]", "all", "7"])
def test_what_is_no_range_is_refused_before_any_work(columns: str) -> None:
    (sentence,) = problems(plain(compose(["model=small_resnet", f"model.columns={columns}"])))
    assert "`model.columns` must " in sentence


def test_a_slice_takes_the_weights_of_the_whole_network(tmp_path: Path) -> None:
    source = models.build(NODE, seed=5)
    save_encoder(source, tmp_path, config=NODE, parents=[])
    encoder = sliced(8, 24, weights={"path": str(tmp_path)})
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder(images), source.eval()(images)[:, 8:24])
    assert encoder.head is None


def test_a_saved_slice_is_loaded_by_the_same_slice_only(tmp_path: Path) -> None:
    source = sliced(8, 24)
    save_encoder(source, tmp_path, config=NODE, parents=[])
    again = sliced(8, 24, weights={"path": str(tmp_path)})
    assert models.fingerprint(again) == models.fingerprint(source)
    with pytest.raises(ValueError, match=r"columns` must be .* \[8, 24\], but is \[0, 16\]"):
        load_weights(sliced(0, 16), tmp_path)
    with pytest.raises(ValueError, match="the encoder lacks feature_columns"):
        load_weights(models.build(NODE), tmp_path)
    with pytest.raises(ValueError, match=r"\[8, 24\], but is \[0, 16\]"):
        models.copy_weights(sliced(0, 16), source)


def test_a_slice_of_published_weights_has_no_classifier(tmp_path: Path) -> None:
    source = models.build(NODE, seed=1)
    state = source.backbone.state_dict() | {"fc.weight": torch.zeros(5, 32)}
    torch.save(state, tmp_path / "file.pth")
    whole, part = models.build(NODE), sliced(0, 16)
    for encoder in (whole, part):
        load_weights(encoder, tmp_path / "file.pth", layout="torchvision")
    assert whole.head is not None
    assert part.head is None


def test_the_key_is_known_to_every_option() -> None:
    node = resolve(plain(compose(["model=resnet50w2", "model.columns=[2048,4096]"])))["model"]
    assert node["columns"] == [2048, 4096]
