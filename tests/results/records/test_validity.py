"""Odd values in records are named and left out; no record keeps others from being shown."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from results import read
from results.commands.main import main
from results.records.labels import natural
from results.records.validity import impossible

SCORE = {"metric": "top1", "unit": "fraction", "higher_is_better": True, "primary": True}


@pytest.mark.parametrize(
    ("value", "unit", "reason"),
    [
        (1.7, "fraction", "`top1` is 170 %, but a fraction lies between 0 and 100 %"),
        (-0.3, "fraction", "`top1` is -30 %, but a fraction"),
        (math.nan, "fraction", "`top1` is NaN, which is not finite"),
        (math.inf, "nats", "`top1` is inf, which is not finite"),
        (-(10**400), "nats", "which is not finite"),
        (1e300, "nats", "`top1` is 1e+300, which is not finite"),
        (None, "fraction", "`top1` is null, which is not a number"),
        ("0.9", "fraction", "`top1` is '0.9', which is not a number"),
        (True, "fraction", "`top1` is True, which is not a number"),
        ([0.9], "fraction", "which is not a number"),
    ],
)
def test_a_score_that_cannot_be_has_a_reason(value: Any, unit: str, reason: str) -> None:
    found = impossible({**SCORE, "unit": unit, "value": value})
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(("value", "unit"), [(0, "fraction"), (1, "fraction"), (1.0000001, "f"),
                                             (-37.5, "nats"), (12, "pixels")])  # fmt: skip
def test_other_scores_have_none(value: float, unit: str) -> None:
    assert impossible({**SCORE, "unit": unit, "value": value}) is None


def test_a_score_that_cannot_be_is_named_and_no_part_of_a_mean(
    write, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, value in enumerate([0.5, 0.7, 1.7]):
        write("a" * 16, seed=seed, value=value)
    write("b" * 16, model="vit", value=math.nan)
    assert main(["table", "--outputs", str(outputs)]) == 0
    shown = capsys.readouterr()
    assert "60.00 ± 14.14 (1 invalid)" in shown.out
    assert [line.split()[-1] for line in shown.out.splitlines() if line.startswith("vit")] == [
        "invalid"
    ]
    assert "* invalid: the score is NaN, infinite or no fraction" in shown.out
    assert shown.err.count("left out of means and correlations") == 2
    assert "`top1` is 170 %, but a fraction lies between 0 and 100 %" in shown.err
    assert main(["failures", "--outputs", str(outputs)]) == 0
    assert "invalid score: linear_probe of vit-simclr on digits" in capsys.readouterr().out


def test_an_impossible_further_metric_leaves_the_primary_one(write, outputs: Path) -> None:
    further = {**SCORE, "metric": "ece", "value": -0.1, "primary": False, "split": "test"}
    write(scores=[{**SCORE, "value": 0.5, "split": "test"}, further])
    results = read(outputs)
    assert [(row.metric, row.value) for row in results.rows] == [("top1", 0.5)]
    assert [(gap.kind, gap.metric) for gap in results.gaps] == [("invalid", "ece")]
    assert main(["table", "--outputs", str(outputs), "--metric", "ece"]) == 0


def test_a_finished_run_without_a_score_does_not_vanish(write, outputs: Path) -> None:
    write(scores=[])
    (gap,) = read(outputs).gaps
    assert (gap.kind, gap.reason) == ("invalid", "the record holds no score")


def test_units_are_never_mixed_in_a_mean(write, outputs: Path) -> None:
    write(seed=0, value=0.5)
    write(seed=1, value=50.0, unit="percent")
    results = read(outputs)
    assert [row.value for row in results.rows] == [0.5]
    assert "another unit or direction" in results.problems[0]


def test_a_copied_folder_counts_once(write, outputs: Path) -> None:
    write(run_id="c" * 16, value=0.5)
    write(run_id="c" * 16, value=0.6)
    results = read(outputs)
    assert len(results.rows) == 1
    assert "holds the same run" in results.problems[0]


ODD: list[Any] = [
    None, True, False, 0, -1, 2**70, 10**300, 1.5, math.nan, math.inf, "", " ", "text", "²", "\x00",
    "\ud800", "ü" * 300, [], [1], [[]], {}, {"a": 1}, {"": {"": None}}, "NaN", "0.5", -0.0,
]  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every part of a document."""
    found = [path] if path else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(
        node, list) else ()  # fmt: skip
    for key, value in items:
        found += _places(value, (*path, key))
    return found


