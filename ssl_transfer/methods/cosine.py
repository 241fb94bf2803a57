"""The cosine between embeddings of the same images."""

import torch
from jaxtyping import Float
from torch import Tensor

Embeddings = Float[Tensor, "batch dim"]
SHORTEST = 1e-8
"""Lower limit of the rows' lengths, so that the cosine with a row of zeros is 0."""


def cosine(a: Embeddings, b: Embeddings) -> Float[Tensor, " batch"]:
    """Return the cosine of each row with its counterpart, in [-1, 1].

    The function divides the inner products by the lengths. ``F.cosine_similarity`` scales both
    matrices instead, which takes twice the time with its backward pass.

    Args:
        a: rows of any length.
        b: rows of any length.
    """
    length_a = torch.linalg.vector_norm(a, dim=1).clamp_min(SHORTEST)
    length_b = torch.linalg.vector_norm(b, dim=1).clamp_min(SHORTEST)
    cosines: Tensor = torch.linalg.vecdot(a, b) / (length_a * length_b)
    return cosines
