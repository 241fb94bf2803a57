import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from predicted import write_arrays

from results import ResultsError, read
from results.commands.main import main
from results.tables.comparison import compare
from results.tables.comparison_tables import to_csv_pairs, to_table, unmatched


def write_metric(write, metric: str, value: float, **changes) -> Path:
    """Write a record whose primary score is of this metric; return its folder."""
    folder = write(value=value, method="as_is", **changes)
    record = json.loads((folder / "record.json").read_text())
    record["scores"][0]["metric"] = metric
    if not 0 <= value <= 1:
        record["scores"][0]["unit"] = "log"
    record["encoder"]["label"] = changes["model"]
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def as_2021(write, model: str, dataset: str, metric: str, value: float, **changes) -> Path:
    changes = {"protocol": "logistic_regression", **changes}
    return write_metric(
        write, metric, value, encoder=f"{model:x<16}", model=model, dataset=dataset, **changes
    )


@pytest.fixture
def three(write, outputs: Path) -> Path:
    """Two seeds of SwAV on DTD, BYOL on Aircraft by another metric too, and a set of one's own."""
    as_2021(write, "swav", "dtd", "top1", 0.760, seed=0)
    as_2021(write, "swav", "dtd", "top1", 0.780, seed=1)
    as_2021(write, "byol", "aircraft", "mean_per_class", 0.55)
    as_2021(write, "byol", "my_birds", "top1", 0.9)
    as_2021(write, "byol", "dtd", "mean_per_class", 0.7)  # the table has top-1 there
    return outputs


def test_own_scores_stand_beside_those_of_the_same_thing(three: Path) -> None:
    found = compare(read(three), ["transfer_2021_table1"])
    shown = {
        (p.key.encoder, p.key.dataset): (100 * p.own.mean, 100 * p.published.value, p.difference)
        for p in found.pairs
    }
    assert shown == {
        ("swav", "dtd"): pytest.approx((77.0, 77.02, -0.02)),
        ("byol", "aircraft"): pytest.approx((55.0, 53.87, 1.13)),
    }
    table = to_table(found)
    rows = {(row[1], row[3]): list(row[5:]) for row in table.rows}
    assert rows["swav", "dtd"] == ["77.00 ± 1.41", "77.02", "-0.02", "2"]
    assert rows["byol", "aircraft"] == ["55.00", "53.87", "+1.13", "1"]
    # The mean over cells of a metric, by hand: one cell each.
    assert any("top1" in note and "mean difference -0.02" in note for note in table.notes)


def test_what_has_no_partner_is_counted_and_listed_on_request(three: Path) -> None:
    found = compare(read(three), ["transfer_2021_table1"])
    assert {(key.dataset, key.metric) for key in found.only_own} == {
        ("my_birds", "top1"),
        ("dtd", "mean_per_class"),
    }
    assert len(found.only_published) == 2 * 14 * 11 - 2
    assert any("2 own cells" in note and "306 published" in note for note in to_table(found).notes)
    own, published = unmatched(found)
    assert [list(row) for row in own.rows] == [
        ["", "byol", "logistic_regression", "mean_per_class", "dtd"],
        ["", "byol", "logistic_regression", "top1", "my_birds"],
    ]
    missing = {tuple(row[1:4]): row[4] for row in published.rows}
    assert "dtd" not in missing["swav", "logistic_regression", "top1"].split(", ")
    assert "dtd" in missing["swav", "finetune", "top1"].split(", ")


def test_several_tables_are_compared_at_once_and_errors_may_be_low(write, outputs: Path) -> None:
    write_metric(write, "top1", 0.71, encoder="a" * 16, model="moco_v2", dataset="imagenet")
    write_metric(write, "uniformity_original", -2.8, encoder="b" * 16,
                 model="resnet50-moco_v2", dataset="imagenet",
                 protocol="alignment_uniformity")  # fmt: skip
    found = compare(read(outputs), ["moco_linear", "small_models_statistics"])
    numbers = {p.table: (p.scale, round(p.difference, 4)) for p in found.pairs}
    assert numbers == {"moco_linear": (100.0, -0.1), "small_models_statistics": (1.0, 0.046)}
    rows = list(csv.DictReader(io.StringIO(to_csv_pairs(found))))
    assert [(row["unit"], row["own"], row["published"], row["n"]) for row in rows] == [
        ("percent", "71.0", "71.1", "1"),
        ("log", "-2.8", "-2.846", "1"),
    ]


