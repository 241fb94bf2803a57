"""``knn`` and ``logistic_regression`` from images to scores."""

import dataclasses
import re
import types
import warnings

import numpy as np
import pytest
import sklearn.linear_model
import torch
from judging import assert_same_classes, clear_decisions
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, locate, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.splitting import cross_validation_folds
from ssl_transfer.metrics import ece
from ssl_transfer.metrics.calibration import ece_by_folds, fit_temperature
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols import classification, knn, logistic_regression
from ssl_transfer.protocols.base import require
from ssl_transfer.protocols.knn import KNN
from ssl_transfer.protocols.logistic_regression import LogisticRegression
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import distributed

OPTIONS = ("knn", "logistic_regression")
FOUR = Preprocessing(size=4, resize=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def split(samples, seed):
    """Noisy patterns of three classes, one of them rare."""
    generator = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).integers(60, 196, (3, 4, 4, 3))
    targets = np.array([0, 0, 1, 1, 2], dtype=np.int64)[np.arange(samples) % 5]
    noise = generator.normal(0, 40, (samples, 4, 4, 3))
    pixels = (patterns[targets] + noise).clip(0, 255).astype(np.uint8)
    return Split(ArrayImages(pixels), targets, [f"{seed}/{i}" for i in range(samples)])


@pytest.fixture
def dataset():
    splits = {"train": split(40, 1), "val": split(20, 2), "test": split(50, 3)}
    return Dataset("toy", ("a", "b", "c"), "class", "mean_per_class", splits, True, "f" * 64, {})


@pytest.fixture
def encoder():
    return models.wrap(nn.Flatten(), FOUR)


def pixels(samples):
    images = np.stack([np.asarray(image) for image in samples.images]) / 255
    return ((images - 0.5) / 0.25).transpose(0, 3, 1, 2).reshape(len(samples), -1)


def both(dataset):
    return dataset["train"] + dataset["val"]


def context(folder, **options):
    return Context(folder, folder / "features", progress_bar=False, **options)


def run(protocol, encoder, dataset, folder):
    surroundings = context(folder)
    scores = {score.metric: score for score in protocol.run(encoder, dataset, surroundings)}
    assert [name for name, score in scores.items() if score.primary] == [dataset.metric]
    predictions = np.load(folder / "test_predictions.npz")["scores"].argmax(1)
    return scores, surroundings.facts, predictions


@pytest.mark.parametrize("option", OPTIONS)
def test_the_option_composes_binds_and_runs(option, encoder, dataset, tmp_path):
    config = plain(compose([f"protocol={option}"]))
    assert problems(config) == []
    node = resolve(config)["protocol"]
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    protocol = locate(node["_target_"])(**keys)
    assert (
        protocol
        == {"knn": KNN(), "logistic_regression": LogisticRegression(wd_log10=[-6, 5])}[option]
    )
    assert dataset.target in protocol.targets
    scores, _, predictions = run(protocol, encoder, dataset, tmp_path)
    assert scores["top1"].value == pytest.approx((predictions == dataset["test"].targets).mean())
    assert scores["top1"].value > 0.8


def test_knn_is_the_vote_of_train_and_validation(encoder, dataset, tmp_path):
    bank, queries = pixels(both(dataset)), pixels(dataset["test"])
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, bank)]
    weights = np.exp(unit[0] @ unit[1].T / 0.1)
    weights[weights < np.sort(weights, axis=1)[:, [-9]]] = 0
    votes = weights @ np.eye(3)[both(dataset).targets]
    _, _, predictions = run(KNN(k=9, temperature=0.1), encoder, dataset, tmp_path)
    assert_same_classes(predictions, votes, margin=1e-4 * votes.max())


