"""``tsne`` from images to the picture, the table and the scores."""

import csv
import dataclasses
import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import run_all, tiny
from torch import nn

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Options, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.object_views import assemble_views
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import Score, require
from ssl_transfer.protocols.embedding_picture import Points, picture, table
from ssl_transfer.protocols.tsne import TSNE

VIEWS = ({"crop_scale": (0.5, 1.0), "count": 2},)
FAST = {"views": VIEWS, "iterations": 250, "perplexities": (5.0,)}
PLAIN = Preprocessing(size=4, resize=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def split(images: int = 40, classes: int = 4) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (images, 4, 4, 3), dtype=np.uint8)
    names = [f"{number:03d}.png" for number in range(images)]
    return Split(ArrayImages(pixels), np.arange(images, dtype=np.int64) % classes, names)


@pytest.fixture
def dataset() -> Dataset:
    test = split()
    splits = {"train": test, "val": test.subset([]), "test": test}
    return Dataset("toy", tuple("abcd"), "class", "top1", splits, True, "f" * 64, {})


@pytest.fixture
def encoder() -> Encoder:
    return models.wrap(nn.Flatten(), PLAIN)


def run(protocol: TSNE, encoder: Encoder, dataset: Dataset, folder: Path) -> dict[str, Score]:
    require(protocol, dataset)
    context = Context(folder, folder / "features", progress_bar=False)
    return {score.metric: score for score in protocol.run(encoder, dataset, context)}


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "tsne.csv").read_text())))


def test_the_option_runs_and_its_files_are_products_of_the_run(tmp_path: Path) -> None:
    keys = ["protocol.iterations=250", "protocol.perplexities=[3,5]", "dataset.test_per_class=3"]
    for force in ("false", "true"):  # a second run replaces the files of the first
        cell = tiny(tmp_path, "protocol=tsne", *keys, f"force={force}", tuned=False, data=False)
        run_all(cell)
        record = json.loads((cell.folder / "record.json").read_text())
        assert set(record["files"]) == {"tsne.png", "tsne.csv"}
        names = {score["metric"]: score["primary"] for score in record["scores"]}
        assert names == {
            "trustworthiness": True,
            "kl_divergence": False,
            "trustworthiness_perplexity_5": False,
            "kl_divergence_perplexity_5": False,
        }
        assert not (cell.folder / "anew").exists()
    with Image.open(cell.folder / "tsne.png") as image:
        assert image.width > 1.5 * image.height


def test_every_image_is_a_point_with_its_name_and_class(
    encoder: Encoder, dataset: Dataset, tmp_path: Path
) -> None:
    scores = run(TSNE(**FAST), encoder, dataset, tmp_path)
    assert 0.3 < scores["trustworthiness"].value <= 1
    assert (scores["kl_divergence"].unit, scores["kl_divergence"].higher_is_better) == (
        "nats", False,
    )  # fmt: skip
    written = rows(tmp_path)
    assert [row["name"] for row in written] == list(dataset["test"].names)
    assert [row["class"] for row in written] == list("abcd" * 10)
    assert {(row["perplexity"], row["view"]) for row in written} == {("5", "0")}
    assert np.isfinite([[float(row["x"]), float(row["y"])] for row in written]).all()


def test_classes_and_images_are_limited_evenly(
    encoder: Encoder, dataset: Dataset, tmp_path: Path
) -> None:
    run(TSNE(**FAST, max_classes=2, max_samples=14), encoder, dataset, tmp_path)
    shown = [row["class"] for row in rows(tmp_path)]
    assert (shown.count("a"), shown.count("b"), len(shown)) == (7, 7, 14)


def test_views_made_on_the_fly_follow_their_originals(
    encoder: Encoder, dataset: Dataset, tmp_path: Path
) -> None:
    run(TSNE(**FAST, show_views=True, max_samples=8), encoder, dataset, tmp_path)
    written = rows(tmp_path)
    assert [row["view"] for row in written] == ["0"] * 8 + ["1"] * 8 + ["2"] * 8
    assert [row["name"] for row in written[:8]] == [row["name"] for row in written[16:]]


def test_a_static_set_shows_its_own_views(encoder: Encoder, tmp_path: Path) -> None:
    test = split(45)
    order = np.arange(45, dtype=np.int64)
    test = dataclasses.replace(test, targets=order // 3 % 3, groups=order // 3)
    dataset = assemble_views(Options(name="static"), views=test, classes="abc", content="c")
    run(TSNE(**FAST, max_classes=1), encoder, dataset, tmp_path)
    written = rows(tmp_path)
    originals = [f"{3 * thing:03d}.png" for thing in (0, 3, 6, 9, 12)]
    assert [row["name"] for row in written[:5]] == originals
    assert written[5]["name"] == "001.png"
    assert written[10]["name"] == "002.png"


def test_the_picture_has_a_panel_per_perplexity_and_another_row_for_the_region() -> None:
    chance = np.random.default_rng(0)
    points = Points(
        names=[f"{n}.png" for n in range(60)],
        labels=np.tile(np.arange(20) % 5, 3),
        views=np.repeat(np.arange(3), 20),
        images=np.tile(np.arange(20), 3),
        classes=["a", "_b", "$c", "d^2", "e"],
    )
    embeddings = {5.0: chance.normal(size=(60, 2)), 30.0: chance.normal(size=(60, 2))}
    sizes = {}
    for zoom in (None, [0.2, 0.2, 0.6, 0.6]):
        with Image.open(io.BytesIO(picture(points, embeddings, "$x^2$", zoom))) as image:
            colours = image.convert("RGB").getcolors(1 << 20)
            assert colours is not None
            sizes[zoom is None] = image.size
            # The five colours of tab10's first classes are among the frequent ones.
            frequent = {colour for _, colour in sorted(colours)[-40:]}
            assert (31, 119, 180) in frequent or (53, 132, 187) in frequent
    assert sizes[False][1] > 1.8 * sizes[True][1]
    assert table(points, embeddings).count("\n") == 121


@pytest.mark.parametrize("zoom", [(0.2, 0.2, 0.1, 0.4), (0, 0, 1), (0, 0, 1, 1.5)])
def test_a_region_outside_of_the_picture_is_refused(zoom: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`zoom` must"):
        TSNE(**FAST, zoom=zoom)


def test_too_few_images_and_a_missing_package_are_told_before_any_work(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "needs 41 points at least, but test of `toy` gives 40; lower `protocol.perplexities`"
    with pytest.raises(ValueError, match=re.escape(told)):
        require(TSNE(**{**FAST, "perplexities": (5.0, 40.0)}), dataset)
    require(TSNE(**{**FAST, "perplexities": (40.0,)}, show_views=True), dataset)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package matplotlib"):
        require(TSNE(**FAST), dataset)
