"""The model of the tuning protocols: an encoder with one head or a bank of heads."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from ssl_transfer.models.drop_path import DropPaths
from ssl_transfer.models.heads import apply_heads
from ssl_transfer.models.trainable import Trained
from ssl_transfer.protocols.classification import classification_loss, image_losses
from ssl_transfer.protocols.domain_risks import DomainObjective
from ssl_transfer.system import distributed
from ssl_transfer.system.counts import Count
from ssl_transfer.training.learner import Learner
from ssl_transfer.training.trainer import NonFiniteLoss

ClassWeights = Literal["train_frequency", "test_frequency"] | Sequence[float]


class TunedClassifier(Learner):
    """An encoder with one head or a bank of heads.

    The encoder's trained layers are in train mode, the others in eval mode (except with
    ``encoder_mode=train``). The loss of a bank (only for an encoder without trained layers) is the
    sum of its heads' losses: heads do not share gradients, so that each head is trained as if it
    were alone. A head whose loss becomes infinite or NaN is dropped: it gets no gradient from then
    on.

    Args:
        encoder: the network below the heads, all of whose parameters are frozen except those of
            ``trained``. The identity if views are features.
        heads: modules from its outputs to logits.
        trained: the encoder's trained parameters, and its layers that are in train mode.
        class_weights: as in ``classification_loss``.
        encoder_mode: ``train`` puts the whole encoder in train mode while the heads train.
        objective: the loss on batches of several domains (``None``: the mean over images).
    """

    def __init__(
        self,
        encoder: nn.Module,
        heads: Sequence[nn.Module],
        trained: Trained = Trained(),  # noqa: B008 - immutable
        class_weights: Float[Tensor, " classes"] | None = None,
        *,
        encoder_mode: Literal["eval", "train"] = "eval",
        objective: DomainObjective | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_mode = encoder_mode
        self.heads = nn.ModuleList(heads)
        # A plain tuple hides the layers from `modules()`: they are already part of the encoder.
        self.trained = trained
        for parameter in trained.parameters:
            parameter.requires_grad_()
        self.register_buffer("alive", torch.ones(len(heads), dtype=torch.bool))
        self.alive: Tensor
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None
        self.objective = objective
        self.separable = objective is None
        self.best: BestEpoch | None = None
        self.silenced: list[nn.Module] = []
        self.drop_paths: DropPaths | None = None
        self.passed = 0
        """Images of this step, in this process, whose drop paths are drawn."""
        self.places: tuple[int, ...] = (0,)
        """For each input of the encoder, the number of its view."""

    def set_drop_paths(self, paths: DropPaths, batch_size: int) -> None:
        """Draw the encoder's drop paths in every step, for the images of the global batch.

        Args:
            paths: the drop paths.
            batch_size: images per step over all processes.
        """
        self.drop_paths, self.batch_size = paths, batch_size
        # Part of the state, so that a resumed training continues with the same draws.
        self.step_count = Count(self, "steps")

    def before_pass(self, samples: int) -> None:
        """Draw the drop paths of the next micro-batch of this process's share of the batch."""
        if self.drop_paths is None:
            return
        share = self.batch_size // distributed.world_size()
        first = distributed.rank() * share + self.passed
        positions = range(first, first + samples)
        self.drop_paths.draw(int(self.step_count), positions, self.alive.device)
        self.passed += samples

    def train(self, mode: bool = True) -> "TunedClassifier":
        """Put only the heads and the trained layers in train mode."""
        super().train(mode)
        self.encoder.train(mode and self.encoder_mode == "train")
        for layer in self.trained.layers:
            layer.train(mode)
        return self

    def logits(self, *views: Tensor) -> list[Float[Tensor, "batch classes"]]:
        """Return each head's logits.

        Args:
            views: images, or features. Several batches hold the same images, prepared as different
                members of the encoder expect them (see ``places``).
        """
        inputs = [views[place] for place in self.places]
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.trained.parameters)):
            features = self.encoder(*inputs)
        return apply_heads(self.heads, features)

    def forward(
        self,
        views: tuple[Tensor, ...],
        targets: Int64[Tensor, " batch"] | Int64[Tensor, "batch classes"],
    ) -> dict[str, Tensor]:
        """Return the classification loss, summed over the heads that are still finite."""
        logits = torch.stack(self.logits(*views))
        # Only the network uses half precision; the sum over classes needs float32.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.objective is None:
            losses = classification_loss(logits, targets, self.class_weights)
        else:
            losses = self.objective(image_losses(logits, targets, self.class_weights))
        if len(self.heads) == 1:
            return {"loss": losses[0]}
        finite = losses.detach().isfinite().to(torch.float32)
        # A head that diverges in one process is dropped in all.
        self.alive &= distributed.all_reduce_sum(1 - finite) == 0
        return {"loss": torch.where(self.alive, losses, 0.0).sum()}

    def after_step(self, progress: float) -> None:
        """Stop the gradient of dropped heads; end the training if all heads are dropped.

        The loss excludes a dropped head, but the backward pass through its infinite scores gives
        NaN, and a single NaN would make fp16's gradient scaler skip every step of all heads.

        Raises:
            NonFiniteLoss: if all heads are dropped.
        """
        if self.drop_paths is not None:
            self.step_count.add(1)
            self.passed = 0
        if self.objective is not None:
            self.objective.after_step()
        if len(self.heads) == 1:
            return  # the loss of a single head is the training's
        alive = self.alive.tolist()
        if not any(alive):
            raise NonFiniteLoss("the loss of a head must stay finite, but that of none does.")
        for head, lives in zip(self.heads, alive, strict=True):
            if not lives and head not in self.silenced:
                self.silenced.append(head)
                for parameter in head.parameters():
                    parameter.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]

    def starts_anew(self, step: int) -> bool:
        """Return whether the penalty of domains begins with a step after the first one."""
        return self.objective is not None and 0 < step == self.objective.from_step

    def after_epoch(self, passes: float) -> None:
        """Score the epoch if the best epoch is selected."""
        if self.best is not None:
            self.best.look(self, passes)
            self.train()

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Clip each head separately; a trained encoder is clipped together with its only head."""
        if len(self.heads) > 1:
            return [list(head.parameters()) for head in self.heads]
        return super().clip_groups()

    def constant(self) -> frozenset[str]:
        """Return the names of the encoder's tensors that training does not change."""
        changing = {id(tensor) for tensor in self.trained.tensors()}
        if self.encoder_mode == "train":
            changing |= {id(buffer) for buffer in self.encoder.buffers()}
        tensors = itertools.chain(
            self.encoder.named_parameters(prefix="encoder"),
            self.encoder.named_buffers(prefix="encoder"),
        )
        return frozenset(name for name, tensor in tensors if id(tensor) not in changing)

    def changing(self, head: int) -> dict[str, Tensor]:
        """Return the tensors of one head and of the encoder that training changes."""
        constant = self.constant()
        own = ("encoder.", f"heads.{head}.")
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(own) and name not in constant
        }