def test_knn_chooses_k_on_validation_and_says_so(encoder, dataset, tmp_path):
    protocol = KNN(k=[1, 20, 5], metric="euclidean", weighting="uniform")
    _, facts, _ = run(protocol, encoder, dataset, tmp_path)
    train, val = dataset["train"], dataset["val"]
    judged = {}
    for k in (1, 5, 20):
        judge = KNeighborsClassifier(k).fit(pixels(train), train.targets)
        predicted = judge.predict(pixels(val))
        per_class = [np.mean(predicted[val.targets == c] == c) for c in range(3)]
        judged[k] = np.mean(per_class)
    assert facts["selection"]["split"] == "val"
    assert {p["k"]: p["value"] for p in facts["selection"]["scores"]} == pytest.approx(judged)
    chosen = min(k for k in judged if judged[k] == max(judged.values()))
    assert facts["selection"]["chosen"] == {"k": chosen}


def test_best_nn_takes_the_best_k_of_the_test_split_and_the_record_says_so(
    encoder, dataset, tmp_path
):
    scores, facts, _ = run(KNN(k=[1, 3, 40], selection="test"), encoder, dataset, tmp_path)
    assert facts["selection"]["split"] == "test"
    values = [point["value"] for point in facts["selection"]["scores"]]
    assert scores["mean_per_class"].value == pytest.approx(max(values))


def _knn_of_one_process(folder, encoder, dataset):
    scores = KNN(k=[1, 7], selection="val").run(encoder, dataset, context(folder))
    return {score.metric: score.value for score in scores}


def test_two_processes_share_the_queries_of_knn(encoder, dataset, tmp_path, gloo_pool):
    alone = _knn_of_one_process(tmp_path / "alone", encoder, dataset)
    both_scores = gloo_pool.run(_knn_of_one_process, tmp_path / "two", encoder, dataset)
    assert both_scores == [pytest.approx(alone)] * 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"k": []}, "must be a number or a list of different numbers"),
        ({"k": [5, 5]}, "must be a number or a list of different numbers"),
        ({"shift_batch": 10}, "must be null unless `space` is `shifted_norm`"),
    ],
)
def test_knn_refuses_keys_that_do_not_fit(keys, message):
    with pytest.raises(ValueError, match=message):
        KNN(**keys)


@pytest.mark.parametrize("first", [True, False])
def test_of_several_processes_the_first_alone_warns(
    first, encoder, dataset, tmp_path, caplog, monkeypatch
):
    for module in (knn, classification):
        # Only the warnings are those of another process: it has no store of its own.
        stand_in = types.SimpleNamespace(**vars(distributed) | {"is_main": lambda: first})
        monkeypatch.setattr(module, "distributed", stand_in)
    run(KNN(k=200), encoder, dataset, tmp_path)
    test = dataset["test"]
    logits = torch.eye(3)[torch.from_numpy(test.targets)]
    several = dataclasses.replace(
        dataset,
        target="classes",
        metric="map_11_point",
        splits={"test": Split(test.images, np.eye(3, dtype=np.int64)[test.targets], test.names)},
    )
    for data in (dataset, several):
        list(classification.scores_on_test(logits, data, context(tmp_path), calibration="val"))
    told = ["lowered from", "`ece_scaled` is not", "calibration is not"]
    assert [text in caplog.text for text in told] == [first] * 3


def test_a_bank_smaller_than_k_votes_as_a_whole_and_says_so(encoder, dataset, tmp_path, caplog):
    _, facts, few = run(KNN(k=200), encoder, dataset, tmp_path)
    assert facts["neighbours"] == 60
    assert "lowered from 200 to the 60" in caplog.text
    _, _, all_of_them = run(KNN(k=60), encoder, dataset, tmp_path)
    assert np.array_equal(few, all_of_them)


def converged(C):
    """scikit-learn run to its end, by Newton's method in a tenth of the iterations of L-BFGS."""
    return sklearn.linear_model.LogisticRegression(C=C, tol=1e-9, max_iter=1000, solver="newton-cg")


def converged_choice(dataset):
    """The published procedure with scikit-learn, each fit run to its end."""
    grid = 1 / np.logspace(-3, 3, 7)

    def fitted(C, samples):
        return converged(C).fit(pixels(samples), samples.targets)

    def recall(model, samples):
        logits = model.decision_function(pixels(samples))
        assert clear_decisions(logits, margin=1e-3 * np.ptp(logits)).all()
        right = logits.argmax(1) == samples.targets
        return np.mean([right[samples.targets == c].mean() for c in range(3)])

    scores = [recall(fitted(C, dataset["train"]), dataset["val"]) for C in grid]
    best = int(np.argmax(scores))
    final = fitted(grid[best], both(dataset))
    return scores, grid[best], final.decision_function(pixels(dataset["test"]))


