"""Features of a frozen encoder: computed once, kept in a store that every run shares."""

from ssl_transfer.features.array_file import Rows, summarise
from ssl_transfer.features.extraction import (
    FeatureRows,
    FrozenFeatures,
    Representation,
    StoredPrecision,
    WithFeatures,
    extract,
    judge,
)
from ssl_transfer.features.store import FeatureStore

__all__ = [
    "FeatureRows",
    "FeatureStore",
    "FrozenFeatures",
    "Representation",
    "Rows",
    "StoredPrecision",
    "WithFeatures",
    "extract",
    "judge",
    "summarise",
]
