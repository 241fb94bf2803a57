"""Rows, columns and aggregation of tables by name."""

import csv
import io
import random
import statistics
import sys
from pathlib import Path

import pytest

from results import ResultsError, read
from results.commands.main import main
from results.records.reading import Results
from results.tables.entries import Entry, best
from results.tables.grid_numbers import csv_of, long_of
from results.tables.grid_tables import tables_of
from results.tables.grids import grids, in_order
from results.tables.layout import Layout
from results.tables.rendering import Table, is_best


def tables(results: Results, layout: Layout, show: str = "deviation") -> list[Table]:
    return tables_of(grids(results, layout), layout, results.mean_over, show)


def by_label(table: Table) -> dict[str, list[str]]:
    return {row[0]: list(row[1:]) for row in table.rows}


@pytest.fixture
def results(write, outputs: Path) -> Results:
    """Two encoders, two protocols and two datasets, with two seeds of one cell."""
    scores = {
        ("one", "knn", "digits"): (0.50, 0.60),
        ("one", "knn", "textures"): (0.30,),
        ("one", "finetune", "digits"): (0.90,),
        ("one", "finetune", "textures"): (0.70,),
        ("two", "knn", "digits"): (0.65,),
        ("two", "knn", "textures"): (0.10,),
        ("two", "finetune", "digits"): (0.80,),
    }
    for (method, protocol, dataset), values in scores.items():
        for seed, value in enumerate(values):
            write(
                method[0] * 16, method=method, protocol=protocol, dataset=dataset, seed=seed,
                value=value,
            )  # fmt: skip
    return read(outputs)


def test_what_is_neither_row_nor_column_makes_tables_of_its_own(results: Results) -> None:
    shown = tables(results, Layout(("encoder",), ("protocol",)))
    assert [table.title for table in shown] == ["digits: top1 in %", "textures: top1 in %"]
    assert list(shown[0].header) == ["encoder", "finetune", "knn"]
    assert by_label(shown[0]) == {
        "small_resnet-one": ["90.00 (n=1)", "55.00 ± 7.07"],
        "small_resnet-two": ["80.00 (n=1)", "65.00 (n=1)"],
    }
    assert by_label(shown[1])["small_resnet-two"] == ["–", "10.00"]


def test_rows_and_columns_may_have_several_axes(results: Results) -> None:
    (table,) = tables(results, Layout(("encoder", "protocol"), ("dataset", "seed")))
    assert table.left == 2
    assert list(table.header[2:]) == ["digits seed=0", "digits seed=1", "textures seed=0"]
    assert [list(row) for row in table.rows][1] == [
        "small_resnet-one", "knn", "50.00", "60.00", "30.00"
    ]  # fmt: skip


def test_only_seeds_and_what_is_named_are_averaged(results: Results) -> None:
    layout = Layout(("encoder",), ("protocol",), mean_over=("dataset",))
    (table,) = tables(results, layout)
    knn = statistics.mean([55.0, 30.0])
    assert by_label(table) == {
        "small_resnet-one": ["80.00", f"{knn:.2f}"],
        "small_resnet-two": ["–", "37.50"],
    }
    assert table.notes[0] == "mean over digits, textures, for those with a score on all of them"
    assert csv_of(grids(results, layout), layout).splitlines() == [
        "encoder,finetune,finetune std,finetune datasets,knn,knn std,knn datasets",
        "small_resnet-one,80.0,,2,42.5,,2",
        "small_resnet-two,,,,37.5,,2",
    ]


def test_a_mean_over_datasets_says_which_those_of_each_protocol_are(write, outputs: Path) -> None:
    for dataset in ("a", "b"):
        write(dataset=dataset)
    write(protocol="finetune", dataset="a")
    (table,) = tables(read(outputs), Layout(columns=("protocol",), mean_over=("dataset",)))
    assert by_label(table) == {"small_resnet-simclr": ["50.00", "50.00"]}
    assert [note.split(",")[0] for note in table.notes] == [
        "finetune: mean over a",
        "linear_probe: mean over a",
    ]


