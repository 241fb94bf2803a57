"""``factor_regression`` from images to scores, against scikit-learn."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_runs import run_all, tiny
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, locate, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.embedded import digits
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.shapes import shapes
from ssl_transfer.datasets.splitting import cross_validation_folds
from ssl_transfer.metrics.landmarks import R2_UNIT
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols import factor_regression
from ssl_transfer.protocols.base import Score, require
from ssl_transfer.protocols.factor_regression import FactorRegression
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import memory

FOUR = Preprocessing(size=4, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
FACTORS = ("slope", "angle", "shade")
GRID: dict[str, Any] = {"alphas": (1.0, 0.1, 0.01), "gammas": (1e-3, 1e-2, 1e-1), "folds": 4}
PUBLISHED_ALPHAS = np.logspace(0, -4, 5)
PUBLISHED_GAMMAS = np.logspace(-5, 2, 8)


def split(samples: int, seed: int) -> Split:
    """Return images of 4x4 px whose columns hold three factors, one of them on a circle of 8."""
    generator = np.random.default_rng(seed)
    factors = generator.uniform(0, [5, 8, 1], (samples, 3))
    turned = factors[:, 1] * math.pi / 4
    columns = np.stack(
        [factors[:, 0] / 5, np.sin(turned) / 2 + 0.5, np.cos(turned) / 2 + 0.5, factors[:, 2]], 1
    )
    noise = generator.normal(0, 12, (samples, 4, 4, 3))
    pixels = (columns[:, None, :, None] * 200 + 25 + noise).clip(0, 255).astype(np.uint8)
    return Split(ArrayImages(pixels), factors, [f"{seed}/{i}" for i in range(samples)])


def made(train: int = 40, val: int = 12, test: int = 30) -> Dataset:
    splits = {"train": split(train, 1), "val": split(val, 2), "test": split(test, 3)}
    return Dataset("toy", FACTORS, "values", "top1", splits, False, "f" * 64, {},
                   periods={"angle": 8.0})  # fmt: skip


@pytest.fixture
def dataset() -> Dataset:
    return made()


@pytest.fixture
def encoder() -> models.Encoder:
    return models.wrap(nn.Flatten(), FOUR)


def pixels(samples: Split) -> np.ndarray:
    images = np.stack([np.asarray(image) for image in samples.images]) / 255
    return ((images - 0.5) / 0.25).transpose(0, 3, 1, 2).reshape(len(samples), -1)


def context(folder: Path, **options: Any) -> Context:
    return Context(folder, folder / "features", progress_bar=False, **options)


def run(
    protocol: FactorRegression, encoder: models.Encoder, dataset: Dataset, folder: Path
) -> tuple[dict[str, Score], dict[str, Any]]:
    surroundings = context(folder)
    scores = {score.metric: score for score in protocol.run(encoder, dataset, surroundings)}
    assert [name for name, score in scores.items() if score.primary] == ["r2"]
    assert all(score.higher_is_better and score.unit == R2_UNIT for score in scores.values())
    return scores, surroundings.facts


def judged(dataset: Dataset, targets: np.ndarray, seed: int = 0) -> GridSearchCV:
    """Return scikit-learn's search for some columns of targets of train + validation."""
    pool = dataset["train"] + dataset["val"]
    held = cross_validation_folds(len(pool), GRID["folds"], seed)
    parts = [(np.setdiff1d(np.arange(len(pool)), part), part) for part in held]
    keys = {"kernelridge__alpha": GRID["alphas"], "kernelridge__gamma": GRID["gammas"]}
    pipeline = make_pipeline(StandardScaler(), KernelRidge(kernel="rbf"))
    search = GridSearchCV(pipeline, keys, cv=parts, scoring=weighted)
    return search.fit(pixels(pool), targets)


def weighted(model: Any, features: np.ndarray, targets: np.ndarray) -> float:
    return float(r2_score(targets, model.predict(features), multioutput="variance_weighted"))


def on_circle(values: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(values * math.pi / 4), np.cos(values * math.pi / 4)], axis=1)


