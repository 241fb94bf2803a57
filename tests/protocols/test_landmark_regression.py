"""``landmark_regression`` from images to scores; scikit-learn is the judge."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics
import torch
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, locate, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.figures import figures
from ssl_transfer.datasets.geometry import to_view
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.splitting import cross_validation_folds
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import Score, require
from ssl_transfer.protocols.landmark_regression import LandmarkRegression
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.signature import problems

EIGHT = Preprocessing(size=8, resize=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
NAN = float("nan")
NAMES = ("left", "right", "top")


def split(samples: int, seed: int) -> Split:
    """Images of 16x12 px with three bright dots at their landmarks; 12 px wide are seen."""
    chance = np.random.default_rng(seed)
    places = chance.uniform([4, 2], [12, 10], (samples, 3, 2))
    rows, columns = np.mgrid[:12, :16] + 0.5
    far = (columns - places[:, :, 0, None, None]) ** 2 + (rows - places[:, :, 1, None, None]) ** 2
    # Each dot has a colour of its own.
    levels = 40 + 200 * np.exp(-far / 8).transpose(0, 2, 3, 1)
    pixels = (levels + chance.normal(0, 4, levels.shape)).clip(0, 255).astype(np.uint8)
    return Split(
        ArrayImages(pixels),
        places.reshape(samples, 6),
        [f"{seed}/{i}" for i in range(samples)],
        sizes=np.tile(np.array([16, 12]), (samples, 1)),
    )


@pytest.fixture
def dataset() -> Dataset:
    splits = {"train": split(40, 1), "val": split(20, 2), "test": split(30, 3)}
    return Dataset("dots", NAMES, "landmarks", "top1", splits, False, "f" * 64, {})


@pytest.fixture
def encoder() -> models.Encoder:
    return models.wrap(nn.Flatten(), EIGHT)


def with_targets(dataset: Dataset, **targets: np.ndarray) -> Dataset:
    splits = {
        key: dataclasses.replace(part, targets=targets.get(key, part.targets))
        for key, part in dataset.splits.items()
    }
    return dataclasses.replace(dataset, splits=splits)


def run(protocol, encoder, dataset, folder: Path):
    context = Context(folder, folder / "features", progress_bar=False)
    scores: dict[str, Score] = {s.metric: s for s in protocol.run(encoder, dataset, context)}
    assert [name for name, score in scores.items() if score.primary] == ["r2"]
    return scores, context.facts, np.load(folder / "test_landmarks.npz")


def features(dataset: Dataset, *keys: str) -> np.ndarray:
    """The pixels that the encoder sees: 16x12 px are resized to 10x8 and cut to 8x8."""
    images = [
        np.asarray(image.resize((10, 8), 2).crop((1, 0, 9, 8))) / 255
        for key in keys
        for image in dataset[key].images
    ]
    return ((np.stack(images) - 0.5) / 0.25).transpose(0, 3, 1, 2).reshape(len(images), -1)


def in_view(dataset: Dataset, *keys: str) -> np.ndarray:
    """Their landmarks: scaled by 10/16 and 8/12, then moved by one pixel to the left."""
    targets = np.concatenate([dataset[key].targets for key in keys]).reshape(-1, 3, 2)
    return (targets * [10 / 16, 8 / 12] - [1, 0]).reshape(-1, 6)


def judged(dataset: Dataset, grid, *, scale: bool = False, truncate: bool = False):
    """The published procedure with scikit-learn, on the folds of the dataset's seed."""
    rows, targets = features(dataset, "train", "val"), in_view(dataset, "train", "val")
    unseen = features(dataset, "test")
    if scale:
        spread = rows.std(axis=0)
        rows, unseen = rows / spread, unseen / spread
    if truncate:
        targets = targets.astype(int).astype(float)
    means = []
    for alpha in grid:
        by_fold = []
        for held in cross_validation_folds(60, 5, dataset.split_seed):
            kept = np.setdiff1d(np.arange(60), held)
            model = sklearn.linear_model.Ridge(alpha=alpha).fit(rows[kept], targets[kept])
            by_fold.append(model.score(rows[held], targets[held]))
        means.append(np.mean(by_fold))
    alpha = grid[int(np.argmax(means))]
    final = sklearn.linear_model.Ridge(alpha=alpha).fit(rows, targets)
    return means, alpha, final.predict(unseen)