def test_logistic_regression_chooses_and_predicts_as_scikit_learn_run_to_convergence(
    encoder, dataset, tmp_path
):
    scores, C, logits = converged_choice(dataset)
    protocol = LogisticRegression(wd_values=7, wd_log10=(-3, 3), tol=1e-7)
    _, facts, predictions = run(protocol, encoder, dataset, tmp_path)
    found = facts["selection"]
    assert [point["value"] for point in found["scores"]] == pytest.approx(scores)
    assert (found["split"], found["chosen"]["C"]) == ("val", pytest.approx(C))
    assert_same_classes(predictions, logits, margin=0.01 * np.ptp(logits))


def spied_fits(monkeypatch):
    """The fits of scikit-learn from now on, and whether each started from an earlier one's end."""
    fits = []
    original = sklearn.linear_model.LogisticRegression.fit

    def spy(model, features, labels):
        warm = getattr(model, "coef_", None)
        fits.append((model.C, len(labels), model.max_iter, model.warm_start, warm is not None))
        return original(model, features, labels)

    monkeypatch.setattr(sklearn.linear_model.LogisticRegression, "fit", spy)
    return fits


def test_published_is_the_warm_started_loop_of_a_hundred_iterations(
    encoder, dataset, tmp_path, monkeypatch
):
    fits = spied_fits(monkeypatch)
    protocol = LogisticRegression(wd_values=5, wd_log10=(-2, 2), solver="sklearn_2021")
    _, facts, _ = run(protocol, encoder, dataset, tmp_path)
    C = facts["selection"]["chosen"]["C"]
    expected = [(C, 40) for C in (100.0, 10.0, 1.0, 0.1, 0.01)] + [(C, 60)]
    assert [fit[:2] for fit in fits] == [(pytest.approx(c), n) for c, n in expected]
    assert [fit[2:] for fit in fits] == [(100, True, number > 0) for number in range(6)]


def test_published_predicts_two_classes_and_certain_ones_without_a_warning(
    encoder, dataset, tmp_path
):
    two = {name: s.subset(np.flatnonzero(s.targets < 2)) for name, s in dataset.splits.items()}
    pair = Dataset("two", dataset.classes, "class", "top1", two, True, "2" * 64, {})
    scores = {}
    for solver in ("sklearn_2021", "converged"):
        protocol = LogisticRegression(wd_values=3, wd_log10=(-9, -3), solver=solver)
        scores[solver] = run(protocol, encoder, pair, tmp_path)[0]["top1"].value
    assert scores["sklearn_2021"] > 0.85
    assert scores["sklearn_2021"] == pytest.approx(scores["converged"], abs=0.06)


def test_equally_good_values_give_the_largest_c(encoder, dataset, tmp_path):
    easy = Dataset(
        "easy", dataset.classes, "class", "top1",
        dict.fromkeys(("train", "val", "test"), dataset["train"]), True, "e" * 64, {},
    )  # fmt: skip
    _, facts, _ = run(LogisticRegression(wd_values=9, wd_log10=(-6, 2)), encoder, easy, tmp_path)
    scores = [point["value"] for point in facts["selection"]["scores"]]
    assert scores.count(max(scores)) > 1
    assert facts["selection"]["chosen"]["C"] == pytest.approx(1e6)


def test_a_class_that_only_validation_shows_is_learnt_in_the_refit(encoder, dataset, tmp_path):
    rare = dataset["train"].targets == 2
    without = dataset["train"].subset(np.flatnonzero(~rare))
    late = dataclasses.replace(dataset, splits={**dataset.splits, "train": without})
    protocol = LogisticRegression(wd_values=5, wd_log10=(-2, 2), tol=1e-8)
    _, facts, found = run(protocol, encoder, late, tmp_path)
    protocol = LogisticRegression(C=facts["selection"]["chosen"]["C"], tol=1e-8)
    _, _, alone = run(protocol, encoder, late, tmp_path)
    assert np.array_equal(found, alone)
    assert (found == 2).any()


