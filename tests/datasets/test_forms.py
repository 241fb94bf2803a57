"""One set in every form: class folders, tables, shards and stored sets give equal scores."""

import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import run_all, tiny

from ssl_transfer.runs import builders

CLASSES = ("crow", "jay", "wren")
Write = Callable[[Path, Path], list[str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 60 images in three class folders, each class with a tint of its own."""
    chance, root = np.random.default_rng(0), tmp_path_factory.mktemp("photos")
    for number in range(60):
        pixels = chance.integers(0, 200, (16, 16, 3), dtype=np.uint8)
        pixels[..., number % 3] += 30
        path = root / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def shuffled(photos: Path) -> list[Path]:
    paths = sorted(photos.rglob("*.png"))
    random.Random(1).shuffle(paths)
    return paths


def as_folder(photos: Path, place: Path) -> list[str]:
    return ["dataset=image_folder", f"dataset.root={photos}"]


def as_table(photos: Path, place: Path) -> list[str]:
    rows = [f"{path.relative_to(photos)},{path.parent.name}\n" for path in shuffled(photos)]
    (place / "cells.csv").write_text("path,label\n" + "".join(rows))
    return ["dataset=image_table", f"dataset.path={place}/cells.csv", f"dataset.root={photos}"]


def as_shards(photos: Path, place: Path) -> list[str]:
    for number in range(3):
        with tarfile.open(place / f"{number:06d}.tar", "w") as tar:
            for path in shuffled(photos)[number::3]:
                tar.add(path, path.relative_to(photos))
                label = path.parent.name.encode()
                about = tarfile.TarInfo(f"{path.parent.name}/{path.stem}.cls")
                about.size = len(label)
                tar.addfile(about, io.BytesIO(label))
    return ["dataset=webdataset", f"dataset.root={place}"]


def as_parquet(photos: Path, place: Path) -> list[str]:
    pa = pytest.importorskip("pyarrow", reason="pyarrow writes Parquet")
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow writes Parquet")
    paths = shuffled(photos)
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    table = pa.table({"image": images, "label": [path.parent.name for path in paths]})
    pq.write_table(table, place / "stored.parquet")
    return ["dataset=huggingface", f"dataset.path={place}/stored.parquet"]


def as_saved(photos: Path, place: Path) -> list[str]:
    pa = pytest.importorskip("pyarrow", reason="pyarrow writes Arrow files")
    paths = shuffled(photos)
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    names = {"names": list(CLASSES), "_type": "ClassLabel"}
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": names}}}
    labels = [CLASSES.index(path.parent.name) for path in paths]
    table = pa.table({"image": images, "label": labels})
    table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    with pa.ipc.new_stream(str(place / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    (place / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    return ["dataset=huggingface", f"dataset.path={place}"]


def as_databases(photos: Path, place: Path) -> list[str]:
    lmdb = pytest.importorskip("lmdb", reason="lmdb writes databases")
    for label in CLASSES:
        database = lmdb.open(str(place / f"{label}_lmdb"), map_size=1 << 20)
        with database, database.begin(write=True) as change:
            for path in (photos / label).iterdir():
                change.put(path.name.encode(), path.read_bytes())
    return ["dataset=lmdb", f"dataset.root={place}"]


FORMS: dict[str, Write] = {
    "table": as_table, "shards": as_shards, "parquet": as_parquet, "saved": as_saved,
    "databases": as_databases,
}  # fmt: skip


def scores(photos: Path, place: Path, write: Write, *keys: str) -> tuple[str, list[object]]:
    """Return the fingerprint and all scores of kNN and of a linear probe with augmentation."""
    place.mkdir()
    axes = [*write(photos, place), "dataset.name=birds", *keys]
    runs = [
        tiny(place / "outputs", "protocol=knn", *axes, data=False, tuned=False),
        tiny(place / "outputs", "protocol=linear_probe", *axes, "protocol.grid.lr=[0.1,1.0]",
             data=False),
    ]  # fmt: skip
    assert run_all(*runs)
    return builders.dataset_of(runs[0]).fingerprint, [run.record()["scores"] for run in runs]


@pytest.fixture(scope="module")
def of_folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[object]]:
    return scores(photos, tmp_path_factory.mktemp("folder") / "form", as_folder)


@pytest.mark.parametrize("form", FORMS)
def test_a_set_gives_the_same_scores_in_every_form(
    photos: Path, tmp_path: Path, of_folder: tuple[str, list[object]], form: str
) -> None:
    fingerprint, values = scores(photos, tmp_path / "form", FORMS[form])
    assert values == of_folder[1]
    assert fingerprint == of_folder[0]


@pytest.mark.slow
def test_pixels_decoded_once_give_the_same_scores(
    photos: Path, tmp_path: Path, of_folder: tuple[str, list[object]]
) -> None:
    for choice in ("always", "never"):
        keys = f"trainer.decode_once={choice}"
        assert scores(photos, tmp_path / choice, as_shards, keys) == of_folder


def test_a_moved_folder_of_shards_is_the_same_dataset(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    run = tiny(
        tmp_path, "protocol=knn", *as_shards(photos, tmp_path / "a"), data=False, tuned=False
    )
    before = builders.dataset_of(run).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    keys = ["dataset=webdataset", f"dataset.root={tmp_path / 'b'}"]
    moved = tiny(tmp_path, "protocol=knn", *keys, data=False, tuned=False)
    assert builders.dataset_of(moved).fingerprint == before
