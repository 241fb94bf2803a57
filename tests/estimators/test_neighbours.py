import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ssl_transfer.estimators import neighbours
from ssl_transfer.estimators.blocks import mean
from ssl_transfer.estimators.neighbours import FeatureSpace, nearest, vote, votes


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


def best_nn(memory, memory_labels, queries, labels, largest):
    """Return the accuracy of each odd k, as ``eval/knn.py`` of ssl-small votes query by query."""
    accuracies = {}
    distances = np.linalg.norm(queries[:, None] - memory[None], axis=2)
    order = distances.argsort(1, kind="stable")
    for k in range(1, largest + 1, 2):
        predicted = []
        for near in memory_labels[order[:, :k]]:
            values, counts = np.unique(near, return_counts=True)
            predicted.append(values[counts.argmax()])
        accuracies[k] = float((np.array(predicted) == labels).mean())
    return accuracies


@pytest.mark.parametrize("space", ["original", "norm", "shifted_norm"])
@pytest.mark.parametrize("blocks", [False, True])
def test_every_k_of_best_nn_comes_from_one_search(space, blocks, monkeypatch):
    bank, labels = random_features(130, 0)
    queries, truth = random_features(90, 1)
    queries[truth == 2] += 2
    bank[labels == 2] += 2
    if blocks:  # several blocks of the bank, several chunks of queries, groups of columns
        monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 300)
        monkeypatch.setattr(neighbours, "CHUNK_ELEMENTS", 500)
    chosen = FeatureSpace(space, batch=16 if space == "shifted_norm" else None)
    literal = {
        "original": lambda rows: rows,
        "norm": lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True),
        "shifted_norm": lambda rows: np.concatenate(
            [
                (part - part.mean(0)) / np.linalg.norm(part - part.mean(0), axis=1, keepdims=True)
                for part in np.split(rows, range(16, len(rows), 16))
            ]
        ),
    }[space]
    expected = best_nn(
        literal(bank.numpy()), labels.numpy(), literal(queries.numpy()), truth.numpy(), 31
    )
    similarity, rows = nearest(chosen(queries), bank, k=31, metric="euclidean", space=chosen)
    shares = votes(
        similarity,
        rows,
        labels,
        k=sorted(expected),
        temperature=1.0,
        classes=5,
        weighting="uniform",
    )
    found = {
        k: float((share.argmax(1) == truth).double().mean())
        for k, share in zip(sorted(expected), shares, strict=True)
    }
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_largest_values_of_many_columns_are_found_by_groups(metric):
    bank, _ = random_features(3000, 0)
    queries, _ = random_features(20, 1)
    similarity, rows = nearest(queries, bank, k=7, metric=metric)
    if metric == "euclidean":
        every = -torch.cdist(queries, bank, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        unit = torch.nn.functional.normalize
        every = unit(queries) @ unit(bank).T
    values, places = every.topk(7)
    assert torch.equal(rows, places)
    torch.testing.assert_close(similarity, values)


def test_distances_far_from_the_origin_are_exact_enough():
    bank, _ = random_features(200, 0)
    queries, _ = random_features(20, 1)
    far = 1000.0
    similarity, rows = nearest(queries.float() + far, bank.float() + far, k=5, metric="euclidean")
    expected, places = (-torch.cdist(queries, bank)).topk(5)
    torch.testing.assert_close(similarity.double(), expected, rtol=2e-3, atol=2e-3)
    assert (rows == places).double().mean() > 0.95


def test_parts_of_a_bank_are_numbered_one_after_the_other():
    bank, _ = random_features(60, 0)
    queries, _ = random_features(10, 1)
    whole = nearest(queries, bank, k=9)
    for parts in ([bank[:3], bank[3:]], [bank[:50], bank[50:]]):
        similarity, rows = nearest(queries, parts, k=9)
        torch.testing.assert_close(similarity, whole[0])
        assert torch.equal(rows, whole[1])
    torch.testing.assert_close(mean(bank[:3], bank[3:]), bank.mean(0))


def test_a_bank_that_is_its_own_queries_finds_itself_first():
    bank, _ = random_features(50, 0)
    _, rows = nearest(bank, bank, k=1, metric="euclidean")
    assert rows[:, 0].tolist() == list(range(50))
