"""What an extraction cost is stored with the array and stated by every record that uses it."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import run_all, tiny

from ssl_transfer.features import FeatureStore, partial_array, store
from ssl_transfer.features.array_file import opened, trailer_of

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
KEY = {"k": 1}


class Clock:
    """A clock that advances when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def compute(self, seconds):
        def compute(indices):
            self.now += seconds
            yield indices, ROWS[indices]

        return compute


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(store, "time", clock)
    return clock


def use(folder, compute, uses):
    FeatureStore(folder, device="cuda", device_name="H100", note=uses.append).get(KEY, 4, compute)


def test_every_use_states_the_seconds_of_the_one_extraction(tmp_path, clock):
    uses = []
    use(tmp_path, clock.compute(7.5), uses)
    use(tmp_path, clock.compute(99.0), uses)
    path = FeatureStore(tmp_path).path(KEY)
    device = {"device": "cuda", "device_name": "H100"}
    fixed = {"key": path.stem, "images": 4, "seconds": 7.5, **device}
    assert uses == [
        {**fixed, "spent": 7.5, "reused": False},
        {**fixed, "spent": 0.0, "reused": True},
    ]
    FeatureStore(tmp_path, note=uses.append).note_use_of(KEY, 4)
    assert uses[2] == uses[1]


def test_an_array_of_earlier_code_is_reused_at_an_unknown_cost(tmp_path, clock):
    uses = []
    use(tmp_path, clock.compute(7.5), uses)
    path = FeatureStore(tmp_path).path(KEY)
    rows, facts = opened(path)
    end = rows.offset + rows.nbytes
    del rows
    path.write_bytes(path.read_bytes()[:end] + trailer_of(facts["sha256"], KEY))
    use(tmp_path, clock.compute(99.0), uses)
    assert (uses[1]["seconds"], uses[1]["reused"]) == (None, True)


def test_nobody_knows_how_long_an_interrupted_extraction_took(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(partial_array, "SYNC_SECONDS", -1.0)
    folder = FeatureStore(tmp_path).path(KEY).with_suffix(".partial")
    folder.mkdir(parents=True)
    whole = clock.compute(1.0)
    partial_array.PartialArray(folder, KEY, 4).fill(lambda indices: whole(indices[:2]))
    uses = []
    use(tmp_path, clock.compute(3.0), uses)
    assert (uses[0]["seconds"], uses[0]["spent"]) == (None, 3.0)


def test_records_of_two_protocols_name_the_same_arrays(tmp_path: Path) -> None:
    arrays = []
    for protocol in ("knn", "logistic_regression"):
        run = tiny(tmp_path, f"protocol={protocol}", tuned=False)
        assert run_all(run).failures == {}
        record = json.loads((tmp_path / run.place / "record.json").read_text())
        arrays.append({use["key"]: use for use in record["features"]})
        assert all(0 <= use["spent"] <= record["duration_s"] for use in record["features"])
    assert arrays[0].keys() == arrays[1].keys()
    assert len(arrays[0]) == 3
    assert [use["reused"] for use in arrays[0].values()] == [False] * 3
    assert [use["reused"] for use in arrays[1].values()] == [True] * 3
    for key, use_of_array in arrays[1].items():
        assert use_of_array["seconds"] == arrays[0][key]["seconds"] > 0