def test_a_fit_that_ran_out_of_iterations_is_told(encoder, dataset, tmp_path, caplog):
    run(LogisticRegression(max_iter=2, tol=1e-12), encoder, dataset, tmp_path)
    assert "before it converged" in caplog.text


def test_a_given_c_is_used_without_choosing(encoder, dataset, tmp_path):
    judge = converged(0.03)
    samples = both(dataset)
    judge.fit(pixels(samples), samples.targets)
    logits = judge.decision_function(pixels(dataset["test"]))
    protocol = LogisticRegression(C=0.03, tol=1e-7)
    _, facts, predictions = run(protocol, encoder, dataset, tmp_path)
    assert_same_classes(predictions, logits, margin=0.01 * np.ptp(logits))
    assert facts["selection"] == {
        "split": None, "chosen": {"C": 0.03}, "scores": [], "at_edge": []
    }  # fmt: skip


def test_a_given_c_as_published_starts_from_nothing(encoder, dataset, tmp_path, monkeypatch):
    fits = spied_fits(monkeypatch)
    protocol = LogisticRegression(C=0.03, solver="sklearn_2021")
    run(protocol, encoder, dataset, tmp_path)
    assert fits == [(0.03, 60, 100, True, False)]


def test_a_best_c_at_an_end_of_the_grid_is_noted_and_told(encoder, dataset, tmp_path, caplog):
    protocol = LogisticRegression(wd_values=4, wd_log10=(2, 8))
    _, facts, _ = run(protocol, encoder, dataset, tmp_path)
    assert facts["selection"]["at_edge"] == ["C"]
    assert "the best `C` lies at an end of its values, 1e-08 to 0.01" in caplog.text


CALIBRATED = {"C": 1.0, "tol": 1e-8}


def calibrated_judge(dataset, splits):
    model = converged(1.0)
    samples = dataset["train"] if splits == "train" else both(dataset)
    model.fit(pixels(samples), samples.targets)
    return lambda split: torch.from_numpy(model.decision_function(pixels(dataset[split])))


@pytest.mark.parametrize("solver", ["converged", "sklearn_2021"])
def test_calibration_takes_the_temperature_from_a_classifier_that_never_saw_validation(
    solver, encoder, dataset, tmp_path
):
    trained, final = calibrated_judge(dataset, "train"), calibrated_judge(dataset, "both")
    temperature = fit_temperature(trained("val"), torch.from_numpy(dataset["val"].targets))
    labels = torch.from_numpy(dataset["test"].targets)
    protocol = LogisticRegression(**CALIBRATED, solver=solver, calibration="val")
    scores, facts, _ = run(protocol, encoder, dataset, tmp_path)
    assert facts["calibration"] == {
        "fitted_on": "val", "temperature": pytest.approx(temperature, rel=1e-2)
    }  # fmt: skip
    expected = {
        "ece": ece(final("test"), labels),
        "ece_scaled": ece(final("test") / temperature, labels),
    }
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, abs=3e-3)
        assert not scores[name].higher_is_better
        assert not scores[name].primary
    assert expected["ece"] != pytest.approx(expected["ece_scaled"], abs=6e-3)


def test_calibration_as_published_uses_fifths_of_the_test_split(encoder, dataset, tmp_path):
    final = calibrated_judge(dataset, "both")
    expected = ece_by_folds(final("test"), torch.from_numpy(dataset["test"].targets))
    protocol = LogisticRegression(**CALIBRATED, calibration="test_folds")
    scores, facts, _ = run(protocol, encoder, dataset, tmp_path)
    assert scores["ece_scaled"].value == pytest.approx(expected, abs=3e-3)
    assert facts["calibration"] == {"fitted_on": "test_folds", "temperature": None}


