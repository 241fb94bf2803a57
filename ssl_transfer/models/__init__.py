"""Encoders: the networks that are evaluated, and the weights they start from.

An ``Encoder`` maps images ``[B, 3, H, W]`` to features ``[B, feature_dim]`` and carries the
``preprocessing`` that its weights expect. ``build`` makes an encoder from an option of
``conf/model``, ``wrap`` from any module. ``load_weights`` is strict: it loads all of the encoder's
tensors or raises an error.
"""

from ssl_transfer.models.comparison import LoadReport
from ssl_transfer.models.encoder import Encoder, wrap
from ssl_transfer.models.factory import build, place_of_weights
from ssl_transfer.models.projectors import load_projector
from ssl_transfer.models.weights import (
    copy_weights,
    fingerprint,
    load_encoder,
    load_weights,
    save_encoder,
)

__all__ = [
    "Encoder",
    "LoadReport",
    "build",
    "copy_weights",
    "fingerprint",
    "load_encoder",
    "load_projector",
    "load_weights",
    "place_of_weights",
    "save_encoder",
    "wrap",
]
