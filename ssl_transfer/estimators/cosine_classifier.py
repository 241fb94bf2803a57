"""The cosine classifier of Baseline++: cosines times a learnt length per class and a fixed scale.

Chen et al. 2019, section 3.2 (https://arxiv.org/abs/1904.04232), in the form of ``distLinear`` in
``backbone.py`` of github.com/wyharveychen/CloserLookFewShot at 8074c34.
"""

from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5
"""Term that is added to the length of a feature vector."""
FEW_CLASSES = 200
"""Largest number of classes that have the smaller scale."""


def usual_scale(classes: int) -> float:
    """Return the published scale for a number of classes."""
    return 2.0 if classes <= FEW_CLASSES else 10.0


def unit_features(features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Return ``x / (|x| + EPSILON)``."""
    lengths: Tensor = features.norm(dim=-1, keepdim=True)
    return features / (lengths + EPSILON)


def class_vectors(
    weight: Float[Tensor, "*heads classes dim"],
    length: Float[Tensor, "*heads classes 1"],
    scale: float | Float[Tensor, ""],
) -> Float[Tensor, "*heads classes dim"]:
    """Return the vectors whose products with unit features are the class scores.

    Each has the direction of its weight vector and ``scale`` times its learnt length.

    Args:
        weight: one vector per class, of any length but 0.
        length: learnt length of each class's vector.
        scale: fixed factor of all classes.
    """
    vectors: Tensor = weight * (scale * length / weight.norm(dim=-1, keepdim=True))
    return vectors