def test_variants_of_an_own_protocol_are_compared_each(write, outputs: Path) -> None:
    for steps in (100, 5000):
        as_2021(write, "swav", "dtd", "top1", 0.75, protocol="finetune",
                config={"protocol": {"steps": steps}})  # fmt: skip
    found = compare(read(outputs), ["transfer_2021_table1"])
    assert [pair.key.protocol for pair in found.pairs] == [
        "finetune steps=100",
        "finetune steps=5000",
    ]
    for shots in (5, 20):
        as_2021(write, "swav", "isic", "top1", 0.4, protocol="few_shot",
                config={"protocol": {"shots": shots}})  # fmt: skip
    found = compare(read(outputs), ["transfer_2021_few_shot"])
    assert {p.key.protocol: p.published.value for p in found.pairs} == pytest.approx(
        {"few_shot shots=5": 0.3966, "few_shot shots=20": 0.4708}
    )


def test_an_encoder_s_published_setting_selects_its_own_variant(write, outputs: Path) -> None:
    for number, (source, decay) in enumerate([("cifar10", 0.0), ("cifar10", 0.0005),
                                              ("cifar100", 0.0)]):  # fmt: skip
        method = {"pretrain_on": {"name": source}, "optimizer": {"weight_decay": decay}}
        write(f"{number}" * 16, model="resnet18", method="supervised", dataset="cifar100",
              config={"method": method})  # fmt: skip
    found = compare(read(outputs), ["rich_representations_weight_decay"])
    assert {p.key.encoder: p.published.value for p in found.pairs} == pytest.approx({
        "resnet18-supervised pretrain_on=cifar10 weight_decay=0.0": 0.4968,
        "resnet18-supervised pretrain_on=cifar10 weight_decay=0.0005": 0.2917,
        "resnet18-supervised pretrain_on=cifar100 weight_decay=0.0": 0.7037,
    })  # fmt: skip


def test_released_weights_are_compared_with_the_score_of_their_construction(
    write, outputs: Path
) -> None:
    for number, label in enumerate(["rrl_resnet50_run3", "rrl_resnet50_run0+rrl_resnet50_run1"]):
        write_metric(write, "top1", 0.9, encoder=f"{number}" * 16, model=label, dataset="cifar10")
    found = compare(read(outputs), ["rich_representations_supervised_linear"])
    assert {pair.key.encoder: pair.published.value for pair in found.pairs} == pytest.approx(
        {"rrl_resnet50_run3": 0.9057, "rrl_resnet50_run0+rrl_resnet50_run1": 0.9186}
    )