def test_the_option_composes_binds_and_has_the_published_grid() -> None:
    config = plain(compose(["protocol=factor_regression"]))
    assert problems(config) == []
    assert config["dataset"]["name"] == "shapes"
    node = resolve(config)["protocol"]
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    protocol = locate(node["_target_"])(**keys)
    assert protocol.points() == FactorRegression().points()
    points = [(point["alpha"], point["gamma"]) for point in protocol.points()]
    expected = [(a, g) for a in PUBLISHED_ALPHAS for g in PUBLISHED_GAMMAS]
    np.testing.assert_allclose(points, expected)
    assert (protocol.max_train, protocol.max_test) == (5 * 4096, 10 * 4096)
    assert protocol.folds == 5


@pytest.mark.parametrize("circular", ["sine_cosine", "angle"])
def test_every_factor_is_chosen_and_scored_as_by_scikit_learn(
    circular: Any, encoder: models.Encoder, dataset: Dataset, tmp_path: Path
) -> None:
    scores, facts = run(FactorRegression(**GRID, circular=circular), encoder, dataset, tmp_path)
    pool, test = dataset["train"] + dataset["val"], dataset["test"]
    for number, name in enumerate(FACTORS):
        targets = [samples.targets[:, number] for samples in (pool, test)]
        if name == "angle" and circular == "sine_cosine":
            targets = [on_circle(values) for values in targets]
        search = judged(dataset, targets[0])
        found = facts["selection"]["factors"][name]
        assert found["chosen"] == {
            key.removeprefix("kernelridge__"): value for key, value in search.best_params_.items()
        }
        np.testing.assert_allclose(
            found["scores"], search.cv_results_["mean_test_score"], rtol=1e-5, atol=1e-6
        )
        expected = weighted(search.best_estimator_, pixels(test), targets[1])
        assert scores[f"r2_{name}"].value == pytest.approx(expected, rel=1e-4, abs=1e-5)
    mean = np.mean([scores[f"r2_{name}"].value for name in FACTORS])
    assert scores["r2"].value == pytest.approx(mean)


def test_an_angle_as_a_number_is_harder_to_predict(
    encoder: models.Encoder, dataset: Dataset, tmp_path: Path
) -> None:
    values = {}
    for circular in ("sine_cosine", "angle"):
        protocol = FactorRegression(**GRID, circular=circular)  # type: ignore[arg-type]
        values[circular], _ = run(protocol, encoder, dataset, tmp_path)
    assert values["sine_cosine"]["r2_angle"].value > values["angle"]["r2_angle"].value + 0.1
    for name in ("slope", "shade"):
        both = [value[f"r2_{name}"].value for value in values.values()]
        assert both[0] == pytest.approx(both[1])


def test_predictions_are_kept_with_their_files(
    encoder: models.Encoder, dataset: Dataset, tmp_path: Path
) -> None:
    scores, _ = run(FactorRegression(**GRID), encoder, dataset, tmp_path)
    kept = np.load(tmp_path / "factor_predictions.npz")
    assert kept["files"].tolist() == dataset["test"].names
    assert kept["factors"].tolist() == list(FACTORS)
    assert kept["outputs"].tolist() == ["slope", "angle_sine", "angle_cosine", "shade"]
    assert (kept["targets"] == dataset["test"].targets).all()
    value = r2_score(kept["targets"][:, 2], kept["predictions"][:, 3])
    assert value == pytest.approx(scores["r2_shade"].value)


def test_pixels_of_shapes_tell_position_and_hue(tmp_path: Path) -> None:
    encoder = models.wrap(nn.Flatten(), Preprocessing(size=16, resize=None))
    protocol = FactorRegression(gammas=(1e-5, 1e-4, 1e-3), folds=3)
    scores, _ = run(protocol, encoder, shapes(name="shapes", flip=False), tmp_path)
    assert scores["r2_x"].value > 0.5
    assert scores["r2_y"].value > 0.5
    assert scores["r2_hue"].value > 0.5
    assert scores["r2_lighting"].value > 0.9


