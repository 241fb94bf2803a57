"""SEED: distillation without labels (Fang et al. 2021, https://arxiv.org/abs/2101.04731)."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.config.ranges import Positive, Width, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Method, full_precision
from ssl_transfer.methods.moco import MLP, Embeddings, build_head, contrastive_logits
from ssl_transfer.methods.multi_crop import encode
from ssl_transfer.methods.queue import Queue
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed

Output = Literal["embeddings", "features"]


def similarity_distillation(
    students: Embeddings,
    teachers: Embeddings,
    queue: Float[Tensor, "rows dim"],
    *,
    temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, ""]:
    """Return the cross-entropy between the teacher's and the student's similarities.

    Both compare an image with the teacher's embeddings of itself and of earlier images, each
    through a softmax with its own temperature (section 3.2 of the paper; ``forward`` in
    ``seed/builder.py`` and ``soft_cross_entropy`` in ``tools/utils.py`` of jacobswan1/SEED). The
    teacher's similarity to its own embedding is 1, the maximum, so that with a low teacher
    temperature the target is almost that of ``moco.info_nce``.

    Args:
        students: the student's embeddings, of any length but 0; gradients only flow into these.
        teachers: the teacher's embeddings of the same images, in the same order, of any length but
            0.
        queue: the teacher's embeddings of earlier images, of length 1.
        temperature: divides the student's cosines.
        teacher_temperature: divides the teacher's cosines.
    """
    teachers = teachers.detach()
    targets = contrastive_logits(teachers, teachers, queue, teacher_temperature).softmax(dim=1)
    return F.cross_entropy(contrastive_logits(students, teachers, queue, temperature), targets)


class SEED(Method):
    """Train a small encoder to reproduce the similarities between images of a large encoder.

    The teacher is frozen and always in eval mode. It sees the student's views: the same crops with
    the same colours, with the teacher's own preprocessing.

    The loss of further, smaller views is added. They have their own queue, which takes the first of
    them (``seed/small_patch_builder.py`` and ``main_small-patch.py`` of jacobswan1/SEED).

    Args:
        encoder: the student, trained in place.
        num_classes: not used.
        views: one augmentation, or more, of which those after the first have one size.
        teacher: the teacher, not changed.
        temperature: temperature of the student.
        teacher_temperature: see ``similarity_distillation``.
        queue_size: number of earlier images; at least the batch.
        mlp: the student's head, see ``moco.build_head``; as wide as the teacher's output at its
            end.
        teacher_output: ``embeddings``: the output of the projector that the teacher was trained
            with, as published; ``features``: the output of its encoder.

    Raises:
        ValueError: if a value is out of its range, or the teacher has no projector to use.
    """

    num_views = 1
    more_views = True
    smaller_views = True

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        teacher: Encoder,
        temperature: Positive,
        teacher_temperature: Positive,
        queue_size: Width,
        mlp: MLP,
        teacher_output: Output = "features",
    ) -> None:
        super().__init__(encoder, num_classes, views)
        if len(sizes := {view.size for view in views[1:]}) > 1:
            raise ValueError(
                "`method.views` after the first must have one `size` for SEED, but have "
                f"{sorted(sizes, key=str)}."
            )
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.embeds = teacher_output == "embeddings"
        dim = _embedding_dim(teacher) if self.embeds else teacher.feature_dim
        self.teacher = teacher.requires_grad_(False)
        self.teacher.eval()
        if teacher.preprocessing != encoder.preprocessing:
            self.other_preprocessing = (teacher.preprocessing,)
        self.head = build_head(encoder.feature_dim, dim, mlp)
        self.queue = Queue(queue_size, dim)
        self.small_queue = Queue(queue_size, dim) if len(views) > 1 else None
        self.maximum_batch = queue_size
        # Embeddings of this step for the queues: large views, and the first small views.
        self.fresh: list[list[Tensor]] = []

    @property
    def queues(self) -> list[Queue]:
        """The queues of the teacher's embeddings of large views and of small views."""
        return [queue for queue in (self.queue, self.small_queue) if queue is not None]

    def train(self, mode: bool = True) -> "SEED":
        """Set the mode of all modules except the teacher."""
        super().train(mode)
        self.teacher.eval()
        return self

    def constant(self) -> frozenset[str]:
        """Return the names of the teacher's tensors, which checkpoints leave out."""
        return frozenset(name for name in self.state_dict() if name.startswith("teacher."))

    def forward(
        self, views: tuple[Float[Tensor, "batch 3 _ _"], ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss of this process's images, and the fraction that match themselves.

        Args:
            views: the student's views, then the teacher's if it has another preprocessing.
            targets: not used.
        """
        count = len(self.views)
        with torch.no_grad():
            teachers = F.normalize(full_precision(self._taught(views[-count:])), dim=2)
        # Only the first small view enters its queue, as published.
        self.fresh.append([distributed.gather(view) for view in teachers[:, :2].unbind(1)])
        students = full_precision(self.head(encode(self.encoder, views[:count]).flatten(0, 1)))
        students = students.view(*teachers.shape[:2], -1)
        with torch.autocast(students.device.type, enabled=False):
            losses = [
                similarity_distillation(
                    students[:, part].flatten(0, 1),
                    teachers[:, part].flatten(0, 1),
                    queue.rows,
                    temperature=self.temperature,
                    teacher_temperature=self.teacher_temperature,
                )
                for part, queue in zip((slice(1), slice(1, None)), self.queues, strict=False)
            ]
            first, own = students[:, 0].detach(), teachers[:, 0]
            cosines = contrastive_logits(first, own, self.queue.rows, 1.0)
        top1 = (cosines.argmax(dim=1) == 0).to(cosines.dtype).mean()
        return {"loss": torch.stack(losses).sum(), "top1": top1}

    def _taught(
        self, views: Sequence[Float[Tensor, "batch 3 _ _"]]
    ) -> Float[Tensor, "batch views dim"]:
        """Return the teacher's embeddings of all views."""
        features = encode(self.teacher, views)
        if not self.embeds:
            return features
        assert self.teacher.projector is not None
        embeddings: Tensor = self.teacher.projector(features.flatten(0, 1))
        return embeddings.view(*features.shape[:2], -1)

    def after_step(self, progress: float) -> None:
        """Push this step's embeddings to the queues."""
        for queue, parts in zip(self.queues, zip(*self.fresh, strict=True), strict=True):
            queue.push(torch.cat(parts))
        self.fresh = []


def _embedding_dim(teacher: Encoder) -> int:
    """Return the width of the output of a teacher's projector."""
    layers = () if teacher.projector is None else teacher.projector.modules()
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if linear and linear[0].in_features == teacher.feature_dim:
        return linear[-1].out_features
    problem = (
        f"takes {linear[0].in_features} features for its {teacher.feature_dim}"
        if linear
        else "is not beside its weights"
    )
    raise ValueError(
        "`method.teacher` must have the projector that it was trained with for "
        f"`method.teacher_output=embeddings`, but that of `{teacher.name}` {problem}; choose a "
        "teacher of MoCo, SwAV or another method with a projector (pre-train one again by "
        "`force=true` if its projector was not saved), or use its features by "
        "`method.teacher_output=features`."
    )
