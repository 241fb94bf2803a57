import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.errors import NotApplicable
from ssl_transfer.estimators.episode_classifiers import HeadTraining, initial_head
from ssl_transfer.models.batch_norm import batch_norm_layers
from ssl_transfer.models.small_resnet import SmallResNet
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.tuned_episodes import EpisodeTuning, PerEpisode, tuned_scores

EPISODES, WAYS, SHOTS, QUERIES = 3, 2, 3, 4
TRAINING = HeadTraining(epochs=4, batch_size=None, lr=0.2, weight_decay=0.01, seed=3)


@pytest.fixture
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallResNet(width=4, blocks=1, stem_stride=2).double()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
                nn.init.normal_(layer.running_mean)
        return models.Encoder(network, 16, Preprocessing(size=8, resize=None))


@pytest.fixture
def context(tmp_path):
    return Context(tmp_path, tmp_path / "features", precision="fp64", batch_size_eval=7)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    shape = (EPISODES, WAYS, SHOTS + QUERIES // WAYS, 3, 8, 8)
    every = torch.randn(shape, generator=generator, dtype=torch.float64)
    return every[:, :, :SHOTS], every[:, :, SHOTS:].flatten(1, 2)


def one_by_one(encoder, support, queries, tuning):
    """The training of each episode on a copy of the encoder, with torch's own layers."""
    scores = []
    for own_support, own_queries in zip(support, queries, strict=True):
        network = copy.deepcopy(encoder).eval().requires_grad_(False)
        layers = list(batch_norm_layers(network, tuning.scope).values())
        for layer in layers:
            layer.requires_grad_(True)
            layer.train(tuning.statistics == "support")
        head = initial_head(16, WAYS, tuning.training.seed).double()
        groups = [
            {"params": list(head.parameters())},
            {
                "params": [p for layer in layers for p in layer.parameters()],
                "lr": tuning.encoder_lr or tuning.training.lr,
            },
        ]
        optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9, dampening=0.9, weight_decay=0.01)
        labels = torch.arange(WAYS).repeat_interleave(SHOTS)
        for _ in range(4):
            loss = F.cross_entropy(head(network(own_support.flatten(0, 1))), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            scores.append(head(network(own_queries)))
    return torch.stack(scores)


@pytest.mark.parametrize("statistics", ["support", "pretrained"])
@pytest.mark.parametrize(("scope", "encoder_lr"), [("all", None), ("published", 0.05)])
def test_episodes_together_are_trainings_of_copies_one_by_one(
    scope, encoder_lr, statistics, encoder, images, context
):
    tuning = EpisodeTuning(TRAINING, encoder_lr, scope, statistics)
    together = tuned_scores(encoder, *images, tuning, context)
    assert torch.allclose(together, one_by_one(encoder, *images, tuning), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("statistics", ["support", "pretrained"])
def test_queries_and_episodes_never_influence_each_other(statistics, encoder, images, context):
    support, queries = images
    tuning = EpisodeTuning(TRAINING, statistics=statistics)
    together = tuned_scores(encoder, support, queries, tuning, context)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(
        tuned_scores(encoder, support, queries[:, order], tuning, context), together[:, order]
    )
    alone = tuned_scores(encoder, support[1:2], queries[1:2, 3:], tuning, context)
    assert torch.allclose(alone, together[1:2, 3:])


def test_the_encoder_stays_as_it_is(encoder, images, context):
    encoder.train()
    encoder.backbone.bn1.eval()
    next(encoder.parameters()).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    trainable = [parameter.requires_grad for parameter in encoder.parameters()]
    tuned_scores(encoder, *images, EpisodeTuning(TRAINING), context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert [module.training for module in encoder.modules()] == modes
    assert [parameter.requires_grad for parameter in encoder.parameters()] == trainable
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_features_of_length_1_are_an_option(encoder, images, context):
    tuning = EpisodeTuning(TRAINING, normalise=True)
    plain = tuned_scores(encoder, *images, EpisodeTuning(TRAINING), context)
    assert not torch.allclose(tuned_scores(encoder, *images, tuning, context), plain)


def test_tuning_learns_the_support(encoder, images, context):
    support = images[0] + torch.arange(WAYS).view(WAYS, 1, 1, 1, 1)
    queries = support.flatten(1, 2)
    tuning = EpisodeTuning(HeadTraining(steps=60, batch_size=None, lr=0.2))
    scores = tuned_scores(encoder, support, queries, tuning, context)
    assert torch.equal(scores.argmax(2), torch.tensor([[0] * SHOTS + [1] * SHOTS] * EPISODES))


def test_an_encoder_without_batch_norm_has_nothing_to_tune(images, context):
    bare = models.Encoder(nn.Flatten(), 192, Preprocessing(size=8, resize=None))
    with pytest.raises(NotApplicable):
        tuned_scores(bare, *images, EpisodeTuning(TRAINING), context)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_each_episode_is_normalised_as_torch_does(training, affine):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 3, 5, generator=generator)
    values = [torch.rand(2, 4, generator=generator) + 0.5 for _ in range(4)]
    mean, var, weight, bias = values
    if not affine:
        weight = bias = None
    expected, moved = [], []
    for e, part in enumerate(x.chunk(2)):
        own_mean, own_var = mean[e].clone(), var[e].clone()
        own_weight, own_bias = (None if v is None else v[e] for v in (weight, bias))
        expected.append(
            F.batch_norm(part, own_mean, own_var, own_weight, own_bias, training, 0.3, 1e-3)
        )
        moved.append((own_mean, own_var))
    with PerEpisode():
        result = F.batch_norm(x, mean, var, weight, bias, training, 0.3, 1e-3)
        shared = F.batch_norm(x, mean[0], var[0])
    assert torch.allclose(result, torch.cat(expected), atol=1e-5)
    assert torch.allclose(mean, torch.stack([m for m, _ in moved]))
    assert torch.allclose(var, torch.stack([v for _, v in moved]))
    assert torch.equal(shared, F.batch_norm(x, mean[0], var[0]))
