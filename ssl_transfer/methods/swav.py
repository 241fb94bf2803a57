"""SwAV: swapped assignments between views (Caron et al. 2020, https://arxiv.org/abs/2006.09882)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.config.ranges import Fraction, Positive, Range, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Method, full_precision
from ssl_transfer.methods.multi_crop import Views, cross_entropy_between_views, encode
from ssl_transfer.methods.projector import Projector
from ssl_transfer.methods.queue import Queue
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed

Scores = Float[Tensor, "rows prototypes"]

ASSIGNED = 2
"""Number of views whose codes are predicted: the first two, in full size."""


@torch.no_grad()
def sinkhorn(scores: Scores, *, eps: float, iterations: int) -> Scores:
    """Return codes that use all prototypes equally (equations 3 to 5 of the paper).

    The algorithm scales the columns and the rows of ``exp(scores / eps)`` in turn and ends with the
    rows, so that each code sums to 1. The scales are stored as two vectors. Subtracting a constant
    per prototype from the exponents keeps the exponentials finite for scores of any size; the first
    scaling of the columns cancels this constant.

    Args:
        scores: scores of the whole global batch (and the queue).
        eps: smoothness of the codes; larger values give more uniform codes.
        iterations: number of scalings of columns and rows, at least 1.
    """
    kernel = (scores - scores.amax(dim=0)).div_(eps).exp_()
    tiny = torch.finfo(kernel.dtype).tiny
    per_row = kernel.new_ones(len(kernel))
    for _ in range(iterations):
        per_prototype = (kernel.T @ per_row).clamp_min_(tiny).reciprocal_()
        per_row = (kernel @ per_prototype).clamp_min_(tiny).reciprocal_()
    return kernel.mul_(per_prototype).mul_(per_row[:, None])


def swav(
    scores: Float[Tensor, "batch views prototypes"],
    codes: Sequence[Scores],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of predicting a view's code from the others (equations 1 and 2).

    The mean runs over samples, over the assigned views, and over the other views.

    Args:
        scores: cosines with the prototypes; gradients only flow into these.
        codes: codes of the first views in order, each summing to 1.
        temperature: divides the cosines.
    """
    # Loop over the views: smaller blocks of memory are faster to allocate and to free.
    log_probabilities = [(view / temperature).log_softmax(dim=1) for view in scores.unbind(1)]
    return cross_entropy_between_views([view.detach() for view in codes], log_probabilities)


class SwAV(Method):
    """Predict, from one view, the assignment of another view to prototypes.

    Views of one size pass the encoder as one batch in which the views of a sample are adjacent, and
    the projector takes all views at once, as in the released code. Batch statistics are therefore
    joint, and a BatchNorm group holds whole samples. Codes are computed over the global batch.
    Schedules that the released code gives in iterations or epochs are shares of the training here.

    Args:
        encoder: the encoder, trained in place.
        num_classes: not used.
        views: two or more augmentations; the first two are assigned codes.
        projector: keys of ``Projector``.
        prototypes: number of prototypes.
        temperature: temperature of the predictions.
        sinkhorn_eps: see ``sinkhorn``.
        sinkhorn_iterations: see ``sinkhorn``.
        frozen_prototypes: share of the training, from its beginning, in which the prototypes are
            frozen.
        queue_size: number of embeddings of earlier images that take part in the assignment, for
            each of the assigned views; 0: none.
        queue_start: share of the training after which the queue begins to fill; it is used when it
            is full.

    Raises:
        ValueError: if a value is out of its range.
    """

    separable = False
    minimum_batch = 2
    more_views = True
    smaller_views = True

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        projector: Mapping[str, Any],
        prototypes: Annotated[int, Range(2, cap=10**6)],
        temperature: Positive,
        sinkhorn_eps: Positive,
        sinkhorn_iterations: Annotated[int, Range(1, cap=10**4)],
        frozen_prototypes: Fraction,
        queue_size: Annotated[int, Range(0, cap=10**6)],
        queue_start: Fraction,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.temperature = temperature
        self.sinkhorn: dict[str, Any] = {"eps": sinkhorn_eps, "iterations": sinkhorn_iterations}
        self.frozen_prototypes = frozen_prototypes
        self.queue_start = queue_start
        self.projector = Projector(encoder.feature_dim, **projector)
        dim = projector["dims"][-1]
        self.prototypes = nn.Linear(dim, prototypes, bias=False)
        self._normalise_prototypes()
        self.queues = nn.ModuleList(
            Queue(queue_size, dim) for _ in range(ASSIGNED) if queue_size > 0
        )
        self.maximum_batch = queue_size or None
        self.queues_are_full = False  # at the beginning of this step
        self.fresh = torch.empty(0)  # embeddings of this step, until the queues take them

    def before_pass(self, samples: int) -> None:
        """Note whether the queues are full; both get the same number of rows."""
        self.queues_are_full = any(queue.is_full for queue in self.queues)

    def forward(
        self,
        views: tuple[Float[Tensor, "batch 3 _ _"], ...],
        targets: Int64[Tensor, " batch"],
    ) -> dict[str, Tensor]:
        """Return the loss of this process's samples, and the share of prototypes in use."""
        embeddings = self._embed(views)
        with torch.autocast(embeddings.device.type, enabled=False):
            scores = self.prototypes(embeddings)
            self.fresh = distributed.gather(embeddings[:, :ASSIGNED].detach())
            codes = [self._codes(view) for view in range(ASSIGNED)]
            own = [view.chunk(distributed.world_size())[distributed.rank()] for view in codes]
            loss = swav(scores, own, self.temperature)
            used = scores.new_zeros(scores.shape[2]).index_fill(0, codes[0].argmax(dim=1), 1.0)
        return {"loss": loss, "prototypes_in_use": used.mean()}

    def _embed(self, views: Views) -> Float[Tensor, "batch views dim"]:
        """Return embeddings of length 1; the encoder takes views of one size together."""
        features = encode(self.encoder, views)
        z = full_precision(self.projector(features.flatten(0, 1)))
        return F.normalize(z.view(*features.shape[:2], -1), dim=2)

    @torch.no_grad()
    def _codes(self, view: int) -> Float[Tensor, "global_batch prototypes"]:
        """Return the codes of the global batch, computed together with the queue if it is full."""
        rows = self.fresh[:, view]
        if self.queues_are_full:
            queue = self.queues[view]
            assert isinstance(queue, Queue)
            rows = torch.cat([rows, queue.rows])
        scores = F.linear(rows, self.prototypes.weight)
        return sinkhorn(scores, **self.sinkhorn)[: len(self.fresh)]

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight))

    def before_step(self, progress: float) -> None:
        """Drop the prototypes' gradient at the beginning of the training."""
        if progress < self.frozen_prototypes:
            self.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        """Normalise the prototypes, and push this step's embeddings to the queues."""
        self._normalise_prototypes()
        if progress > self.queue_start:
            for queue, rows in zip(self.queues, self.fresh.unbind(1), strict=False):
                assert isinstance(queue, Queue)
                queue.push(rows)
