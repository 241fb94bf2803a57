"""Attentive pooling: one cross-attention layer with a learnt query over patch tokens."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_STD = 0.02
_HEAD_WIDTH = 64


def attention_heads(dim: int) -> int:
    """Return the number of attention heads: of 64 features each, as in a ViT, or a single one."""
    return dim // _HEAD_WIDTH if dim % _HEAD_WIDTH == 0 else 1


def attend(
    query: Float[Tensor, "batch 1 dim"],
    keys: Float[Tensor, "batch tokens dim"],
    values: Float[Tensor, "batch tokens dim"],
) -> Float[Tensor, "batch dim"]:
    """Return the values averaged by the softmax of the query's products with the keys, per head."""
    heads = attention_heads(query.shape[2])
    query, keys, values = (
        rows.view(*rows.shape[:2], heads, -1).transpose(1, 2) for rows in (query, keys, values)
    )
    return F.scaled_dot_product_attention(query, keys, values).flatten(1)


class AttentionPooling(nn.Module):
    """The attentive pooling of AIM (El-Nouby et al. 2024, https://arxiv.org/abs/2401.08541).

    The learnt query attends to linear keys and values, without biases, of tokens behind a BatchNorm
    without scale and shift (``AttentionPoolingClassifier`` in ``aim-v1/aim/v1/torch/layers.py`` of
    github.com/apple/ml-aim). The tokens are those of the encoder's last layer; AIM averages the
    last six blocks. The number of heads is that of ``attention_heads``; AIM's is its trunk's.

    Args:
        dim: number of features of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.query = nn.Parameter(_STD * torch.randn(1, 1, dim))
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        """Return one vector per image."""
        normed = self.norm(tokens.transpose(1, 2)).transpose(1, 2)
        query = self.query.expand(tokens.shape[0], -1, -1)
        return attend(query, self.key(normed), self.value(normed))


class AttentionBlock(nn.Module):
    """The attentive pooling of V-JEPA (Bardes et al. 2024, https://arxiv.org/abs/2404.08471).

    A whole transformer block: the learnt query attends to the tokens, with biases and an output
    projection, then an MLP of four times the width follows, both with residual connections
    (``AttentivePooler(complete_block=True)`` in ``src/models/attentive_pooler.py`` of
    github.com/facebookresearch/jepa, with its initial values).

    Args:
        dim: number of features of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.norm1 = nn.LayerNorm(dim)
        self.from_query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.projection = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        narrowing = nn.Linear(4 * dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), narrowing)
        nn.init.trunc_normal_(self.query, std=_STD)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=_STD)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.projection.weight /= math.sqrt(2)
            narrowing.weight /= math.sqrt(2)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        """Return one vector per image."""
        normed = self.norm1(tokens)
        query = self.query.expand(tokens.shape[0], -1, -1)
        pooled = attend(self.from_query(query), self.key(normed), self.value(normed))
        pooled = query[:, 0] + self.projection(pooled)
        result: Tensor = pooled + self.mlp(self.norm2(pooled))
        return result
