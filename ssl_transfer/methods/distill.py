"""DISTILL-n: one encoder learns what n frozen ones know, through a head per teacher.

Zhang and Bottou 2023 (https://arxiv.org/abs/2212.07346) distil n networks that were trained
separately into one. Neither the paper's abstract nor its code (github.com/TjuJianyu/RRL at cf818ea)
states the loss, the temperature, the heads or the schedule: all of these are choices of this
project. That there is one head per teacher follows the same author's code for another paper
(``src/run_expt_synthesis.py`` of github.com/TjuJianyu/RFC).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.config.ranges import Positive, checked
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.imagenet_variants import usual_classes
from ssl_transfer.datasets.reader import some
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Method, full_precision
from ssl_transfer.methods.cosine import cosine
from ssl_transfer.methods.multi_crop import encode
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head, build_head, linear_head
from ssl_transfer.preprocessing import Preprocessing

Target = Literal["features", "soft", "hard"]
Distance = Literal["cosine", "mse"]
HeadKind = Literal["linear", "cosine", "identity"]
LabelSets = Literal["same", "any"]

Features = Float[Tensor, "samples dim"]
Scores = Float[Tensor, "samples classes"]


def feature_distance(
    students: Features, teachers: Features, distance: Distance
) -> Float[Tensor, ""]:
    """Return the mean squared distance between two networks' features of the same images.

    Args:
        students: the student's features, mapped to the teacher's width; gradients only flow into
            these.
        teachers: the teacher's features.
        distance: ``mse``: the mean of the squared differences over samples and features, the hint
            loss of Romero et al. 2015 (https://arxiv.org/abs/1412.6550, equation 3) up to its
            factor; ``cosine``: the mean over samples of the squared distance between features of
            length 1, which is ``2 - 2 cos``.
    """
    teachers = teachers.detach()
    if distance == "mse":
        return F.mse_loss(students, teachers)
    return (F.normalize(students) - F.normalize(teachers)).square().sum(dim=1).mean()


def soft_target_loss(students: Scores, teachers: Scores, temperature: float) -> Float[Tensor, ""]:
    """Return ``T^2 KL(softmax(teachers / T) || softmax(students / T))``, the mean over samples.

    Hinton et al. 2015, section 2 (https://arxiv.org/abs/1503.02531): the factor keeps the size of
    the gradient independent of the temperature. The gradient is that of their cross-entropy, from
    which the entropy of the teacher is subtracted, so that the loss of equal scores is 0.

    Args:
        students: class scores of the student; gradients only flow into these.
        teachers: class scores of the teacher.
        temperature: divides both, positive.
    """
    targets = (teachers.detach() / temperature).log_softmax(dim=1)
    predictions = (students / temperature).log_softmax(dim=1)
    divergence = F.kl_div(predictions, targets, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def hard_target_loss(students: Scores, teachers: Scores) -> Float[Tensor, ""]:
    """Return the cross-entropy between the student and the teacher's largest class scores.

    Args:
        students: class scores of the student.
        teachers: class scores of the teacher.
    """
    return F.cross_entropy(students, teachers.argmax(dim=1))


class Distill(Method):
    """Train an encoder to reproduce the outputs of several frozen encoders, each with a head.

    Teachers are in eval mode and see the student's views: the same crops with the same colours,
    each with its own preprocessing. The loss is the mean over the teachers. For class scores from
    linear heads of one label set, the mean of the heads stays beside the encoder as its classifier.

    Args:
        encoder: the student, trained in place.
        num_classes: not used: the labels of the images are not used.
        views: one augmentation or more of one size.
        teachers: the teachers, not changed; head i of the student belongs to teacher i.
        target: what a head reproduces. ``features``: those of the teacher; ``soft``: the class
            scores of the teacher's classifier, softened by the temperature; ``hard``: the class
            that has the largest one.
        distance: distance between features, see ``feature_distance``.
        temperature: temperature of ``soft``.
        head: ``linear``, with a bias; ``cosine``: for class scores, see ``WeightNormCosine``;
            ``identity``: for features that are as many as the student's.
        label_sets: ``same``: teachers of class scores must have the classes of the pre-training
            set, if it has any; ``any``: each may have its own.

    Raises:
        ValueError: if there are no teachers, if a teacher has no classifier although its class
            scores are used, or if the head does not fit the target.
    """

    separable = True
    minimum_batch = 1
    num_views = 1
    more_views = True

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        teachers: Sequence[Encoder],
        target: Target = "features",
        distance: Distance = "cosine",
        temperature: Positive = 4.0,
        head: HeadKind = "linear",
        label_sets: LabelSets = "same",
    ) -> None:
        super().__init__(encoder, num_classes, views)
        if not teachers:
            raise ValueError("`method.teachers` must name at least one encoder, but is empty.")
        self.target, self.distance, self.temperature = target, distance, temperature
        self.kind, self.label_sets = head, label_sets
        self.classifiers = [] if target == "features" else _classifiers(teachers, target)
        self.teachers = nn.ModuleList(teachers).requires_grad_(False).eval()
        self.teacher_heads = nn.ModuleList(one.layers for one in self.classifiers)
        self.teacher_heads.requires_grad_(False).eval()
        self.frozen = tuple(teachers)
        others = dict.fromkeys(teacher.preprocessing for teacher in teachers)
        others.pop(encoder.preprocessing, None)
        self.other_preprocessing: tuple[Preprocessing, ...] = tuple(others)
        widths = [one.outputs for one in self.classifiers] or [t.feature_dim for t in teachers]
        self.heads = nn.ModuleList(self._head(number, dim) for number, dim in enumerate(widths))

    def _head(self, number: int, width: int) -> nn.Module:
        """Return the head for a teacher's output of this width."""
        dim = self.encoder.feature_dim
        if self.kind == "identity":
            if self.target != "features" or width != dim:
                reason = f"the target is {self.target}"
                if self.target == "features":
                    reason = f"`method.teachers[{number}]` has {width} for its {dim}"
                raise ValueError(
                    "`method.head=identity` must have teachers with as many features as the "
                    f"student for `method.target=features`, but {reason}; use method.head=linear."
                )
            return nn.Identity()
        if self.kind == "cosine":
            if self.target == "features":
                raise ValueError(
                    "`method.head` must be linear or identity for `method.target=features`, but is "
                    "cosine, which gives class scores; use method.target=soft, or hard."
                )
            return build_head("weight_norm_cosine", dim, width)
        return build_head("linear", dim, width, init="torch")

    def train(self, mode: bool = True) -> "Distill":
        """Set the mode of all modules except the teachers."""
        super().train(mode)
        self.teachers.eval()
        self.teacher_heads.eval()
        return self

    def constant(self) -> frozenset[str]:
        """Return the names of the teachers' tensors, which checkpoints leave out."""
        theirs = ("teachers.", "teacher_heads.")
        return frozenset(name for name in self.state_dict() if name.startswith(theirs))

    def check(self, dataset: Dataset) -> None:
        """Refuse a pre-training set with other classes than a teacher whose scores are used.

        Raises:
            ValueError: naming the first such teacher.
        """
        if self.label_sets == "any" or not dataset.classes:
            return
        for number, (teacher, head) in enumerate(zip(self.frozen, self.classifiers, strict=False)):
            names = head.classes or usual_classes(head.outputs)
            if names is None and head.outputs == len(dataset.classes):
                continue  # a published file, whose outputs have no names
            if names is None or set(names) != set(dataset.classes):
                theirs = "" if names is None else f" ({some(sorted(names))})"
                raise ValueError(
                    f"`method.teachers[{number}]` (`{teacher.name}`) must have the "
                    f"{len(dataset.classes)} classes of `{dataset.name}` for "
                    f"`method.target={self.target}`, but has {head.outputs} others{theirs}; use "
                    "method.target=features, or accept other classes by method.label_sets=any."
                )

    def forward(
        self, views: tuple[Tensor, ...], targets: Int64[Tensor, "batch *classes"]
    ) -> dict[str, Tensor]:
        """Return the loss of this process's images, and how far student and teachers agree.

        Args:
            views: the student's views, then either the same with each of ``other_preprocessing``,
                or each teacher's features of the only view, with two axes.
            targets: not used.

        Returns:
            ``loss``, and ``cosine``, the mean cosine of the features, or ``agreement``, the share
            of the images to whose teachers' most probable class the student agrees.
        """
        with torch.no_grad():
            outputs = self._taught(views)
        features = encode(self.encoder, views[: len(self.views)]).flatten(0, 1)
        students = [full_precision(head(features)) for head in self.heads]
        with torch.autocast(features.device.type, enabled=False):
            pairs = list(zip(students, outputs, strict=True))
            losses = torch.stack([self._loss(ours, theirs) for ours, theirs in pairs])
            with torch.no_grad():
                agreed = torch.stack([self._agreement(ours, theirs) for ours, theirs in pairs])
        name = "cosine" if self.target == "features" else "agreement"
        return {"loss": losses.mean(), name: agreed.mean()}

    def _loss(self, students: Features, teachers: Features) -> Float[Tensor, ""]:
        if self.target == "features":
            return feature_distance(students, teachers, self.distance)
        if self.target == "soft":
            return soft_target_loss(students, teachers, self.temperature)
        return hard_target_loss(students, teachers)

    def _agreement(self, students: Features, teachers: Features) -> Float[Tensor, ""]:
        if self.target == "features":
            return cosine(students, teachers).mean()
        return (students.argmax(dim=1) == teachers.argmax(dim=1)).to(students.dtype).mean()

    def _taught(self, views: tuple[Tensor, ...]) -> list[Features]:
        """Return each teacher's features or class scores of all views."""
        count = len(self.views)
        if len(views) > count and views[count].ndim == 2:
            features = list(views[count:])
        else:
            prepared = (self.encoder.preprocessing, *self.other_preprocessing)
            shown = dict(zip(prepared, _groups(views, count), strict=True))
            features = [encode(t, shown[t.preprocessing]).flatten(0, 1) for t in self.frozen]
        if self.target != "features":
            pairs = zip(self.teacher_heads, features, strict=True)
            features = [head(rows) for head, rows in pairs]
        return [full_precision(rows) for rows in features]

    @torch.no_grad()
    def trained_head(self, dataset: Dataset) -> Head | None:
        """Return the mean of the student's linear heads, if all have the same classes.

        It is what ``src/run_expt_synthesis_convert_model.py`` of github.com/TjuJianyu/RFC makes of
        the heads: its class scores are the mean of theirs.
        """
        alike = {(one.classes, one.outputs) for one in self.classifiers}
        if self.kind != "linear" or len(alike) != 1:
            return None
        layers = [head for head in self.heads if isinstance(head, nn.Linear)]
        weight = torch.stack([layer.weight for layer in layers]).mean(dim=0)
        bias = torch.stack([layer.bias for layer in layers]).mean(dim=0)
        return Head(linear_head(weight, bias), "linear", self.classifiers[0].classes)


def _groups(views: Sequence[Tensor], size: int) -> list[Sequence[Tensor]]:
    """Return consecutive groups of this many views."""
    return [views[start : start + size] for start in range(0, len(views), size)]


def _classifiers(teachers: Sequence[Encoder], target: Target) -> list[Head]:
    """Return the classifiers of the teachers.

    Raises:
        ValueError: naming the first teacher that has no classifier with one class per image.
    """
    heads = []
    for number, teacher in enumerate(teachers):
        if teacher.head is None or teacher.head.target != "class":
            reason = "its weights hold none, or several"
            if teacher.head is not None:
                reason = "its own gives several classes per image"
            raise ValueError(
                f"`method.teachers[{number}]` (`{teacher.name}`) must have a classifier with one "
                f"class per image for `method.target={target}`, but {reason}; choose a supervised "
                "teacher (compute one of an older version again by force=true), or use "
                "method.target=features."
            )
        heads.append(teacher.head)
    return heads
