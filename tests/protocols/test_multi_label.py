"""``knn`` and ``logistic_regression`` on images that show several classes."""

import itertools

import numpy as np
import pytest
import sklearn.linear_model
import torch
from torch import nn

from ssl_transfer import evaluate, models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.estimators.neighbours import vote
from ssl_transfer.metrics import map_11_point
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.knn import KNN
from ssl_transfer.protocols.logistic_regression import LogisticRegression

FOUR = Preprocessing(size=4, resize=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASSES = ("a", "b", "c")


def split(samples, seed):
    """Sums of the patterns of the classes that are shown, with noise; some entries are unknown."""
    generator = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).normal(0, 14, (3, 4, 4, 3))
    shown = (generator.random((samples, 3)) < (0.5, 0.3, 0.2)).astype(np.int64)
    pixels = 128 + np.tensordot(shown, patterns, 1) + generator.normal(0, 40, (samples, 4, 4, 3))
    targets = np.where(generator.random((samples, 3)) < 0.05, -1, shown)
    images = ArrayImages(pixels.clip(0, 255).astype(np.uint8))
    return Split(images, targets, [f"{seed}/{i}" for i in range(samples)])


def make_dataset():
    splits = {"train": split(60, 1), "val": split(40, 2), "test": split(80, 3)}
    return Dataset("several", CLASSES, "classes", "map_11_point", splits, True, "5" * 64, {})


@pytest.fixture
def dataset():
    return make_dataset()


@pytest.fixture
def encoder():
    return models.wrap(nn.Flatten(), FOUR)


def pixels(samples):
    images = np.stack([np.asarray(image) for image in samples.images]) / 255
    return ((images - 0.5) / 0.25).transpose(0, 3, 1, 2).reshape(len(samples), -1)


def run(protocol, encoder, dataset, folder):
    context = Context(folder, folder / "features", progress_bar=False)
    scores = {score.metric: score for score in protocol.run(encoder, dataset, context)}
    kept = np.load(folder / "test_predictions.npz")["scores"]
    return scores, context.facts, kept


def decisions(train, C, queries):
    """scikit-learn's binary problem of every class, each run to its end."""
    columns = []
    for column in train.targets.T:
        kept = column >= 0
        # The protocol's problems have two weight vectors, scikit-learn's have one.
        model = sklearn.linear_model.LogisticRegression(C=2 * C, tol=1e-9, max_iter=10_000)
        model.fit(pixels(train)[kept], column[kept])
        columns.append(model.decision_function(pixels(queries)))
    return torch.from_numpy(np.stack(columns, axis=1))


def score_of(logits, samples):
    return map_11_point(logits, torch.from_numpy(samples.targets))


def test_logistic_regression_chooses_the_c_whose_binary_problems_rank_validation_best(
    encoder, dataset, tmp_path
):
    grid = 1 / np.logspace(-2, 4, 7)
    scores = [
        score_of(decisions(dataset["train"], C, dataset["val"]), dataset["val"]) for C in grid
    ]
    C = grid[int(np.argmax(scores))]
    expected = decisions(dataset["train"] + dataset["val"], C, dataset["test"])
    protocol = LogisticRegression(wd_values=7, wd_log10=(-2, 4), tol=1e-9)
    found, facts, kept = run(protocol, encoder, dataset, tmp_path)
    assert [point["value"] for point in facts["selection"]["scores"]] == pytest.approx(scores)
    assert facts["selection"]["chosen"] == {"C": pytest.approx(C)}
    np.testing.assert_allclose(kept, expected, rtol=1e-2, atol=1e-2)
    assert found["map_11_point"].value == pytest.approx(score_of(expected, dataset["test"]))
    assert set(found) == {"map_11_point"}
    assert found["map_11_point"].primary
    assert 0.6 < found["map_11_point"].value < 1


