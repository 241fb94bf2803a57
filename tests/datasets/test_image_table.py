import dataclasses
import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.datasets import Dataset, columns
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.image_table import image_table

CLASSES = ("crow", "jay", "wren")
Row = Mapping[str, Any]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 60 images in three class folders."""
    chance = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "photos" / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def rows_of(root: Path) -> list[dict[str, Any]]:
    """Return a row per image, in an order of chance."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [{"path": path, "label": path.split("/")[0]} for path in paths]
    random.Random(0).shuffle(rows)
    return rows


def write_csv(path: Path, rows: Sequence[Row], separator: str = ",") -> None:
    lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


WRITERS: dict[str, Callable[[Path, Sequence[Row]], None]] = {
    "csv": write_csv,
    "tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "jsonl": write_json,
    "parquet": write_parquet,
}


def read(file: Path, **keys: Any) -> Dataset:
    return image_table(**{"name": "mine", "path": str(file)} | keys)


def table(folder: Path, rows: Sequence[Row], form: str = "csv", **keys: Any) -> Dataset:
    file = folder / f"cells.{form}"
    WRITERS[form](file, rows)
    return read(file, **keys)


def pairs(dataset: Dataset, *splits: str) -> list[tuple[str, Any]]:
    return [
        pair
        for key in splits or ("train", "val", "test")
        for pair in zip(dataset[key].names, dataset[key].targets.tolist(), strict=True)
    ]


@pytest.mark.parametrize("form", WRITERS)
def test_a_shuffled_table_of_class_folders_is_the_same_dataset(photos: Path, form: str) -> None:
    folder = image_folder(name="mine", root=str(photos))
    listed = table(photos, rows_of(photos), form)
    assert listed.fingerprint == folder.fingerprint
    assert listed.classes == folder.classes == CLASSES
    for key in ("train", "val", "test"):
        assert pairs(listed, key) == pairs(folder, key)
        for one, other in zip(listed[key].images, folder[key].images, strict=True):
            assert one.tobytes() == other.tobytes()
    sizes = {key: len(listed[key]) for key in ("train", "val", "test")}
    assert sizes == {"train": 39, "val": 9, "test": 12}
    assert listed.facts["test"] == "seeded, 0.2"


