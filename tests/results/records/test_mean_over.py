"""Runs that differ in a key that is averaged share a cell, as runs of several seeds do."""

import statistics
from pathlib import Path

import pytest

from results import ResultsError, read
from results.agreement.scores import scores
from results.commands.main import main
from results.tables.wide import wide, wide_csv


@pytest.fixture
def splits(write, outputs: Path) -> dict[tuple[int, int], float]:
    """Three splits of one set with two seeds each, and another set without splits."""
    values = {}
    for split in range(3):
        for seed in range(2):
            values[split, seed] = 0.5 + 0.1 * split + 0.01 * seed
            config = {"dataset": {"split": split}}
            write(dataset="isic", seed=seed, value=values[split, seed], config=config)
    write(dataset="digits")
    return values


def test_splits_are_other_datasets_unless_their_mean_is_asked_for(splits, outputs: Path) -> None:
    assert {row.dataset for row in read(outputs).rows} == {
        "digits",
        "isic split=0",
        "isic split=1",
        "isic split=2",
    }
    results = read(outputs, mean_over=["dataset.split"])
    assert {row.dataset for row in results.rows} == {"digits", "isic"}


def test_a_cell_is_the_mean_over_splits_and_seeds(splits, outputs: Path) -> None:
    results = read(outputs, mean_over=["dataset.split"])
    (table,) = wide(results)
    mean, spread = statistics.mean(splits.values()), statistics.stdev(splits.values())
    shown = dict(zip(table.header, table.rows[0], strict=True))
    assert shown["isic"] == f"{100 * mean:.2f} ± {100 * spread:.2f}"
    assert shown["digits"] == "50.00 (n=1)"
    assert "mean ± sample standard deviation over 6 runs (seeds, dataset.split)" in table.notes
    assert "isic runs" in wide_csv(results)
    assert scores(results, "linear_probe").raw["isic"] == {
        "small_resnet-simclr": pytest.approx(mean)
    }


def test_runs_that_differ_in_more_remain_variants(write, outputs: Path) -> None:
    for split in (0, 1):
        for size in (32, 64):
            config = {"dataset": {"split": split, "size": size}}
            write(dataset="isic", value=size / 100, config=config)
    results = read(outputs, mean_over=["dataset.split"])
    assert {(row.dataset, row.value) for row in results.rows} == {
        ("isic size=32", 0.32),
        ("isic size=64", 0.64),
    }


def test_protocols_are_averaged_over_their_keys_as_well(write, outputs: Path) -> None:
    for episodes, value in ((1, 0.4), (2, 0.6)):
        write(value=value, config={"protocol": {"episodes_seed": episodes}})
    (table,) = wide(read(outputs, mean_over=["protocol.episodes_seed"]))
    assert table.rows[0][1].startswith("50.00")


@pytest.mark.parametrize("key", ["dataset.splits", "split", "dataset", "method.epochs"])
def test_a_key_of_no_dataset_or_protocol_is_refused_with_those_that_help(
    splits, outputs: Path, key: str
) -> None:
    with pytest.raises(ResultsError, match=rf"`dataset.split`\), but is `{key}`"):
        read(outputs, mean_over=[key])


def test_the_commands_take_it(splits, outputs: Path, capsys) -> None:
    for command in ("table", "list", "failures"):
        arguments = ["--outputs", str(outputs), "--mean-over", "dataset.split"]
        assert main([command, *arguments]) == 0
        assert "split=" not in capsys.readouterr().out