class BestEpoch(nn.Module):
    """Each head's best epoch so far, with its weights; part of the learner's checkpoint.

    If several epochs are equally good, the first one counts.

    Args:
        heads: number of heads.
        score: function from a classifier to each head's score, larger is better (``None``: not
            finite).
    """

    def __init__(self, heads: int, score: Callable[[TunedClassifier], list[float | None]]) -> None:
        super().__init__()
        self.score = score
        self.scores: list[float | None] = [None] * heads
        self.passes = [0.0] * heads
        """Passes over the training images at each head's best epoch."""
        self.weights: dict[str, Tensor] = {}

    def look(self, learner: TunedClassifier, passes: float) -> None:
        """Score the current classifier, and store the heads that have improved."""
        # One process decides, so that all processes store the same epoch.
        for head, score in enumerate(distributed.broadcast_object(self.score(learner))):
            best = self.scores[head]
            if score is not None and (best is None or score > best):
                self.scores[head], self.passes[head] = score, passes
                for name, tensor in learner.changing(head).items():
                    self.weights[name] = tensor.detach().to("cpu", copy=True)

    def restore(self, learner: TunedClassifier) -> None:
        """Load each head's best weights into the classifier."""
        learner.load_state_dict({**learner.state_dict(), **self.weights})

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"scores": self.scores, "passes": self.passes, "weights": self.weights}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.scores, self.passes = list(state["scores"]), list(state["passes"])
        self.weights = dict(state["weights"])


def class_weights(
    choice: ClassWeights,
    taught: Int64[np.ndarray, " classes"],
    tested: Int64[np.ndarray, " classes"],
) -> Float64[np.ndarray, " classes"]:
    """Return factors of the classes' losses that average 1 over the training images.

    Args:
        choice: weights up to a common factor, or the split whose counts n_c of n images define the
            weights 1 - n_c / n.
        taught: number of training images per class.
        tested: number of test images per class.

    Raises:
        ValueError: if no training image has a weight above 0.
    """
    if isinstance(choice, str):
        counts = taught if choice == "train_frequency" else tested
        weights = 1 - counts / counts.sum()
    else:
        weights = np.asarray(choice, dtype=np.float64)
    mean = float((weights * taught).sum() / taught.sum())
    if mean <= 0:
        raise ValueError(
            "`class_weights` must leave a weight above 0 to some of the training images, but all "
            f"have 0 by {choice}; give numbers, or set it to null."
        )
    scaled: Float64[np.ndarray, " classes"] = weights / mean
    return scaled
