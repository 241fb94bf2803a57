import csv
import io
import statistics
from pathlib import Path

import pytest

from results import ResultsError, read
from results.tables.rendering import Table, to_csv, to_markdown, to_terminal
from results.tables.wide import wide, wide_csv


def test_a_cell_is_mean_and_sample_deviation_over_seeds_in_percent(write, outputs: Path) -> None:
    values = [0.51, 0.54, 0.60]
    for seed, value in enumerate(values):
        write(seed=seed, value=value)
    (table,) = wide(read(outputs))
    mean, spread = 100 * statistics.mean(values), 100 * statistics.stdev(values)
    assert list(table.rows[0]) == ["small_resnet-simclr", f"{mean:.2f} ± {spread:.2f}"]
    assert table.title == "linear_probe: top1 in %"
    assert any("3 seeds" in note for note in table.notes)


def test_numbers_of_seeds_are_noted_where_they_differ(write, outputs: Path) -> None:
    for seed in (0, 1):
        write(seed=seed)
    write(dataset="textures")
    (table,) = wide(read(outputs))
    assert list(table.rows[0][1:3]) == ["50.00 ± 0.00", "50.00 (n=1)"]


def test_gaps_say_why_and_the_mean_needs_every_dataset(write, outputs: Path) -> None:
    for dataset, value in (("digits", 0.6), ("textures", 0.4)):
        write("a" * 16, dataset=dataset, value=value)
    write("b" * 16, dataset="digits", method="other", value=0.7)
    write("b" * 16, dataset="textures", method="other", error="It broke.")
    write("c" * 16, dataset="digits", method="third")
    nothing = {"status": "not_applicable", "reason": "No.", "scores": []}
    write("d" * 16, dataset="digits", method="without", **nothing)
    (table,) = wide(read(outputs))
    rows = {row[0].removeprefix("small_resnet-"): list(row[1:]) for row in table.rows}
    assert rows == {
        "simclr": ["60.00", "40.00", "50.00"],
        "other": ["70.00", "failed", "–"],
        "third": ["50.00", "–", "–"],
        "without": ["n/a", "–", "–"],
    }


def test_two_encoders_are_never_averaged(write, outputs: Path) -> None:
    write("a" * 16, value=0.2)
    write("b" * 16, value=0.8)
    (table,) = wide(read(outputs))
    assert sorted(row[1] for row in table.rows) == ["20.00", "80.00"]


def test_scores_that_are_no_fraction_keep_their_unit(write, outputs: Path) -> None:
    write(value=1.5, unit="nats", higher_is_better=False)
    (table,) = wide(read(outputs))
    assert table.title.endswith("top1 in nats")
    assert table.rows[0][1] == "1.5"


def test_another_metric_can_be_asked_for_and_unknown_ones_list_the_known(
    write, outputs: Path
) -> None:
    write()
    assert wide(read(outputs), "top1")[0].rows[0][1] == "50.00"
    with pytest.raises(ResultsError, match=r"`top1`.*`top5`"):
        wide(read(outputs), "top5")


@pytest.mark.parametrize("primary", ["top1", "mean_per_class"])
def test_further_metrics_change_no_table_and_can_be_asked_for(
    write, outputs: Path, primary: str
) -> None:
    values = {"mean_per_class": 0.4, "top1": 0.5, "top5": 0.9}
    common = {"split": "test", "unit": "fraction", "higher_is_better": True}
    for seed in (0, 1):
        scores = [{"metric": name, "value": value, "primary": name == primary, **common}
                  for name, value in values.items()]  # fmt: skip
        # A record from before there were more holds the primary one alone.
        write(seed=seed, scores=scores if seed else [s for s in scores if s["primary"]])
    (table,) = wide(read(outputs))
    assert table.title == f"linear_probe: {primary} in %"
    assert table.rows[0][1] == f"{100 * values[primary]:.2f} ± 0.00"
    (table,) = wide(read(outputs), "top5")
    assert table.title == "linear_probe: top5 in %"
    assert table.rows[0][1] == "90.00"


def test_csv_holds_numbers_for_all_protocols(write, outputs: Path) -> None:
    for seed, value in ((0, 0.5), (1, 0.6)):
        write(seed=seed, value=value)
        write(seed=seed, value=value, protocol="finetune", dataset="textures")
    write("b" * 16, method="other", error="It broke.")
    rows = list(csv.DictReader(io.StringIO(wide_csv(read(outputs)))))
    first = next(row for row in rows if row["protocol"] == "finetune")
    assert (first["textures"], first["textures std"], first["textures seeds"], first["digits"]) == (
        "55.0",
        "7.0711",
        "2",
        "",
    )
    assert [row["digits"] for row in rows if "other" in row["encoder"]] == ["failed"]


def test_terminal_tables_fit_the_width_whatever_the_labels() -> None:
    header = ["encoder", *(f"dataset_{n}" for n in range(12))]
    label = "vit_small_patch16_224.augreg_in21k-barlow_twins epochs=40 optimizer.lr=0.1"
    table = Table("title " * 30, header, [[label, *["12.34 ± 0.56"] * 12]] * 2, ["note " * 40])
    text = to_terminal(table, 100)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert text.count("12.34 ± 0.56") == 24
    assert "optimizer.lr=0.1" in text


def test_markdown_escapes_bars_and_csv_leaves_nothing_for_nan() -> None:
    assert "a\\|b" in to_markdown(Table("t", ["x"], [["a|b"]]))
    assert to_csv(["x", "y"], [[float("nan"), None]]) == "x,y\n,\n"
