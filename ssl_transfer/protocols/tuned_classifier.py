"""What the tuning protocols train: an encoder with one head or a bank of heads."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from ssl_transfer.protocols.classification import classification_loss
from ssl_transfer.protocols.heads import apply_heads
from ssl_transfer.system import distributed
from ssl_transfer.training.learner import Learner
from ssl_transfer.training.trainer import NonFiniteLoss

ClassWeights = Literal["train_frequency", "test_frequency"] | Sequence[float]


class TunedClassifier(Learner):
    """An encoder with one head or a bank of heads.

    The encoder's layers are in train mode where they are trained and in eval mode elsewhere (but
    for ``encoder_mode``). A bank (only for a frozen encoder) sums its heads' losses: no head sees
    another's gradient, so head i is that head trained alone. A head whose loss is not finite any
    more is dropped: it gets no gradient from then on.

    Args:
        encoder: frozen but for ``trained``, in place; the identity where views are features.
        heads: modules from features to logits.
        trained: the encoder's layers that are in train mode, all of whose parameters are trained.
        class_weights: as of ``classification_loss``.
        encoder_mode: ``train`` puts all of the encoder in train mode while the heads train.
    """

    def __init__(
        self,
        encoder: nn.Module,
        heads: Sequence[nn.Module],
        trained: Sequence[nn.Module],
        class_weights: Float[Tensor, " classes"] | None = None,
        *,
        encoder_mode: Literal["eval", "train"] = "eval",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_mode = encoder_mode
        self.heads = nn.ModuleList(heads)
        self.trained = [layer.requires_grad_() for layer in trained]
        # Plain lists hide the layers from `modules()`: they are the encoder's already.
        self.register_buffer("alive", torch.ones(len(heads), dtype=torch.bool))
        self.alive: Tensor
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None
        self.best: BestEpoch | None = None
        self.silenced: list[nn.Module] = []

    def train(self, mode: bool = True) -> "TunedClassifier":
        """Put the heads and the trained layers in train mode, and only those."""
        super().train(mode)
        self.encoder.train(mode and self.encoder_mode == "train")
        for layer in self.trained:
            layer.train(mode)
        return self

    def logits(self, images: Tensor) -> list[Float[Tensor, "batch classes"]]:
        """Return each head's logits."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.trained)):
            features = self.encoder(images)
        return apply_heads(self.heads, features)

    def forward(
        self,
        views: tuple[Tensor, ...],
        targets: Int64[Tensor, " batch"] | Int64[Tensor, "batch classes"],
    ) -> dict[str, Tensor]:
        """Return the classification loss, summed over the heads that are still finite."""
        logits = torch.stack(self.logits(views[0]))
        # Half precision is for the network; a sum over classes would lose too much.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = classification_loss(logits, targets, self.class_weights)
        if len(self.heads) == 1:
            return {"loss": losses[0]}
        finite = losses.detach().isfinite().to(torch.float32)
        # A head that one process loses is lost for all.
        self.alive &= distributed.all_reduce_sum(1 - finite) == 0
        return {"loss": torch.where(self.alive, losses, 0.0).sum()}

    def after_step(self, progress: float) -> None:
        """Give a dropped head no gradient from now on, and end the training with the last head.

        The loss leaves it out, but what comes back through infinite scores is NaN, and for one NaN
        fp16's gradient scaler would drop every step of all heads.

        Raises:
            NonFiniteLoss: if all heads are dropped.
        """
        alive = self.alive.tolist()
        if not any(alive):
            raise NonFiniteLoss("the loss of a head must stay finite, but that of none does.")
        for head, lives in zip(self.heads, alive, strict=True):
            if not lives and head not in self.silenced:
                self.silenced.append(head)
                for parameter in head.parameters():
                    parameter.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]

    def after_epoch(self, passes: float) -> None:
        """Let the best epoch be found, if that is wanted."""
        if self.best is not None:
            self.best.look(self, passes)
            self.train()

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Clip each head by itself, the encoder's parameters with the only head's."""
        if len(self.heads) > 1:
            return [list(head.parameters()) for head in self.heads]
        return super().clip_groups()

    def constant(self) -> frozenset[str]:
        """Return the encoder's tensors that stay as they are: all but the trained layers'."""
        changing = {
            id(tensor)
            for layer in self.trained
            for tensor in itertools.chain(layer.parameters(), layer.buffers())
        }
        if self.encoder_mode == "train":
            changing |= {id(buffer) for buffer in self.encoder.buffers()}
        tensors = itertools.chain(
            self.encoder.named_parameters(prefix="encoder"),
            self.encoder.named_buffers(prefix="encoder"),
        )
        return frozenset(name for name, tensor in tensors if id(tensor) not in changing)

    def changing(self, head: int) -> dict[str, Tensor]:
        """Return the tensors that training changes: of one head, and of the encoder."""
        constant = self.constant()
        own = ("encoder.", f"heads.{head}.")
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(own) and name not in constant
        }


class BestEpoch(nn.Module):
    """Each head's best epoch so far, with its weights; a checkpoint of the learner holds it.

    Of equally good epochs the first one counts.

    Args:
        heads: number of heads.
        score: from a classifier to each head's score, larger is better (``None``: no number).
    """

    def __init__(self, heads: int, score: Callable[[TunedClassifier], list[float | None]]) -> None:
        super().__init__()
        self.score = score
        self.scores: list[float | None] = [None] * heads
        self.passes = [0.0] * heads
        """Passes over the training images at which each head was best."""
        self.weights: dict[str, Tensor] = {}

    def look(self, learner: TunedClassifier, passes: float) -> None:
        """Score the classifier as it is, and keep the heads that have become better."""
        # One process decides, so that all of them keep the same epoch.
        for head, score in enumerate(distributed.broadcast_object(self.score(learner))):
            best = self.scores[head]
            if score is not None and (best is None or score > best):
                self.scores[head], self.passes[head] = score, passes
                for name, tensor in learner.changing(head).items():
                    self.weights[name] = tensor.detach().to("cpu", copy=True)

    def restore(self, learner: TunedClassifier) -> None:
        """Give the classifier its best weights, head by head."""
        learner.load_state_dict({**learner.state_dict(), **self.weights})

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"scores": self.scores, "passes": self.passes, "weights": self.weights}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what a checkpoint holds."""
        self.scores, self.passes = list(state["scores"]), list(state["passes"])
        self.weights = dict(state["weights"])


def class_weights(
    choice: ClassWeights,
    taught: Int64[np.ndarray, " classes"],
    tested: Int64[np.ndarray, " classes"],
) -> Float64[np.ndarray, " classes"]:
    """Return factors of the classes' losses that average 1 over the images trained on.

    Args:
        choice: weights up to a common factor, or which counts n_c of n images give 1 - n_c / n.
        taught: images per class that are trained on.
        tested: likewise of the test split.

    Raises:
        ValueError: if no image that is trained on has a weight above 0.
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
