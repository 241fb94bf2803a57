"""Scores of different data or weights never share a mean, and are marked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from results.agreement.scores import scores
from results.records.cells import cells
from results.records.reading import read
from results.records.versions import versions
from results.tables.wide import wide, wide_csv

Write = Callable[..., Path]


def at(day: int, data: str = "old", weights: str = "w") -> dict[str, object]:
    """Return what a record says of its files."""
    started = f"2026-01-{day:02d}T00:00:00+00:00"
    return {"started": started, "data": {"fingerprint": data}, "weights_sha256": weights}


def test_seeds_before_and_after_a_change_of_the_data_are_not_averaged(
    outputs: Path, write: Write
) -> None:
    write(seed=0, value=1.0, **at(1))
    write(seed=1, value=0.8, **at(2))
    write(seed=2, value=0.2, **at(3, "new"))
    results = read(outputs)
    (cell,) = cells(results, "linear_probe").values()
    assert list(cell.values.values()) == [0.2]
    assert (cell.left_out, cell.outdated) == (2, False)
    (table,) = wide(results)
    assert table.rows == [["small_resnet-simclr", "20.00 (2 on other files)"]]
    assert any("fingerprints of data or weights differ" in note for note in table.notes)
    assert "20.0,,1" in wide_csv(results)
    assert scores(results, "linear_probe").raw["digits"] == {"small_resnet-simclr": 0.2}
    (problem,) = results.problems
    assert problem.startswith("2 runs belong to other data or weights")


def test_an_encoder_judged_on_older_data_is_marked_in_the_column(
    outputs: Path, write: Write
) -> None:
    write("a" * 16, model="one", seed=0, value=1.0, **at(1))
    write("a" * 16, model="one", seed=1, value=0.5, **at(1))
    write("b" * 16, model="two", seed=0, value=0.2, **at(3, "new", "v"))
    (table,) = wide(read(outputs))
    assert [row[1] for row in table.rows] == [
        "75.00 ± 35.36 (other data)",
        "20.00 (n=1)",
    ]


def test_weights_that_were_trained_again_are_another_version(outputs: Path, write: Write) -> None:
    write(seed=0, value=1.0, **at(1, weights="first"))
    write(seed=1, value=0.5, **at(2, weights="second"))
    (cell,) = cells(read(outputs), "linear_probe").values()
    assert list(cell.values.values()) == [0.5]


def test_other_keys_of_a_data_set_may_have_other_fingerprints(outputs: Path, write: Write) -> None:
    for split in (1, 2):
        write(value=split / 4, config={"dataset": {"split": split}}, **at(split, f"data {split}"))
    results = read(outputs, mean_over=["dataset.split"])
    (cell,) = cells(results, "linear_probe").values()
    assert sorted(cell.values.values()) == [0.25, 0.5]
    assert not results.problems


@pytest.mark.parametrize("odd", [{"data": None}, {"data": {"fingerprint": 3}}, {"started": None}])
def test_records_that_say_nothing_are_of_no_other_version(
    outputs: Path, write: Write, odd: dict[str, object]
) -> None:
    write(seed=0, value=1.0, **{**at(1), **odd})
    write(seed=1, value=0.5, **at(2))
    (cell,) = cells(read(outputs), "linear_probe").values()
    assert len(cell.values) == 2
    assert versions([]) == {}