@pytest.mark.parametrize("solver", ["converged", "sklearn_2021"])
def test_with_a_grid_the_temperature_is_that_of_the_chosen_c(solver, encoder, dataset, tmp_path):
    grid = {"wd_values": 5, "wd_log10": (-2, 2), "solver": solver, "calibration": "val"}
    _, facts, _ = run(LogisticRegression(**grid), encoder, dataset, tmp_path)
    C, temperature = facts["selection"]["chosen"]["C"], facts["calibration"]["temperature"]
    _, alone, _ = run(LogisticRegression(**{**grid, "C": C}), encoder, dataset, tmp_path)
    assert temperature == pytest.approx(alone["calibration"]["temperature"], rel=0.02)


def test_without_calibration_there_is_no_calibration_error(encoder, dataset, tmp_path):
    scores, facts, _ = run(LogisticRegression(C=1.0), encoder, dataset, tmp_path)
    assert set(scores) == {"mean_per_class", "top1"}
    assert "calibration" not in facts


def test_an_unknown_calibration_is_refused():
    choice = ["protocol=logistic_regression", "protocol.calibration=test"]
    (problem,) = problems(plain(compose(choice)))
    assert "protocol.calibration" in problem
    assert "'test_folds'" in problem


@pytest.mark.parametrize("protocol", [KNN(), LogisticRegression()])
def test_a_metric_that_does_not_fit_is_refused_before_any_feature_is_computed(
    protocol, encoder, dataset, tmp_path
):
    wrong = dataclasses.replace(dataset, extra_metrics=("auc",))
    said = r"`toy` cannot be scored: `auc` .* there are 3"
    with pytest.raises(ValueError, match=said):
        require(protocol, wrong)  # as every run of a sweep does before the first one starts
    with pytest.raises(ValueError, match=said):
        run(protocol, encoder, wrong, tmp_path)
    assert not (tmp_path / "features").exists()


def test_further_metrics_of_a_dataset_are_yielded_too(encoder, dataset, tmp_path):
    two = {name: s.subset(np.flatnonzero(s.targets < 2)) for name, s in dataset.splits.items()}
    pair = dataclasses.replace(dataset, classes=("a", "b"), splits=two, extra_metrics=("auc", "f1"))
    scores, _, predictions = run(KNN(k=9), encoder, pair, tmp_path)
    assert set(scores) == {"mean_per_class", "top1", "auc", "f1"}
    expected = f1_score(two["test"].targets, predictions)
    assert scores["f1"].value == pytest.approx(expected)


def test_a_split_on_which_a_metric_is_not_defined_is_refused_where_it_is_needed(
    encoder, dataset, tmp_path
):
    two = {name: s.subset(np.flatnonzero(s.targets < 2)) for name, s in dataset.splits.items()}
    two["val"] = two["val"].subset(np.flatnonzero(two["val"].targets == 1))
    pair = dataclasses.replace(dataset, classes=("a", "b"), splits=two, metric="auc")
    said = r"`toy` cannot be scored: `auc` needs samples of both classes, but val has only some"
    for chooses in (LogisticRegression(wd_values=3), LogisticRegression(solver="sklearn_2021")):
        with pytest.raises(ValueError, match=said):
            require(chooses, pair)
    for no_choice in (
        KNN(k=9),
        LogisticRegression(C=1.0),
        LogisticRegression(C=1.0, solver="sklearn_2021"),
    ):
        require(no_choice, pair)
        scores, _, _ = run(no_choice, encoder, pair, tmp_path)
        assert [name for name, score in scores.items() if score.primary] == ["auc"]
    two["test"] = two["test"].subset(np.flatnonzero(two["test"].targets == 1))
    with pytest.raises(ValueError, match="but test has only some of one"):
        require(KNN(k=9), dataclasses.replace(pair, splits=two))


def test_labels_that_are_no_classes_are_refused_and_classes_never_shown_are_told(dataset, caplog):
    train = dataset["train"]
    odd = dataclasses.replace(train, targets=np.where(np.arange(40) == 7, 3, train.targets))
    with pytest.raises(ValueError, match="must lie from 0 to 2, but that of `1/7` in train is 3"):
        require(KNN(), dataclasses.replace(dataset, splits={**dataset.splits, "train": odd}))
    require(KNN(), dataset)
    assert not caplog.text
    without = {key: s.subset(np.flatnonzero(s.targets < 2)) for key, s in dataset.splits.items()}
    without["test"] = dataset["test"]
    require(KNN(), dataclasses.replace(dataset, splits=without))
    assert "`toy` has no training image of `c`, so that test images" in caplog.text