def test_only_drawn_samples_are_encoded_and_they_depend_on_the_split_seed_alone(
    dataset: Dataset, tmp_path: Path
) -> None:
    class Counting(nn.Flatten):
        seen = 0

        def forward(self, images: Any) -> Any:
            Counting.seen += len(images)
            return super().forward(images)

    protocol = FactorRegression(**GRID, max_train=25, max_test=11)
    facts = []
    for number, seed in ((0, 0), (1, 7)):
        encoder = models.wrap(Counting(), FOUR)
        assert encoder.feature_dim == 48  # found by a forward pass
        Counting.seen = 0
        surroundings = context(tmp_path / str(number), seed=seed)
        surroundings.folder.mkdir()
        list(protocol.run(encoder, dataset, surroundings))
        assert Counting.seen == 36
        del surroundings.facts["features"]  # with the seconds of their extraction
        facts.append(surroundings.facts)
        kept = np.load(surroundings.folder / "factor_predictions.npz")["files"]
        assert len({*kept.tolist()} & {*dataset["test"].names}) == 11
    assert facts[0] == facts[1]
    assert facts[0]["fitted_samples"] == 25
    drawn = [
        protocol._drawn(data) for data in (dataset, dataclasses.replace(dataset, split_seed=1))
    ]
    assert {*drawn[0]["train"].names} != {*drawn[1]["train"].names}
    assert len({data.fingerprint for data in (dataset, *drawn)}) == 3
    assert protocol._drawn(made(10, 5, 5)).fingerprint == made().fingerprint


