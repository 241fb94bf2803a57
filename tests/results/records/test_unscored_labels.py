"""Runs without scores leave labels, columns and groups of others as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from results import read
from results.commands.main import main
from results.records.query import where
from results.tables.grid_tables import tables_of
from results.tables.grids import grids
from results.tables.layout import Layout
from results.tables.wide import wide, without_refused

REFUSED = {"error": "no such folder", "stage": "check"}
BROKEN = {"error": "the loss must stay finite", "stage": "work"}
NOT_APPLICABLE = {"status": "not_applicable", "reason": "No.", "scores": []}


def config(**axes: Any) -> dict[str, Any]:
    """Return a configuration as ``write`` makes it for a run with scores."""
    own: dict[str, Any] = {
        "model": {"name": "small_resnet"},
        "method": {"name": "simclr"},
        "protocol": {"name": "linear_probe", "epochs": 10},
        "dataset": {"name": "digits", "root": "/data/three"},
        "precision": "fp32",
    }
    for axis, keys in axes.items():
        own[axis] = {**own[axis], **keys} if isinstance(keys, dict) else keys
    return own


FAULTS = {
    "root": (config(dataset={"root": "/data/typo", "val_fraction": 0.2}), "dataset"),
    "precision": (config(precision="fp16"), "protocol"),
    "epochs": (config(protocol={"epochs": 20}), "protocol"),
    "width": (config(model={"width": 2}), "encoder"),
    "weights": (config(model={"weights": {"path": "typo.pth"}}), "encoder"),
}


@pytest.mark.parametrize("ending", [REFUSED, BROKEN, NOT_APPLICABLE])
@pytest.mark.parametrize(("wrong", "axis"), FAULTS.values(), ids=list(FAULTS))
def test_a_run_without_scores_changes_no_label_of_others(
    write: Callable[..., Path], outputs: Path, ending: dict[str, Any], wrong: Any, axis: str
) -> None:
    for seed in (0, 1):
        write(seed=seed, config={"dataset": {"root": "/data/three"}})
    before = read(outputs)
    unknown = None if axis == "encoder" else "a" * 16
    write(unknown, identity=wrong, requires=["x"], **ending)
    after = read(outputs)
    assert after.rows == before.rows
    (gap,) = after.gaps
    labels = {one: getattr(gap, one) for one in ("encoder", "protocol", "dataset")}
    own = {one: getattr(before.rows[0], one) for one in labels}
    assert labels.pop(axis) != own.pop(axis)
    assert labels == own
    assert after.scored(axis) == before.scored(axis)
    # It is selected by the name of its axis, too, and by its own label.
    if axis != "encoder":
        for name in (getattr(gap, axis).split(" ")[0], getattr(gap, axis)):
            assert after.keep(**{f"{axis}s": [name]}).gaps == [gap]


def test_a_failed_seed_stays_in_the_cell_of_the_others(write, outputs: Path) -> None:
    for epochs in (10, 20):
        write(config={"protocol": {"epochs": epochs}}, value=0.5)
    write(identity=config(protocol={"epochs": 20}), requires=["x"], seed=1, **BROKEN)
    write(identity=config(protocol={"epochs": 40}), requires=["x"], seed=1, **BROKEN)
    labels = [gap.protocol for gap in read(outputs).gaps]
    assert labels == ["linear_probe epochs=20", "linear_probe epochs=40"]
    assert read(outputs).scored("protocol") == ["linear_probe epochs=10", "linear_probe epochs=20"]


def test_a_run_of_other_settings_does_not_enter_a_cell_by_a_short_label(
    write, outputs: Path
) -> None:
    write(config={"protocol": {"k": 5}})
    write(identity=config(), requires=["x"], **BROKEN)  # its identity lacks the key
    results = read(outputs)
    assert [row.protocol for row in results.rows] == ["linear_probe"]
    assert [gap.protocol for gap in results.gaps] == ["linear_probe (other settings)"]


def test_beside_columns_of_hyperparameters_labels_stay_as_they_are(write, outputs: Path) -> None:
    write(config={"dataset": {"root": "/data/three"}})
    for lr in (1, 2):
        wrong = config(protocol={"epochs": 20, "lr": lr})
        write(identity=wrong, requires=["x"], **BROKEN)
    layout = Layout(rows=("encoder", "protocol"), columns=("protocol.epochs",))
    (table,) = tables_of(grids(read(outputs), layout), layout)
    assert list(table.header) == ["encoder", "protocol", "epochs=10", "epochs=20"]
    assert [list(row[1:]) for row in table.rows] == [
        ["linear_probe", "50.00", "–"],
        ["linear_probe lr=1", "–", "failed"],
        ["linear_probe lr=2", "–", "failed"],
    ]


def test_what_was_refused_is_neither_row_nor_column_nor_table(write, outputs: Path) -> None:
    write(config={"dataset": {"root": "/data/three"}})
    write(dataset="textures")
    before = wide(read(outputs))
    for wrong, axis in FAULTS.values():
        encoder = None if axis == "encoder" else "a" * 16
        write(encoder, identity=wrong, requires=["x"], **REFUSED)
    results, sentence = without_refused(read(outputs))
    assert wide(results) == before
    assert sentence is not None
    for pair in ("root=typo", "precision=fp16", "epochs=20", "width=2", "path=typo.pth"):
        assert pair in sentence


def test_a_column_of_failures_leaves_means_of_others_as_they_are(write, outputs: Path) -> None:
    for dataset, value in (("digits", 0.6), ("textures", 0.4)):
        write(dataset=dataset, value=value)
    write(dataset="shapes", **BROKEN)
    (table,) = wide(read(outputs))
    assert list(table.header) == ["encoder", "digits", "shapes", "textures", "mean"]
    assert list(table.rows[0][1:]) == ["60.00", "failed", "40.00", "50.00"]
    layout = Layout(columns=("protocol",), mean_over=("dataset",))
    (table,) = tables_of(grids(read(outputs), layout), layout)
    assert list(table.rows[0][1:]) == ["50.00"]


def test_a_missing_run_of_a_sweep_does_not_take_the_name_of_a_protocol(
    write, outputs: Path
) -> None:
    for epochs in (10, 20):
        write(config={"protocol": {"epochs": epochs}})
    write(identity=None, **BROKEN)  # an early failure has no settings, so the protocol's name
    results = read(outputs)
    assert [gap.protocol for gap in results.gaps] == ["linear_probe"]
    kept = results.keep(protocols=["linear_probe"])
    assert (len(kept.rows), len(kept.gaps)) == (2, 1)


def test_a_pre_training_that_nothing_judged_lengthens_no_label(write, outputs: Path) -> None:
    write("a" * 16)
    longer = config(method={"epochs": 800})
    write("b" * 16, protocol="pretrain", dataset=None, identity=longer, scores=[])
    results = read(outputs)
    assert [row.encoder for row in results.rows] == ["small_resnet-simclr"]


def test_selections_and_failures_find_a_failed_run(write, outputs: Path, capsys) -> None:
    write(config={"dataset": {"root": "/data/three"}})
    wrong = config(dataset={"root": "/data/typo"})
    write(identity=wrong, requires=["x"], **REFUSED)
    results = read(outputs)
    assert len(where(results, 'dataset.root == "/data/typo"').gaps) == 1
    assert main(["failures", "--outputs", str(outputs)]) == 0
    assert "on digits root=typo" in capsys.readouterr().out
