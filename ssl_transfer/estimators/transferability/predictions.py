"""Target classes predicted from those of a source classifier: LEEP and NCE."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ssl_transfer.estimators.blocks import blocks
from ssl_transfer.estimators.transferability.moments import Groups, Labels, groups_of

SUM_TOLERANCE = 1e-3  # of probabilities in half precision


def leep(probabilities: Float[Tensor, "samples source"], labels: Labels) -> float:
    """Return LEEP, the log expected empirical prediction; larger is better.

    Nguyen et al. 2020 (https://arxiv.org/abs/2002.12462), equation 2: the mean over images of
    ``log sum_z P(y | z) theta(x)_z`` with the empirical ``P(y | z)`` of target classes y given
    source classes z. One public implementation leaves out the logarithm.

    Args:
        probabilities: probabilities theta of the source classes; rows sum to 1.
        labels: class numbers of the target.

    Returns:
        A number of nats, at most 0.

    Raises:
        ValueError: if a row is no distribution.
        NotDefined: if fewer than two classes occur.
    """
    if bool((probabilities < 0).any()) or not _sum_to_one(probabilities):
        raise ValueError(
            "`probabilities` must hold a distribution over the source classes in each row, but "
            "rows have negative entries or do not sum to 1; pass the softmax of the scores."
        )
    groups = groups_of(labels)
    joint = torch.zeros(len(groups.counts), probabilities.shape[1], dtype=torch.float64)
    joint = joint.to(probabilities.device)
    for part, theta in blocks(probabilities):
        joint.index_add_(0, groups.numbers[part], theta)
    conditional = _given_source(joint)
    total = 0.0
    for part, theta in blocks(probabilities):
        total += float((theta * conditional[groups.numbers[part]]).sum(dim=1).log().sum())
    return total / len(labels)


def _sum_to_one(probabilities: Float[Tensor, "samples source"]) -> bool:
    return bool(((probabilities.sum(dim=1) - 1).abs() < SUM_TOLERANCE).all())


def nce(source_labels: Labels, labels: Labels) -> float:
    """Return NCE, the negative conditional entropy ``-H(Y | Z)``; larger is better.

    Tran et al. 2019 (https://arxiv.org/abs/1908.08142), with the labels Z that the
    source classifier gives the images. Some published tables come from code with exchanged
    arguments, which gives ``-H(Z | Y)``.

    Args:
        source_labels: class numbers by the source classifier.
        labels: class numbers of the target.

    Returns:
        A number of nats, at most 0.

    Raises:
        NotDefined: if fewer than two classes of the target occur.
    """
    groups = groups_of(labels)
    _, source = torch.unique(source_labels, return_inverse=True)
    joint = _counts(source, groups)
    # An entry without an image contributes 0, the limit of p log p.
    logs = torch.special.xlogy(joint, _given_source(joint))
    return float(logs.sum() / len(labels))


def _counts(source: Labels, groups: Groups) -> Float64[Tensor, "classes source"]:
    """Return the number of images of each pair of classes."""
    width = int(source.max()) + 1
    pairs = groups.numbers * width + source
    counts = pairs.bincount(minlength=len(groups.counts) * width)
    return counts.view(-1, width).double()


def _given_source(
    joint: Float64[Tensor, "classes source"],
) -> Float64[Tensor, "classes source"]:
    """Return ``P(y | z)``; 0 for source classes without mass."""
    return joint / joint.sum(dim=0).clamp(min=torch.finfo(joint.dtype).tiny)
