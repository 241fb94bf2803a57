"""The parts of an encoder that tuning protocols train; each is a pure function of an encoder."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.batch_norm import Scope, batch_norm_layers
from ssl_transfer.models.depth import depths_of
from ssl_transfer.models.encoder import Encoder

Trainable = Literal["head", "batch_norm", "norm", "bias", "last_block", "all"]


class Trained(NamedTuple):
    """What a training changes of an encoder; all else stays as it is, bit for bit.

    Args:
        parameters: the trained parameters.
        layers: the layers in train mode, whose buffers, such as running statistics, move.
    """

    parameters: tuple[nn.Parameter, ...] = ()
    layers: tuple[nn.Module, ...] = ()

    @classmethod
    def of(cls, layers: Iterable[nn.Module]) -> "Trained":
        """Return whole layers: their parameters are trained, and they are in train mode."""
        layers = tuple(layers)
        # A parameter that several layers share counts once.
        own = {id(p): p for layer in layers for p in layer.parameters()}
        return cls(tuple(own.values()), layers)

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor that the training changes."""
        yield from self.parameters
        yield from itertools.chain.from_iterable(layer.buffers() for layer in self.layers)


def trained_part(
    encoder: Encoder,
    trainable: Trainable,
    *,
    bn_scope: Scope = "all",
    modules: Sequence[str] | None = None,
) -> Trained:
    """Return the part of an encoder that a protocol trains.

    Args:
        encoder: the encoder.
        trainable: ``head``: nothing; ``batch_norm``: see ``batch_norm_layers``; ``norm``: see
            ``norms``; ``bias``: see ``biases``; ``last_block``: see ``last_block``; ``all``.
        bn_scope: layers of ``batch_norm``.
        modules: names of the backbone's modules that ``last_block`` trains (``None``: by rule).

    Raises:
        NotApplicable: if the encoder has no such layers or parameters.
        ValueError: if it is unknown which part this is.
    """
    if trainable == "batch_norm":
        return Trained.of(batch_norm_layers(encoder, bn_scope).values())
    if trainable == "norm":
        return norms(encoder)
    if trainable == "bias":
        return biases(encoder)
    if trainable == "last_block":
        return last_block(encoder) if modules is None else named_modules(encoder, modules)
    return Trained.of([encoder] if trainable == "all" else [])


def norms(encoder: Encoder) -> Trained:
    """Return the affine parameters of every normalisation layer, and these layers in train mode.

    These are BatchNorm, LayerNorm, GroupNorm, RMSNorm and InstanceNorm of torch, their subclasses,
    and layers of other code whose class has "norm" in its name and whose own parameters are vectors
    (timm's ``RmsNorm``, ``GlobalResponseNorm``). BatchNorm layers use the statistics of the batch,
    as in BN-tuning, so that both are the same on a network without other norms.

    Raises:
        NotApplicable: if the encoder has no normalisation layer with parameters.
    """
    layers = [layer for layer in encoder.backbone.modules() if _is_norm(layer)]
    parameters = {id(p): p for layer in layers for p in layer.parameters(recurse=False)}
    if not parameters and not any(isinstance(layer, _BatchNorm) for layer in layers):
        raise NotApplicable(
            f"`norm_tune` needs normalisation layers with weights, but `{encoder.name}` has none; "
            "bias_tune or last_block may be applicable."
        )
    return Trained(tuple(parameters.values()), tuple(layers))


def _is_norm(layer: nn.Module) -> bool:
    if isinstance(layer, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return True
    own = list(layer.parameters(recurse=False))
    are_vectors = all(p.numel() == max(p.shape, default=1) for p in own)
    return "norm" in type(layer).__name__.lower() and bool(own) and are_vectors


def biases(encoder: Encoder) -> Trained:
    """Return every bias of the encoder, those of norms included; all layers stay in eval mode.

    BitFit, Ben Zaken et al. 2022 (https://arxiv.org/abs/2106.10199): the parameters named ``bias``
    or ``…_bias`` (the queries' and values' of BEiT). Weights of norms, position embeddings and
    running statistics stay as they are.

    Raises:
        NotApplicable: if the encoder has no bias.
    """
    found = tuple(
        parameter
        for name, parameter in encoder.backbone.named_parameters()
        if name.rpartition(".")[2] == "bias" or name.endswith("_bias")
    )
    if not found:
        raise NotApplicable(f"`bias_tune` needs biases, but `{encoder.name}` has none.")
    return Trained(found)


def last_block(encoder: Encoder) -> Trained:
    """Return the last residual stage or transformer block and what lies behind it, in train mode.

    This is ``layer4`` of a ResNet, the last block and the final norm of a vision transformer, the
    last stage with the final norm of ConvNeXt, and the last stage with the last convolution of
    EfficientNet and MobileNet; ``depth_of`` states the rule for each architecture. The last part of
    each member is trained of several encoders.

    Raises:
        ValueError: if the architecture is unknown.
    """
    names = []
    for prefix, depth in depths_of(encoder).items():
        if depth is None:
            raise ValueError(
                f"the last block of `{encoder.name}` must be known to be trained, but "
                f"{type(encoder.backbone).__name__} is an unknown architecture; name its modules, "
                f"for example `protocol.trainable_modules=[{_last_child(encoder.backbone)}]`."
            )
        names += [f"{prefix}{name}" for name in (*depth.blocks[-1], *depth.behind)]
    return named_modules(encoder, names)


def named_modules(encoder: Encoder, names: Sequence[str]) -> Trained:
    """Return modules of the backbone by their names, in train mode.

    Raises:
        ValueError: if there is no such module, or it has no parameters.
    """
    known = dict(encoder.backbone.named_modules())
    for name in names:
        if name not in known or next(known[name].parameters(), None) is None:
            usable = [n for n, m in encoder.backbone.named_children() if list(m.parameters())]
            raise ValueError(
                f"`protocol.trainable_modules` must name modules of `{encoder.name}` with "
                f"parameters, but `{name}` is none; it has {', '.join(usable) or 'none'}, and "
                "modules inside of these are named with dots, as in `layer4.1`."
            )
    return Trained.of(known[name] for name in names)


def _last_child(network: nn.Module) -> str:
    """Return the last child with parameters, as an example."""
    names = [name for name, child in network.named_children() if list(child.parameters())]
    return names[-1] if names else "layer4"
