"""MoCo: momentum contrast with a queue of negatives.

v1: He et al. 2020, https://arxiv.org/abs/1911.05722; v2: Chen et al. 2020,
https://arxiv.org/abs/2003.04297; heads for small encoders: Shi et al. 2022,
https://arxiv.org/abs/2107.14762. Versions only differ in their settings: see ``conf/method``.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.config.ranges import Fraction, Positive, Width, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.methods.momentum import follow, target_of
from ssl_transfer.methods.projector import Projector
from ssl_transfer.methods.queue import Queue
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed

Embeddings = Float[Tensor, "batch dim"]
MLP = Literal["linear", "simple", "wide", "deep", "dropout"]


def contrastive_logits(
    queries: Embeddings, keys: Embeddings, queue: Float[Tensor, "rows dim"], temperature: float
) -> Float[Tensor, "batch candidates"]:
    """Return each query's similarity to its own key (first) and to the queue's rows.

    Args:
        queries: embeddings of any length but 0; gradients only flow into these.
        keys: embeddings of the other view, in the same order, of any length but 0.
        queue: rows of length 1.
        temperature: divides the cosines.
    """
    queries, keys = F.normalize(queries), F.normalize(keys.detach())
    positive = (queries * keys).sum(dim=1, keepdim=True)
    return torch.cat([positive, queries @ queue.detach().T], dim=1) / temperature


def info_nce(
    queries: Embeddings, keys: Embeddings, queue: Float[Tensor, "rows dim"], temperature: float
) -> Float[Tensor, ""]:
    """Return the cross-entropy of identifying each query's own key (equation 1 of MoCo v1).

    Uniform predictions give ``log(1 + rows)``; see ``contrastive_logits`` for the arguments.
    """
    logits = contrastive_logits(queries, keys, queue, temperature)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))


def build_head(feature_dim: int, dim: int, mlp: MLP) -> Projector:
    """Return the layers between features and embeddings; none has a BatchNorm.

    Args:
        feature_dim: width of the features.
        dim: width of the embeddings.
        mlp: ``linear``: one layer (MoCo v1). ``simple``: a hidden layer as wide as the features
            (v2). ``wide``: twice as wide; ``deep``: two hidden layers; ``dropout``: as ``simple``
            with dropout 0.5 before the last layer (the last three are from Shi et al. 2022). Each
            process draws its own dropout, so that the result depends on the number of processes.
    """
    hidden: dict[MLP, list[int]] = {
        "linear": [],
        "simple": [feature_dim],
        "wide": [2 * feature_dim],
        "deep": [feature_dim, feature_dim],
        "dropout": [feature_dim],
    }
    head = Projector(feature_dim, [*hidden[mlp], dim], batch_norm=False, hidden_bias=True)
    if mlp == "dropout":
        head.insert(len(head) - 1, nn.Dropout(0.5))
    return head


class MoCo(Method):
    """Distinguish an image's other view from the views of earlier images in a queue.

    The trained network computes the queries; a copy that follows it with a constant momentum
    computes the keys. Common batch statistics would reveal which key belongs to a query. Therefore
    keys are computed in a random order of the global batch, so that each of the ``bn_groups``
    groups has other images (shuffling BN, section 3.3 of v1). With one group this has no effect:
    set several groups, like the GPUs of the published code; here groups do not depend on the number
    of processes.

    Args:
        encoder: the query encoder, trained in place.
        num_classes: not used.
        views: two augmentations; queries see the first, keys the second.
        temperature: temperature of the loss.
        momentum: momentum of the key encoder.
        queue_size: number of negatives; at least the batch (twice that if symmetric).
        dim: width of the embeddings.
        mlp: the head, see ``build_head``.
        symmetric: whether each view is both query and key; the loss is then the sum of both
            directions, and the queue takes both views' keys (the authors' demo for CIFAR-10).
        shuffle_bn: whether to shuffle the keys as described above.
    """

    separable = False  # keys are shuffled over the global batch
    minimum_batch = 1

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        temperature: Positive,
        momentum: Fraction,
        queue_size: Width,
        dim: Width,
        mlp: MLP,
        symmetric: bool = False,
        shuffle_bn: bool = True,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.temperature = temperature
        self.momentum = momentum
        self.symmetric = symmetric
        self.shuffle_bn = shuffle_bn
        self.head = build_head(encoder.feature_dim, dim, mlp)
        self.key_network = target_of(self.query_network)
        self.queue = Queue(queue_size, dim)
        self.maximum_batch = queue_size // (2 if symmetric else 1)
        self.fresh: list[Tensor] = []  # keys of this step, until the queue takes them

    @property
    def query_network(self) -> nn.Sequential:
        """Encoder and head."""
        return nn.Sequential(self.encoder, self.head)

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss of this process's queries, and the fraction that match their key."""
        first, second = views
        pairs = [(first, second), (second, first)] if self.symmetric else [(first, second)]
        count = len(first) * distributed.world_size()
        orders = [
            distributed.shared_permutation(count, first.device) if self.shuffle_bn else None
            for _ in pairs
        ]
        keys = [self._keys(images, order) for (_, images), order in zip(pairs, orders, strict=True)]
        self.fresh = keys
        losses, hits = [], []
        for (images, _), every in zip(pairs, keys, strict=True):
            queries = full_precision(self.query_network(images))
            own = every.chunk(distributed.world_size())[distributed.rank()]
            with torch.autocast(queries.device.type, enabled=False):
                logits = contrastive_logits(queries, own, self.queue.rows, self.temperature)
                positives = logits.new_zeros(len(logits), dtype=torch.int64)
                losses.append(F.cross_entropy(logits, positives))
            hits.append((logits.detach().argmax(dim=1) == 0).to(logits.dtype).mean())
        return {"loss": torch.stack(losses).sum(), "top1": torch.stack(hits).mean()}

    @torch.no_grad()
    def _keys(
        self, images: Images, order: Int64[Tensor, " global_batch"] | None
    ) -> Float[Tensor, "global_batch dim"]:
        """Return the normalised keys of the global batch, computed in ``order``."""
        if order is None:
            return distributed.gather(self._embed(images))
        share_indices = order.chunk(distributed.world_size())[distributed.rank()]
        shuffled = distributed.gather(self._embed(distributed.gather(images)[share_indices]))
        keys = torch.empty_like(shuffled)
        keys[order] = shuffled
        return keys

    def _embed(self, images: Images) -> Embeddings:
        return F.normalize(full_precision(self.key_network(images)))

    def after_step(self, progress: float) -> None:
        """Update the key encoder, and push this step's keys to the queue.

        The published code averages before the next keys are computed, which is equivalent.
        """
        follow(self.key_network, self.query_network, self.momentum)
        self.queue.push(torch.cat(self.fresh))
        self.fresh = []
