"""Expressions select runs by any column, and nothing but columns."""

import math
from pathlib import Path

import pytest

from results import ResultsError, load, read
from results.commands.main import main
from results.records.cells import choose
from results.records.query import where


@pytest.fixture
def several(write, outputs: Path) -> Path:
    """Write runs of two lengths on two data sets, and one that failed."""
    for epochs in (10, 100):
        for dataset in ("dtd", "pets"):
            write(dataset=dataset, value=epochs / 200, config={"protocol": {"epochs": epochs}})
    names = {"model": "small_resnet", "method": "simclr", "protocol": "linear_probe"}
    identity = {axis: {"name": name} for axis, name in {**names, "dataset": "dtd"}.items()}
    identity["protocol"] |= {"epochs": 100}  # type: ignore[operator]
    write(dataset="dtd", error="It broke.", identity=identity)
    return outputs


@pytest.mark.parametrize(
    ("expression", "values", "failed"),
    [
        ("protocol.epochs == 100", [0.5, 0.5], 1),
        ('protocol.epochs == 100 and dataset.name == "dtd"', [0.5], 1),
        ("`protocol.epochs` < 50 or value > 0.4", [0.05, 0.05, 0.5, 0.5], 0),
        ('dataset in ["pets"] and not protocol.epochs != 10', [0.05], 0),
        ("10 < protocol.epochs <= 100 and seed == 0", [0.5, 0.5], 1),
        ("protocol.epochs / 10 + 1 == 2", [0.05, 0.05], 0),
        ('status == "failed"', [], 1),
        ('dataset.name > "dtd"', [0.05, 0.5], 0),
        ("protocol.epochs == 100 & (dataset.name == 'pets' | value == 0)", [0.5], 0),
        ('dataset.name == "pets|ü&`value`" or (value <\n 0.1)', [0.05, 0.05], 0),
    ],
)
def test_an_expression_selects_runs(
    several: Path, expression: str, values: list[float], failed: int
) -> None:
    results = where(read(several), expression)
    assert sorted(row.value for row in results.rows) == values
    assert len(results.gaps) == failed


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("protocol.epohcs == 1", "is `protocol.epohcs`; the nearest of"),
        ("epochs == 1", r"is `epochs`; the nearest of .* `protocol.epochs`"),
        ("value.mean() > 0", "may not contain"),
        ("__import__('os').getcwd() == ''", "may not contain"),
        ("value.__class__ == 1", "is `value.__class__`"),
        ("@value > 0", "is no expression"),
        ("value >", "is no expression"),
        ("value[0] > 1", "may not contain"),
        ("[v for v in value] == 1", "may not contain"),
        ("(lambda: 1)() == value", "may not contain"),
        ("f'{value}' == 'a'", "may not contain"),
        ("(value := 1) > 0", "may not contain"),
        ("value == None", "neither text nor number"),
        ("value", "neither true nor false"),
        ("1 == 1", "names no column"),
        ('value > "a"', "cannot be computed"),
        ("value > 0 or " * 400 + "value > 0", "longer than 2000 characters"),
    ],
)
def test_whatever_is_no_comparison_of_columns_is_refused_in_one_sentence(
    several: Path, expression: str, reason: str
) -> None:
    with pytest.raises(ResultsError, match=reason) as caught:
        where(read(several), expression)
    assert "\n" not in str(caught.value)


def test_commands_select_runs_of_several_folders(
    several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (several / "linear_probe").rename(tmp_path / "other" / "linear_probe")
    folders = f"{several},{tmp_path / 'other'}"
    assert main(["list", "--outputs", folders, "--where", "protocol.epochs == 10"]) == 0
    assert capsys.readouterr().out.count("0.0500") == 2
    assert main(["list", "--outputs", str(several), "--outputs", str(tmp_path / "other")]) == 0
    assert capsys.readouterr().out.count("0.0500") == 2
    assert main(["list", "--outputs", folders, "--where", "protocol.epochs == 11"]) == 2
    assert "holds for none" in capsys.readouterr().err
    assert main(["list", "--outputs", folders, "--sweep", "latest"]) == 2
    assert "a sweep lies in one folder" in capsys.readouterr().err


def test_the_table_has_hyperparameters_and_runs_without_scores(several: Path) -> None:
    table = load(several)
    assert table["protocol.epochs"].tolist() == [10, 100, 10, 100, 100]
    assert table["dataset.name"].tolist() == ["dtd", "dtd", "pets", "pets", "dtd"]
    assert table["status"].tolist() == ["finished"] * 4 + ["failed"]
    assert table["value"].tolist()[:4] == [0.05, 0.5, 0.05, 0.5]
    assert math.isnan(table["value"].iloc[4])
    assert table["reason"].tolist() == [""] * 4 + ["It broke."]
    assert table["protocol.epochs"].dtype == "category"
    assert all((Path(folder) / "record.json").exists() for folder in table["folder"][:4])


def test_an_empty_folder_is_an_empty_table(outputs: Path) -> None:
    assert load(outputs).empty
    assert "value" in load([outputs])


def test_a_hyperparameter_of_a_run_is_known_by_its_dotted_key(several: Path) -> None:
    results = read(several)
    epochs = [results.hyperparameter(row.run_id, "protocol.epochs") for row in results.rows]
    assert epochs == [10, 100, 10, 100]
    assert results.hyperparameter(results.rows[0].run_id, "protocol.k") is None
    assert results.hyperparameter(results.rows[0].run_id, "nothing") is None
    assert results.hyperparameter("unknown", "protocol.epochs") is None


def test_one_of_several_pairs_selects_a_protocol_where_it_is_unambiguous(
    write, outputs: Path
) -> None:
    for epochs, lr in ((10, 1), (10, 2), (20, 3)):
        write(config={"protocol": {"epochs": epochs, "lr": lr}})
    results = read(outputs)
    assert choose(results, "linear_probe lr=2") == ("linear_probe epochs=10 lr=2", None)
    assert choose(results, "linear_probe epochs=20:top1")[0] == "linear_probe epochs=20 lr=3"
    with pytest.raises(ResultsError, match=r"lr=1`, `linear_probe epochs=10 lr=2`; name one"):
        choose(results, "linear_probe epochs=10")
    assert choose(where(results, "protocol.lr == 1"), "linear_probe")[0].endswith("lr=1")