def test_the_option_composes_on_its_own_dataset_and_binds() -> None:
    config = plain(compose(["protocol=landmark_regression"]))
    assert problems(config) == []
    assert config["dataset"]["name"] == "figures"
    other = plain(compose(["protocol=landmark_regression", "dataset=300w"]))
    assert other["dataset"]["name"] == "300w"
    node = resolve(config)["protocol"]
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    protocol = locate(node["_target_"])(**keys)
    default = LandmarkRegression()
    assert protocol.grid() == default.grid()
    plain_keys = {"alpha_log10": (-5, 6), "pck_thresholds": (0.1, 0.2)}
    assert dataclasses.replace(protocol, **plain_keys) == default
    # The published grid: alpha = 1 / wd, wd = logspace(-6, 5, 45), from the smallest wd on.
    published = [1 / wd for wd in np.logspace(-6, 5, 45)]
    np.testing.assert_allclose(default.grid(), published)


@pytest.mark.parametrize("change", [{}, {"standardise": True}, {"truncate_targets": True}])
def test_it_chooses_and_predicts_as_the_published_loop_on_the_same_folds(
    change, encoder, dataset, tmp_path
) -> None:
    protocol = LandmarkRegression(alpha_values=7, alpha_log10=(-3, 3), **change)
    scores, facts, saved = run(protocol, encoder, dataset, tmp_path)
    scaled, truncated = "standardise" in change, "truncate_targets" in change
    means, alpha, predictions = judged(dataset, protocol.grid(), scale=scaled, truncate=truncated)
    found = facts["selection"]
    assert [point["value"] for point in found["scores"]] == pytest.approx(means, abs=1e-4)
    assert found["split"] == "5 folds of train + val"
    assert found["chosen"] == {"alpha": pytest.approx(alpha)}
    assert found["at_edge"] == []
    np.testing.assert_allclose(saved["predictions"], predictions, atol=2e-3)
    targets = in_view(dataset, "test")
    if truncated:
        targets = targets.astype(int)  # as torch casts floats to an integer tensor
    np.testing.assert_allclose(saved["targets"], targets, atol=1e-9)
    r2 = sklearn.metrics.r2_score(targets, predictions)
    assert scores["r2"].value == pytest.approx(r2, abs=1e-3)
    assert scores["r2"].value > 0.5
    squares = sklearn.metrics.mean_squared_error(targets, predictions)
    assert scores["mse"].value == pytest.approx(squares, abs=1e-3)


def test_joints_of_the_embedded_figures_can_be_read_from_their_pixels(tmp_path) -> None:
    sixteen = models.wrap(nn.Flatten(), dataclasses.replace(EIGHT, size=16))
    scores, facts, saved = run(LandmarkRegression(), sixteen, figures(name="figures"), tmp_path)
    assert 0.4 < scores["r2"].value < 1
    assert scores["nme"].unit == "left_shoulder-right_hip"
    assert saved["predictions"].shape == (200, 28)
    assert facts["selection"]["at_edge"] == []


def test_errors_are_divided_by_the_datasets_own_length(encoder, dataset, tmp_path) -> None:
    named = dataclasses.replace(dataset, facts={"normaliser": ["left", "right"]})
    scores, facts, saved = run(LandmarkRegression(alpha=1.0), encoder, named, tmp_path)
    targets, predictions = (saved[key].reshape(-1, 3, 2) for key in ("targets", "predictions"))
    length = np.linalg.norm(targets[:, 0] - targets[:, 1], axis=1)
    errors = np.linalg.norm(targets - predictions, axis=2) / length[:, None]
    np.testing.assert_allclose(saved["normalised_errors"], errors)
    assert scores["nme"].value == pytest.approx(errors.mean())
    assert (scores["nme"].unit, scores["nme"].higher_is_better) == ("left-right", False)
    for threshold in (0.1, 0.2):
        score = scores[f"pck@{threshold}"]
        assert (score.value, score.unit) == (
            pytest.approx((errors <= threshold).mean()),
            "fraction",
        )
    assert list(saved["files"]) == list(dataset["test"].names)
    assert list(saved["landmarks"]) == list(NAMES)
    assert facts["landmarks"] == {"images_with_normaliser": 30, "images": 30}
    assert facts["selection"] == {
        "split": None, "chosen": {"alpha": 1.0}, "scores": [], "at_edge": []
    }  # fmt: skip


