import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from results import ResultsError, frame, read
from ssl_transfer.system.files import write_json


def test_the_long_table_has_one_row_per_run_and_metric(write, outputs: Path) -> None:
    folder = write(value=0.25)
    record = json.loads((folder / "record.json").read_text())
    second = {**record["scores"][0], "metric": "mean_per_class", "primary": False}
    record["scores"].append(second)
    (folder / "record.json").write_text(json.dumps(record))
    table = frame(read(outputs))
    assert table["metric"].tolist() == ["top1", "mean_per_class"]
    assert table["value"].tolist() == [0.25, 0.25]
    assert table["encoder"].unique().tolist() == ["small_resnet-simclr"]


def test_encoders_that_share_a_label_are_told_apart_by_what_differs(write, outputs: Path) -> None:
    for encoder, epochs in (("a" * 16, 4), ("b" * 16, 40)):
        for dataset in ("digits", "textures"):
            resources = {"gpus": epochs}
            write(
                encoder,
                dataset=dataset,
                config={"method": {"epochs": epochs, "resources": resources}},
            )
    found = {(row.encoder_id, row.encoder) for row in read(outputs).rows}
    assert found == {
        ("a" * 16, "small_resnet-simclr epochs=4"),
        ("b" * 16, "small_resnet-simclr epochs=40"),
    }


def test_encoders_whose_configurations_agree_are_told_apart_by_id(write, outputs: Path) -> None:
    write("a" * 16)
    write("b" * 16)
    assert {row.encoder for row in read(outputs).rows} == {
        "small_resnet-simclr aaaaaaaa",
        "small_resnet-simclr bbbbbbbb",
    }


def test_runs_of_one_cell_that_differ_in_more_than_the_seed_are_variants(
    write, outputs: Path
) -> None:
    for epochs in (10, 20):
        for seed in (0, 1):
            write(seed=seed, config={"protocol": {"epochs": epochs}})
    write(dataset="textures", config={"dataset": {"size": 3}})
    write(dataset="textures", config={"dataset": {"size": 5}})
    rows = read(outputs).rows
    assert {row.protocol for row in rows if row.dataset == "digits"} == {
        "linear_probe epochs=10",
        "linear_probe epochs=20",
    }
    assert {row.dataset for row in rows} == {"digits", "textures size=3", "textures size=5"}


def test_a_protocol_that_is_set_up_per_dataset_stays_one(write, outputs: Path) -> None:
    write(dataset="digits", config={"protocol": {"epochs": 10}})
    write(dataset="textures", config={"protocol": {"epochs": 20}})
    assert {row.protocol for row in read(outputs).rows} == {"linear_probe"}


def test_a_failure_that_knows_no_encoder_belongs_to_the_one_of_its_label(
    write, outputs: Path
) -> None:
    write("a" * 16, dataset="digits")
    write(None, dataset="textures", error="It broke.")
    (gap,) = read(outputs).gaps
    assert (gap.encoder, gap.kind, gap.reason) == ("small_resnet-simclr", "failed", "It broke.")
    write("b" * 16, dataset="digits", config={"method": {"epochs": 3}})
    (gap,) = read(outputs).gaps
    assert gap.encoder == "small_resnet-simclr (which one is unknown)"


def test_a_not_applicable_run_with_a_stand_in_id_belongs_to_its_encoder(
    write, outputs: Path
) -> None:
    write("a" * 16)
    nothing = {"status": "not_applicable", "reason": "No.", "scores": []}
    write("f" * 16, protocol="bn_tune", run_id="f" * 16, **nothing)
    results = read(outputs)
    assert [gap.encoder for gap in results.gaps] == ["small_resnet-simclr"]
    assert results.rows[0].encoder == "small_resnet-simclr"
    write("b" * 16)
    (gap,) = read(outputs).gaps
    assert gap.encoder == "small_resnet-simclr (which one is unknown)"


def test_damaged_and_newer_records_are_named_and_skipped(write, outputs: Path) -> None:
    write()
    broken, newer, partial, odd = (write() for _ in range(4))
    (broken / "record.json").write_text('{"schema": 1, "run')
    for folder, change in (
        (newer, {"schema": 2}),
        (partial, {"scores": None}),
        (odd, {"scores": [3]}),
    ):
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps(record | change))
    (outputs / "linear_probe" / "empty").mkdir()
    results = read(outputs)
    assert len(results.rows) == 1
    assert len(results.problems) == 4
    for folder, words in (
        (broken, "damaged"),
        (newer, "schema 2"),
        (partial, "'scores'"),
        (odd, "JSON object"),
    ):
        assert any(str(folder) in text and words in text for text in results.problems)


