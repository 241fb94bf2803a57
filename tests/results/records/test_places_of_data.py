"""Data that several paths name are one column, and a repeat of a run is no further seed."""

import json
from pathlib import Path

import pytest

from results import read
from results.tables.wide import wide

PATHS = ("data/birds", "../data/birds", "/sets/data/birds/", "${paths.data}/birds", ".")


def data(fingerprint: str = "f", **keys: object) -> dict[str, object]:
    """Return the changes that a record of data with this fingerprint needs."""
    return {"data": {"fingerprint": fingerprint}, "config": {"dataset": keys}}


def test_one_place_is_one_column(write, outputs: Path) -> None:
    for number, path in enumerate(PATHS):
        write(f"{number}" * 16, method=f"m{number}", **data(root=path))
        write("a" * 16, seed=number, value=0.5, **data(root=path))
    results = read(outputs)
    assert results.scored("dataset") == ["digits"]
    assert results.problems == []
    (table,) = wide(results)
    assert list(table.header) == ["encoder", "digits"]
    assert any("5 seeds" in note for note in table.notes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (data("f", root="/a/birds"), data("g", root="/b/birds")),
        (data("f", root="/a/birds"), data("f", root="/a/fish")),
        (data("f", root="/a/birds", metric="top1"), data("f", root="b/birds", metric="auc")),
        (data("f", root="/a/birds"), {"config": {"dataset": {"root": "/b/birds"}}}),
    ],
)
def test_other_data_and_other_settings_are_told_apart(write, outputs, first, second) -> None:
    write(**first)
    write(**second)
    assert len(read(outputs).scored("dataset")) == 2


def test_a_repeat_under_another_path_is_left_out(write, outputs: Path) -> None:
    write(value=0.4, started="2026-01-02", **data(root="data/birds"))
    write(value=0.3, started="2026-01-01", **data(root="../data/birds"))
    write(value=0.6, started="2026-01-01", seed=1, **data(root="../data/birds"))
    results = read(outputs)
    assert [row.value for row in results.rows] == [0.4, 0.6]
    assert results.problems == [
        "left out: 1 run repeats a later one on the same data, which another path names."
    ]


def test_a_failure_at_another_path_keeps_a_label_of_its_own(write, outputs: Path) -> None:
    write(**data(root="data/birds"))
    write("b" * 16, method="byol", **data(root="../data/birds"))
    write(error="no such folder", stage="check", requires=["x"], identity={
        "model": {"name": "small_resnet"}, "method": {"name": "simclr"}, "precision": "fp32",
        "protocol": {"name": "linear_probe", "epochs": 10},
        "dataset": {"name": "digits", "root": "/data/bird"},
    })  # fmt: skip
    results = read(outputs)
    assert {row.dataset for row in results.rows} == {"digits"}
    assert [gap.dataset for gap in results.gaps] == ["digits root=bird"]


def test_a_failure_means_the_place_that_its_path_means_in_another_run(write, outputs: Path) -> None:
    for day, path in ((2, "../data/birds"), (1, "data/birds")):
        write(started=f"2026-01-0{day}", **data(root=path))
    write(error="It broke.", requires=["x"], seed=1, identity={
        "model": {"name": "small_resnet"}, "method": {"name": "simclr"}, "precision": "fp32",
        "protocol": {"name": "linear_probe", "epochs": 10},
        "dataset": {"name": "digits", "root": "data/birds"},
    })  # fmt: skip
    results = read(outputs)
    assert [one.dataset for one in (*results.rows, *results.gaps)] == ["digits", "digits"]


def test_weights_that_two_paths_name_are_one_row(write, outputs: Path) -> None:
    for seed, path in enumerate(("moco.pth", "../moco.pth")):
        write(seed=seed, config={"model": {"weights": {"path": path}}})
    assert read(outputs).scored("encoder") == ["small_resnet-simclr"]


def test_a_repeat_in_a_sweep_is_not_missing(write, outputs: Path) -> None:
    folders = [
        write(started=f"2026-01-0{day}", **data(root=path))
        for day, path in ((1, "data/birds"), (2, "../data/birds"))
    ]
    sweep = outputs / "sweeps" / "one"
    sweep.mkdir(parents=True)
    places = [str(folder.relative_to(outputs)) for folder in folders]
    ids = [json.loads((one / "record.json").read_text())["run_id"] for one in folders]
    content = {"schema": 1, "runs": ids, "folders": places}
    (sweep / "sweep.json").write_text(json.dumps(content))
    results = read(outputs, "one")
    assert (len(results.rows), results.gaps) == (1, [])
