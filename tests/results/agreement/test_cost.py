import math
from pathlib import Path

import pytest

from results.agreement.cost import comparable, costs, together
from results.records.reading import read

A, B = "a" * 16, "b" * 16


def use(key: str, seconds: float | None, spent: float, device: str = "cpu") -> dict[str, object]:
    reused = spent == 0
    return {
        "key": key, "images": 9, "seconds": seconds, "device": device, "spent": spent,
        "reused": reused,
    }  # fmt: skip


def run(duration: float, *features: dict[str, object], **changes: object) -> dict[str, object]:
    facts = {"duration_s": duration, "device": "cpu", "processes": 1, "features": list(features)}
    return {**facts, **changes}


def test_the_extraction_of_shared_features_counts_once(write, outputs: Path) -> None:
    write(A, protocol="knn", **run(12.0, use("x", 10.0, 10.5), use("y", 2.0, 0.0)))
    write(B, protocol="knn", **run(1.0, use("z", 4.0, 0.0)))
    write(A, protocol="probe", **run(30.0, use("x", 10.0, 0.0), use("y", 2.0, 0.25)))
    found = costs(read(outputs), ["knn", "probe", "parameters"])
    knn, probe = found["knn"], found["probe"]
    assert (knn.seconds, knn.extraction_seconds, knn.runs) == (2.5, 16.0, 2)
    assert knn.per_cell == pytest.approx(18.5 / 2)
    assert (probe.seconds, probe.extraction_seconds) == (29.75, 12.0)
    both = together([knn, probe])
    assert (both.seconds, both.extraction_seconds, both.runs) == (32.25, 16.0, 3)
    assert (found["parameters"].total, found["parameters"].runs) == (0, 0)
    assert knn.unknown == probe.unknown == 0


def test_processes_multiply_the_time(write, outputs: Path) -> None:
    write(A, protocol="finetune", **run(100.0, processes=4, device="cuda"))
    cost = costs(read(outputs), ["finetune"])["finetune"]
    assert (cost.total, cost.devices) == (400.0, ("cuda",))


def test_the_cost_of_earlier_and_of_interrupted_runs_is_a_lower_bound(write, outputs: Path) -> None:
    old = run(5.0)
    del old["features"]
    write(A, protocol="old", **old)
    write(A, protocol="resumed", **run(5.0, resumed_at=[["a", 1]]))
    write(A, protocol="whole", **run(5.0, resumed_at=[["a", 1]], attempts=2))
    write(A, protocol="reuses", **run(5.0, use("x", None, 0.0)))
    write(A, protocol="known", **run(5.0, use("y", None, 0.0)))
    write(B, protocol="known", **run(5.0, use("y", 3.0, 0.0)))
    found = costs(read(outputs), ["old", "resumed", "reuses", "known", "whole"])
    assert [cost.unknown for cost in found.values()] == [1, 1, 1, 0, 0]
    assert [cost.total for cost in found.values()] == [5, 5, 5, 13, 5]


def test_seconds_of_different_devices_are_never_added_up(write, outputs: Path) -> None:
    write(A, protocol="knn", **run(5.0, use("x", 3.0, 0.0, device="cuda")))
    cost = costs(read(outputs), ["knn"])["knn"]
    assert cost.devices == ("cpu", "cuda")
    assert math.isnan(cost.seconds)
    assert math.isnan(cost.per_cell)
    assert dict(cost.own) == {"cpu": 5.0}


def test_seconds_of_different_cards_are_never_added_up(write, outputs: Path) -> None:
    card, other = ({"device": "cuda", "device_name": name} for name in ("A100", "H100"))
    named = {**use("x", 3.0, 0.0), **card}
    write(A, protocol="one", **run(5.0, named, **card))
    write(A, protocol="two", **run(5.0, **card))
    write(B, protocol="two", **run(5.0, **other))
    write(A, protocol="reuses", **run(5.0, named, **other))
    write(A, protocol="unnamed", **run(5.0, named, device="cuda"))
    found = costs(read(outputs), ["one", "two", "reuses", "unnamed"])
    assert (found["one"].total, found["one"].devices) == (8.0, ("cuda (A100)",))
    for protocol in ("two", "reuses"):
        assert found[protocol].devices == ("cuda (A100)", "cuda (H100)")
        assert math.isnan(found[protocol].total)
    # Records of earlier code do not name the card.
    assert (found["unnamed"].total, found["unnamed"].devices) == (8.0, ("cuda (A100)",))
    assert comparable(found["one"], found["unnamed"])
    assert not comparable(found["one"], found["reuses"])


def test_records_without_a_duration_have_no_cost(write, outputs: Path) -> None:
    write(A, protocol="knn")
    assert costs(read(outputs), ["knn"]) == {}