def test_without_a_length_of_its_own_the_box_normalises(encoder, dataset, tmp_path) -> None:
    _, _, saved = run(LandmarkRegression(alpha=1.0), encoder, dataset, tmp_path)
    sides = np.ptp(saved["targets"].reshape(-1, 3, 2), axis=1)
    np.testing.assert_allclose(saved["normaliser"], np.sqrt(sides.prod(axis=1)))
    chosen = LandmarkRegression(alpha=1.0, normaliser=("top", "left"))
    scores, _, _ = run(chosen, encoder, dataset, tmp_path)
    assert scores["nme"].unit == "top-left"


def test_unknown_landmarks_count_nowhere(encoder, dataset, tmp_path, caplog) -> None:
    train, test = dataset["train"].targets.copy(), dataset["test"].targets.copy()
    train[::2, 2:4] = NAN
    test[:10, 0:2] = NAN
    holes = with_targets(dataset, train=train, test=test)
    scores, _, saved = run(LandmarkRegression(alpha=1.0), encoder, holes, tmp_path)
    assert np.isnan(saved["normalised_errors"][:10, 0]).all()
    rows, targets = features(dataset, "train", "val"), in_view(holes, "train", "val")
    known = ~np.isnan(targets[:, 2])
    model = sklearn.linear_model.Ridge(alpha=1.0).fit(rows[known], targets[known, 2:4])
    predictions = model.predict(features(dataset, "test"))
    np.testing.assert_allclose(saved["predictions"][:, 2:4], predictions, atol=2e-3)
    judge = [
        sklearn.metrics.r2_score(target[~np.isnan(target)], prediction[~np.isnan(target)])
        for target, prediction in zip(saved["targets"].T, saved["predictions"].T, strict=True)
    ]
    assert scores["r2"].value == pytest.approx(np.mean(judge))
    assert "left out" not in caplog.text


def test_landmarks_that_cannot_be_learnt_or_scored_are_named(
    encoder, dataset, tmp_path, caplog
) -> None:
    train, val, test = (dataset[key].targets.copy() for key in ("train", "val", "test"))
    train[:, 2:4], val[:, 2:4] = NAN, NAN
    test[:, 4] = 6.0
    holes = with_targets(dataset, train=train, val=val, test=test)
    scores, _, saved = run(LandmarkRegression(alpha_values=3), encoder, holes, tmp_path)
    assert "`dots`: `right x`, `right y` are unknown in all training images, and are" in caplog.text
    assert "`dots`: `top x` are constant or unknown in the test images" in caplog.text
    assert np.isnan(saved["predictions"][:, 2:4]).all()
    assert np.isnan(saved["r2_by_output"]).tolist() == [False, False, True, True, True, False]
    assert scores["r2"].value == pytest.approx(np.nanmean(saved["r2_by_output"]))


