"""``alignment_uniformity`` and ``instance_discrimination`` from images to scores."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist
from tiny_runs import run_all, tiny
from torch import Tensor, nn

from ssl_transfer import models
from ssl_transfer.config import compose, locate, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Options, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.object_views import assemble_views
from ssl_transfer.datasets.transforms import Augmentation, Pipeline
from ssl_transfer.metrics.alignment import groups
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.alignment_uniformity import AlignmentUniformity
from ssl_transfer.protocols.base import Score, require
from ssl_transfer.protocols.instance_discrimination import InstanceDiscrimination
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.signature import problems

OPTIONS = {
    "alignment_uniformity": AlignmentUniformity,
    "instance_discrimination": InstanceDiscrimination,
}
PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
PLAIN = Preprocessing(size=4, resize=6, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
VIEWS = (
    {"crop_scale": (0.3, 1.0), "grayscale_probability": 0.5},
    {"crop_scale": (0.5, 1.0), "flip_probability": 1.0},
)


def split(images: int, classes: int = 4, seed: int = 0) -> Split:
    pixels = np.random.default_rng(seed).integers(0, 256, (images, 6, 6, 3), dtype=np.uint8)
    names = [f"{number:03d}.png" for number in range(images)]
    return Split(ArrayImages(pixels), np.arange(images, dtype=np.int64) % classes, names)


def toy(test: Split, *, flip: bool = True) -> Dataset:
    splits = {"train": split(30, seed=1), "val": test.subset([]), "test": test}
    classes = ("a", "b", "c", "d")
    return Dataset("toy", classes, "class", "top1", splits, flip, "f" * 64, {}, split_seed=5)


@pytest.fixture
def encoder() -> Encoder:
    return models.wrap(nn.Flatten(), PLAIN)


def run(protocol, encoder: Encoder, dataset: Dataset, folder: Path) -> dict[str, Score]:
    require(protocol, dataset)
    context = Context(folder, folder / "features", progress_bar=False)
    return {score.metric: score for score in protocol.run(encoder, dataset, context)}


def pixels(samples: Split, augmentation: Augmentation | None = None, view: int = 0) -> np.ndarray:
    """Return the features of images: the pixels that the pipeline gives, as unit vectors."""
    numbers = np.arange(len(samples), dtype=np.int64)
    pipeline = Pipeline(PLAIN, augmentation, view=view)
    batch = pipeline(samples.images[:], seed=5, epochs=0 * numbers, indices=numbers)
    flat = batch.flatten(1).double().numpy()
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def judged(dataset: Dataset, key: str = "test") -> list[np.ndarray]:
    augmentations = [Augmentation(**view) for view in VIEWS]
    if not dataset.flip:
        augmentations = [augmentation.without_flip() for augmentation in augmentations]
    views = [pixels(dataset[key], augmentation, k) for k, augmentation in enumerate(augmentations)]
    return [pixels(dataset[key]), *views]


def six_figures(features: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Return the figures by their definitions, all pairs by scipy."""

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.square(a - b).sum(1).mean())

    def within(rows: np.ndarray) -> float:
        classes = [rows[labels == label] for label in np.unique(labels)]
        return float(np.mean([pdist(members, "sqeuclidean").mean() for members in classes]))

    def uniform(rows: np.ndarray) -> float:
        return float(np.log(np.exp(-2 * pdist(rows, "sqeuclidean")).mean()))

    original, first, second = features
    return {
        "alignment_original_view": distance(original, first),
        "alignment_views": distance(first, second),
        "intra_class_alignment_original": within(original),
        "intra_class_alignment_views": within(first),
        "uniformity_original": uniform(original),
        "uniformity_views": uniform(first),
    }


def values(scores: dict[str, Score]) -> dict[str, float]:
    return {name: score.value for name, score in scores.items()}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_option_composes_binds_and_runs_in_seconds(option: str, tmp_path: Path) -> None:
    config = plain(compose([f"protocol={option}"]))
    assert problems(config) == []
    node = resolve(config)["protocol"]
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    protocol = locate(node["_target_"])(**keys)
    assert type(protocol) is OPTIONS[option]
    defaults = {field.name: field.default for field in dataclasses.fields(protocol)}
    stated = {key: tuple(v) if isinstance(v, list) else v for key, v in keys.items()}
    assert stated == {**defaults, "views": stated["views"]}
    cell = tiny(tmp_path, f"protocol={option}", tuned=False)
    run_all(cell)
    record = json.loads((cell.folder / "record.json").read_text())
    assert sum(score["primary"] for score in record["scores"]) == 1


