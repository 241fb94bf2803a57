import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ssl_transfer.estimators import neighbours
from ssl_transfer.estimators.neighbours import vote


def random_features(samples, seed, dim=6, classes=5):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, dim, generator=generator, dtype=torch.float64)
    return features, torch.randint(0, classes, (samples,), generator=generator)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (60, 1.0)])
def test_votes_are_those_of_scikit_learn_with_the_published_weights(k, temperature):
    bank, labels = random_features(60, 0)
    queries, _ = random_features(40, 1)
    judge = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(bank.numpy(), labels.numpy())
    votes = vote(queries, bank, labels, k=k, temperature=temperature, classes=5)
    np.testing.assert_allclose(votes.numpy(), judge.predict_proba(queries.numpy()), atol=1e-9)


def test_two_neighbours_by_hand():
    bank = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    votes = vote(
        torch.tensor([[0.6, 0.8]]), bank, torch.tensor([0, 2, 1]), k=2, temperature=0.5, classes=3
    )
    zero, two = np.exp(0.6 / 0.5), np.exp(0.8 / 0.5)
    np.testing.assert_allclose(votes[0], [zero / (zero + two), 0, two / (zero + two)], rtol=1e-5)


def test_a_tiny_temperature_does_not_overflow():
    bank, labels = random_features(30, 0)
    votes = vote(bank.float(), bank.float(), labels, k=5, temperature=1e-4, classes=5)
    assert torch.equal(votes.argmax(1), labels)
    torch.testing.assert_close(votes.sum(1), torch.ones(30))


def test_chunks_change_nothing(monkeypatch):
    bank, labels = random_features(30, 0)
    whole = vote(bank, bank, labels, k=7, temperature=0.1, classes=5)
    monkeypatch.setattr(neighbours, "CHUNK_ELEMENTS", 64)
    torch.testing.assert_close(vote(bank, bank, labels, k=7, temperature=0.1, classes=5), whole)


@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_plain_majorities_and_distances_are_scikit_learns(k, metric):
    bank, labels = random_features(60, 0)
    queries, _ = random_features(40, 1)
    bank, queries = bank * 3 + 1, queries * 3 + 1  # lengths matter to distances only
    judge = KNeighborsClassifier(k, metric=metric).fit(bank.numpy(), labels.numpy())
    votes = vote(
        queries, bank, labels, k=k, temperature=0.1, classes=5, metric=metric, weighting="uniform"
    )
    np.testing.assert_allclose(votes.numpy(), judge.predict_proba(queries.numpy()), atol=1e-12)
    weighted = KNeighborsClassifier(
        k, metric="euclidean", weights=lambda distance: np.exp(-distance / 0.7)
    ).fit(bank.numpy(), labels.numpy())
    votes = vote(queries, bank, labels, k=k, temperature=0.7, classes=5, metric="euclidean")
    np.testing.assert_allclose(votes.numpy(), weighted.predict_proba(queries.numpy()), atol=1e-9)
