"""Ranks below tables of scores."""

import csv
import io
from pathlib import Path

from results import read
from results.agreement.rank_tables import rank_columns, rank_table, rankings_of
from results.agreement.ranks import OVERALL, Rank, Ranking
from results.commands.main import main
from results.tables.grids import Grid, grids
from results.tables.layout import Layout
from results.tables.rendering import group_of

RANKINGS = [
    Ranking("digits", [Rank("a", 1.0, 1.0, 2.0, "x"), Rank("b", 2.5, 1.0, 3.0, "xy")], ["c"], "n"),
    Ranking(OVERALL, [Rank("a", 1.25, 1.0, 2.125, "x")], ["b", "c"], "n"),
]


def test_a_rank_has_its_interval_and_the_letters_of_its_groups() -> None:
    grid = Grid(("knn",), [("c",), ("a",), ("b",)], [("digits",)], {}, {})
    table = rank_table(grid, RANKINGS, "knn")
    assert table.title == "knn: ranks, 1 is the best"
    assert [list(row) for row in (table.header, *table.rows)] == [
        ["encoder", "digits", "mean rank"],
        ["c", "–", "–"],
        ["a", "1 [1, 2]", "1.25 [1.00, 2.12]"],
        ["b", "2.5 [1, 3]", "–"],
    ]
    assert [group_of(row[1]) for row in table.rows] == ["", "x", "xy"]
    assert list(table.notes) == [
        "rank [95 % interval] and letters: encoders that share a letter cannot be told apart",
        "mean rank: over the datasets, for encoders with a score on all of them",
        "n",
        "– no score",
    ]


def test_numbers_of_ranks_are_columns_beside_scores() -> None:
    assert rank_columns(RANKINGS) == {
        ("a",): {
            "digits rank": 1.0,
            "digits rank low": 1.0,
            "digits rank high": 2.0,
            "digits rank group": "x",
            "mean rank": 1.25,
            "mean rank low": 1.0,
            "mean rank high": 2.125,
            "mean rank group": "x",
        },
        ("b",): {
            "digits rank": 2.5,
            "digits rank low": 1.0,
            "digits rank high": 3.0,
            "digits rank group": "xy",
        },
    }


def test_a_protocol_without_scores_has_no_ranks(write, outputs: Path) -> None:
    write(error="It broke.")
    (grid,) = grids(read(outputs), Layout())
    assert rankings_of(read(outputs), grid, Layout()) == []


def test_the_command_shows_ranks_below_scores_and_beside_them_in_csv(
    zoo, outputs: Path, capsys
) -> None:
    zoo()
    arguments = ["table", "--outputs", str(outputs), "--protocol", "finetune", "--ranks"]
    assert main(arguments) == 0
    scores, ranks = capsys.readouterr().out.split("\n\n")
    assert scores.startswith("finetune: top1 in %")
    lines = ranks.splitlines()
    assert lines[0] == "finetune: ranks, 1 is the best"
    assert lines[3].split()[-3:] == ["7", "7", "7.00"]
    assert main([*arguments, "--format", "csv"]) == 0
    (first, *_) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["digits rank"], first["mean rank"], first["mean rank low"]) == ("7.0", "7.0", "")
    assert main([*arguments, "--rows", "dataset", "--columns", "encoder"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: `--ranks` needs encoders as rows and datasets as columns")
    assert message.count("\n") == 1
