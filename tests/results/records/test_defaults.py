"""Keys that ids leave out have their defaults in tables."""

from pathlib import Path

from results import load, read
from results.records.defaults import LEFT_OUT, left_out
from results.records.query import where
from ssl_transfer.runs import identity


def test_the_defaults_are_those_of_the_ids() -> None:
    assert LEFT_OUT == identity._NEUTRAL


def test_a_default_that_ids_leave_out_is_selected_like_any_value(write, outputs: Path) -> None:
    target = {"_target_": "ssl_transfer.datasets.embedded.digits"}
    write(value=0.5, config={"dataset": target})
    write(value=0.25, config={"dataset": {**target, "label_fraction": 0.1}})
    results = read(outputs)
    whole = where(results, "dataset.label_fraction == 1.0")
    assert [row.value for row in whole.rows] == [0.5]
    assert len(where(results, "dataset.label_fraction <= 1").rows) == 2
    assert sorted(load(outputs)["dataset.label_fraction"]) == [0.1, 1.0]


def test_only_nodes_that_read_a_key_have_its_default() -> None:
    tuning, knn = "ssl_transfer.protocols.tuning.Tuning", "ssl_transfer.protocols.knn.KNN"
    assert "representation" in left_out("protocol", {"_target_": knn})
    assert "representation" not in left_out("protocol", {"_target_": tuning})
    assert "schedule_per" in left_out("method", {"epochs": 5})
    assert not left_out("method", {"name": "as_is"})
    assert not left_out("protocol", {"_target_": "my_vision.protocols.ClassMeans"})