def test_nothing_in_common_and_unknown_tables_are_one_sentence(
    write, outputs: Path, capsys
) -> None:
    write()
    with pytest.raises(ResultsError, match="must share an encoder"):
        compare(read(outputs), ["transfer_2021_table1"])
    assert main(["compare", "--outputs", str(outputs), "--published", "table_9"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "`moco_linear`" in message
    assert "`table_9`" in message


def test_the_command_prints_and_saves_every_format(three: Path, tmp_path: Path, capsys) -> None:
    for form, mark in (("terminal", "---"), ("csv", "own std"), ("markdown", "| swav |")):
        command = ["compare", "--outputs", str(three), "--format", form, "--unmatched"]
        assert main([*command, "--save", str(tmp_path)]) == 0
        assert mark in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("comparison.*")} == {
        "comparison.csv",
        "comparison.md",
    }
    assert "my_birds" in (tmp_path / "comparison.md").read_text()


def test_intervals_are_shown_on_request(three: Path, capsys) -> None:
    assert main(["compare", "--outputs", str(three), "--show", "interval", "--dataset", "dtd"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "77.00 [" in shown
    assert "95 % interval over seeds" in shown


def test_splits_are_averaged_before_they_are_compared(write, outputs: Path) -> None:
    for split, value in ((1, 0.74), (2, 0.78)):
        as_2021(write, "swav", "dtd", "top1", value, config={"dataset": {"split": split}})
    (pair,) = compare(read(outputs, None, ["dataset.split"]), ["transfer_2021_table1"]).pairs
    assert (pair.own.mean, len(pair.own.values)) == (pytest.approx(0.76), 2)


def test_a_difference_beyond_two_of_its_deviations_is_marked(write, outputs: Path) -> None:
    # SwAV on DTD is 77.02. Two runs with s = 1 around a mean have the deviation
    # √(s²/2 + s²) = 1.2247 from a published run of the same deviation: the bound is 2.449.
    seeds = (-(2**-0.5), 2**-0.5)
    for dataset, mean in (("dtd", 77.02 - 2.40), ("flowers", 94.62 - 2.50)):
        for seed, shift in enumerate(seeds):
            metric = "top1" if dataset == "dtd" else "mean_per_class"
            as_2021(write, "swav", dataset, metric, (mean + shift) / 100, seed=seed)
    as_2021(write, "byol", "dtd", "top1", 0.2)
    found = compare(read(outputs), ["transfer_2021_table1"])
    marks = {(pair.key.encoder, pair.key.dataset): pair.is_large for pair in found.pairs}
    assert marks == {("swav", "dtd"): False, ("swav", "flowers"): True, ("byol", "dtd"): None}
    table = to_table(found)
    assert sorted(row[7] for row in table.rows) == ["-2.40", "-2.50 *", "-56.91"]
    assert any("exceeds two of its standard deviations" in note for note in table.notes)
    rows = list(csv.DictReader(io.StringIO(to_csv_pairs(found))))
    assert sorted(row["large"] for row in rows) == ["", "0", "1"]


def test_a_single_run_is_judged_by_its_test_images(write, outputs: Path) -> None:
    # 38 of 50 images are right: 76.0 against 77.02. The variance over images is p (1 - p)/50.
    scores = np.zeros((50, 2), np.float32)
    scores[:, 0] = 1
    kept = write_arrays(
        as_2021(write, "swav", "dtd", "top1", 0.76),
        files=np.array([f"{number}.png" for number in range(50)]),
        targets=np.repeat([0, 1], [38, 12]),
        scores=scores,
    )
    path = next(outputs.rglob("record.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **kept}))
    (plain,) = compare(read(outputs), ["transfer_2021_table1"]).pairs
    assert plain.is_large is None
    found = compare(read(outputs), ["transfer_2021_table1"], intervals=True)
    (pair,) = found.pairs
    assert pair.error == pytest.approx(math.sqrt(2 * 0.76 * 0.24 / 50), rel=0.15)
    assert pair.is_large is False
    # The interval of Wilson: (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n).
    table = to_table(found)
    assert table.rows[0][5].startswith("76.00 [62.")
    assert "[low, high]: 95 % interval over images" in table.notes[0]
    (row,) = csv.DictReader(io.StringIO(to_csv_pairs(found)))
    assert float(row["own low"]) == pytest.approx(62.6, abs=1.5)
    assert float(row["own high"]) == pytest.approx(85.7, abs=1.5)


def test_a_published_deviation_counts_instead_of_the_own_one(write, outputs: Path) -> None:
    for seed, value in enumerate((0.599, 0.601)):
        write_metric(write, "top1", value, encoder="a" * 16, model="resnet50-moco_v1",
                     dataset="imagenet", seed=seed)  # fmt: skip
    (pair,) = compare(read(outputs), ["moco_linear"]).pairs
    # -0.8 points; s = 0.1414, published 60.8 ± 0.2: √(0.1414²/2 + 0.2²) = 0.2236.
    assert pair.deviation == pytest.approx(0.002)
    assert pair.is_large is True
    (row,) = csv.DictReader(io.StringIO(to_csv_pairs(compare(read(outputs), ["moco_linear"]))))
    assert (row["own std"], row["published std"], row["difference"]) == ("0.1414", "0.2", "-0.8")


def test_what_differs_in_protocol_is_a_note_per_protocol_and_a_column(write, outputs) -> None:
    keys = {"steps": None, "epochs": 50, "selection": "test", "batch_size": 64}
    for dataset in ("dtd", "cars"):
        as_2021(write, "swav", dataset, "top1", 0.75, protocol="finetune",
                config={"protocol": keys, "dataset": {"labels_per_class": None}})  # fmt: skip
    found = compare(read(outputs), ["transfer_2021_table1"])
    (note,) = [note for note in to_table(found).notes if note.startswith("finetune (transfer")]
    begin = (
        "finetune (transfer_2021_table1) differs: epochs 50 for 5000 steps; selection test for val."
    )
    assert note.startswith(begin)
    assert "Not recorded here:" in note
    rows = list(csv.DictReader(io.StringIO(to_csv_pairs(found))))
    assert {row["differs"] for row in rows} == {"epochs 50 for 5000 steps; selection test for val"}