def test_the_best_of_each_column_is_marked(results: Results) -> None:
    (finetune, knn) = tables(results, Layout())
    marked = [[is_best(cell) for cell in row[1:]] for row in knn.rows]
    assert marked == [[False, True, True], [True, False, False]]
    # One score alone is not the best of its column.
    assert [[is_best(cell) for cell in row[1:]] for row in finetune.rows] == [
        [True, False, False],
        [False, False, False],
    ]


def test_scores_of_different_datasets_are_not_compared(results: Results) -> None:
    (table, *_) = tables(results, Layout(("dataset",), ("encoder",)))
    assert [[is_best(cell) for cell in row[1:]] for row in table.rows] == [
        [True, False],
        [False, False],
    ]
    assert table.best == "the best score of its row"
    (table,) = tables(results, Layout(("encoder", "dataset"), ("protocol",)))
    assert [list(map(is_best, row[2:])) for row in table.rows] == [
        [True, False],
        [False, True],
        [False, True],
        [False, False],
    ]


def test_the_best_error_is_the_lowest_and_equal_figures_are_all_best() -> None:
    values = {"a": 0.30001, "b": 0.3, "c": 0.4, "d": None}
    entries = {
        key: Entry(value=value, metric="ece", unit="nats", higher_is_better=False)
        for key, value in values.items()
    }
    assert best(entries, lambda key: "") == {"a", "b"}
    higher = {"a": Entry(value=1.0, metric="top1"), "b": Entry(value=2.0, metric="ece")}
    assert best(higher, lambda key: "") == set()
    outdated = {"a": Entry(value=9.0), "b": Entry(value=10.0, outdated=True), "c": Entry(value=8.0)}
    assert best(outdated, lambda key: "") == {"a"}


def test_metrics_are_columns_with_their_units(write, outputs: Path) -> None:
    common = {"split": "test"}
    scores = [
        {"metric": "top1", "value": 0.5, "unit": "fraction", "higher_is_better": True,
         "primary": True},
        {"metric": "nll", "value": 1.25, "unit": "nats", "higher_is_better": False,
         "primary": False},
    ]  # fmt: skip
    write(scores=[{**common, **score} for score in scores])
    write("b" * 16, method="other", error="It broke.")
    write(protocol="knn")
    results = read(outputs)
    _, table = tables(results, Layout(columns=("metric",)))
    assert table.title == "linear_probe, digits: metrics"
    assert list(table.header) == ["encoder", "nll in nats", "top1 in %"]
    assert by_label(table) == {
        "small_resnet-simclr": ["1.25", "50.00"],
        "small_resnet-other": ["failed", "failed"],
    }
    (table,) = tables(results, Layout(rows=("encoder", "metric"), metrics=("nll",)))
    assert list(table.rows[0]) == ["small_resnet-other", "nll in nats", "failed"]
    # A protocol without the metric has no table.
    assert [t.title for t in tables(results, Layout(metrics=("nll",)))] == [
        "linear_probe: nll in nats"
    ]


def test_several_metrics_have_tables_of_their_own(write, outputs: Path) -> None:
    common = {"split": "test", "unit": "fraction", "higher_is_better": True}
    scores = [
        {**common, "metric": metric, "value": value, "primary": metric == "top1"}
        for metric, value in (("top1", 0.5), ("top5", 0.9))
    ]
    write(scores=scores)
    shown = tables(read(outputs), Layout(metrics=("top1", "top5")))
    assert [(table.title, table.rows[0][1]) for table in shown] == [
        ("linear_probe: top1 in %", "50.00"),
        ("linear_probe: top5 in %", "90.00"),
    ]


