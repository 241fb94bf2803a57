"""Scores against the size of the encoder."""

import csv
import io
import statistics
from pathlib import Path
from typing import Any

import pytest

from results import read
from results.commands.main import main
from results.tables.size_curves import Point, points, published_points

RESNET = {"_target_": "small_resnet", "name": "small_resnet", "width": 16}
SUPERVISED = {"name": "supervised", "_target_": "Supervised", "epochs": 10}


def network(seed: int, width: int = 16, **method: Any) -> dict[str, Any]:
    """Return a reference to a pre-training, as a run's configuration states it."""
    return {
        "model": {**RESNET, "width": width},
        "method": {**SUPERVISED, "seed": seed, **method},
    }


def single(write, name: str, trained: int, value: float, *, size: int = 1000, **changes) -> None:
    nodes = network(trained, width=changes.pop("width", 16))
    write(name * 16, method="supervised", value=value, config=nodes, parameters=size, **changes)


def joined(write, name: str, members: list[dict[str, Any]], value: float, **changes) -> None:
    method = changes.pop("method", "cat")
    size = changes.pop("size", 1000 * len(members))
    write(name * 16, method=method, value=value, config={"method": {"members": members}},
          parameters=size, **changes)  # fmt: skip


@pytest.fixture
def study(write, outputs: Path) -> Path:
    """Two single networks, one twice as wide, and two repeats of CAT of two."""
    for seed, value in enumerate((0.50, 0.54)):
        single(write, str(seed), seed, value)
    single(write, "w", 0, 0.55, size=4000, width=32)
    joined(write, "c", [network(0), network(1)], 0.60)
    joined(write, "d", [network(2), network(3)], 0.63)
    return outputs


def by_construction(found: list[Point]) -> dict[str, Point]:
    assert len({point.construction for point in found}) == len(found)
    return {point.construction: point for point in found}


def test_repeats_are_encoders_that_differ_in_seeds_only(study: Path) -> None:
    found, left_out = points(read(study))
    assert left_out == []
    curves = by_construction(found)
    assert set(curves) == {"single", "wide", "cat"}
    assert curves["single"].mean == pytest.approx(0.52)
    assert curves["single"].deviation == pytest.approx(statistics.stdev([0.50, 0.54]))
    assert (curves["single"].repeats, curves["single"].parameters) == (2, 1000)
    assert (curves["wide"].repeats, curves["wide"].deviation) == (1, None)
    assert (curves["wide"].networks, curves["wide"].parameters) == (1, 4000)
    assert (curves["cat"].networks, curves["cat"].parameters) == (2, 2000)
    assert curves["cat"].mean == pytest.approx(0.615)
    assert {point.family for point in found} == {""}


def test_the_deviation_of_one_encoder_is_that_of_its_evaluations(write, outputs: Path) -> None:
    for seed, value in enumerate((0.4, 0.5, 0.9)):
        single(write, "a", 0, value, seed=seed)
    ((point,), _) = points(read(outputs))
    assert point.deviation == pytest.approx(statistics.stdev([0.4, 0.5, 0.9]))
    assert point.repeats == 3


@pytest.mark.parametrize(
    ("protocol", "construction", "panel"),
    [
        ("linear_probe", "cat", "linear_probe"),
        ("finetune", "init_cat", "finetune"),
        ("two_stage_finetune", "two_stage", "finetune"),
        ("score_as_is", "cat", "finetune"),
    ],
)
def test_the_protocol_tells_what_joined_networks_are(
    write, outputs: Path, protocol: str, construction: str, panel: str
) -> None:
    joined(write, "a", [network(0), network(1)], 0.6, protocol=protocol)
    ((point,), _) = points(read(outputs))
    assert (point.construction, point.panel) == (construction, (panel, "digits"))


def test_every_construction_follows_from_the_configuration(write, outputs: Path) -> None:
    pair = [network(0), network(1)]
    single(write, "a", 0, 0.5)
    joined(write, "b", pair, 0.6, method="cat_sub")
    sliced = [network(0, 32) for _ in range(2)]
    for start, part in enumerate(sliced):
        part["model"]["columns"] = [64 * start, 64 * start + 64]
    joined(write, "c", sliced, 0.55, method="cat_sub", size=4000)
    snapshots = [network(0, snapshot=epoch) for epoch in (5, 10, 15)]
    joined(write, "d", snapshots, 0.58)
    for name, teachers in (("e", pair), ("f", snapshots)):
        write(name * 16, method="distill", value=0.59,
              config={"model": RESNET, "method": {"teachers": teachers, "seed": 0}},
              parameters=1000,
              )  # fmt: skip
    write("g" * 16, model="joint", method="supervised", value=0.52,
          config={"model": {"networks": 4}, "method": SUPERVISED},
          parameters=4000)  # fmt: skip
    found = by_construction(points(read(outputs))[0])
    assert {name: point.networks for name, point in found.items()} == {
        "single": 1, "cat_sub": 2, "wide_sub": 2, "cat_snapshots": 3, "distill": 2,
        "distill_snapshots": 3, "joint": 4,
    }  # fmt: skip
    # A student is trained by other means, but its teachers are the same networks.
    assert {point.family for point in found.values()} == {""}