def _mutated(document: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return a document with one to three parts replaced, removed, doubled or nested wrongly."""
    changed = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        path = chance.choice(_places(changed))
        node: Any = changed
        for key in path[:-1]:
            node = node[key]
        how = chance.randrange(5)
        if how == 0:
            del node[path[-1]]
        elif how == 1 and isinstance(node[path[-1]], list):
            node[path[-1]] = node[path[-1]] * 2
        elif how == 2:
            node[path[-1]] = {"inside": node[path[-1]]}
        else:
            node[path[-1]] = copy.deepcopy(chance.choice(ODD))
    return changed


COMMANDS = [
    ["table"],
    ["table", "--format", "csv"],
    ["correlate", "--proxy", "linear_probe", "--target", "finetune"],
    ["correlate", "--proxy", "linear_probe,knn", "--target", "finetune", "--format", "markdown"],
    ["compare", "--published", "transfer_2021_table1"],
    ["list"],
    ["list", "--format", "csv"],
    ["failures"],
]


def _write_sound_runs(write) -> list[Path]:
    folders = []
    for number in range(6):
        model = "simclr_v1" if number == 0 else f"model_{number}"
        for protocol, value in (("linear_probe", 0.5), ("knn", 0.4), ("finetune", 0.6)):
            folders.append(
                write(f"{number:016x}", model=model, method="as_is", protocol=protocol,
                      dataset="dtd", value=value + number / 50)
            )  # fmt: skip
    write("e" * 16, model="model_9", dataset="dtd", error="It broke.")
    write("0" * 16, model="simclr_v1", method="as_is", protocol="logistic_regression",
          dataset="dtd", value=0.74, encoder_label="simclr_v1")  # fmt: skip
    return folders


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 8))]
)
def test_no_mutation_of_a_record_keeps_the_others_from_being_shown(
    write, outputs: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = _write_sound_runs(write)
    failures = sorted(outputs.glob("*/*/failure.json"))
    chance = random.Random(seed)
    for round_number in range(40):
        victim = chance.choice([*(folder / "record.json" for folder in folders[1:]), *failures])
        whole = victim.read_text()
        victim.write_text(json.dumps(_mutated(json.loads(whole), chance)))
        command = COMMANDS[round_number % len(COMMANDS)]
        code = main([*command, "--outputs", str(outputs)])  # never a traceback
        shown = capsys.readouterr()
        shown.out.encode()
        # Only a target that is left with too little may be refused, and then in a sentence.
        assert code == 0 or (code == 2 and shown.err.count("error: ") == 1), shown.err
        if command[0] == "table":
            assert code == 0
            assert "simclr_v1" in shown.out
        victim.write_text(whole)


def test_what_is_no_json_at_all_is_named(write, outputs: Path) -> None:
    write(value=0.5)
    for content in (b"", b"[]", b"3", b"nul", b"[" * 5000, b"\xff\xfe", b'"text"',
                    b'{"schema": 1, "schema": ' + b"1" * 5000 + b"}"):  # fmt: skip
        (write() / "record.json").write_bytes(content)
    deep: Any = {}
    for _ in range(200):
        deep = {"a": deep}
    write(config={"model": {"deep": deep}})
    results = read(outputs)
    assert len(results.rows) == 1
    assert len(results.problems) == 9
    assert all("was skipped: it is damaged" in problem for problem in results.problems)


@pytest.mark.parametrize(
    "content",
    ['{"runs": [1], "folders": [2]}', '{"runs": ["a"], "folders": []}', "[]", "3", "{",
     '{"runs": ["a"], "folders": ["b"], "failures": {"a": 3}}',
     '{"runs": ["a"], "folders": ["b"], "failures": ["a"]}'],
)  # fmt: skip
def test_a_damaged_list_of_a_sweep_is_a_sentence(
    write, outputs: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    folder = outputs / "sweeps" / "2026-01-01"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(content)
    assert main(["table", "--outputs", str(outputs), "--sweep", "latest"]) == 2
    assert "must list runs and folders, but is damaged" in capsys.readouterr().err


def test_a_plot_needs_possible_scores_alone(write, outputs: Path, tmp_path: Path) -> None:
    folders = _write_sound_runs(write)
    path = folders[3] / "record.json"
    record = json.loads(path.read_text())
    record["scores"][0]["value"] = math.nan
    path.write_text(json.dumps(record))
    picture = tmp_path / "scatter.png"
    command = ["correlate", "--proxy", "linear_probe", "--target", "finetune"]
    assert main([*command, "--outputs", str(outputs), "--plot", str(picture)]) == 0
    assert picture.stat().st_size > 1000


def test_superscripts_sort_as_text() -> None:
    assert sorted(["a²", "a10", "a9"], key=natural) == ["a9", "a10", "a²"]