def test_a_score_that_was_changed_in_its_file_is_named_and_left_out(write, outputs: Path) -> None:
    kept, changed = write(value=0.5), write(value=0.25)
    for folder in (kept, changed):
        write_json(folder / "record.json", json.loads((folder / "record.json").read_text()))
    assert [row.value for row in read(outputs).rows] == [0.5, 0.25]
    text = (changed / "record.json").read_text()
    (changed / "record.json").write_text(text.replace("0.25", "0.75"))
    results = read(outputs)
    assert [row.value for row in results.rows] == [0.5]
    assert results.problems == [
        f"`{changed / 'record.json'}` was skipped: it was damaged or changed (its checksum is "
        "wrong)."
    ]
    (changed / "record.json").write_text("[" * 100_000)
    assert len(read(outputs).problems) == 1


def test_scores_that_are_no_finite_number_are_left_out(write, outputs: Path) -> None:
    write(value=float("nan"))
    write(value=None)
    assert read(outputs).rows == []


def test_a_sweep_reads_only_its_own_runs_and_knows_what_is_missing(write, outputs: Path) -> None:
    mine, other = write(), write(dataset="textures")
    sweep = outputs / "sweeps" / "2026-01-02_10-00-00_abc"
    sweep.mkdir(parents=True)
    run_id = json.loads((mine / "record.json").read_text())["run_id"]
    gone = f"finetune/{other.name}"
    text = {
        "command": "",
        "runs": [run_id, "e" * 16],
        "folders": [str(mine.relative_to(outputs)), gone],
        "failures": {"e" * 16: "requires pretrain, which failed", "d" * 16: "The disk is full."},
    }
    (sweep / "sweep.json").write_text(json.dumps(text))
    for name in ("latest", sweep.name, str(sweep), str(sweep / "sweep.json")):
        results = read(outputs, name)
        assert [row.dataset for row in results.rows] == ["digits"]
        assert [(gap.kind, gap.reason) for gap in results.gaps] == [
            ("missing", "requires pretrain, which failed"),
            ("required", "The disk is full."),
        ]
    with pytest.raises(ResultsError, match=r"2026-01-02.*`nonsense`"):
        read(outputs, "nonsense")
    (sweep / "sweep.json").write_text("{}")
    with pytest.raises(ResultsError, match="damaged"):
        read(outputs, "latest")


def test_names_that_do_not_exist_are_answered_with_those_that_do(write, outputs: Path) -> None:
    write()
    with pytest.raises(ResultsError, match=r"`digits`.*`cats`"):
        read(outputs).keep(datasets=["cats"])
    assert read(outputs).keep(without=["small_resnet-simclr"]).rows == []


def test_a_record_is_read_in_less_than_a_millisecond(write, outputs: Path) -> None:
    for number in range(2500):
        write(f"{number // 10:016x}", seed=number, config={"method": {"epochs": number // 10}})
    began = time.process_time()
    assert len(read(outputs).rows) == 2500
    assert time.process_time() - began < 2.5


def test_neither_torch_nor_the_library_is_imported_nor_slow_packages_for_a_table() -> None:
    code = (
        "import sys, results.commands.main, results.report.summary;"
        "import results.tables.wide, results.published.catalogue;"
        "print([m for m in ('pandas', 'scipy', 'matplotlib') if m in sys.modules]);"
        "import results.agreement.correlations, results.figures.target_scores;"
        "print([m for m in ('torch', 'ssl_transfer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_debug_runs_are_left_out_beside_real_ones(write, outputs: Path) -> None:
    write("a" * 16, value=0.25)
    path = write("b" * 16, value=0.75) / "record.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "config": {**document["config"], "debug": True}}))
    found = read(outputs)
    assert [row.value for row in found.rows] == [0.25]
    assert found.problems == ["left out: 1 runs with debug=true, which train for two steps."]


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "knn/../../x"])
def test_a_sweep_reads_no_folder_outside_of_the_outputs(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "sweeps" / "s"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"runs": ["a"], "folders": [place]}))
    with pytest.raises(ResultsError, match="names a folder outside of the outputs"):
        read(tmp_path, "s")