def test_intervals_stand_beside_scores_of_several_seeds(results: Results) -> None:
    layout = Layout(columns=("protocol",))
    shown = tables_of(grids(results, layout, intervals=True), layout, show="interval")
    text = by_label(shown[0])["small_resnet-one"][1]
    assert text.startswith("55.00 [")
    low, high = map(float, text[7:-1].split(", "))
    assert low < 55 < high
    assert "[low, high]: 95 % interval over seeds" in shown[0].notes
    assert any(note.startswith("no interval: ") for note in shown[0].notes)
    numbers = csv_of(grids(results, layout, intervals=True), layout, show="interval")
    assert "finetune,finetune low,finetune high,finetune seeds" in numbers.splitlines()[0]
    plain = tables(results, layout, "none")
    assert by_label(plain[0])["small_resnet-one"] == ["90.00 (n=1)", "55.00"]


def test_rows_are_sorted_by_their_scores(results: Results) -> None:
    def order(by: str) -> list[list[str]]:
        shown = in_order(grids(results, Layout()), by, Layout())
        return [[row[0].removeprefix("small_resnet-") for row in grid.rows] for grid in shown]

    assert order("label") == [["one", "two"], ["one", "two"]]
    assert order("digits") == [["one", "two"], ["two", "one"]]
    assert order("mean") == [["one", "two"], ["one", "two"]]
    with pytest.raises(ResultsError, match="`label`, `mean`, `digits`, `textures`"):
        order("cats")


def test_errors_are_sorted_from_the_lowest_and_missing_ones_are_last(write, outputs: Path) -> None:
    for number, value in enumerate((3.0, 1.0, 2.0)):
        write(
            f"{number}" * 16, method=f"m{number}", value=value, unit="nats", higher_is_better=False
        )
    write("9" * 16, method="a", error="It broke.")
    layout = Layout()
    (grid,) = in_order(grids(read(outputs), layout), "mean", layout)
    assert [row[0] for row in grid.rows] == [f"small_resnet-{m}" for m in ("m1", "m2", "m0", "a")]


def test_the_long_table_holds_every_cell(results: Results) -> None:
    table = long_of(grids(results, Layout()), Layout())
    lines = list(zip(*table.values(), strict=True))
    assert list(table)[:3] == ["protocol", "encoder", "dataset"]
    assert lines[3] == (
        "finetune", "small_resnet-two", "textures", "", "", True, None, None, None, None, 0,
        "not run",
    )  # fmt: skip
    spread = statistics.stdev([50.0, 60.0])
    assert lines[4] == (
        "knn", "small_resnet-one", "digits", "top1", "percent", True, pytest.approx(55.0),
        pytest.approx(spread), None, None, 2, "",
    )  # fmt: skip