@pytest.mark.parametrize("flip", [True, False])
def test_the_six_figures_are_their_definitions_on_views_made_on_the_fly(
    flip: bool, encoder: Encoder, tmp_path: Path
) -> None:
    dataset = toy(split(40), flip=flip)
    scores = run(AlignmentUniformity(views=VIEWS), encoder, dataset, tmp_path)
    expected = six_figures(judged(dataset), dataset["test"].targets)
    assert values(scores) == pytest.approx(expected, abs=2e-5)
    assert not any(score.higher_is_better for score in scores.values())
    assert [name for name, score in scores.items() if score.primary] == ["uniformity_original"]


def test_features_that_are_stored_in_half_precision_are_measured_in_single(
    encoder: Encoder, tmp_path: Path
) -> None:
    dataset = toy(split(40))
    protocol = AlignmentUniformity(views=VIEWS, feature_precision="fp16")
    expected = six_figures(judged(dataset), dataset["test"].targets)
    assert values(run(protocol, encoder, dataset, tmp_path)) == pytest.approx(expected, abs=1e-3)


def test_names_units_and_directions_are_those_of_the_published_tables(
    encoder: Encoder, tmp_path: Path
) -> None:
    published = {}
    for table in ("small_models_readme", "small_models_statistics"):
        lines = (PUBLISHED / f"{table}.csv").read_text().splitlines()
        for row in csv.DictReader(line for line in lines if not line.startswith("#")):
            unit = row["unit"].replace("percent", "fraction")
            published[row["protocol"], row["metric"]] = unit, row["better"] == "higher"
    del published["linear_probe", "top1"]
    assert len(published) == 5 + 6
    measured = {}
    for option, protocol in OPTIONS.items():
        for name, score in run(protocol(views=VIEWS), encoder, toy(split(40)), tmp_path).items():
            measured[option, name] = score.unit, score.higher_is_better
    assert published.items() <= measured.items()


def test_the_training_split_is_measured_if_asked_for(encoder: Encoder, tmp_path: Path) -> None:
    dataset = toy(split(40))
    protocol = AlignmentUniformity(views=VIEWS, split="train")
    scores = run(protocol, encoder, dataset, tmp_path)
    expected = six_figures(judged(dataset, "train"), dataset["train"].targets)
    assert values(scores) == pytest.approx(expected, abs=2e-5)
    assert {score.split for score in scores.values()} == {"train"}
    with pytest.raises(ValueError, match="with training images, but `toy` has none"):
        require(protocol, dataclasses.replace(
            dataset, splits={**dataset.splits, "train": dataset["train"].subset([])}
        ))  # fmt: skip


def test_the_published_estimate_of_uniformity_is_an_option_and_its_groups_are_recorded(
    encoder: Encoder, tmp_path: Path
) -> None:
    dataset = toy(split(400))
    context = Context(tmp_path, tmp_path / "features", progress_bar=False)
    protocol = AlignmentUniformity(views=VIEWS, uniformity="three_groups")
    scores = {score.metric: score.value for score in protocol.run(encoder, dataset, context)}
    members = groups(400, seed=dataset.split_seed)
    for name, features in zip(("original", "views"), judged(dataset), strict=False):
        kernels = [np.exp(-2 * pdist(features[rows], "sqeuclidean")).mean() for rows in members]
        assert scores[f"uniformity_{name}"] == pytest.approx(np.log(kernels).mean(), abs=1e-5)
        noted = context.facts[f"uniformity_of_groups_{name}"]
        assert noted == pytest.approx(np.log(kernels).tolist(), abs=1e-5)
    with pytest.raises(ValueError, match="need 384 images, but there are 40"):
        require(protocol, toy(split(40)))


def test_classes_with_one_image_are_named_before_any_work() -> None:
    few = split(9)  # class 0 has three images, the others two
    dataset = toy(few.subset([0, 4, 1, 2, 3, 7]))
    told = "2 of 4 have only one: `b`, `c`; add images"
    with pytest.raises(ValueError, match=re.escape(told)):
        require(AlignmentUniformity(views=VIEWS), dataset)
    require(InstanceDiscrimination(views=VIEWS), dataset)


