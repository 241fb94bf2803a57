"""Networks of the package transformers, with the tokens and features of timm's.

A folder that ``save_pretrained`` of transformers wrote describes its network in ``config.json``.
The package itself builds the network and names the tensors, so features are those of the package.
"""

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer.models.reading import State

CLASSES = {
    "beit": "BeitModel",
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "convnext": "ConvNextModel",
    "convnextv2": "ConvNextV2Model",
    "data2vec-vision": "Data2VecVisionModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_convnext": "DINOv3ConvNextModel",
    "dinov3_vit": "DINOv3ViTModel",
    "ijepa": "IJepaModel",
    "resnet": "ResNetModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "swin": "SwinModel",
    "vit": "ViTModel",
    "vit_mae": "ViTMAEModel",
    "vit_msn": "ViTMSNModel",
}
"""The class of the image encoder of each ``model_type`` in a ``config.json``."""

# The layer that makes `pooler_output` of these has weights that most published files lack; their
# classifiers take the class token, or the mean.
_WITHOUT_POOLER = frozenset({"deit", "ijepa", "vit"})
# Networks whose tokens change their number and width from stage to stage.
_IN_STAGES = frozenset({"convnext", "convnextv2", "dinov3_convnext", "resnet", "swin"})
_FINAL_NORMS = ("layernorm", "norm", "post_layernorm")
# A further block in the file, outside of the text encoder and the decoder of the same model.
_BLOCK = re.compile(r"(?!text_model\.|decoder\.)(.*\.)?(layers?|stages|blocks)\.\d+\.")


def transformers_backbone(config: Mapping[str, Any]) -> nn.Module:
    """Return the image encoder that a ``config.json`` of transformers describes, not trained.

    Args:
        config: the content of the file.

    Raises:
        ValueError: if the package is not installed, or the kind of model is unknown.
    """
    kind = str(config.get("model_type"))
    if kind not in CLASSES:
        raise ValueError(
            f"A folder of transformers must hold a model of one of the types {sorted(CLASSES)}, "
            f"but its type is {kind!r}; wrap other ones by `model=custom`."
        )
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"The package transformers must be installed for a folder with a model of type {kind}, "
            "but is not; run `pip install 'ssl_transfer[huggingface]'`."
        ) from error
    model_class = getattr(transformers, CLASSES[kind])
    try:
        described = type(transformers.AutoConfig.for_model(kind)).from_dict(dict(config))
        described = getattr(described, "vision_config", described)
        described._name_or_path = ""  # where the folder lies is no part of the network
        if kind == "vit_mae":
            described.mask_ratio = 0.0
        network: nn.Module = model_class._from_config(
            described, dtype=torch.float32, **_options_of(model_class, kind)
        )
    except Exception as error:  # the package checks a configuration by unrelated exceptions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"The `config.json` of a model of type {kind} must describe a network, but "
            f"transformers refuses it ({reason}); restore the file."
        ) from error
    return TransformersBackbone(network, kind)


def _options_of(model_class: Any, kind: str) -> dict[str, Any]:
    accepted = inspect.signature(model_class.__init__).parameters
    without = kind in _WITHOUT_POOLER and "add_pooling_layer" in accepted
    return {"add_pooling_layer": False} if without else {}


class TransformersBackbone(nn.Module):
    """An image encoder of transformers that ends in pooled features.

    These are the ``pooler_output`` of the network, or else its class token, or without one the mean
    of its patch tokens.

    Args:
        network: the model.
        kind: its ``model_type``, a key of ``CLASSES``.
    """

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Return the pooled features."""
        output = self._run(images)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        tokens: Tensor = output.last_hidden_state
        return tokens[:, 0] if self.cls_token is not None else tokens.mean(dim=1)

    def _run(self, images: Tensor) -> Any:
        if self.kind != "vit_mae":
            return self.network(pixel_values=images)
        # Its patches are sorted by noise before some are masked: an ascending one keeps the order.
        count: int = self.network.embeddings.patch_embeddings.num_patches  # type: ignore[union-attr, assignment]
        noise = torch.arange(count, device=images.device, dtype=images.dtype)
        return self.network(pixel_values=images, noise=noise.expand(len(images), -1))

    # ---- the names that timm's transformers have -------------------------------------------------

    @property
    def blocks(self) -> nn.ModuleList | None:
        """The transformer's blocks; None for another network."""
        if self.kind in _IN_STAGES:
            return None
        depth = self.network.config.num_hidden_layers  # type: ignore[union-attr]
        lists = (m for m in self.network.modules() if isinstance(m, nn.ModuleList))
        return next((one for one in lists if len(one) == depth), None)

    @property
    def cls_token(self) -> Tensor | None:
        """The parameter of the class token."""
        embeddings = getattr(self.network, "embeddings", None)
        for name in ("cls_token", "class_embedding"):
            if isinstance(token := getattr(embeddings, name, None), Tensor):
                return token
        return None

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before those of the patches: class, registers, distillation."""
        registers = getattr(self.network.config, "num_register_tokens", 0)
        return int(self.cls_token is not None) + int(registers) + int(self.kind == "deit")

    @property
    def fc_norm(self) -> nn.Module | None:
        """The norm of BEiT that follows the pooling of its tokens."""
        norm = getattr(getattr(self.network, "pooler", None), "layernorm", None)
        return norm if isinstance(norm, nn.Module) else None

    def forward_intermediates(
        self, images: Float[Tensor, "batch 3 height width"], indices: int, **options: Any
    ) -> list[tuple[Float[Tensor, "batch patches dim"], Float[Tensor, "batch prefix dim"]]]:
        """Return patch and prefix tokens of the last blocks, after the final norm.

        Args:
            images: normalised images.
            indices: number of blocks, counted from the last one.
            options: those of timm's method, of which only the values of ``tokens`` are supported.
        """
        assert self.blocks is not None
        norm = next(getattr(self.network, n) for n in _FINAL_NORMS if hasattr(self.network, n))
        with _outputs_of([*self.blocks[-indices:]]) as outputs:
            self._run(images)
        prefix = self.num_prefix_tokens
        normed = [norm(tokens) for tokens in outputs]
        return [(tokens[:, prefix:], tokens[:, :prefix]) for tokens in normed]

    # ---- weights ---------------------------------------------------------------------------------

    def adapt_weights(self, state: State) -> State:
        """Return a file's tensors under the names of this network; ``load_weights`` calls it.

        Releases of the package name tensors differently; it knows the names of published files
        itself. Heads, text encoders and decoders are left out.
        """
        if not state or "network." in next(iter(state)):  # our own file
            return state
        with _silent():
            model, report = type(self.network).from_pretrained(  # type: ignore[attr-defined]
                None,
                config=self.network.config,
                state_dict=dict(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                **_options_of(type(self.network), self.kind),
            )
        reshaped = {name: shape for name, shape, *_ in report["mismatched_keys"]}
        adapted = {
            f"network.{name}": tensor
            for name, tensor in model.state_dict().items()
            if name not in report["missing_keys"] and name not in reshaped
        }
        adapted |= {f"network.{name}": torch.empty(shape) for name, shape in reshaped.items()}
        further = [name for name in report["unexpected_keys"] if _BLOCK.match(name)]
        return adapted | dict.fromkeys(further, torch.empty(0))


@contextlib.contextmanager
def _outputs_of(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield a list that a pass through blocks fills with the tokens that each returns."""
    outputs: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence the package: ``load_weights`` reports what was matched itself."""
    from transformers.utils import logging as messages

    logging: Any = messages  # without annotations

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
