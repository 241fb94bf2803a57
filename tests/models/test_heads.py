"""Saved heads: read as they were written, byte by byte the same, and refused when damaged."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from ssl_transfer.models.heads import (
    HEAD_FILE,
    TOKEN_KINDS,
    Head,
    HeadKind,
    averaged_head,
    build_head,
    folded,
    load_head,
    save_head,
    start_linear_layer,
)


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_a_head_is_read_as_it_was_written(tmp_path: Path, kind: HeadKind) -> None:
    head = Head(build_head(kind, 5, 3).eval(), kind, ("a", "ä", "c"), "classes")
    save_head(head, tmp_path)
    again = load_head(tmp_path, 5)
    assert again is not None
    assert (again.kind, again.classes, again.target, again.outputs) == (
        kind, ("a", "ä", "c"), "classes", 3
    )  # fmt: skip
    features = torch.rand(4, 6, 5) if kind in TOKEN_KINDS else torch.rand(4, 5)
    assert torch.equal(again.layers(features), head.layers(features))
    first = (tmp_path / HEAD_FILE).read_bytes()
    for _ in range(5):  # no random order of the description
        save_head(head, tmp_path)
        assert (tmp_path / HEAD_FILE).read_bytes() == first


def test_no_file_is_no_head_and_older_files_have_no_names(tmp_path: Path) -> None:
    assert load_head(tmp_path, 5) is None
    save_file(build_head("linear", 5, 3).state_dict(), tmp_path / HEAD_FILE, {"head": "linear"})
    head = load_head(tmp_path, 5)
    assert head is not None
    assert (head.kind, head.classes, head.outputs) == ("linear", None, 3)


@pytest.mark.parametrize(
    "description",
    [None, "", "{", "[1]", json.dumps({"kind": "none"}),
     json.dumps({"kind": "linear", "classes": [1]}),
     json.dumps({"kind": "linear", "target": "x"}), json.dumps({"kind": "mlp"})],
)  # fmt: skip
def test_a_damaged_description_is_refused(tmp_path: Path, description: str | None) -> None:
    metadata = None if description is None else {"head": description}
    save_file(build_head("linear", 5, 3).state_dict(), tmp_path / HEAD_FILE, metadata)
    with pytest.raises(ValueError, match=r"head\.safetensors` must (say|hold)"):
        load_head(tmp_path, 5)


def test_a_head_of_another_encoder_is_refused(tmp_path: Path) -> None:
    save_head(Head(build_head("linear", 5, 3)), tmp_path)
    with pytest.raises(ValueError, match="kind linear on 6 features, but does not"):
        load_head(tmp_path, 6)


def used(kind: HeadKind, dtype: torch.dtype, seed: int = 0, dim: int = 40) -> Head:
    """Return a head whose BatchNorm has seen features far from the standard ones."""
    torch.manual_seed(seed)
    layers = build_head(kind, dim, 7, "torch").to(dtype)
    for _ in range(20):
        layers(3 + 5 * torch.rand(64, dim, dtype=dtype) ** 2)
    for name, parameter in layers.named_parameters():
        if name.startswith("0."):  # scale and shift
            torch.nn.init.uniform_(parameter, -2, 2)
    return Head(layers.eval(), kind)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", ["linear", "bn_linear", "bn_affine_linear"])
def test_a_folded_head_has_the_same_class_scores(
    kind: HeadKind, dtype: torch.dtype, tolerance: float
) -> None:
    head = used(kind, dtype)
    features = 3 + 5 * torch.rand(100, 40, dtype=dtype) ** 2
    scores = head.layers(features)
    start = build_head("linear", 40, 7).to(dtype)
    ours = start_linear_layer(start, folded(head))(features)
    assert (ours - scores).abs().max() <= tolerance * scores.abs().max()


def test_folding_is_the_published_formula() -> None:
    head = used("bn_affine_linear", torch.float64)
    norm, linear = head.layers.children()
    sigma = (norm.running_var + norm.eps).sqrt()
    mu, gamma, beta = norm.running_mean, norm.weight, norm.bias
    ours = folded(head)
    torch.testing.assert_close(ours.weight.detach(), (linear.weight * (gamma / sigma)).detach())
    shifted = linear.bias + linear.weight @ (beta - mu * gamma / sigma)
    torch.testing.assert_close(ours.bias.detach(), shifted.detach())


@pytest.mark.parametrize("kind", ["cosine", "l2_linear", "mlp"])
def test_a_head_that_is_not_linear_is_not_folded(kind: HeadKind) -> None:
    with pytest.raises(ValueError, match=f"to be written as one linear layer, but is {kind};"):
        folded(Head(build_head(kind, 40, 7), kind))


def test_an_averaged_head_gives_the_mean_of_the_class_scores() -> None:
    heads = [folded(used("linear", torch.float64, seed, dim)) for seed, dim in ((0, 3), (1, 5))]
    features = [torch.rand(9, 3, dtype=torch.float64), torch.rand(9, 5, dtype=torch.float64)]
    joint = averaged_head(heads)
    mean = (heads[0](features[0]) + heads[1](features[1])) / 2
    torch.testing.assert_close(joint(torch.cat(features, 1)), mean, rtol=0, atol=1e-14)
    assert torch.equal(joint.weight[:, :3], heads[0].weight / 2)
    assert torch.equal(averaged_head(heads[:1]).weight, heads[0].weight)


def test_a_head_in_double_precision_is_read_as_it_was_written(tmp_path: Path) -> None:
    head = used("bn_linear", torch.float64)
    save_head(head, tmp_path)
    again = load_head(tmp_path, 40)
    assert again is not None
    features = torch.rand(4, 40, dtype=torch.float64)
    assert torch.equal(again.layers(features), head.layers(features))
