"""``transferability`` from images to the values of all estimators."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import run_all, tiny
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, locate, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.transforms import Augmentation, Pipeline
from ssl_transfer.errors import NotApplicable
from ssl_transfer.estimators import transferability as estimators
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import Score, require
from ssl_transfer.protocols.transferability import ESTIMATORS, Transferability
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.signature import problems
from ssl_transfer.system.files import read_json

FOUR = Preprocessing(size=4, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
VIEWS = [{"crop_scale": [0.4, 1.0], "brightness": 0.4, "jitter_probability": 1.0}]
KEYS = {"views": VIEWS, "lidar_images": 20, "lidar_views": 3}
SETTINGS = {"n_leep": {"components_per_class": 2}, "alpha_req": {"first": 2}}


def split(samples: int, seed: int, targets: np.ndarray | None = None) -> Split:
    """Noisy patterns of three classes."""
    chance = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).integers(60, 196, (3, 4, 4, 3))
    labels = np.arange(samples, dtype=np.int64) % 3
    pixels = patterns[labels] + chance.normal(0, 40, (samples, 4, 4, 3))
    images = ArrayImages(pixels.clip(0, 255).astype(np.uint8))
    return Split(images, labels if targets is None else targets, [str(i) for i in range(samples)])


def toy(kind: str = "class", **targets: np.ndarray) -> Dataset:
    sizes = {"train": 60, "val": 30, "test": 9}
    splits = {
        key: split(samples, seed, targets.get(key))
        for seed, (key, samples) in enumerate(sizes.items())
    }
    metric = {"class": "top1", "classes": "map_11_point", "values": "r2"}[kind]
    return Dataset("toy", ("a", "b", "c"), kind, metric, splits, True, "f" * 64, {}, split_seed=4)


@pytest.fixture
def encoder() -> Encoder:
    return models.wrap(nn.Flatten(), FOUR)


def rows_of(*samples: Split, augmentation: Augmentation | None = None, view: int = 0):
    pipeline = Pipeline(FOUR, augmentation, view=view)
    parts = [
        pipeline(
            list(part.images), seed=4, epochs=np.zeros(len(part), np.int64),
            indices=np.arange(len(part), dtype=np.int64),
        ).flatten(1)
        for part in samples
    ]  # fmt: skip
    return torch.cat(parts)


def run(
    protocol: Transferability, encoder: Encoder, dataset: Dataset, folder: Path
) -> tuple[dict[str, Score], dict]:
    require(protocol, dataset)
    context = Context(folder, folder / "features", progress_bar=False)
    scores = {score.metric: score for score in protocol.run(encoder, dataset, context)}
    assert sum(score.primary for score in scores.values()) == 1
    return scores, context.facts["transferability"]


def values(scores: dict[str, Score]) -> dict[str, float]:
    return {name: score.value for name, score in scores.items()}


def test_one_run_gives_all_estimators_of_training_and_validation_images(encoder, tmp_path):
    dataset = toy()
    features = rows_of(dataset["train"], dataset["val"])
    labels = torch.from_numpy((dataset["train"] + dataset["val"]).targets)
    scores, facts = run(Transferability(**KEYS, settings=SETTINGS), encoder, dataset, tmp_path)
    expected = {
        name: getattr(estimators, name)(features, labels)
        for name in ("logme", "h_score", "h_score_shrinkage", "transrate", "gbc", "sfda", "parc",
                     "knn_loo")
    }  # fmt: skip
    expected["rankme"] = estimators.rankme(features)
    expected["alpha_req"] = estimators.alpha_req(features, first=2)
    found = values(scores)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert set(found) == set(expected) | {"n_leep", "lidar"}
    assert list(facts["not_defined"]) == ["leep", "nce"]
    assert "no source classifier" in facts["not_defined"]["leep"]
    assert facts["images"] == 90
    exponent = estimators.decay_exponent(features, first=2)
    assert facts["decay_exponent"] == pytest.approx(exponent, rel=1e-5)
    assert [name for name, score in scores.items() if score.primary] == ["logme"]
    assert all(score.higher_is_better and score.split == "train" for score in scores.values())


def test_lidar_measures_random_views_of_a_bounded_number_of_training_images(encoder, tmp_path):
    dataset = toy()
    picked = estimators.random_subset(60, 20, dataset.split_seed)
    some = dataset["train"].subset(picked)
    augmentation = Augmentation(crop_scale=(0.4, 1.0), brightness=0.4, jitter_probability=1.0)
    views = [rows_of(some, augmentation=augmentation, view=view) for view in range(3)]
    expected = estimators.lidar(torch.stack(views, dim=1))
    scores, _ = run(Transferability(**KEYS, estimators=["lidar"]), encoder, dataset, tmp_path)
    assert scores["lidar"].value == pytest.approx(expected, rel=1e-6)
    assert scores["lidar"].primary


class Counting(nn.Flatten):
    seen = 0

    def forward(self, images):
        self.seen += len(images)
        return super().forward(images)


@pytest.mark.parametrize(("names", "images"), [(["rankme"], 90), (["rankme", "lidar"], 150)])
def test_no_test_image_is_read_and_views_are_made_for_lidar_only(names, images, tmp_path):
    module = Counting()
    encoder = models.wrap(module, FOUR)
    module.seen = 0
    run(Transferability(**KEYS, estimators=names), encoder, toy(), tmp_path)
    assert module.seen == images


def test_leep_and_nce_use_the_classifier_of_the_weights(encoder, tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(48, 5)
    encoder.head = Head(layer, classes=None)
    dataset = toy()
    with torch.no_grad():
        theta = layer(rows_of(dataset["train"], dataset["val"])).softmax(1)
    labels = torch.from_numpy((dataset["train"] + dataset["val"]).targets)
    protocol = Transferability(**KEYS, estimators=["leep", "nce"])
    scores, facts = run(protocol, encoder, dataset, tmp_path)
    assert scores["leep"].value == pytest.approx(estimators.leep(theta, labels), rel=1e-5)
    assert scores["nce"].value == pytest.approx(estimators.nce(theta.argmax(1), labels))
    assert facts["not_defined"] == {}
    encoder.head = Head(layer, target="classes")
    with pytest.raises(
        NotApplicable, match=r"leep: the source .* several classes; nce: |per image"
    ):
        run(protocol, encoder, dataset, tmp_path)


def test_embeddings_have_all_scores_but_those_of_the_classifier_of_features(encoder, tmp_path):
    torch.manual_seed(0)
    encoder.projector = nn.Linear(48, 7)
    encoder.head = Head(nn.Linear(48, 5))
    dataset = toy()
    protocol = Transferability(
        **KEYS, estimators=["rankme", "leep", "lidar"], representation="embeddings"
    )
    scores, facts = run(protocol, encoder, dataset, tmp_path)
    with torch.no_grad():
        embeddings = encoder.projector(rows_of(dataset["train"], dataset["val"]))
    assert scores["rankme"].value == pytest.approx(estimators.rankme(embeddings), rel=1e-5)
    assert scores["lidar"].value <= 7 + 1e-3
    assert list(facts["not_defined"]) == ["leep"]


def test_a_matrix_that_cannot_be_decomposed_leaves_the_other_estimators(encoder, tmp_path):
    protocol = Transferability(
        **KEYS, estimators=["rankme", "lidar"], settings={"lidar": {"delta": 1e-300}}
    )
    scores, facts = run(protocol, encoder, toy(), tmp_path)
    assert set(scores) == {"rankme"}
    assert facts["not_defined"]["lidar"].startswith("a matrix cannot be decomposed")


def test_several_classes_per_image_have_the_scores_that_are_defined_for_them(encoder, tmp_path):
    chance = np.random.default_rng(0)
    targets = {key: chance.integers(-1, 2, (n, 3)) for key, n in (("train", 60), ("val", 30))}
    targets["test"] = np.zeros((9, 3), dtype=np.int64)
    dataset = toy("classes", **targets)
    scores, facts = run(Transferability(**KEYS), encoder, dataset, tmp_path)
    features = rows_of(dataset["train"], dataset["val"])
    labels = torch.from_numpy(np.concatenate([targets["train"], targets["val"]]))
    assert set(scores) == {"logme", "parc", "rankme", "alpha_req", "lidar"}
    assert scores["logme"].value == pytest.approx(estimators.logme(features, labels), rel=1e-5)
    assert scores["parc"].value == pytest.approx(estimators.parc(features, labels), rel=1e-5)
    assert facts["not_defined"]["h_score"] == "it is defined for one class per image only"


def test_numbers_to_regress_have_logme_and_the_scores_without_labels(encoder, tmp_path):
    chance = np.random.default_rng(0)
    targets = {key: chance.normal(size=(n, 2)) for key, n in (("train", 60), ("val", 30))}
    dataset = toy("values", **targets, test=np.zeros((9, 2)))
    scores, facts = run(Transferability(**KEYS), encoder, dataset, tmp_path)
    numbers = torch.from_numpy(np.concatenate([targets["train"], targets["val"]]))
    expected = estimators.logme(rows_of(dataset["train"], dataset["val"]), numbers)
    assert set(scores) == {"logme", "rankme", "alpha_req", "lidar"}
    assert scores["logme"].value == pytest.approx(expected, rel=1e-5)
    assert facts["not_defined"]["parc"] == "it is defined for classes only"


def test_quadratic_estimators_use_a_seeded_subset(encoder, tmp_path):
    dataset = toy()
    names = ["knn_loo", "parc"]
    protocol = Transferability(**KEYS, estimators=names, max_samples=30)
    scores, _ = run(protocol, encoder, dataset, tmp_path)
    features = rows_of(dataset["train"], dataset["val"])
    labels = torch.from_numpy((dataset["train"] + dataset["val"]).targets)
    picked = estimators.random_subset(90, 30, dataset.split_seed)
    expected = estimators.knn_loo(features[picked], labels[picked])
    assert scores["knn_loo"].value == pytest.approx(expected)
    expected = estimators.parc(features, labels, max_samples=30, seed=dataset.split_seed)
    assert scores["parc"].value == pytest.approx(expected, rel=1e-5)


def test_settings_reach_their_estimator(encoder, tmp_path):
    dataset = toy()
    settings = {"knn_loo": {"k": 1, "metric": "euclidean"}, "sfda": {"log": False}}
    protocol = Transferability(**KEYS, estimators=["knn_loo", "sfda"], settings=settings)
    scores, _ = run(protocol, encoder, dataset, tmp_path)
    features = rows_of(dataset["train"], dataset["val"])
    labels = torch.from_numpy((dataset["train"] + dataset["val"]).targets)
    expected = estimators.knn_loo(features, labels, k=1, metric="euclidean")
    assert scores["knn_loo"].value == pytest.approx(expected)
    assert scores["sfda"].value == pytest.approx(estimators.sfda(features, labels, log=False))
    assert scores["knn_loo"].primary  # logme is not among them: the first one is


def test_an_encoder_without_any_value_has_an_empty_cell(tmp_path, caplog):
    class Constant(nn.Module):
        def forward(self, images):
            return images.new_full((len(images), 6), 0.3)

    with pytest.raises(NotApplicable, match=r"no estimator .* logme: the features are the same"):
        run(Transferability(**KEYS), models.wrap(Constant(), FOUR), toy(), tmp_path)


def test_what_is_not_defined_is_told_once(encoder, tmp_path, caplog):
    caplog.set_level("INFO")
    run(Transferability(**KEYS, settings=SETTINGS), encoder, toy(), tmp_path)
    assert caplog.text.count("`leep` is not defined here: the weights hold no source") == 1


def _scores(folder: Path) -> list[Score]:
    context = Context(folder, folder / "features", progress_bar=False)
    protocol = Transferability(**KEYS, settings=SETTINGS)
    return list(protocol.run(models.wrap(nn.Flatten(), FOUR), toy(), context))


def test_two_processes_give_the_values_of_one(tmp_path, gloo_pool):
    (tmp_path / "one").mkdir()
    alone = _scores(tmp_path / "one")
    assert gloo_pool.run(_scores, tmp_path) == [alone, alone]


def test_the_option_composes_binds_and_has_the_defaults_of_the_class():
    config = plain(compose(["protocol=transferability"]))
    assert problems(config) == []
    node = resolve(config)["protocol"]
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    views = keys["views"]
    assert locate(node["_target_"])(**keys) == Transferability(views=views)


def test_a_run_of_the_option_keeps_what_is_not_defined(tmp_path):
    few = ["protocol.lidar_images=8", "protocol.lidar_views=2", "dataset.val_fraction=0.5"]
    one = tiny(tmp_path, "protocol=transferability", *few, tuned=False)
    assert run_all(one).exit_code == 0
    record = read_json(one.folder / "record.json")
    measured = {score["metric"] for score in record["scores"]}
    reasons = record["transferability"]["not_defined"]
    assert measured.isdisjoint(reasons)
    assert measured | set(reasons) == set(ESTIMATORS)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("estimators=[logme,loogme]", r"an estimator must be one of \['logme', .*but one is 'loog"),
        ("estimators=[]", "must name one at least"),
        ("estimators=[gbc,gbc]", "must not repeat"),
        ("settings={knn:{k:3}}", "but one is 'knn'"),
        ("settings={knn_loo:{kk:3}}", r"`settings.knn_loo` may .* \['k', 'metric'\], but"),
        ("settings={knn_loo:{k:0}}", "`settings.knn_loo.k` must be at least 1, but is 0"),
        ("settings={parc:{seed:1}}", r"may have the keys \[\], but"),
        ("settings={gbc:{gaussian:full}}", "`settings.gbc.gaussian` must be one of"),
        ("settings={gbc:3}", "must be a mapping"),
        ("max_samples=0", "`protocol.max_samples` must be at least 1"),
        ("lidar_views=1", "`protocol.lidar_views` must be at least 2"),
        ("lidar_images=1", "`protocol.lidar_images` must be at least 2"),
        ("views=[]", "must describe one view"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_any_work(override, said):
    (found,) = problems(plain(compose(["protocol=transferability", f"protocol.{override}"])))
    assert re.search(said, found), found