def test_votes_have_a_top5_of_more_than_five_classes(encoder, dataset, tmp_path):
    test = dataclasses.replace(dataset["test"], targets=dataset["test"].targets + 4)
    splits = {**dataset.splits, "test": test}
    seven = dataclasses.replace(dataset, classes=tuple("abcdefg"), splits=splits)
    scores, _, _ = run(KNN(k=9), encoder, seven, tmp_path)
    assert {name: score.value for name, score in scores.items()} == {
        "mean_per_class": 0,
        "top1": 0,
        # Only a, b and c have votes; of the others d and e come first, and two fifths show e.
        "top5": pytest.approx(2 / 5),
    }


@pytest.mark.parametrize("solver", ["converged", "sklearn_2021"])
def test_a_c_whose_scores_are_no_numbers_is_left_out(
    solver, encoder, dataset, tmp_path, monkeypatch, caplog
):
    protocol = LogisticRegression(wd_values=5, wd_log10=(-2, 2), solver=solver)
    _, facts, _ = run(protocol, encoder, dataset, tmp_path)
    values = [point["value"] for point in facts["selection"]["scores"]]
    chosen = int(np.argmax(values))
    goodness = iter([None if i == chosen else value for i, value in enumerate(values)])
    monkeypatch.setattr(logistic_regression.Search, "_goodness", lambda *_: next(goodness))
    _, facts, _ = run(protocol, encoder, dataset, tmp_path)
    left = [-np.inf if i == chosen else value for i, value in enumerate(values)]
    grid = protocol.grid()
    assert facts["selection"]["chosen"] == {"C": grid[int(np.argmax(left))]}
    assert facts["selection"]["scores"][chosen] == {"C": grid[chosen], "value": None}
    assert "1 of 5 points of the grid are left out" in caplog.text
    monkeypatch.setattr(logistic_regression.Search, "_goodness", lambda *_: None)
    with pytest.raises(ValueError, match=r"none of \[{'C': .*}\] does; choose a smaller C"):
        run(protocol, encoder, dataset, tmp_path)


def test_fifths_of_fewer_than_five_test_images_are_refused_before_any_work(dataset):
    few = {**dataset.splits, "test": dataset["test"].subset(range(4))}
    protocol = LogisticRegression(C=1.0, calibration="test_folds")
    with pytest.raises(ValueError, match="on fifths needs at least 5 samples, but has 4"):
        require(protocol, dataclasses.replace(dataset, splits=few))


def folds_of(data, stratified, folds=4):
    """Return the fitted and the held-out part of train + validation of every fold."""
    pool = both(data)
    held = cross_validation_folds(
        len(pool), folds, data.split_seed, pool.targets if stratified else None
    )
    everything = np.arange(len(pool))
    return [(pool.subset(np.setdiff1d(everything, part)), pool.subset(part)) for part in held]


def mean_per_class(labels, predictions):
    return np.mean([(predictions[labels == label] == label).mean() for label in np.unique(labels)])


@pytest.mark.parametrize("stratified", [True, False])
def test_folds_choose_c_as_scikit_learn_run_to_convergence(stratified, encoder, dataset, tmp_path):
    grid = 1 / np.logspace(-3, 3, 7)

    def fitted(C, samples):
        return converged(C).fit(pixels(samples), samples.targets)

    expected = [
        np.mean([
            mean_per_class(judged.targets, fitted(C, part).predict(pixels(judged)))
            for part, judged in folds_of(dataset, stratified)
        ])
        for C in grid
    ]  # fmt: skip
    protocol = LogisticRegression(
        wd_values=7, wd_log10=(-3, 3), selection="cv", folds=4, stratified=stratified, tol=1e-8
    )
    _, facts, predictions = run(protocol, encoder, dataset, tmp_path)
    selection = facts["selection"]
    assert selection["split"] == "cv"
    assert [point["value"] for point in selection["scores"]] == pytest.approx(expected)
    best = int(np.argmax(expected))
    assert selection["chosen"] == {"C": pytest.approx(grid[best])}
    judge = fitted(grid[best], both(dataset))
    logits = judge.decision_function(pixels(dataset["test"]))
    assert_same_classes(predictions, logits, margin=1e-3)


