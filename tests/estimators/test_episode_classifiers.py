import math

import numpy as np
import pytest
import sklearn.linear_model
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.nn import functional as F

from ssl_transfer.estimators.episode_classifiers import (
    HeadTraining,
    class_mean_scores,
    initial_head,
    logistic_regression_scores,
    sample_order,
    trained_head_scores,
)

EPISODES, WAYS, SHOTS, QUERIES = 3, 4, 3, 5
TRAINING = HeadTraining(epochs=3, lr=0.3, weight_decay=0.05, seed=4)


def episodes(dim, shots=SHOTS):
    """Support and queries of overlapping classes, away from the origin."""
    generator = torch.Generator().manual_seed(dim)
    means = 2 + torch.randn(EPISODES, WAYS, 1, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(EPISODES, WAYS, shots + QUERIES, dim, generator=generator).double()
    samples = means + 2 * noise
    return samples[:, :, :shots], samples[:, :, shots:].flatten(1, 2)


def flat(support):
    """The support of one episode as scikit-learn takes it."""
    return support.flatten(0, 1).numpy(), np.repeat(np.arange(WAYS), support.shape[1])


def scored(name, support, queries):
    if name == "class_mean":
        return class_mean_scores(support, queries)
    if name == "logistic_regression":
        return logistic_regression_scores(support, queries)[0]
    numbers = torch.arange(len(support))
    return trained_head_scores(support, queries, numbers, kind=name, training=TRAINING)


CLASSIFIERS = ("class_mean", "logistic_regression", "linear", "cosine")


@pytest.mark.parametrize("dim", [6, 40])
def test_class_means_are_scikit_learns_nearest_centroid(dim):
    support, queries = episodes(dim)
    scores = class_mean_scores(support, queries)
    distances = torch.cdist(queries, support.mean(2)).square()
    # Up to a number per query, scores are minus the squared distances.
    difference = scores + distances
    assert torch.allclose(difference, difference[..., :1].expand_as(difference))
    for e in range(EPISODES):
        judge = NearestCentroid().fit(*flat(support[e]))
        assert np.array_equal(scores[e].argmax(1), judge.predict(queries[e].numpy()))


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dim", [6, 40])
def test_logistic_regression_is_scikit_learns(dim, C):
    support, queries = episodes(dim)
    scores, converged = logistic_regression_scores(support, queries, C=C, tol=1e-10)
    assert converged.all()
    for e in range(EPISODES):
        judge = sklearn.linear_model.LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
        expected = judge.fit(*flat(support[e])).decision_function(queries[e].numpy())
        own = (scores[e] - scores[e].mean(1, keepdim=True)).numpy()
        expected -= expected.mean(1, keepdims=True)
        assert own == pytest.approx(expected, abs=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("dim", [6, 40])
def test_heads_are_those_of_the_published_loop(dim, kind):
    # baselinefinetune.py and backbone.py of github.com/wyharveychen/CloserLookFewShot at 8074c34,
    # with this project's initial weights and order of samples.
    support, queries = episodes(dim)
    scores = trained_head_scores(support, queries, torch.arange(3), kind=kind, training=TRAINING)
    order = list(sample_order(torch.arange(3), WAYS * SHOTS, TRAINING))
    labels = torch.arange(WAYS).repeat_interleave(SHOTS)
    for e in range(EPISODES):
        head = initial_head(dim, WAYS, TRAINING.seed).double()
        if kind == "cosine":
            head.bias = None
            head = nn.utils.parametrizations.weight_norm(head, dim=0)

        def logits(x, head=head):
            unit = x / (x.norm(dim=1, keepdim=True) + 0.00001)
            return 2 * head(unit) if kind == "cosine" else head(x)

        optimizer = torch.optim.SGD(
            head.parameters(), lr=0.3, momentum=0.9, dampening=0.9, weight_decay=0.05
        )
        for batch in order:
            picked = batch[e]
            loss = F.cross_entropy(logits(support[e].flatten(0, 1)[picked]), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            assert torch.allclose(scores[e], logits(queries[e]), rtol=1e-6, atol=1e-8)


def test_the_order_of_samples_passes_over_the_support_again_and_again():
    numbers = torch.tensor([0, 5])
    order = list(sample_order(numbers, 10, HeadTraining(epochs=2, batch_size=4)))
    assert [batch.shape[1] for batch in order] == [4, 4, 2] * 2
    passes = torch.cat(order, dim=1).view(2, 2, 10)
    assert (passes.sort(dim=2).values == torch.arange(10)).all()
    assert len({tuple(row.tolist()) for row in passes.flatten(0, 1)}) == 4
    alone = list(sample_order(numbers[1:], 10, HeadTraining(steps=4, batch_size=4)))
    assert len(alone) == 4
    assert all(torch.equal(one[0], both[1]) for one, both in zip(alone, order, strict=False))
    assert HeadTraining(epochs=3, batch_size=None).length(10) == 3


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_queries_never_influence_each_other(name):
    support, queries = episodes(40)
    together = scored(name, support, queries)
    order = torch.randperm(queries.shape[1], generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scored(name, support, queries[:, order]), together[:, order])
    assert torch.allclose(scored(name, support, queries[:, 2:3]), together[:, 2:3])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_episodes_never_influence_each_other(name):
    support, queries = episodes(40)
    together = scored(name, support, queries)
    assert torch.allclose(scored(name, support[:1], queries[:1]), together[:1], atol=1e-6)


@pytest.mark.parametrize("name", ["class_mean", "logistic_regression", "linear"])
@pytest.mark.parametrize("shots", [1, 3])
def test_constant_features_give_the_same_scores_to_every_query(name, shots):
    support = torch.ones(2, WAYS, shots, 7)
    scores = scored(name, support, torch.ones(2, QUERIES, 7))
    assert scores.isfinite().all()
    assert torch.allclose(scores, scores[:, :1].expand_as(scores))


def test_one_shot_class_means_are_the_nearest_neighbour():
    support, queries = episodes(6, shots=1)
    nearest = torch.cdist(queries, support[:, :, 0]).argmin(2)
    assert torch.equal(class_mean_scores(support, queries).argmax(2), nearest)


def test_the_defaults_of_heads_are_the_published_ones():
    training = HeadTraining()
    assert (training.epochs, training.batch_size, training.lr) == (100, 4, 0.01)
    assert (training.momentum, training.dampening, training.weight_decay) == (0.9, 0.9, 0.001)
    assert training.length(25) == 100 * math.ceil(25 / 4)
