"""The losses of a batch of logistic regressions: multinomial, and one-vs-rest.

Both losses use margins: a margin is the amount by which a logit exceeds the target's logit, or the
logit with its sign chosen so that larger is worse. In this form the rounding error is relative to
the loss, even if the loss is tiny, so that single precision is enough. A margin of minus infinity
is ignored. Axes: P problems, K classes, N samples.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.estimators.lbfgs import PerProblem

Margins = Float[Tensor, "P K N"]
Doubt = Float[Tensor, "P N"] | Float[Tensor, "P K N"]
"""Log odds against the target."""


class Multinomial:
    """Cross-entropy of the softmax; the label's own margin is ignored.

    Args:
        targets: class numbers in ``[0, classes)``.
        classes: number of classes; each class must occur.
    """

    def __init__(self, targets: Int64[Tensor, " N"], classes: int) -> None:
        self.targets, self.classes = targets, classes
        shares = targets.bincount(minlength=classes).double() / len(targets)
        self.entropy = float(torch.special.entr(shares).sum())
        """The loss without features."""

    def margins(self, logits: Margins) -> Margins:
        """Return the logits minus the label's logit, in place."""
        return logits.sub_(logits.gather(1, self._index(logits)))

    def exclude(self, margins: Margins) -> None:
        """Set the ignored margins to minus infinity, in place."""
        margins.scatter_(1, self._index(margins), -torch.inf)

    def probabilities(self, margins: Margins) -> tuple[Margins, Doubt]:
        """Return the probabilities (0 for the label) and ``log((1 - p) / p)`` of the label's."""
        # One exponential of all margins serves both results.
        largest = margins.amax(1, keepdim=True).clamp(min=torch.finfo(margins.dtype).min)
        p = (margins - largest).exp_()
        doubt = largest + p.sum(1, keepdim=True).log_()
        return p.mul_((largest - F.softplus(doubt)).exp_()), doubt[:, 0]

    def mean(self, doubt: Doubt) -> PerProblem:
        """Return the mean loss: each sample's loss is ``softplus(-log odds of the label)``."""
        return F.softplus(doubt).double().mean(1)

    def residuals(self, p: Margins, doubt: Doubt) -> Margins:
        """Return the derivative of each sample's loss by the logits, in place of ``p``."""
        return p.scatter_(1, self._index(p), doubt.sigmoid().neg_()[:, None])

    def _index(self, like: Margins) -> Int64[Tensor, "P 1 N"]:
        return self.targets.expand(len(like), 1, -1)


class OneVsRest:
    """The sum over classes of the binary cross-entropy; classes only share the features.

    Args:
        targets: rows of 1 (shown), 0 (not shown) and -1 (ignored).
    """

    def __init__(self, targets: Int64[Tensor, "N K"]) -> None:
        self.targets, self.classes = targets.T, targets.shape[1]
        self._away = (1 - 2 * self.targets).where(self.targets >= 0, 0)  # from what is shown
        of_all = 1 / len(targets)
        shares = torch.stack([(self.targets == kind).sum(1) for kind in (0, 1)]).double() * of_all
        counted = shares.sum(0)
        entropies = torch.special.entr(shares).sum(0) - torch.special.entr(counted)
        self.entropy = float(entropies.sum())
        """The loss without features."""

    def margins(self, logits: Margins) -> Margins:
        """Return the logits, signed so that larger is worse, in place."""
        return logits.mul_(self._away)

    def exclude(self, margins: Margins) -> None:
        """Set the ignored margins to minus infinity, in place."""
        margins.masked_fill_(self.targets < 0, -torch.inf)

    def probabilities(self, margins: Margins) -> tuple[Margins, Doubt]:
        """Return the probabilities of the opposite of the targets, and their log odds."""
        return margins.sigmoid(), margins

    def mean(self, doubt: Doubt) -> PerProblem:
        """Return the mean over samples of the loss, summed over classes."""
        return F.softplus(doubt).double().mean(2).sum(1)

    def residuals(self, p: Margins, doubt: Doubt) -> Margins:
        """Return the derivative of each sample's loss by the logits, in place of ``p``."""
        return p.mul_(self._away)