def test_stratified_folds_share_classes_as_scikit_learns_do(dataset):
    counts = [np.bincount(judged.targets, minlength=3) for _, judged in folds_of(dataset, True)]
    pool = both(dataset)
    judge = StratifiedKFold(4).split(pool.targets, pool.targets)
    expected = [np.bincount(pool.targets[held], minlength=3) for _, held in judge]
    assert sorted(map(tuple, counts)) == sorted(map(tuple, expected))


def test_folds_as_published_fit_one_value_after_the_other_in_every_fold(
    encoder, dataset, tmp_path, monkeypatch
):
    fits = spied_fits(monkeypatch)
    protocol = LogisticRegression(wd_values=3, wd_log10=(-1, 1), solver="sklearn_2021",
                                  selection="cv", folds=4, stratified=False)  # fmt: skip
    _, facts, _ = run(protocol, encoder, dataset, tmp_path)
    values = [10.0] * 4 + [1.0] * 4 + [0.1] * 4
    chosen = facts["selection"]["chosen"]["C"]
    expected = [*((C, 45) for C in values), (chosen, 60)]
    assert [fit[:2] for fit in fits] == [(pytest.approx(c), n) for c, n in expected]
    assert [fit[4] for fit in fits] == [number > 0 for number in range(13)]
    model = sklearn.linear_model.LogisticRegression(warm_start=True, max_iter=100)

    def fitted(C, samples):
        model.set_params(C=C, tol=1e-4 / len(samples))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(pixels(samples).astype(np.float32), samples.targets)

    scores = [
        np.mean([
            mean_per_class(judged.targets, fitted(C, part).predict(pixels(judged)))
            for part, judged in folds_of(dataset, stratified=False)
        ])
        for C in (10, 1, 0.1)
    ]  # fmt: skip
    assert [point["value"] for point in facts["selection"]["scores"]] == pytest.approx(
        scores, abs=0.02
    )


def test_folds_do_not_depend_on_the_seed_of_the_run(encoder, dataset, tmp_path):
    protocol = LogisticRegression(wd_values=3, wd_log10=(-1, 1), selection="cv", folds=3)
    scores = []
    for seed in (0, 1):
        surroundings = context(tmp_path / str(seed), seed=seed)
        surroundings.folder.mkdir()
        list(protocol.run(encoder, dataset, surroundings))
        scores.append(surroundings.facts["selection"]["scores"])
    assert scores[0] == scores[1]


def test_a_given_c_needs_no_folds(encoder, dataset, tmp_path):
    results = [
        run(LogisticRegression(C=0.3, selection=selection, folds=500), encoder, dataset, tmp_path)
        for selection in ("val", "cv")
    ]
    assert results[0][0] == results[1][0]
    assert results[1][1]["selection"]["split"] is None


def test_folds_that_cannot_be_judged_are_refused_before_any_work(dataset):
    with pytest.raises(ValueError, match=r"which is 60 for `toy`, but is 61; lower it"):
        require(LogisticRegression(selection="cv", folds=61), dataset)
    two = {name: s.subset(np.flatnonzero(s.targets < 2)) for name, s in dataset.splits.items()}
    two["val"] = two["val"].subset(np.flatnonzero(two["val"].targets == 1))
    pair = dataclasses.replace(dataset, classes=("a", "b"), splits=two, metric="auc")
    require(LogisticRegression(selection="cv", folds=4), pair)
    with pytest.raises(ValueError, match=r"fold 1 of train \+ validation has only some of one"):
        require(LogisticRegression(selection="cv", folds=len(both(pair))), pair)


def test_calibration_on_validation_is_refused_with_folds():
    choice = ["protocol.selection=cv", "protocol.calibration=val"]
    (problem,) = problems(plain(compose(["protocol=logistic_regression", *choice])))
    assert "`calibration` must be `test_folds` or null with `selection=cv`" in problem


