"""Scores of predictions: pure functions, bounded ones as fractions in ``[0, 1]``."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top1(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> float:
    """Return the share of samples whose largest logit is their label's."""
    return float((logits.argmax(1) == labels).double().mean())


def mean_per_class(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> float:
    """Return the recall averaged over the classes that occur in ``labels``."""
    right = (logits.argmax(1) == labels).double()
    return float(torch.stack([right[labels == c].mean() for c in labels.unique()]).mean())