def test_parquet_holds_the_long_table_and_ranks_with_types(
    results, outputs: Path, tmp_path: Path, capfdbinary
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arguments = ["table", "--outputs", str(outputs), "--protocol", "knn", "--ranks"]
    assert main([*arguments, "--format", "parquet", "--save", str(tmp_path)]) == 0
    assert capfdbinary.readouterr().out == b""
    lines = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert {path.name for path in tmp_path.glob("table.*")} == {
        "table.csv", "table.md", "table.parquet"
    }  # fmt: skip
    assert len(lines) == 4 + 2 * 2 + 2
    assert lines[0]["value"] == pytest.approx(55.0)
    assert (lines[0]["higher_is_better"], lines[0]["count"], lines[0]["group"]) == (True, 2, "")
    ranks = {(one["encoder"], one["dataset"]): one["value"] for one in lines if not one["unit"]}
    assert ranks["small_resnet-one", "digits"] == 2.0
    assert ranks["small_resnet-two", "all datasets"] == 1.5
    assert main([*arguments, "--format", "parquet"]) == 0
    (tmp_path / "printed").write_bytes(capfdbinary.readouterr().out)
    assert parquet.read_table(tmp_path / "printed").num_rows == len(lines)


def test_parquet_is_refused_without_pyarrow_and_for_terminals(
    results, outputs: Path, capsys, monkeypatch
) -> None:
    arguments = ["table", "--outputs", str(outputs), "--format", "parquet"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        assert main(arguments) == 2
        assert "run `pip install pyarrow`" in capsys.readouterr().err
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(arguments) == 2
    assert "add `--save FOLDER`" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["latex", "html"])
def test_every_format_is_printed_and_saved(
    results, outputs: Path, tmp_path: Path, capsys, form: str
) -> None:
    arguments = ["table", "--outputs", str(outputs), "--format", form, "--save", str(tmp_path)]
    assert main(arguments) == 0
    ending = {"latex": "tex", "html": "html"}[form]
    assert (tmp_path / f"table.{ending}").read_text() == capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("table.*")} == {
        "table.csv", "table.md", f"table.{ending}"
    }  # fmt: skip


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(("protocol",), ("encoder", "seed")),
        Layout(("dataset",), ("protocol",), mean_over=()),
        Layout(("encoder",), ("protocol",), mean_over=("dataset",)),
        Layout(("encoder", "metric"), ("dataset",)),
    ],
)
def test_the_order_of_records_and_copies_of_them_change_no_table(
    results: Results, layout: Layout
) -> None:
    expected = [tables(results, layout), csv_of(grids(results, layout), layout)]
    generator = random.Random(0)
    for _ in range(5):
        rows = results.rows * 2
        generator.shuffle(rows)
        shuffled = Results(rows, versions=results.versions, documents=results.documents)
        assert [tables(shuffled, layout), csv_of(grids(shuffled, layout), layout)] == expected


def test_the_command_takes_axes_metrics_and_order(results, outputs: Path, capsys) -> None:
    arguments = ["table", "--outputs", str(outputs), "--format", "csv"]
    axes = ["--rows", "dataset", "--columns", "protocol", "--protocol", "knn", "--show", "none"]
    assert main([*arguments, *axes]) == 0
    lines = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert lines == [
        ["encoder", "dataset", "knn", "knn seeds"],
        ["small_resnet-one", "digits", "55.0", "2"],
        ["small_resnet-one", "textures", "30.0", "1"],
        ["small_resnet-two", "digits", "65.0", "1"],
        ["small_resnet-two", "textures", "10.0", "1"],
    ]
    assert main([*arguments, "--sort", "textures", "--protocol", "knn", "--show", "interval"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("knn,small_resnet-one,55.0,")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "encoders"], "`protocol`, `encoder`, `dataset`"),
        (["--rows", "epochs"], "such as protocol.epochs"),
        (["--rows", "dataset"], "`dataset` occurs twice"),
        (["--rows", ","], "must name an axis"),
        (["--mean-over", "dataset"], "`dataset` occurs twice"),
        (["--mean-over", "protocol"], "must be `dataset`, a key of datasets or protocols"),
        (["--metric", "auc,top1"], "`top1`"),
        (["--sort", "cats"], "`label`, `mean`, `digits`, `textures`"),
    ],
)
def test_wrong_names_of_axes_get_one_sentence(
    results, outputs: Path, capsys, arguments: list[str], words: str
) -> None:
    assert main(["table", "--outputs", str(outputs), *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert words in message


def test_another_encoder_and_impossible_scores_change_no_other_score(
    results: Results, write, outputs: Path
) -> None:
    before = {
        (grid.about, row, column): entry
        for grid in grids(results, Layout())
        for (row, column), entry in grid.entries.items()
    }
    write("3" * 16, method="three", protocol="knn", value=0.99)
    write("4" * 16, method="four", protocol="knn", value=float("nan"))
    after = {
        (grid.about, row, column): entry
        for grid in grids(read(outputs), Layout())
        for (row, column), entry in grid.entries.items()
    }
    assert {place: after[place] for place in before} == before
    new = {place[1][0]: entry for place, entry in after.items() if place not in before}
    assert new["small_resnet-three"].value == pytest.approx(99.0)
    assert (new["small_resnet-four"].value, new["small_resnet-four"].status) == (None, "invalid")