def searched(queries: np.ndarray, candidates: np.ndarray) -> list[float]:
    order = cdist(queries, candidates, "cosine").argsort(axis=1)
    place = (order == np.arange(len(queries))[:, None]).argmax(axis=1)
    return [float((place < rank).mean()) for rank in range(1, 6)]


def as_published(queries: np.ndarray, positives: np.ndarray) -> list[float]:
    correct = np.zeros(5)
    for i in range(len(queries)):
        listed = np.concatenate([[queries[i] @ positives[i]], queries @ queries[i]])
        correct += [0 in np.argsort(listed)[::-1][: rank + 1] for rank in range(1, 6)]
    return (correct / len(queries)).tolist()


def test_instance_discrimination_is_both_searches_in_both_modes(
    encoder: Encoder, tmp_path: Path
) -> None:
    dataset = toy(split(60))
    original, first, second = judged(dataset)
    scores = run(InstanceDiscrimination(views=VIEWS), encoder, dataset, tmp_path)
    expected = {
        "d_sd": searched(original, first),
        "d_sd_same_domain": as_published(original, first),
        "sd_sd": searched(first, second),
        "sd_sd_same_domain": as_published(first, second),
    }
    assert expected["d_sd"] != expected["d_sd_same_domain"]
    assert values(scores) == pytest.approx(
        {f"{name}_top{k}": v for name, five in expected.items() for k, v in enumerate(five, 1)}
    )
    assert [name for name, score in scores.items() if score.primary] == ["d_sd_top1"]


def test_modes_galleries_and_ranks_can_be_chosen(encoder: Encoder, tmp_path: Path) -> None:
    keys = {"modes": ["sd_sd"], "galleries": ["same_domain"], "topk": 2}
    scores = run(InstanceDiscrimination(views=VIEWS, **keys), encoder, toy(split(20)), tmp_path)
    assert list(scores) == ["sd_sd_same_domain_top1", "sd_sd_same_domain_top2"]
    assert scores["sd_sd_same_domain_top1"].primary


def static(objects: int = 12, side: int = 6) -> Dataset:
    """A static set whose files are in any order, but each object's in that of its views."""
    chance = np.random.default_rng(2)
    pictures = chance.integers(0, 256, (3 * objects, side, side, 3), dtype=np.uint8)
    order = np.array([3 * i + view for view in range(3) for i in range(objects)])
    test = Split(
        ArrayImages(pictures[order]),
        (order // 3) % 4,
        [f"{number:03d}.png" for number in order],
        order // 3,
    )
    return assemble_views(Options(name="static"), views=test, classes="abcd", content="c")


@pytest.mark.parametrize("cropped", [False, True])
def test_views_of_a_static_set_are_those_of_its_files(
    cropped: bool, encoder: Encoder, tmp_path: Path
) -> None:
    dataset = static()
    test = dataset["test"]
    by_view = np.argsort(test.groups, kind="stable").reshape(-1, 3).T
    whole = dataclasses.replace(PLAIN, resize=None)
    features = []
    for view, rows in enumerate(by_view):
        numbers = np.arange(len(rows), dtype=np.int64)
        pipeline = Pipeline(PLAIN if view == 0 or cropped else whole)
        pictures = [test.images[int(row)] for row in rows]
        batch: Tensor = pipeline(pictures, seed=0, epochs=0 * numbers, indices=numbers)
        features.append(torch.nn.functional.normalize(batch.flatten(1).double()).numpy())
    keys = {"views": VIEWS, "centre_crop_views": cropped}
    scores = run(AlignmentUniformity(**keys), encoder, dataset, tmp_path)
    expected = six_figures(features, test.targets[by_view[0]])
    assert values(scores) == pytest.approx(expected, abs=2e-5)
    scores = run(InstanceDiscrimination(**keys), encoder, dataset, tmp_path)
    assert scores["d_sd_top1"].value == pytest.approx(searched(features[0], features[1])[0])


def test_objects_without_three_images_are_named_before_any_work() -> None:
    whole = static()
    without = whole["test"].subset(np.flatnonzero(np.arange(36) != 14))
    dataset = dataclasses.replace(whole, splits={**whole.splits, "test": without})
    with pytest.raises(ValueError, match="1 of 12 objects do not have 3 images, such as that of"):
        require(InstanceDiscrimination(views=VIEWS), dataset)


def test_two_views_at_least_must_be_described() -> None:
    with pytest.raises(ValueError, match="two views at least, but describes 1"):
        AlignmentUniformity(views=VIEWS[:1])
