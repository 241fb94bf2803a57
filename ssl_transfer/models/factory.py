"""``build``: from an option of ``conf/model`` to an encoder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ssl_transfer import randomness
from ssl_transfer.config import locate
from ssl_transfer.models.encoder import Encoder, require_module, wrap
from ssl_transfer.models.weights import load_weights

_LABELS = frozenset({"_target_", "name", "weights", "preprocessing"})


def build(config: Mapping[str, Any], *, seed: int = 0) -> Encoder:
    """Return the encoder that a node of the configuration describes.

    Args:
        config: the node ``model``, resolved: ``_target_`` (a callable that returns a module),
            ``name``, ``weights`` (arguments of ``load_weights``; nothing is loaded without a
            ``path``), ``preprocessing`` (replaces values of the module's own), and the
            callable's keyword arguments.
        seed: of the initial weights, which depend on nothing else.

    Raises:
        ValueError: in one sentence, if the target cannot be called so, is no encoder, or its
            weights do not fit.
    """
    if not config.get("_target_"):
        raise ValueError(
            "`model._target_` must name a callable that returns a torch.nn.Module as "
            "package.module.name, but is missing."
        )
    target = str(config["_target_"])
    keys = {str(key): value for key, value in config.items() if key not in _LABELS}
    with _seeded(randomness.derive(seed, "init")):
        module = locate(target)(**keys)
        require_module(module)
        encoder = wrap(module, config.get("preprocessing"), name=config.get("name"))
    weights = config.get("weights") or {}
    if weights.get("path"):
        load_weights(encoder, **weights)
    return encoder


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, in which layers are initialised; leave it as it was after."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the generators of all GPUs, too.
        torch.default_generator.manual_seed(seed)
        yield
