"""Features of a frozen encoder: computed once, kept in a store that every run shares."""

from ssl_transfer.features.extraction import (
    FeatureRows,
    FeatureStore,
    FrozenFeatures,
    extract,
    judge,
)

__all__ = ["FeatureRows", "FeatureStore", "FrozenFeatures", "extract", "judge"]
