"""Projectors: those of files compute what was published, and ours what they did in training."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import models
from ssl_transfer.methods.moco import build_head
from ssl_transfer.methods.projector import Projector
from ssl_transfer.models.projectors import load_projector, projector_state, rebuilt
from ssl_transfer.preprocessing import Preprocessing

X = torch.arange(18, dtype=torch.float32).reshape(3, 6).cos()


def numbers(*shape: int) -> Tensor:
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float32) * 0.7 + count).sin().reshape(shape)


def linear(place: str, rows: int, columns: int, bias: bool = True) -> dict[str, Tensor]:
    weights = {f"{place}weight": numbers(rows, columns)}
    return {**weights, **({f"{place}bias": numbers(rows)} if bias else {})}


def norm(place: str, width: int) -> dict[str, Tensor]:
    names = {"weight": 1 + numbers(width) / 2, "bias": numbers(width)}
    names |= {"running_mean": numbers(width), "running_var": 1.5 + numbers(width)}
    counted = {f"{place}num_batches_tracked": torch.tensor(7)}
    return {f"{place}{name}": tensor for name, tensor in names.items()} | counted


def normed(x: Tensor, state: dict[str, Tensor], place: str) -> Tensor:
    weight, bias, mean, var = (state[f"{place}{n}"] for n in
                               ("weight", "bias", "running_mean", "running_var"))  # fmt: skip
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def through(x: Tensor, state: dict[str, Tensor], place: str) -> Tensor:
    return F.linear(x, state[f"{place}weight"], state.get(f"{place}bias"))


# Names and layers: `fc` in moco/builder.py (facebookresearch/moco), `projection_head` in
# src/resnet50.py (facebookresearch/swav), `projector` in main.py (facebookresearch/barlowtwins),
# `g` in model.py (wgcban/mix-bt), `student.fc` in seed/builder.py (jacobswan1/SEED).
MOCO, SEED = "module.encoder_q.fc.", "module.student.fc."
SWAV, BT, MIX = "module.projection_head.", "module.projector.", "g."
FILES = {
    "moco v1": ("moco", {**linear(MOCO, 4, 6)}),
    "moco v2": ("moco", {**linear(f"{MOCO}0.", 6, 6), **linear(f"{MOCO}2.", 4, 6),
                         "module.encoder_k.fc.0.weight": numbers(9, 9)}),
    "seed": ("seed", {**linear(f"{SEED}0.", 6, 6), **linear(f"{SEED}2.", 4, 6),
                      "module.queue": numbers(4, 8)}),
    "swav": ("swav", {**linear(f"{SWAV}0.", 5, 6), **norm(f"{SWAV}1.", 5),
                      **linear(f"{SWAV}3.", 4, 5), "module.prototypes.weight": numbers(8, 4)}),
    "barlow twins": ("barlow_twins", {
        **linear(f"{BT}0.", 5, 6, bias=False), **norm(f"{BT}1.", 5),
        **linear(f"{BT}3.", 5, 5, bias=False), **norm(f"{BT}4.", 5),
        **linear(f"{BT}6.", 4, 5, bias=False), "module.backbone.conv1.weight": numbers(2, 2)}),
    "mix-bt": ("mix_bt_cifar", {**linear("g.0.", 5, 6, bias=False), **norm("g.1.", 5),
                                **linear("g.3.", 4, 5), "f.3.0.conv1.weight": numbers(2, 2)}),
}  # fmt: skip


def expected(name: str, state: dict[str, Tensor]) -> Tensor:
    if name == "moco v1":
        return through(X, state, MOCO)
    if name in ("moco v2", "seed"):
        at = MOCO if name == "moco v2" else SEED
        return through(through(X, state, f"{at}0.").relu(), state, f"{at}2.")
    at = {"swav": SWAV, "barlow twins": BT, "mix-bt": MIX}[name]
    hidden = normed(through(X, state, f"{at}0."), state, f"{at}1.").relu()
    if name == "barlow twins":
        hidden = normed(through(hidden, state, f"{at}3."), state, f"{at}4.").relu()
        return through(hidden, state, f"{at}6.")
    return through(hidden, state, f"{at}3.")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("automatic", [True, False])
def test_the_projector_of_a_published_file_computes_what_was_published(
    tmp_path: Path, name: str, automatic: bool
) -> None:
    layout, state = FILES[name]
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": state}, file)
    found = load_projector(file, "auto" if automatic else layout)
    assert found is not None
    torch.testing.assert_close(found.eval()(X), expected(name, state))


def test_files_without_a_projector_or_with_another_kind_have_none(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"conv1.weight": numbers(2, 2), "fc.weight": numbers(3, 2)}, file)
    assert load_projector(file) is None
    assert load_projector(tmp_path) is None
    for odd in ("0.weight_g", "layers.0.weight", "0.running_mean"):
        torch.save({f"{MOCO}{odd}": numbers(3), f"{MOCO}2.weight": numbers(2, 3)}, file)
        assert load_projector(file) is None


PROJECTORS = {
    "as BYOL's": Projector(6, [5, 4], last_bias=False),
    "as Barlow Twins'": Projector(6, [5, 5, 4], last_bias=False),
    "with a last BatchNorm": Projector(6, [5, 4], last_batch_norm=True),
    "as SimSiam's": nn.Sequential(Projector(6, [5, 4]), nn.BatchNorm1d(4, affine=False)),
    **{mlp: build_head(6, 4, mlp) for mlp in ("linear", "simple", "wide", "deep", "dropout")},
}


@pytest.mark.parametrize("name", PROJECTORS)
def test_a_kept_projector_computes_what_it_did(tmp_path: Path, name: str) -> None:
    projector = PROJECTORS[name]
    projector.train()(X)  # other statistics than those of the start
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    encoder = models.Encoder(backbone, 6, Preprocessing(size=2, resize=None), projector=projector)
    weights = models.fingerprint(encoder)
    models.save_encoder(encoder, tmp_path, config={}, parents=[])
    for place in (tmp_path, tmp_path / "encoder.safetensors"):
        found = load_projector(place)
        assert found is not None
        torch.testing.assert_close(found.eval()(X), projector.eval()(X), rtol=0, atol=0)
    # The encoder beside it is as ever.
    fresh = models.Encoder(nn.Sequential(nn.Flatten(), nn.Linear(12, 6)), 6, encoder.preprocessing)
    assert models.load_encoder(fresh, tmp_path).complete
    assert models.fingerprint(fresh) == weights
    models.save_encoder(fresh, tmp_path, config={}, parents=[])
    assert load_projector(tmp_path) is None  # that of the encoder before


def test_layers_of_other_kinds_are_not_kept() -> None:
    assert projector_state(nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2))) is None
    assert rebuilt({"0.weight": numbers(2, 2), "0.scale": numbers(2)}) is None
