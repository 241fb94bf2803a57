"""BN-tuning of few-shot episodes: each has its own BatchNorm affines, statistics and head.

The other weights are frozen and shared, so that the images of several episodes pass the network in
one batch; only the BatchNorm layers treat each episode's part on its own. The encoder's own weights
are never changed: every episode starts from copies.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ssl_transfer.context import Context
from ssl_transfer.estimators.episode_classifiers import (
    EpisodeHeads,
    HeadTraining,
    Scores,
    episode_losses,
    initial_head,
)
from ssl_transfer.models import Encoder
from ssl_transfer.models.batch_norm import Scope, batch_norm_layers
from ssl_transfer.models.encoder import evaluating
from ssl_transfer.training.trainer import autocast

Statistics = Literal["support", "pretrained"]
"""What the trained BatchNorm layers normalise by, see ``EpisodeTuning``."""
State = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class EpisodeTuning:
    """The training of BatchNorm affines and a linear head on the support of an episode.

    Args:
        training: budget and optimizer; each step uses the whole support.
        encoder_lr: learning rate of the affines (``None``: that of the head).
        scope: see ``batch_norm_layers``.
        statistics: ``support``: in training, the layers of the scope normalise by the mean and
            variance of the support, to which their running statistics move; queries are normalised
            by the running statistics after the last step. ``pretrained``: support and queries are
            normalised by the running statistics of the pre-trained encoder.
        normalise: whether features are scaled to length 1 before the head.
    """

    training: HeadTraining
    encoder_lr: float | None = None
    scope: Scope = "all"
    statistics: Statistics = "support"
    normalise: bool = False


def tuned_scores(
    encoder: Encoder,
    support: Float[Tensor, "E K S 3 height width"],
    queries: Float[Tensor, "E Q 3 height width"],
    tuning: EpisodeTuning,
    context: Context,
) -> Scores:
    """Return the class scores of the queries of each episode; the encoder stays as it is.

    Queries are judged in eval mode, so that they have no effect on each other.

    Args:
        encoder: the encoder, on the context's device and of its type.
        support: images with known classes, preprocessed.
        queries: images to classify, preprocessed.
        tuning: how the encoder is trained.
        context: the run's context.

    Raises:
        NotApplicable: if the encoder has no BatchNorm.
    """
    episodes, ways, shots = support.shape[:3]
    training = tuning.training
    layers = batch_norm_layers(encoder, tuning.scope)
    affines, statistics = (
        _copies(layers, episodes, kind) for kind in ("named_parameters", "named_buffers")
    )
    first = initial_head(encoder.feature_dim, ways, training.seed).requires_grad_(False)
    weight = first.weight.to(support).repeat(episodes, 1, 1)
    heads = EpisodeHeads("linear", weight, first.bias)
    encoder_lr = training.lr if tuning.encoder_lr is None else tuning.encoder_lr
    optimizer = training.optimizer(
        [
            {"params": list(heads.parameters())},
            {"params": list(affines.values()), "lr": encoder_lr},
        ]
    )

    def logits(images: Float[Tensor, "E N 3 height width"]) -> Float[Tensor, "E N K"]:
        with autocast(context), PerEpisode():
            state = {**affines, **statistics}
            output = functional_call(encoder.backbone, state, (images.flatten(0, 1),))
        features = output.to(context.dtype).view(episodes, -1, output.shape[1])
        scores: Tensor = heads(F.normalize(features, dim=2) if tuning.normalise else features)
        return scores

    images = support.flatten(1, 2)
    labels = torch.arange(ways, device=support.device).repeat_interleave(shots)
    trained = layers.values() if tuning.statistics == "support" else ()
    with _modes(encoder, training=trained), torch.enable_grad():
        for _ in range(training.length(images.shape[1])):
            loss = episode_losses(logits(images), labels.expand(episodes, -1)).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    size = max(1, context.batch_size_eval // episodes)
    with _modes(encoder), torch.no_grad():
        return torch.cat([logits(part) for part in torch.split(queries, size, dim=1)], dim=1)


def _copies(
    layers: Mapping[str, nn.Module],
    episodes: int,
    kind: Literal["named_parameters", "named_buffers"],
) -> State:
    """Return a copy of the layers' own tensors for each episode, by their names in the network.

    A number, such as the count of batches, is shared.
    """
    copies = {}
    for path, layer in layers.items():
        for name, tensor in getattr(layer, kind)(recurse=False):
            values = tensor.detach().clone()
            rows = values.repeat(episodes, 1) if values.ndim else values
            copies[f"{path}.{name}"] = rows.requires_grad_(kind == "named_parameters")
    return copies


@contextlib.contextmanager
def _modes(encoder: nn.Module, training: Any = ()) -> Iterator[None]:
    """Put the encoder in eval mode and some layers in train mode; restore the modes and freezes."""
    frozen = [(parameter, parameter.requires_grad) for parameter in encoder.parameters()]
    with evaluating(encoder):
        encoder.requires_grad_(False)
        for layer in training:
            layer.train()
        try:
            yield
        finally:
            for parameter, required in frozen:
                parameter.requires_grad_(required)


class PerEpisode(TorchFunctionMode):
    """Inside this mode, batch normalisation with a row of values per episode is by episode."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace ``torch.nn.functional.batch_norm``; call everything else as it is."""
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    images: Float[Tensor, "samples channels *places"],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Tensor, "samples channels *places"]:
    """Normalise as ``torch.nn.functional.batch_norm``, but each episode's samples on their own.

    Values are ``[episodes, channels]``; samples of one episode follow each other.
    """
    rows = [
        values for values in (running_mean, running_var, weight, bias)
        if values is not None and values.ndim == 2
    ]  # fmt: skip
    if not rows:  # a layer outside of the scope
        return F.batch_norm(
            images, running_mean, running_var, weight, bias, training, momentum, eps
        )
    grouped = torch.unflatten(images, 0, (len(rows[0]), -1))
    if training:
        axes = (1, *range(3, grouped.ndim))
        exact = grouped if grouped.dtype == torch.float64 else grouped.float()
        var, mean = torch.var_mean(exact, dim=axes, correction=0)
        if running_mean is not None and running_var is not None:
            count = grouped.numel() // mean.numel()
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean), momentum)
                running_var.lerp_(var.to(running_var) * count / (count - 1), momentum)
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, var = running_mean, running_var
    scale = (var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (*scale.shape[:1], 1, *scale.shape[1:], *[1] * (grouped.ndim - 3))
    normalised = torch.addcmul(shift.view(shape), grouped, scale.view(shape))
    return normalised.to(images.dtype).flatten(0, 1)
