import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.decoded import decode_once
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.huggingface import huggingface
from ssl_transfer.system import inputs

pa = pytest.importorskip("pyarrow", reason="pyarrow reads these sets")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads these sets")

CLASSES = ("crow", "jay", "wren")
ROW = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SIZES = {"train": 30, "validation": 12, "test": 18}


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
    paths = sorted(root.rglob("*.png"))
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": path.name},
         "label": CLASSES.index(path.parent.name)}
        for path in paths
    ]  # fmt: skip
    random.Random(0).shuffle(rows)
    return rows


def arrow_table(rows: list[dict[str, Any]], *, named: bool = True, **columns: Any) -> Any:
    """Return what `datasets` stores for such rows."""
    names = {"names": list(CLASSES), "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": names}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table(
        {
            "image": pa.array([row["image"] for row in rows], ROW),
            "label": [row["label"] for row in rows],
            **columns,
        }
    )
    return table.replace_schema_metadata(metadata if named else None)


def write_arrow(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write what `save_to_disk` writes."""
    folder.mkdir(parents=True)
    table = arrow_table(rows)
    path = str(folder / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))


def read(path: Path, **keys: Any) -> Dataset:
    return huggingface(**{"name": "mine", "path": str(path)} | keys)


def pixels(dataset: Dataset) -> list[bytes]:
    return [image.tobytes() for key in SPLITS for image in dataset[key].images]


SPLITS = ("train", "val", "test")


def is_the_folder(dataset: Dataset, photos: Path, **keys: Any) -> None:
    folder = image_folder(name="mine", root=str(photos), **keys)
    assert dataset.fingerprint == folder.fingerprint
    assert dataset.classes == folder.classes
    assert pixels(dataset) == pixels(folder)


def test_a_parquet_file_in_any_order_is_the_dataset_of_its_class_folders(
    photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stored.parquet"
    pq.write_table(arrow_table(rows_of(photos)), path, row_group_size=11)
    is_the_folder(read(path), photos)


def test_a_saved_set_is_the_dataset_of_its_class_folders(photos: Path, tmp_path: Path) -> None:
    write_arrow(tmp_path / "saved", rows_of(photos))
    is_the_folder(read(tmp_path / "saved"), photos)


def test_what_datasets_itself_stores_is_the_dataset_of_its_class_folders(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="`datasets` writes the sets of this test")
    datasets.disable_progress_bars()
    paths = sorted(photos.rglob("*.png"))
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    columns = {
        "image": list(map(str, paths)),
        "label": [CLASSES.index(path.parent.name) for path in paths],
    }
    stored = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).shuffle(seed=1)
    stored.save_to_disk(tmp_path / "saved", num_shards=2)
    saved = datasets.load_from_disk(str(tmp_path / "saved"))  # with the bytes of the images
    saved.to_parquet(tmp_path / "stored.parquet")
    parts = datasets.DatasetDict({
        "train": stored.select(range(40)), "test": stored.select(range(40, 60)),
    })  # fmt: skip
    parts.save_to_disk(tmp_path / "parts")
    is_the_folder(read(tmp_path / "saved"), photos)
    is_the_folder(read(tmp_path / "stored.parquet"), photos)
    dataset = read(tmp_path / "parts")
    assert [len(dataset[key]) for key in SPLITS] == [32, 8, 20]
    assert all(name.startswith("test/") for name in dataset["test"].names)


def write_splits(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir()
    start = 0
    for key, size in SIZES.items():
        part = rows[start : start + size]
        half = size // 2
        for number, shard in enumerate((part[:half], part[half:])):
            pq.write_table(arrow_table(shard), folder / f"{key}-0000{number}-of-00002.parquet")
        start += size


def test_parquet_files_name_their_splits(photos: Path, tmp_path: Path) -> None:
    write_splits(tmp_path / "data", rows_of(photos))
    dataset = read(tmp_path)
    assert [len(dataset[key]) for key in SPLITS] == [30, 12, 18]
    assert dataset.facts["validation"] == "official"
    other = read(tmp_path, test="validation", val="none")
    assert [len(other[key]) for key in SPLITS] == [24, 6, 12]
    with pytest.raises(ValueError, match=r"`dataset\.test` must be null or a split of .*`train`"):
        read(tmp_path, test="tset")


def test_rows_without_names_and_labels_without_classes(photos: Path, tmp_path: Path) -> None:
    rows = [{**row, "image": {**row["image"], "path": None}} for row in rows_of(photos)]
    path = tmp_path / "stored.parquet"
    pq.write_table(arrow_table(rows, named=False), path)
    dataset = read(path)
    assert dataset.classes == ("0", "1", "2")
    number = next(n for n, row in enumerate(rows) if row["label"] == 2)
    names = [name for key in SPLITS for name in dataset[key].names]
    assert f"2/{number:08d}" in names
    plain = pa.table({"picture": [row["image"]["bytes"] for row in rows],
                      "kind": [str(row["label"]) for row in rows]})  # fmt: skip
    pq.write_table(plain, path)
    again = read(path, columns={"label": "kind"})
    assert again.fingerprint == dataset.fingerprint


def test_columns_of_groups_domains_and_several_labels(photos: Path, tmp_path: Path) -> None:
    rows = rows_of(photos)
    path = tmp_path / "stored.parquet"
    columns = {
        "tags": [[CLASSES[row["label"]], "bird"] for row in rows],
        "patient": [int(row["image"]["path"][:-4]) // 6 for row in rows],
        "site": [("north", "south")[number % 2] for number in range(60)],
    }
    pq.write_table(arrow_table(rows, **columns), path)
    dataset = read(path, columns={"label": "tags", "group": "patient", "domain": "site"})
    assert (dataset.target, dataset.domains) == ("classes", ("north", "south"))
    assert dataset.classes == ("bird", *CLASSES)
    assert all(target[0] == 1 and target.sum() == 2 for target in dataset["train"].targets)
    patients = [{int(Path(name).stem) // 6 for name in dataset[key].names} for key in SPLITS]
    assert sum(map(len, patients)) == 10


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"path": "gone"},
            r"`dataset\.path` must be a folder that `save_to_disk` wrote.*not exist",
        ),
        ({"columns": {"label": "kind"}}, r"no column `kind`; its columns are `image`, `label`"),
        ({"columns": {"size": "a"}}, r"`dataset\.columns` must map some of .* maps `size`"),
        ({"columns": {"image": "label"}}, "the column `label` of .* must hold the bytes of images"),
    ],
)
def test_wrong_keys_are_answered_in_a_sentence(
    photos: Path, tmp_path: Path, keys: Any, sentence: str
) -> None:
    path = tmp_path / "stored.parquet"
    pq.write_table(arrow_table(rows_of(photos)), path)
    with pytest.raises(ValueError, match=sentence):
        huggingface(**{"name": "mine", "path": str(path)} | keys)


def test_damaged_files_and_missing_images_and_labels_are_told(photos: Path, tmp_path: Path) -> None:
    rows = rows_of(photos)
    path = tmp_path / "stored.parquet"
    for change, sentence in (
        (
            {"image": {"bytes": None, "path": "a.png"}},
            "every row of .* bytes of an image, but row 4",
        ),
        ({"label": -1}, r"stored\.parquet: row 4: no label"),
        ({"image": {"bytes": b"no image", "path": "a.png"}}, r"parquet|arrow.*a\.png \(not an ima"),
    ):
        pq.write_table(arrow_table([*rows[:3], {**rows[3], **change}, *rows[4:]]), path)
        with pytest.raises(ValueError, match=sentence):
            read(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="must be a whole parquet file, but cannot be read"):
        read(path)
    write_arrow(tmp_path / "saved", rows)
    arrow = tmp_path / "saved" / "data-00000-of-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:3000])
    with pytest.raises(ValueError, match="must be a whole arrow file, but cannot be read"):
        read(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state\.json` must be the file that `save_to_di"):
        read(tmp_path / "saved")


def test_the_users_files_are_the_inputs_and_stay_so_without_the_cache(
    photos: Path, tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "stored.parquet"
    pq.write_table(arrow_table(rows_of(photos)), path)
    dataset = read(path)
    (made,) = cache.rglob("rows.arrow")
    assert str(path) in dataset.inputs.paths
    assert str(made) not in dataset.inputs.paths
    assert dataset.inputs.contents()[str(path)] == inputs.contents([str(path)])[0]
    made.unlink()
    again = read(path)
    assert again.fingerprint == dataset.fingerprint
    assert again.inputs.identity == dataset.inputs.identity
    assert pixels(again) == pixels(dataset)


def test_images_in_arrow_files_are_decoded_once_like_others(photos: Path, tmp_path: Path) -> None:
    write_arrow(tmp_path / "saved", rows_of(photos))
    dataset = read(tmp_path / "saved")
    once = decode_once(dataset, tmp_path / "store", "always")
    before = pixels(dataset)
    os.truncate(tmp_path / "saved" / "data-00000-of-00001.arrow", 8)
    assert pixels(once) == before
    with pytest.raises(ValueError, match=r"from byte \d+ to \d+ must.*the file ends"):
        pixels(dataset)
