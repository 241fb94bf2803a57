"""Cells that differ in a hyper-parameter, a model or a method, side by side."""

import statistics
from pathlib import Path

import pytest

from results import ResultsError, read
from results.commands.main import main
from results.published.catalogue import read_published
from results.records.reading import Results
from results.records.relabelling import relabelled
from results.tables.grid_tables import tables_of
from results.tables.grids import grids
from results.tables.layout import Layout
from results.tables.rendering import Table


def tables(results: Results, layout: Layout) -> list[Table]:
    return tables_of(grids(results, layout), layout)


def texts(table: Table) -> list[list[str]]:
    return [list(row) for row in (table.header, *table.rows)]


@pytest.fixture
def epochs(write, outputs: Path) -> Results:
    """One encoder, evaluated for 5 and for 40 epochs with two learning rates."""
    for number, (count, lr) in enumerate([(5, 0.1), (40, 0.1), (5, 0.01), (40, 0.01)]):
        for seed in (0, 1):
            protocol = {"epochs": count, "lr": lr}
            value = 0.1 + 0.2 * number + 0.01 * seed
            write(seed=seed, value=value, config={"protocol": protocol})
    return read(outputs)


@pytest.fixture
def widths(write, outputs: Path) -> Results:
    """Encoders of two widths and three seeds of pre-training."""
    for width in (8, 16):
        for seed in range(3):
            config = {"model": {"width": width}, "method": {"seed": seed}}
            write(f"{width}{seed}" * 6, value=width / 100 + seed / 1000, config=config)
    return read(outputs)


def test_a_key_of_the_protocol_is_a_column_and_no_part_of_the_label(epochs: Results) -> None:
    assert epochs.known("protocol")[0] == "linear_probe epochs=5 lr=0.01"
    shown = tables(epochs, Layout(columns=("protocol.epochs",)))
    assert [table.title for table in shown] == [
        "linear_probe lr=0.01, digits: top1 in %",
        "linear_probe lr=0.1, digits: top1 in %",
    ]
    assert texts(shown[1]) == [
        ["encoder", "epochs=5", "epochs=40"],
        ["small_resnet-simclr", "10.50 ± 0.71", "30.50 ± 0.71"],
    ]


def test_several_keys_may_be_rows_and_columns(epochs: Results) -> None:
    (table,) = tables(epochs, Layout(("protocol.lr",), ("protocol.epochs", "seed")))
    assert texts(table) == [
        ["protocol.lr", "epochs=5 seed=0", "epochs=5 seed=1", "epochs=40 seed=0",
         "epochs=40 seed=1"],
        ["0.01", "50.00", "51.00", "70.00", "71.00"],
        ["0.1", "10.00", "11.00", "30.00", "31.00"],
    ]  # fmt: skip


def test_a_key_of_the_encoder_is_no_part_of_its_label(widths: Results) -> None:
    (table,) = tables(widths, Layout(columns=("model.width",)))
    assert texts(table) == [
        ["encoder", "width=8", "width=16"],
        ["small_resnet-simclr seed=0", "8.00", "16.00"],
        ["small_resnet-simclr seed=1", "8.10", "16.10"],
        ["small_resnet-simclr seed=2", "8.20", "16.20"],
    ]


def test_seeds_of_pre_training_are_averaged_only_where_that_is_asked_for(widths: Results) -> None:
    layout = Layout(("model.width",), ("dataset",), mean_over=("method.seed",))
    (table,) = tables(widths, layout)
    spread = statistics.stdev([8.0, 8.1, 8.2])
    assert texts(table)[1] == ["8", f"8.10 ± {spread:.2f}"]
    assert len(tables(widths, Layout(("model.width",), ("dataset",)))) == 3
    with pytest.raises(ResultsError, match="more than a seed are never averaged"):
        Layout(mean_over=("model.width",))


