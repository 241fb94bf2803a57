"""SEED: distillation without labels (Fang et al. 2021, https://arxiv.org/abs/2101.04731)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer import distributed
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Method, full_precision
from ssl_transfer.methods.moco import MLP, Embeddings, build_head, contrastive_logits
from ssl_transfer.methods.queue import Queue
from ssl_transfer.models import Encoder


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
    teacher's similarity to itself is 1, the highest, so that a low temperature of its makes the
    target almost that of ``moco.info_nce``.

    Args:
        students: of any length but 0; gradients flow into these alone.
        teachers: of the same images, in the same order, of any length but 0.
        queue: the teacher's embeddings of earlier images, of length 1.
        temperature: divides the student's cosines.
        teacher_temperature: divides the teacher's.
    """
    teachers = teachers.detach()
    targets = contrastive_logits(teachers, teachers, queue, teacher_temperature).softmax(dim=1)
    return F.cross_entropy(contrastive_logits(students, teachers, queue, temperature), targets)


class SEED(Method):
    """Let a small encoder see the similarities between images that a large one sees.

    The teacher is frozen, and in eval mode throughout. It sees the view that the student sees:
    the same crop with the same colours, prepared as it wants it. Its embeddings are its features,
    for a projector is no part of an encoder.

    Args:
        encoder: trained in place; the student.
        num_classes: not used.
        views: one augmentation.
        teacher: not changed.
        temperature: of the student.
        teacher_temperature: see ``similarity_distillation``.
        queue_size: number of earlier images; at least the batch.
        mlp: the student's head, see ``moco.build_head``; as wide as the teacher's features at its
            end.

    Raises:
        ValueError: if a value is out of its range.
    """

    num_views = 1

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        teacher: Encoder,
        temperature: float,
        teacher_temperature: float,
        queue_size: int,
        mlp: MLP,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        for name, value in (
            ("temperature", temperature),
            ("teacher_temperature", teacher_temperature),
        ):
            if value <= 0:
                raise ValueError(f"`method.{name}` must be positive, but is {value}.")
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.teacher = teacher.requires_grad_(False)
        self.teacher.eval()
        if teacher.preprocessing != encoder.preprocessing:
            self.other_preprocessing = (teacher.preprocessing,)
        self.head = build_head(encoder.feature_dim, teacher.feature_dim, mlp)
        self.queue = Queue(queue_size, teacher.feature_dim)
        self.fresh: list[Tensor] = []  # embeddings of this step, until the queue takes them

    def train(self, mode: bool = True) -> "SEED":
        """Set the mode of all but the teacher."""
        super().train(mode)
        self.teacher.eval()
        return self

    def constant(self) -> frozenset[str]:
        """Return the names of the teacher's tensors, which checkpoints leave out."""
        return frozenset(name for name in self.state_dict() if name.startswith("teacher."))

    def forward(
        self, views: tuple[Float[Tensor, "batch 3 _ _"], ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss of this process's images, and how many find themselves (a fraction).

        Args:
            views: what the student sees, then what the teacher sees if that is prepared otherwise.
            targets: not used.
        """
        with torch.no_grad():
            teachers = F.normalize(full_precision(self.teacher(views[-1])))
        self.fresh.append(distributed.gather(teachers))
        students = full_precision(self.head(self.encoder(views[0])))
        with torch.autocast(students.device.type, enabled=False):
            loss = similarity_distillation(
                students,
                teachers,
                self.queue.rows,
                temperature=self.temperature,
                teacher_temperature=self.teacher_temperature,
            )
            cosines = contrastive_logits(students.detach(), teachers, self.queue.rows, 1.0)
        return {"loss": loss, "top1": (cosines.argmax(dim=1) == 0).to(loss.dtype).mean()}

    def after_step(self, progress: float) -> None:
        """Let the queue take this step's embeddings."""
        self.queue.push(torch.cat(self.fresh))
        self.fresh = []
