"""A new measure of frozen features is one small class: the example here, from YAML to record."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import pytest
from tiny_runs import run_all, tiny

from ssl_transfer import datasets
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.base import Score, require
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.protocols.logistic_regression import LogisticRegression
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureNorm(FrozenProtocol):
    targets: ClassVar[frozenset[str]] = frozenset({"class", "classes", "none"})
    splits: ClassVar[tuple[str, ...]] = ("test",)
    power: float = 1.0

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        rows, _ = self.features(encoder, dataset, context).load("test")
        value = float(rows.norm(dim=1).pow(self.power).mean())
        yield Score(metric="feature_norm", value=value, unit="norm", primary=True)


NODE = {"_target_": f"{__name__}.FeatureNorm", "name": "feature_norm", "power": 2.0}


def test_a_measure_of_ten_lines_is_checked_computed_and_recorded(tmp_path):
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    measured = Run({**run.config, "protocol": {**NODE, "image_size": 8}})
    assert problems(measured.config) == []
    outcome = run_all(measured, Run({**run.config, "protocol": NODE}))
    assert outcome.failures == {}
    (score,) = measured.record()["scores"]
    assert score["metric"] == "feature_norm"
    assert score["value"] > 0
    assert measured.names["protocol"] == "feature_norm"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"powr": 1.0}, "`protocol.powr` is not a key of `protocol`; did you mean `power`?"),
        ({"image_size": 0}, "`protocol.image_size` must be at least 1, but is 0"),
        ({"preprocessing": {"sise": 8}}, "`protocol.preprocessing.sise` is not a key"),
    ],
)
def test_its_keys_are_checked_like_those_of_every_protocol(tmp_path, keys, told):
    config = tiny(tmp_path, "protocol=knn", tuned=False).config
    assert told in problems({**config, "protocol": {**NODE, **keys}})[0]


def test_only_the_splits_that_a_protocol_needs_must_have_images():
    node = resolve(plain(compose(["dataset=digits", "dataset.val_fraction=0.0"])))["dataset"]
    without = datasets.build({**node, "labels_per_class": 5})
    require(FeatureNorm(), without)
    with pytest.raises(ValueError, match="with validation images, but `digits` has none; set `da"):
        require(LogisticRegression(), without)