def test_an_interrupted_run_goes_on_with_the_next_fold(
    encoder: models.Encoder, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run(FactorRegression(**GRID), encoder, dataset, tmp_path)
    (tmp_path / "progress.json").unlink()
    computed: list[int] = []
    original = factor_regression.held_out_r2

    def stopping(*arguments: Any, **keys: Any) -> Any:
        if len(computed) == 2:
            computed.append(-1)
            raise KeyboardInterrupt
        computed.append(len(arguments[2]))
        return original(*arguments, **keys)

    monkeypatch.setattr(factor_regression, "held_out_r2", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(FactorRegression(**GRID), encoder, dataset, tmp_path)
    scores, _ = run(FactorRegression(**GRID), encoder, dataset, tmp_path)
    assert computed == [13, 13, -1, 13, 13]
    assert scores == expected


def _scores(folder: Path) -> list[Score]:
    return list(
        FactorRegression(**GRID).run(models.wrap(nn.Flatten(), FOUR), made(), context(folder))
    )


def test_two_processes_give_the_scores_of_one(tmp_path: Path, gloo_pool: Any) -> None:
    (tmp_path / "one").mkdir()
    alone = _scores(tmp_path / "one")
    assert gloo_pool.run(_scores, tmp_path) == [alone, alone]


def test_ends_of_the_grid_are_told_once_for_all_factors(
    encoder: models.Encoder, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = FactorRegression(alphas=(1e3, 1e4, 1e5), gammas=(1e-3,), folds=3)
    _, facts = run(narrow, encoder, dataset, tmp_path)
    assert facts["at_edge"] == {name: ["alpha"] for name in FACTORS}
    assert caplog.text.count("lies at an end of the grid for `slope` (alpha); `angle` (alpha)") == 1


def test_a_penalty_that_leaves_the_kernel_singular_is_left_out(
    encoder: models.Encoder, dataset: Dataset, tmp_path: Path
) -> None:
    protocol = FactorRegression(alphas=(1e-300, 0.1), gammas=(1e-300,), folds=3)
    _, facts = run(protocol, encoder, dataset, tmp_path)
    assert facts["selection"]["factors"]["slope"]["scores"][0] is None
    assert facts["selection"]["factors"]["slope"]["chosen"]["alpha"] == 0.1
    alone = FactorRegression(alphas=(1e-300,), gammas=(1e-300,), folds=3)
    (tmp_path / "progress.json").unlink()
    with pytest.raises(ValueError, match=r"must give finite scores.*raise .*protocol\.alphas"):
        run(alone, encoder, dataset, tmp_path)


def refused(dataset: Dataset, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        require(FactorRegression(), dataset)


def test_too_few_images_are_refused() -> None:
    refused(made(7, 2), r"needs 10 images at least in train \+ validation for 5 folds, but `toy` "
                        r"has 9; add images, or lower `protocol\.folds`\.")  # fmt: skip
    refused(made(test=1), r"needs 2 images at least in test, but `toy` has 1; add images\.")


def test_more_numbers_than_images_are_refused() -> None:
    def wide(factors: int) -> Dataset:
        normal = np.random.default_rng(0).normal
        parts = {
            key: dataclasses.replace(part, targets=normal(size=(len(part), factors)))
            for key, part in made().splits.items()
        }
        names = tuple(str(number) for number in range(factors))
        return dataclasses.replace(made(), splits=parts, classes=names, periods={})

    require(FactorRegression(), wide(52))
    refused(wide(53), "`toy` has 52 images and 53 numbers; add images")


@pytest.mark.parametrize(
    ("keys", "where"),
    [(("test",), "the test split"), (("train", "val"), r"fold 1 of train \+ validation")],
)
def test_a_factor_that_is_constant_where_it_is_scored_is_named(
    keys: tuple[str, ...], where: str
) -> None:
    parts = dict(made().splits)
    for key in keys:
        targets = parts[key].targets.copy()
        targets[:, 2] = 4
        parts[key] = dataclasses.replace(parts[key], targets=targets)
    told = f"must vary where it is scored, but `shade` is constant in {where}; add images"
    refused(dataclasses.replace(made(), splits=parts), told)


def test_a_kernel_that_does_not_fit_into_memory_is_refused_before_any_feature(
    encoder: models.Encoder, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 2**16)
    with pytest.raises(ValueError, match=r"the kernel of `factor_regression` on `toy` must fit "
                       r"into memory, but needs .* lower `protocol\.max_train`"):  # fmt: skip
        run(FactorRegression(**GRID), encoder, dataset, tmp_path)
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("alphas=[0]", "every item of `protocol.alphas` must be positive, but one is 0"),
        ("gammas=[]", "`protocol.gammas` must not be empty"),
        ("alphas=[1,1]", r"`alphas` must list each value once, but is \[1, 1\]"),
        ("folds=1", r"`protocol.folds` must be at least 2, but is 1"),
        ("circular=degrees", r"`protocol.circular` must be one of .*, but is 'degrees'"),
        ("max_train=0", "`protocol.max_train` must be at least 1, but is 0"),
    ],
)
def test_a_mistake_is_told_before_any_work(override: str, told: str) -> None:
    (found,) = problems(plain(compose(["protocol=factor_regression", f"protocol.{override}"])))
    assert re.search(told, found)


def test_a_dataset_of_classes_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"one of \['values'\], but `digits` has `class`"):
        require(FactorRegression(), digits(name="digits"))


def test_a_run_leaves_a_record_with_every_factor(tmp_path: Path) -> None:
    grid = ["protocol.alphas=[0.1]", "protocol.gammas=[1e-3]", "protocol.folds=2"]
    run_ = tiny(tmp_path, "protocol=factor_regression", *grid, tuned=False, data=False)
    assert run_all(run_).failures == {}
    scores = {score["metric"]: score for score in run_.record()["scores"]}
    assert next(iter(scores)) == "r2"
    assert len(scores) == 7
    assert scores["r2_lighting"]["value"] > 0.5


def test_a_protocol_of_classes_names_those_that_take_numbers() -> None:
    probe, *others = (
        locate(plain(compose([f"protocol={option}"]))["protocol"]["_target_"])
        for option in ("knn", "factor_regression", "transferability")
    )
    assert all("values" in other.targets for other in others)
    with pytest.raises(ValueError, match=r"use protocol=factor_regression or transferability\."):
        require(probe(), shapes(name="shapes"))