def test_landmarks_outside_of_the_input_are_counted_in_one_warning(
    encoder, dataset, tmp_path, caplog
) -> None:
    test = dataset["test"].targets.copy()
    # The input shows x from 1.6 to 14.4; a pixel of it is 1.6 pixels of the image.
    test[3, 0], test[3, 2], test[7, 4], test[8, 4] = -0.1, 16.1, -1.0, 0.1
    run(LandmarkRegression(alpha=1.0), encoder, with_targets(dataset, test=test), tmp_path)
    told = [r.getMessage() for r in caplog.records if "outside" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(
        "3 of 270 landmarks of `dots` lie outside of the encoder's input, in 2"
    )


def test_a_best_penalty_at_an_end_of_the_grid_is_told(encoder, dataset, tmp_path, caplog) -> None:
    protocol = LandmarkRegression(alpha_values=3, alpha_log10=(4, 6))
    _, facts, _ = run(protocol, encoder, dataset, tmp_path)
    assert facts["selection"]["at_edge"] == ["alpha"]
    assert "the best `alpha` lies at an end of its values, 10000 to 1e+06" in caplog.text


def test_the_folds_depend_on_the_datasets_seed_alone(encoder, dataset, tmp_path) -> None:
    def values(seed: int, split_seed: int) -> list[float]:
        data = dataclasses.replace(dataset, split_seed=split_seed)
        context = Context(tmp_path, tmp_path / "features", seed=seed, progress_bar=False)
        list(LandmarkRegression(alpha_values=3).run(encoder, data, context))
        return [point["value"] for point in context.facts["selection"]["scores"]]

    assert values(0, 0) == values(1, 0)
    assert values(0, 0) != values(0, 1)


def _record(folder: Path) -> tuple[dict[str, float], dict]:
    """Return the scores and the facts of one process."""
    splits = {"train": split(40, 1), "val": split(20, 2), "test": split(30, 3)}
    dots = Dataset("dots", NAMES, "landmarks", "top1", splits, False, "f" * 64, {})
    context = Context(folder, folder / "features", progress_bar=False)
    encoder = models.wrap(nn.Flatten(), EIGHT)
    scores = LandmarkRegression(alpha_values=5).run(encoder, dots, context)
    return {score.metric: score.value for score in scores}, context.facts


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(gloo_pool, tmp_path) -> None:
    alone, facts = _record(tmp_path / "alone")
    for scores, noted in gloo_pool.run(_record, tmp_path / "two"):
        assert scores == pytest.approx(alone, rel=1e-6)
        assert noted["selection"]["chosen"] == facts["selection"]["chosen"]


def test_stored_half_precision_is_read_as_single(encoder, dataset, tmp_path) -> None:
    values = {}
    for precision in ("fp32", "fp16"):
        protocol = LandmarkRegression(alpha=1.0, standardise=True, feature_precision=precision)
        scores, _, _ = run(protocol, encoder, dataset, tmp_path)
        values[precision] = scores["r2"].value
    assert values["fp16"] == pytest.approx(values["fp32"], abs=1e-3)
    assert values["fp16"] != values["fp32"]


def test_without_validation_images_the_training_images_are_enough(
    encoder, dataset, tmp_path
) -> None:
    splits = {**dataset.splits, "val": dataset["val"].subset([])}
    alone = dataclasses.replace(dataset, splits=splits)
    require(LandmarkRegression(), alone)
    _, facts, _ = run(LandmarkRegression(alpha_values=3), encoder, alone, tmp_path)
    assert facts["selection"]["split"] == "5 folds of train"


@pytest.mark.parametrize(
    ("keys", "change", "told"),
    [
        ({"folds": 61}, {}, "`folds` must be at most the number of .* images, 60, but is 61"),
        ({"normaliser": ("left", "nose")}, {},
         r"two of the landmarks \['left', 'right', 'top'\] of `dots`, but has `nose`"),
        ({"normaliser": ("left", "left")}, {}, "left-left, must be known and positive for a test"),
        ({}, {"train": np.full((40, 6), NAN), "val": np.full((20, 6), NAN)},
         "two different places in the training images, but all are unknown or constant"),
        ({}, {"test": np.full((30, 6), 3.0)},
         "two different places in the test images, but all are unknown or constant"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_any_feature(keys, change, told, dataset) -> None:
    with pytest.raises(ValueError, match=told):
        require(LandmarkRegression(**keys), with_targets(dataset, **change))


def test_images_without_sizes_and_other_targets_are_refused(dataset) -> None:
    splits = {**dataset.splits, "test": dataclasses.replace(dataset["test"], sizes=None)}
    with pytest.raises(ValueError, match="but the test split of `dots` has none"):
        require(LandmarkRegression(), dataclasses.replace(dataset, splits=splits))
    with pytest.raises(ValueError, match=r"one of \['landmarks'\], but `dots` has `values`"):
        require(LandmarkRegression(), dataclasses.replace(dataset, target="values"))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"alpha_log10": (2, 1)}, "`alpha_log10` must be two numbers in ascending order"),
        ({"alpha": 0}, "`alpha` must be positive"),
        ({"folds": 1}, "`folds` must be at least 2"),
        ({"pck_thresholds": []}, "`pck_thresholds` must not be empty"),
        ({"alpha_values": 0}, "`alpha_values` must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(keys, told) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        LandmarkRegression(**keys)


def test_the_published_celeba_landmarks_are_truncated_as_an_integer_tensor_does() -> None:
    """celeba.py of linusericsson/ssl-invariances assigns coordinates to an integer tensor."""
    landmarks = np.random.default_rng(0).integers(-5, 200, (50, 10)).astype(np.float64)
    sizes = np.tile(np.array([178, 218]), (50, 1))
    mapped = to_view(landmarks, sizes, Preprocessing(size=224, resize=None))
    published = torch.zeros(50, 10, dtype=torch.int64)
    published[:] = torch.from_numpy(mapped)
    assert (np.trunc(mapped) == published.numpy()).all()
    # It maps by 224 / 178 in both directions, where the resized height is rounded down to a pixel.
    width, height, side = 178, 218, 178
    ideal = (landmarks.reshape(-1, 5, 2) - [0, (height - side) / 2]) / side * 224
    assert np.abs(ideal - mapped.reshape(-1, 5, 2)).max() < 0.5
    assert width == side