def test_published_goes_from_class_to_class_and_c_to_c_with_one_estimator(
    encoder, dataset, tmp_path, monkeypatch
):
    fits, estimators = [], set()
    original = sklearn.linear_model.LogisticRegression.fit

    def spy(model, features, labels):
        estimators.add(id(model))
        before = getattr(model, "coef_", np.zeros((1, 48))).copy()
        original(model, features, labels)
        fits.append((model.C, len(labels), before, model.coef_.copy()))
        return model

    monkeypatch.setattr(sklearn.linear_model.LogisticRegression, "fit", spy)
    protocol = LogisticRegression(wd_values=3, wd_log10=(-1, 3), solver="sklearn_2021")
    found, facts, kept = run(protocol, encoder, dataset, tmp_path)
    C = facts["selection"]["chosen"]["C"]
    counted = (dataset["train"].targets >= 0).sum(0), (dataset["val"].targets >= 0).sum(0)
    # Today's scikit-learn has one weight vector for two classes, then it had two: twice the C.
    expected = [(2 * c, n) for c in (10.0, 0.1, 0.001) for n in counted[0]]
    expected += [(2 * C, n) for n in counted[0] + counted[1]]
    assert [fit[:2] for fit in fits] == [(pytest.approx(c), n) for c, n in expected]
    assert len(estimators) == 1
    for (*_, end), (*_, start, _) in itertools.pairwise(fits):
        assert np.array_equal(end, start)
    cold, _, close = run(LogisticRegression(C=C, tol=1e-9), encoder, dataset, tmp_path)
    np.testing.assert_allclose(kept, close, rtol=0.1, atol=0.1)
    assert found["map_11_point"].value == pytest.approx(cold["map_11_point"].value, abs=0.02)


@pytest.mark.parametrize("solver", ["converged", "sklearn_2021"])
def test_a_class_with_nothing_to_learn_gets_constant_scores(solver, encoder, dataset, tmp_path):
    for samples in (dataset["train"], dataset["val"]):
        samples.targets[:, 1] = 0
    protocol = LogisticRegression(wd_values=3, solver=solver)
    _, _, kept = run(protocol, encoder, dataset, tmp_path)
    assert (kept[:, 1] == -np.inf).all()
    assert np.isfinite(kept[:, [0, 2]]).all()


def test_calibration_of_several_classes_is_left_out_and_told(encoder, dataset, tmp_path, caplog):
    found, _, _ = run(LogisticRegression(C=1.0, calibration="val"), encoder, dataset, tmp_path)
    assert set(found) == {"map_11_point"}
    assert "`several` has several classes per image" in caplog.text


def test_knn_votes_on_every_class_by_itself(encoder, dataset, tmp_path):
    bank = dataset["train"] + dataset["val"]
    unit = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (pixels(dataset["test"]), pixels(bank))
    ]
    similarity = unit[0] @ unit[1].T
    expected = np.zeros((80, 3))
    for query in range(80):
        neighbours = np.argsort(-similarity[query])[:9]
        weights = np.exp(similarity[query, neighbours] / 0.1)
        for c in range(3):
            known = bank.targets[neighbours, c] >= 0
            votes = weights[known] * bank.targets[neighbours[known], c]
            expected[query, c] = votes.sum() / weights[known].sum()
    found, _, kept = run(KNN(k=9, temperature=0.1), encoder, dataset, tmp_path)
    np.testing.assert_allclose(kept, expected, rtol=1e-4, atol=1e-6)
    assert found["map_11_point"].value > 0.6


def test_a_class_that_no_neighbour_votes_on_gets_zero():
    labels = torch.tensor([[-1, 1], [-1, 0]])
    votes = vote(torch.eye(2), torch.eye(2), labels, k=2, temperature=1e9, classes=2)
    torch.testing.assert_close(votes, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


@pytest.mark.parametrize("protocol", ["knn", "logistic_regression"])
def test_evaluate_scores_several_classes(protocol, dataset, tmp_path):
    scores = evaluate(nn.Flatten(), dataset, protocol, preprocessing=FOUR, folder=tmp_path)
    assert scores == {"map_11_point": pytest.approx(0.8, abs=0.2)}


def _both_protocols(folder):
    found = []
    for name, protocol in (("knn", KNN(k=9)), ("lr", LogisticRegression(wd_values=5))):
        (folder / name).mkdir(exist_ok=True, parents=True)
        context = Context(folder / name, folder / "features", progress_bar=False)
        found += protocol.run(models.wrap(nn.Flatten(), FOUR), make_dataset(), context)
    return [(score.metric, score.value) for score in found]


def test_two_processes_give_the_scores_of_one(tmp_path, gloo_pool):
    alone = _both_protocols(tmp_path / "one")
    (tmp_path / "two").mkdir()
    assert gloo_pool.run(_both_protocols, tmp_path / "two") == [alone, alone]
