"""Attentive pooling, with the formulas of its publications and torch's own attention as judges."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.attentive import AttentionBlock, AttentionPooling, attention_heads
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.heads import build_head
from ssl_transfer.models.patch_tokens import input_dim, network_below, patch_tokens
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.preprocessing import Preprocessing


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def torchs_attention(
    query: nn.Linear | None, key: nn.Linear, value: nn.Linear, out: nn.Linear | None
) -> nn.MultiheadAttention:
    """Return torch's attention with these weights; None stands for the identity."""
    dim = key.in_features
    judge = nn.MultiheadAttention(dim, attention_heads(dim), batch_first=True)
    layers = [query, key, value]
    eye, zero = torch.eye(dim), torch.zeros(dim)
    weights = [eye if layer is None else layer.weight for layer in layers]
    biases = [zero if layer is None or layer.bias is None else layer.bias for layer in layers]
    with torch.no_grad():
        judge.in_proj_weight.copy_(torch.cat(weights))
        judge.in_proj_bias.copy_(torch.cat(biases))
        judge.out_proj.weight.copy_(eye if out is None else out.weight)
        judge.out_proj.bias.copy_(zero if out is None else out.bias)
    return judge


@pytest.mark.parametrize("dim", [128, 24])
def test_the_pooling_of_aim_is_torchs_attention_to_normalised_tokens(dim: int) -> None:
    """The query is no image's and has no projection; keys and values have no bias."""
    pooling, tokens = AttentionPooling(dim).train(), 3 * torch.randn(5, 7, dim) + 1
    mean, variance = tokens.mean((0, 1)), tokens.var((0, 1), correction=0)
    normed = (tokens - mean) / (variance + 1e-6).sqrt()
    judge = torchs_attention(None, pooling.key, pooling.value, None)
    expected, _ = judge(pooling.query.expand(5, 1, dim), normed, normed)
    torch.testing.assert_close(pooling(tokens), expected[:, 0], rtol=1e-4, atol=1e-5)
    names = {name for name, _ in pooling.named_parameters()}
    assert names == {"query", "key.weight", "value.weight"}


@pytest.mark.parametrize("dim", [128, 24])
def test_the_pooling_of_v_jepa_is_a_transformer_block_on_a_learnt_query(dim: int) -> None:
    """q + attention(q, norm(x)), then + mlp(norm(q)): ``CrossAttentionBlock`` of its modules.py."""
    block, tokens = AttentionBlock(dim), torch.randn(5, 7, dim)
    judge = torchs_attention(block.from_query, block.key, block.value, block.projection)
    query = block.query.expand(5, 1, dim)
    normed = F.layer_norm(tokens, (dim,))
    attended = (query + judge(query, normed, normed)[0])[:, 0]
    wide, _, narrow = block.mlp
    hidden = F.gelu(F.linear(F.layer_norm(attended, (dim,)), wide.weight, wide.bias))
    expected = attended + F.linear(hidden, narrow.weight, narrow.bias)
    torch.testing.assert_close(block(tokens), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_initial_values_are_the_published_ones() -> None:
    block = AttentionBlock(256)
    for layer, std in ((block.key, 0.02), (block.projection, 0.02 / 2**0.5),
                       (block.mlp[2], 0.02 / 2**0.5), (block.mlp[0], 0.02)):  # fmt: skip
        assert float(layer.weight.std()) == pytest.approx(std, rel=0.03)
        assert not layer.bias.any()
    for kind in ("attention", "attention_block"):
        head = build_head(kind, 256, 1000)
        assert float(head[1].weight.std()) == pytest.approx(0.01, rel=0.03)
        assert float(head[0].key.weight.std()) > 0.015
        assert float(build_head(kind, 256, 9, "torch")[1].weight.std()) == pytest.approx(
            1 / (3 * 256) ** 0.5, rel=0.1
        )


@pytest.mark.parametrize("kind", ["attention", "attention_block"])
def test_a_head_learns_classes_that_a_single_token_of_many_tells(kind: Any) -> None:
    labels = torch.arange(60) % 3
    tokens = torch.randn(60, 9, 16)
    tokens[torch.arange(60), torch.randint(9, (60,))] += 4 * torch.eye(16)[labels]
    head = build_head(kind, 16, 3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(head(tokens), labels).backward()
        optimizer.step()
    assert (head(tokens).argmax(1) == labels).float().mean() > 0.9


def test_heads_are_64_wide_as_in_a_vit_or_one() -> None:
    assert [attention_heads(dim) for dim in (384, 768, 1024, 2048, 24)] == [6, 12, 16, 32, 1]


def encoder(network: nn.Module, size: int = 32) -> Encoder:
    return Encoder(network.eval(), 1, Preprocessing(size=size, resize=None))


def small_vit(**options: Any) -> Any:
    keys = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **keys | options)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def tokens(network: nn.Module) -> Tensor:
    found = patch_tokens(network.eval(), IMAGES)
    assert found is not None
    return found


def test_patch_tokens_of_a_transformer_are_those_behind_class_and_registers() -> None:
    network = small_vit(reg_tokens=3).eval()
    with torch.no_grad():
        whole = network.forward_features(IMAGES)
    assert whole.shape == (2, 1 + 3 + 16, 24)
    torch.testing.assert_close(tokens(network), whole[:, 4:])
    assert input_dim(encoder(network), "attention") == 24


@pytest.mark.parametrize("name", ["small_resnet", "timm", "torchvision", "mobilenet"])
def test_the_features_of_a_convolutional_network_are_the_mean_of_its_tokens(name: str) -> None:
    network: Any = {
        "small_resnet": lambda: small_resnet(4),
        "timm": lambda: timm.create_model("resnet10t", num_classes=0),
        "torchvision": lambda: torchvision.models.resnet18(),
        "mobilenet": lambda: torchvision.models.mobilenet_v2(),
    }[name]()
    for last in ("fc", "classifier"):
        if name != "timm" and hasattr(network, last):
            setattr(network, last, nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(tokens(network).mean(1), network.eval()(IMAGES))
    assert input_dim(encoder(network), "linear") == 1
    assert input_dim(encoder(network), "attention") == tokens(network).shape[2]


def test_channels_may_stand_last() -> None:
    keys = {"img_size": 32, "patch_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, window_size=4, **keys)
    with torch.no_grad():
        torch.testing.assert_close(tokens(swin).mean(1), swin.eval()(IMAGES))


def test_an_encoder_without_known_tokens_is_not_applicable() -> None:
    flat = encoder(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)))
    members = [encoder(small_resnet(2)), encoder(small_resnet(2))]
    for judged in (flat, FusedEncoder(members, "concatenate")):
        with pytest.raises(NotApplicable, match="needs patch tokens or a feature map"):
            input_dim(judged, "attention")
    assert network_below(flat, "linear") is flat
