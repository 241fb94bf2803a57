"""Estimators of how well an encoder transfers to a target, from its features alone.

Each is a pure function that returns one number; larger is always better, except for
``decay_exponent``. An estimator without a value raises ``NotDefined`` with the reason.
"""

from ssl_transfer.estimators.transferability.coding import transrate
from ssl_transfer.estimators.transferability.discriminants import h_score, h_score_shrinkage, sfda
from ssl_transfer.estimators.transferability.distances import (
    balanced_subset,
    knn_loo,
    parc,
    random_subset,
)
from ssl_transfer.estimators.transferability.evidence import logme
from ssl_transfer.estimators.transferability.gaussians import gbc, n_leep
from ssl_transfer.estimators.transferability.moments import NotDefined
from ssl_transfer.estimators.transferability.predictions import leep, nce
from ssl_transfer.estimators.transferability.spectra import (
    alpha_req,
    decay_exponent,
    lidar,
    rankme,
)

__all__ = [
    "NotDefined",
    "alpha_req",
    "balanced_subset",
    "decay_exponent",
    "gbc",
    "h_score",
    "h_score_shrinkage",
    "knn_loo",
    "leep",
    "lidar",
    "logme",
    "n_leep",
    "nce",
    "parc",
    "random_subset",
    "rankme",
    "sfda",
    "transrate",
]