def test_encoders_that_nothing_else_distinguishes_keep_their_marks(write, outputs: Path) -> None:
    for number, width in enumerate((8, 8, 16)):
        write(f"{number}" * 16, config={"model": {"width": width}}, value=number / 10)
    (table,) = tables(read(outputs), Layout(columns=("model.width",)))
    assert texts(table) == [
        ["encoder", "width=8", "width=16"],
        ["small_resnet-simclr", "–", "20.00"],
        ["small_resnet-simclr 00000000", "0.00", "–"],
        ["small_resnet-simclr 11111111", "10.00", "–"],
    ]


def test_a_run_without_the_key_has_a_column_of_its_own(write, outputs: Path) -> None:
    write(config={"protocol": {"k": 20}})
    write("b" * 16, method="other")
    write("c" * 16, method="third", error="It broke.")
    (table,) = tables(read(outputs), Layout(columns=("protocol.k",)))
    assert texts(table) == [
        ["encoder", "k=20", "k=–"],
        ["small_resnet-other", "–", "50.00"],
        ["small_resnet-simclr", "50.00", "–"],
        ["small_resnet-third", "–", "failed"],
    ]
    assert "– as protocol.k: the runs have no such value, or do not state it" in table.notes


def test_models_and_methods_are_axes(write, outputs: Path) -> None:
    for number, (model, method) in enumerate([("a", "byol"), ("a", "swav"), ("b", "byol")]):
        write(f"{number}" * 16, model=model, method=method, value=number / 10)
    results = read(outputs)
    (table,) = tables(results, Layout(("model",), ("method",)))
    assert table.title == "linear_probe, digits: top1 in %"
    assert texts(table) == [["model", "byol", "swav"], ["a", "0.00", "10.00"], ["b", "20.00", "–"]]
    shown = tables(results, Layout(("method",), ("dataset",)))
    assert [table.title for table in shown] == ["linear_probe, a: top1 in %",
        "linear_probe, b: top1 in %"]  # fmt: skip


@pytest.mark.parametrize(
    "apart",
    [("model.width",), ("method.seed",), ("model", "method"), ("protocol.epochs", "model.width")],
)
def test_two_encoders_never_share_a_cell(widths: Results, apart: tuple[str, ...]) -> None:
    results = relabelled(widths, apart)
    keys = [one for one in apart if "." in one]
    places: dict[tuple[object, ...], set[str]] = {}
    for row in results.rows:
        values = (results.hyperparameter(row.run_id, key) for key in keys)
        places.setdefault((row.encoder, row.protocol, *values), set()).add(row.encoder_id)
    assert all(len(encoders) == 1 for encoders in places.values())


def test_an_unknown_key_lists_the_nearest_ones(epochs: Results) -> None:
    with pytest.raises(ResultsError, match=r"no run has `protocol.epoch`; .*`protocol.epochs`"):
        grids(epochs, Layout(columns=("protocol.epoch",)))


def test_published_tables_have_no_hyper_parameters() -> None:
    results = read_published(["transfer_2021_table1"])
    with pytest.raises(ResultsError, match="`method` needs own records"):
        grids(results, Layout(columns=("method",)))


def test_the_command_says_what_selects_one_variant(epochs, outputs: Path, capsys) -> None:
    arguments = ["table", "--outputs", str(outputs), "--format", "csv"]
    assert main([*arguments, "--protocol", "linear_probe lr=0.1"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 + 2
    assert shown.err.startswith("`linear_probe lr=0.1` selects 2 variants: `linear_probe epochs=5 ")
    assert main([*arguments, "--protocol", "linear_probe epochs=5 lr=0.1"]) == 0
    assert capsys.readouterr().err == ""
    axes = ["--columns", "protocol.epochs", "--rows", "protocol.lr"]
    assert main([*arguments, "--protocol", "linear_probe", *axes]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines()[1].startswith("linear_probe,small_resnet-simclr,digits,0.01,50.5")


def test_the_command_averages_over_seeds_of_pre_training(widths, outputs: Path, capsys) -> None:
    arguments = ["table", "--outputs", str(outputs), "--mean-over", "method.seed"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "small_resnet-simclr width=8" in shown
    assert "over 3 runs (seeds, method.seed)" in shown
    assert main([*arguments, "--ranks"]) == 2
    assert "seeds of encoders in `--mean-over`" in capsys.readouterr().err
