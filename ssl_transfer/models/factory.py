"""``build``, which makes an encoder from an option of ``conf/model``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer import randomness
from ssl_transfer.config import locate
from ssl_transfer.models.columns import keep_columns
from ssl_transfer.models.encoder import Encoder, require_module, wrap
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.published_preprocessing import stated_preprocessing
from ssl_transfer.models.tokens import choose_features
from ssl_transfer.models.weights import load_weights, weights_file
from ssl_transfer.system import hub
from ssl_transfer.system.weights_files import find_weights, say_terms

_LABELS = frozenset(
    {"_target_", "name", "weights", "preprocessing", "features", "columns", "facts"}
)


@randomness.preserved()
def build(config: Mapping[str, Any], *, seed: int = 0) -> Encoder:
    """Return the encoder that a node of the configuration describes.

    Args:
        config: the node ``model``, resolved: ``_target_`` (a callable that returns a module),
            ``name``, ``weights`` (arguments of ``load_weights``; nothing is loaded without a
            ``path``), ``preprocessing`` (replaces values of the module's own, and of a file beside
            the weights; see ``published_preprocessing``), ``features`` (see ``tokens.Features``),
            ``columns`` (the range of features to keep; ``None``: all), ``facts`` (published
            information, not used), and the callable's keyword arguments.
        seed: seed of the initial weights, which depend on nothing else.

    Raises:
        ValueError: if the target cannot be called with these arguments or does not return a
            suitable module, or if the weights do not fit.
    """
    if not config.get("_target_"):
        raise ValueError(
            "`model._target_` must name a callable that returns a torch.nn.Module as "
            "package.module.name, but is missing."
        )
    config = hub.on_this_computer(config)
    target = str(config["_target_"])
    weights = {**(config.get("weights") or {})}
    # Find the weights before building the network, so that missing weights fail at once.
    if file := place_of_weights(config):
        weights["path"] = file
    elif weights.get("terms") and config.get("pretrained"):
        say_terms(str(config.get("name")), weights["terms"])
    prepared = dict(config.get("preprocessing") or {})
    if weights.get("path"):
        name = str(config.get("name") or target)
        prepared |= stated_preprocessing(weights["path"], prepared, name)
    keys = {str(key): value for key, value in config.items() if key not in _LABELS}
    with randomness.seeded(randomness.derive(seed, "init")):
        maker = locate(target)
        module = maker(**keys)
        require_module(module)
        if isinstance(module, FusedEncoder):
            encoder: Encoder = module
            encoder.prepare(None, prepared)
        else:
            encoder = wrap(module, prepared or None, name=config.get("name"))
            encoder.maker, encoder.config = maker, config
    features, columns = config.get("features") or "pooled", config.get("columns")
    if isinstance(encoder, FusedEncoder):
        _refuse_for_several(features=None if features == "pooled" else features, columns=columns)
    else:
        choose_features(encoder, features)
        if columns is not None:
            keep_columns(encoder, columns)
    if weights.get("path"):
        load_weights(encoder, **weights)
    return encoder


def _refuse_for_several(**choices: Any) -> None:
    """Raise ValueError if a choice of features is made for several encoders as one."""
    for key, choice in choices.items():
        if choice is not None:
            raise ValueError(
                f"`model.{key}` must not be set for several encoders as one, but is {choice}; give "
                "it to the members."
            )


def place_of_weights(config: Mapping[str, Any]) -> Path | None:
    """Return the file of an encoder's weights; None if it has no file.

    Args:
        config: the node ``model``, resolved; the file is downloaded if it says so.

    Raises:
        ValueError: if the weights are missing.
    """
    weights = config.get("weights") or {}
    if not weights.get("path"):
        return None
    keys = ("path", "url", "download", "obtain", "sha256", "md5", "terms", "package")
    stated = {key: weights[key] for key in keys if key in weights}
    key = hub.key_of_weights(config)
    return weights_file(find_weights(**stated, name=config.get("name"), key=key))