def test_columns_of_splits_groups_and_domains(photos: Path) -> None:
    rows = [
        {**row, "split": ("training", "Validation", "TEST")[int(Path(row["path"]).stem) % 7 % 3],
         "group": str(int(Path(row["path"]).stem) // 2), "domain": ("north", "south")[number % 2]}
        for number, row in enumerate(rows_of(photos))
    ]  # fmt: skip
    dataset = table(photos, rows)
    of_row = {row["path"]: row for row in rows}
    assert dataset.domains == ("north", "south")
    assert dataset.facts["test"] == "own"
    for key, word in (("train", "training"), ("val", "Validation"), ("test", "TEST")):
        split = dataset[key]
        assert set(split.names) == {row["path"] for row in rows if row["split"] == word}
        assert split.domains is not None
        found = [dataset.domains[number] for number in split.domains]
        assert found == [of_row[name]["domain"] for name in split.names]
        assert split.groups is not None
    without = table(photos, rows, columns={"split": "none", "domain": "none", "group": "none"})
    assert without.domains == ()
    assert without["train"].groups is None
    assert len(without["test"]) == 12


def test_images_of_a_group_stay_in_one_split(photos: Path) -> None:
    rows = [{**row, "group": f"bird {int(Path(row['path']).stem) // 6}"} for row in rows_of(photos)]
    dataset = table(photos, rows)
    group_of = {row["path"]: row["group"] for row in rows}
    groups = [{group_of[name] for name in dataset[key].names} for key in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 10


def test_the_user_names_columns_and_root(photos: Path, tmp_path: Path) -> None:
    rows = [{"img": row["path"], "diagnosis": row["label"], "label": 1} for row in rows_of(photos)]
    columns_of = {"path": "img", "label": "diagnosis"}
    dataset = table(tmp_path, rows, root=str(photos), columns=columns_of)
    assert dataset.fingerprint == image_folder(name="mine", root=str(photos)).fingerprint


def test_labels_that_are_numbers_are_classes_in_the_order_of_their_value(photos: Path) -> None:
    number = {"crow": 10, "jay": 9, "wren": 0}
    rows = [{**row, "label": number[row["label"]]} for row in rows_of(photos)]
    for form in ("csv", "jsonl", "parquet"):
        assert table(photos, rows, form).classes == ("0", "9", "10")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_several_labels_per_image_become_one_row_of_marks(photos: Path, form: str) -> None:
    of = {"crow": ["black", "large"], "jay": ["large"], "wren": []}
    rows = [
        {"path": row["path"],
         "labels": "; ".join(of[row["label"]]) if form == "csv" else of[row["label"]]}
        for row in rows_of(photos)
    ]  # fmt: skip
    dataset = table(photos, rows, form)
    assert (dataset.target, dataset.metric) == ("classes", "map_11_point")
    assert dataset.classes == ("black", "large")
    marks = {"crow": [1, 1], "jay": [0, 1], "wren": [0, 0]}
    assert len(pairs(dataset)) == 60
    assert all(target == marks[name.split("/")[0]] for name, target in pairs(dataset))
    assert [len(dataset[key]) for key in ("train", "val", "test")] == [38, 10, 12]
    assert dataset.facts["validation"] == "seeded, 0.2 of train"


def test_columns_of_marks_and_columns_of_values(photos: Path) -> None:
    rows = [
        {"path": row["path"], "big": int(row["label"] == "crow"), "old": number % 3 - 1,
         "age": number / 4}
        for number, row in enumerate(rows_of(photos))
    ]  # fmt: skip
    marked = table(photos, rows, target="classes", columns={"label": ["big", "old"]})
    assert marked.classes == ("big", "old")
    of_row = {row["path"]: row for row in rows}
    assert all(target == [of_row[n]["big"], of_row[n]["old"]] for n, target in pairs(marked))
    valued = table(photos, rows, target="values", columns={"label": "age"})
    assert (valued.target, valued.classes) == ("values", ("age",))
    assert all(target == [of_row[name]["age"]] for name, target in pairs(valued))
    with pytest.raises(ValueError, match=r"cells\.csv:\d+: a class must be marked 1 .*0\.25"):
        table(photos, rows, target="classes", columns={"label": ["big", "age"]})
    with pytest.raises(ValueError, match=r"`dataset\.target` must be values or classes for sev"):
        table(photos, rows, columns={"label": ["big", "age"]})


def test_a_table_must_have_training_rows_classes_and_finite_values(photos: Path) -> None:
    rows = rows_of(photos)
    with pytest.raises(ValueError, match="must have training images, but all of its images are of"):
        table(photos, [{**row, "split": "test"} for row in rows])
    with pytest.raises(ValueError, match="must have at least two classes, but has `bird`"):
        table(photos, [{**row, "label": "bird"} for row in rows])
    with pytest.raises(ValueError, match="must have at least one class, but has none"):
        table(photos, [{"path": row["path"], "labels": ""} for row in rows])
    with pytest.raises(ValueError, match=r"cells\.csv:2: the label 'nan' is no finite number"):
        table(photos, [{**row, "label": "nan"} for row in rows], target="values")


def changed(rows: list[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    return [*rows[:3], {**rows[3], **values}, *rows[4:]]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"path": "gone.png"}, r"cells\.csv:5: there is no file `.*gone\.png`"),
        ({"path": "crow"}, r"cells\.csv:5: `.*crow` is a folder"),
        ({"path": r"crow\0.png"}, "must have / between folders"),
        ({"path": ""}, r"cells\.csv:5: no path"),
        ({"label": " "}, r"cells\.csv:5: no label"),
        ({"split": "hold-out"}, r"cells\.csv:5: the split `hold-out` is none of train, val and te"),
        ({"split": "test", "label": "crov"}, r"label `crov` is not among .*did you mean `crow`"),
        ({"label": "a,b"}, r"cells\.csv:5: 4 fields instead of 3"),
        ({"label": '"a'}, r"cells\.csv:5: no CSV from here on"),
    ],
)
def test_bad_rows_are_named_with_their_line(photos: Path, values: Row, sentence: str) -> None:
    rows = changed([{**row, "split": "train"} for row in rows_of(photos)], **values)
    with pytest.raises(ValueError, match=f"the rows of `mine` must name each image.*{sentence}"):
        table(photos, rows)


def test_an_image_named_twice_is_told_with_both_rows(photos: Path) -> None:
    rows = rows_of(photos)
    again = f"./{rows[0]['path']}"
    with pytest.raises(ValueError, match=r"cells\.jsonl:4: .* is named in cells\.jsonl:1 already"):
        table(photos, changed(rows, path=again), "jsonl")
    with pytest.raises(ValueError, match=r"parquet: row 4: .* is named in .*parquet: row 1 al"):
        table(photos, changed(rows, path=again), "parquet")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"columns": {"label": "diagnosis"}},
            r"no column `diagnosis`; its columns are `path`, `la",
        ),
        ({"columns": {"tag": "label"}}, r"`dataset\.columns` must map some of .* maps `tag`"),
        ({"columns": {"path": ["a", "b"]}}, r"`dataset\.columns\.path` must be the name of one c"),
        ({"columns": {"label": "a", "labels": "b"}}, "must name one of `label` and `labels`"),
        ({"root": "nowhere"}, r"`dataset\.root` must be a folder of images"),
        ({"path": "gone.csv"}, r"`dataset\.path` must be a table, but `gone\.csv` does not exist"),
        ({"path": "cells.xls"}, r"must be a table whose name ends in \.csv, .*but is `cells\.xls`"),
        ({"target": "values"}, r"cells\.csv:2: the label '.*' is no finite n"),
    ],
)
def test_wrong_keys_are_answered_in_a_sentence(photos: Path, keys: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        table(photos, rows_of(photos), **keys)


def test_damaged_tables_are_told(photos: Path) -> None:
    for name, content, sentence in (
        ("a.csv", b"", "no column `path`, `file`"),
        ("b.csv", b"path,label\n", r"b\.csv: no rows"),
        ("c.csv", "path,label\nä.png,a\n".encode("latin-1"), "is not UTF-8 .* save it as UTF-8"),
        ("d.jsonl", b"{\n", r"d\.jsonl:1: no JSON"),
        ("e.jsonl", b"[1]\n", r"e\.jsonl:1: no JSON object"),
        ("f.parquet", b"PAR1", r"f\.parquet: no Parquet file"),
    ):
        (photos / name).write_bytes(content)
        with pytest.raises(ValueError, match=sentence):
            read(photos / name)


def test_a_missing_pyarrow_is_told_with_the_command(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(columns.importlib, "import_module", missing)
    (photos / "cells.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"pyarrow must be installed .*`pip install pyarrow`"):
        read(photos / "cells.parquet")


def test_copies_and_corrupt_images_are_treated_as_in_folders(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(photos)
    split = {row["path"]: ("train", "test")[number % 2] for number, row in enumerate(rows)}
    rows = [{**row, "split": split[row["path"]]} for row in rows]
    one, other, broken = rows[0]["path"], rows[1]["path"], rows[2]["path"]
    (photos / one).write_bytes((photos / other).read_bytes())
    with pytest.raises(ValueError, match="no image of `mine` may be in two splits"):
        table(photos, rows)
    assert len(pairs(table(photos, rows, on_duplicates="drop"))) == 59
    (photos / broken).write_bytes(b"no image")
    with pytest.raises(ValueError, match="every image of `mine` must decode, but 1 of 60 do not"):
        table(photos, rows, on_duplicates="drop")
    skipped = table(photos, rows, on_duplicates="drop", on_corrupt="skip")
    assert skipped.facts["corrupt_names"] == [broken]


def test_few_labels_per_class_are_those_of_the_folder(photos: Path) -> None:
    keys = {"labels_per_class": 5, "test_per_class": 2}
    folder = image_folder(name="mine", root=str(photos), **keys)
    assert pairs(table(photos, rows_of(photos), **keys)) == pairs(folder)


def test_paths_that_lead_out_of_the_root_are_told(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "path": f"../photos/{row['path']}"} for row in rows_of(photos)]
    with caplog.at_level(logging.WARNING):
        table(photos, rows)
    assert "60 paths lead out of" in caplog.text


def test_the_table_and_its_images_are_the_inputs(photos: Path) -> None:
    dataset = table(photos, rows_of(photos))
    names = {str(photos / "cells.csv"), *(str(path) for path in photos.rglob("*.png"))}
    assert set(dataset.inputs.paths) == names
    assert dataclasses.replace(dataset).inputs.identity == dataset.inputs.identity


def test_lines_of_json_are_read_exactly(tmp_path: Path) -> None:
    lines = ['{"a": 12345678901234567890123, "b": "x"}', '{"a": [1, 2.5], "b": null}',
             '{"a": NaN, "b": true}', '{"a": 1e400, "b": 3}', '{"a": " é ", "b": 0.1}']  # fmt: skip
    (tmp_path / "x.jsonl").write_text("\n".join(lines) + "\n")
    read = columns.read_table("dataset.path", tmp_path / "x.jsonl", lambda header: header, [])
    rows = [json.loads(line) for line in lines]
    assert repr(read.values["a"]) == repr([row["a"] for row in rows[:-1]] + ["é"])
    assert read.values["b"] == [row["b"] for row in rows]