def test_networks_that_were_trained_otherwise_are_curves_of_their_own(study: Path, write) -> None:
    for seed in (0, 1):
        nodes = network(seed, epochs=99)
        write(f"{seed + 5}" * 16, method="supervised", value=0.7, config=nodes,
              parameters=1000)  # fmt: skip
    joined(write, "y", [network(0, epochs=99), network(1, epochs=99)], 0.8)
    found, _ = points(read(study))
    scores = {(point.construction, point.family): point.mean for point in found}
    assert scores == pytest.approx({
        ("single", "epochs=10"): 0.52, ("wide", "epochs=10"): 0.55, ("cat", "epochs=10"): 0.615,
        ("single", "epochs=99"): 0.7, ("cat", "epochs=99"): 0.8,
    })  # fmt: skip


def test_files_of_several_runs_are_repeats_and_other_layouts_are_not(write, outputs: Path) -> None:
    for number, (layout, value) in enumerate([("rrl", 0.5), ("rrl", 0.6), ("swav", 0.9)]):
        name = f"{layout}_run{number}"
        weights = {"path": f"/w/{name}.pth", "layout": layout}
        model = {"name": name, "arch": "resnet50", "weights": weights}
        write(f"{number}" * 16, model=name, method="as_is", value=value, config={"model": model},
              parameters=9)  # fmt: skip
    found, _ = points(read(outputs))
    assert {point.family: (point.mean, point.repeats) for point in found} == {
        "layout=rrl": (pytest.approx(0.55), 2),
        "layout=swav": (pytest.approx(0.9), 1),
    }


def test_two_settings_at_one_place_are_told_apart(study: Path, write) -> None:
    method = {"members": [network(0), network(1)], "fuse": "add"}
    write("z" * 16, method="cat", value=0.1, config={"method": method},
          parameters=2000)  # fmt: skip
    found, _ = points(read(study))
    cats = {point.family: point.mean for point in found if point.construction == "cat"}
    assert cats == {"": pytest.approx(0.615), "fuse=add": pytest.approx(0.1)}


def test_the_size_may_stand_in_the_counts_of_a_training_or_in_those_of_required_runs(
    write, outputs: Path
) -> None:
    ids = []
    for name in "ab":
        folder = write(name * 16, method="supervised", config=network("ab".index(name)),
                       trainable={"encoder_parameters": 700})  # fmt: skip
        ids.append(f"{int(folder.name.rsplit('_', 1)[1], 16):08x}{0:08x}")
    write("c" * 16, method="cat_sub", value=0.7, requires=ids,
          config={"method": {"members": [network(0), network(1)]}})  # fmt: skip
    write("d" * 16, method="supervised", config=network(0, epochs=1))
    found, left_out = points(read(outputs))
    sizes = {point.construction: point.parameters for point in found}
    assert sizes == {"single": 700, "cat_sub": 1400}
    assert len(left_out) == 1
    assert "1 encoder" in left_out[0]


def test_published_points_have_the_table_s_numbers() -> None:
    tables = ["rich_representations_supervised_finetune"]
    found = published_points(tables, ["finetune", "two_stage_finetune"], ["inaturalist18"])
    assert len(found) == 10 + 4 + 4
    best = max(found, key=lambda point: point.mean)
    assert (best.construction, best.networks, best.mean) == ("two_stage", 10, 0.6907)
    assert {p.construction for p in found if p.networks == 4} == {
        "joint", "init_cat", "two_stage", "cat_sub",
    }  # fmt: skip
    (student,) = [point for point in found if point.construction == "distill"]
    assert (student.networks, student.parameters) == (5, 23_508_032)


def test_the_command_writes_a_picture_and_its_points(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "pictures" / "curve.png"
    code = main(["curve", "--outputs", str(study), "--dataset", "digits", "--protocol",
                 "linear_probe", "--plot", str(picture)])  # fmt: skip
    assert code == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader(io.StringIO(picture.with_suffix(".csv").read_text())))
    assert [(row["construction"], row["parameters"]) for row in rows] == [
        ("single", "1000"), ("wide", "4000"), ("cat", "2000"),
    ]  # fmt: skip
    assert float(rows[2]["mean"]) == pytest.approx(0.615)
    printed = capsys.readouterr().out
    assert "61.50 ± 2.12" in printed  # stdev of 60 and 63


def test_published_points_stand_beside_own_ones_or_alone(
    write, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single(write, "0", 0, 0.9, dataset="cifar10")
    table = ["--published", "rich_representations_supervised_linear", "--dataset", "cifar10"]
    assert main(["curve", "--outputs", str(outputs), *table, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 1 + 14
    assert [row["source"] for row in rows[:2]] == ["", table[1]]
    assert main(["curve", "--outputs", str(tmp_path / "none"), *table, "--format", "csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 14


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--plot", "curve.txt"], "`--plot`"),
        (["--published", "moco_linear"], "must state constructions"),
        (["--metric", "nothing"], "needs scores"),
        (["--dataset", "nothing"], "`nothing`"),
    ],
)
def test_a_mistake_is_one_sentence(
    study: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert main(["curve", "--outputs", str(study), *options]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1