@pytest.mark.parametrize("protocol", [KNN(k=60), LogisticRegression(C=0.1)])
def test_preprocessing_replaces_the_encoders(protocol, encoder, dataset, tmp_path):
    far_away = {"mean": (-50.0,) * 3, "std": (10.0,) * 3}
    other = models.wrap(nn.Flatten(), dataclasses.replace(FOUR, **far_away))
    _, _, expected = run(protocol, other, dataset, tmp_path)
    changed = dataclasses.replace(protocol, preprocessing=far_away)
    _, _, found = run(changed, encoder, dataset, tmp_path)
    assert np.array_equal(found, expected)
    _, _, unchanged = run(protocol, encoder, dataset, tmp_path)
    assert not np.array_equal(unchanged, expected)


def _test_scores(folder):
    splits = {"train": split(40, 1), "val": split(20, 2), "test": split(50, 3)}
    data = Dataset("toy", ("a", "b", "c"), "class", "top1", splits, True, "f" * 64, {})
    protocol = LogisticRegression(wd_values=3, wd_log10=(-1, 1))
    return list(protocol.run(models.wrap(nn.Flatten(), FOUR), data, context(folder)))


def test_two_processes_give_the_score_of_one(tmp_path, gloo_pool):
    (tmp_path / "one").mkdir()
    alone = _test_scores(tmp_path / "one")
    assert gloo_pool.run(_test_scores, tmp_path) == [alone, alone]


@pytest.mark.parametrize(
    ("protocol", "override", "said"),
    [
        ("knn", "k=0", "`protocol.k` must be at least 1, but is 0"),
        ("knn", "temperature=0", "`protocol.temperature` must be positive, but is 0"),
        ("knn", "temperature=nan", "`protocol.temperature` must be positive, but is nan"),
        ("knn", "image_size=0", "but is"),
        ("knn", "preprocessing={sice:3}", "sice"),
        ("logistic_regression", "C=-1", "`protocol.C` must be positive, but is -1"),
        ("logistic_regression", "C=inf", "`protocol.C` must be finite, but is inf"),
        ("logistic_regression", "wd_values=0", "`protocol.wd_values` must be at least 1, but is 0"),
        ("logistic_regression", "wd_log10=[1,2,3]", r"two numbers .* but is \[1, 2, 3\]"),
        ("logistic_regression", "wd_log10=[5,-6]", r"ascending order, .* but is \[5, -6\]"),
        ("logistic_regression", "wd_log10=[-400,5]", r"must lie in \[-300, 300\], but one is -400"),
        ("logistic_regression", "wd_log10=3", "must be a list of numbers, but is 3"),
        ("logistic_regression", "folds=1", "`protocol.folds` must be at least 2, but is 1"),
        ("logistic_regression", "selection=test", "must be one of .*'val', 'cv'.*, but is 'test'"),
        ("logistic_regression", "max_iter=0", "`protocol.max_iter` must be at least 1, but is 0"),
        ("logistic_regression", "tol=-1", r"`protocol.tol` must lie in \(0, 1\), but is -1"),
        ("logistic_regression", "preprocessing={std:[0,1,1]}", "positive"),
    ],
)
def test_a_mistake_is_told_before_any_work(protocol, override, said):
    (found,) = problems(plain(compose([f"protocol={protocol}", f"protocol.{override}"])))
    assert re.search(said, found)


def test_the_ends_of_the_range_of_weight_decays_can_be_used():
    assert LogisticRegression(wd_values=2, wd_log10=(-300, 300)).grid() == pytest.approx(
        [1e300, 1e-300], rel=1e-9, abs=0
    )
    assert LogisticRegression(wd_values=1, wd_log10=(2, 2)).grid() == pytest.approx([0.01])


def test_the_published_grid_is_quarter_decades_from_1e6_down():
    grid = LogisticRegression().grid()
    assert (len(grid), grid[0], grid[-1]) == (45, pytest.approx(1e6), pytest.approx(1e-5))
    expected = torch.logspace(-6, 5, 45, dtype=torch.float64)
    torch.testing.assert_close(1 / torch.tensor(grid, dtype=torch.float64), expected)
