"""Whole trainings of a few steps beside the published loops, retyped step by step in plain torch.

Losses have tests of their own. Here it is the order of what happens: when a target follows and by
how much, what the queue holds when a loss sees it, what is frozen until when, which learning rate a
step has, which images share batch statistics.
"""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import methods, randomness
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.training.options import SampleOrder, TrainingOptions
from ssl_transfer.training.trainer import fit

BATCH, SAMPLES = 16, 64
PER_EPOCH = SAMPLES // BATCH
Batches = Iterator[tuple[int, tuple[Tensor, ...]]]


class Views:
    """Noisy views of some sizes, pure functions of (epoch, index)."""

    def __init__(self, sizes: list[int]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(SAMPLES, 3, 8, 8, generator=generator)
        self.noise = torch.randn(97, 3, 8, 8, generator=generator)
        self.sizes = sizes

    def __len__(self) -> int:
        return SAMPLES

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        epochs, indices = torch.tensor(items).unbind(1)
        views = tuple(
            self.images[indices, :, :size, :size]
            + 0.3 * self.noise[(31 * epochs + 7 * indices + 13 * view) % 97, :, :size, :size]
            for view, size in enumerate(self.sizes)
        )
        return Batch(views, indices % 4, indices)

    def batches(self, steps: int) -> Batches:
        """Every step's number (from 0) and views, the generator seeded as the loop does."""
        stream = SampleOrder(SAMPLES, BATCH, drop_last=True, seed=0)
        for step in range(steps):
            torch.manual_seed(randomness.derive(0, "pretrain", step, 0))
            yield step, tuple(v.double() for v in self.__getitems__(stream.batch(step)).views)


def build(name: str, views: int, changes: dict[str, Any]) -> tuple[methods.Method, dict[str, Any]]:
    config: dict[str, Any] = resolve(plain(compose([f"method={name}"])))["method"]
    config["views"] = [{**config["views"][0], "count": views}]
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        encoder = Encoder(backbone, 6, Preprocessing(size=8, resize=None))
        return methods.build(config, encoder, None).double(), config


def cosine(step: int, steps: int, base: float, warmup: int = 0, final: float = 0.0) -> float:
    if step < warmup:
        return base * (step + 1) / warmup
    share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return base * (share + final * (1 - share))


def update(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def average(target: nn.Module, online: list[nn.Parameter], momentum: float) -> None:
    for old, new in zip(target.parameters(), online, strict=True):
        old.copy_(momentum * old + (1 - momentum) * new)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def moco_by_hand(method: Any, batches: Batches, steps: int) -> Iterator[Tensor]:
    """``main_moco.py`` and ``moco/builder.py`` of facebookresearch/moco, on one GPU."""
    network = nn.Sequential(method.encoder, method.head)
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=0.9, weight_decay=5e-4)
    queue, pointer = method.queue.rows.T.clone(), 0
    for step, (first, second) in batches:
        average(method.key_network, parameters, 0.99)  # before the keys
        order = torch.randperm(BATCH)
        with torch.no_grad():
            keys = unit(method.key_network(second[order]))[order.argsort()]
        queries = unit(network(first))
        logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue], 1) / 0.2
        loss = F.cross_entropy(logits, torch.zeros(BATCH).long())
        loss.backward()
        update(optimizer, cosine(step, steps, 0.06))
        queue[:, pointer : pointer + BATCH] = keys.T  # after the loss
        pointer = (pointer + BATCH) % queue.shape[1]
        yield loss
    average(method.key_network, parameters, 0.99)  # what the next step would begin with
    method.queue.rows.copy_(queue.T)
    method.queue.pushed.fill_(steps * BATCH)


def swav_by_hand(method: Any, batches: Batches, steps: int) -> Iterator[Tensor]:
    """``main_swav.py`` of facebookresearch/swav, with Adam; queue from step 1, frozen for 3."""
    prototypes = method.prototypes.weight
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, weight_decay=1e-6)
    queue: Tensor | None = None
    for step, views in batches:
        with torch.no_grad():
            prototypes.copy_(unit(prototypes))
        features = [method.encoder(torch.cat(views[:2])), method.encoder(torch.cat(views[2:]))]
        embeddings = unit(method.projector(torch.cat(features)))
        scores = (embeddings @ prototypes.T).chunk(len(views))
        if queue is None and step >= 1:
            queue = torch.zeros(2, 32, embeddings.shape[1], dtype=torch.float64)
        loss = torch.zeros(())
        for i in range(2):
            rows = scores[i].detach()
            if queue is not None:
                if queue[i, -1].any():
                    rows = torch.cat([queue[i] @ prototypes.T.detach(), rows])
                own = embeddings.detach().chunk(len(views))[i]
                queue[i] = torch.cat([own, queue[i, :-BATCH]])
            codes = sinkhorn_knopp(rows)[-BATCH:]
            for v in {*range(len(views))} - {i}:
                logs = (scores[v] / 0.1).log_softmax(1)
                loss = loss - (codes * logs).sum(1).mean() / (2 * (len(views) - 1))
        loss.backward()
        if step < 3:
            prototypes.grad = None
        update(optimizer, cosine(step, steps, 0.001))
        yield loss
    with torch.no_grad():
        prototypes.copy_(unit(prototypes))
    assert queue is not None
    for own, rows in zip(method.queues, queue, strict=True):
        # 7 pushes into a queue of two batches: the last one is in its front again.
        own.rows.copy_(rows)
        own.pushed.fill_((steps - 1) * BATCH)


def sinkhorn_knopp(scores: Tensor) -> Tensor:
    codes = torch.exp(scores / 0.05).T
    codes /= codes.sum()
    for _ in range(3):
        codes /= codes.sum(1, keepdim=True) * len(codes)
        codes /= codes.sum(0, keepdim=True) * codes.shape[1]
    return (codes * codes.shape[1]).T


def dino_by_hand(method: Any, batches: Batches, steps: int) -> Iterator[Tensor]:
    """``main_dino.py`` of facebookresearch/dino: two steps frozen, three of temperature warm-up."""
    head, teacher = method.head, method.teacher
    parameters = [*method.encoder.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 5e-4},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    centre = torch.zeros(20, dtype=torch.float64)
    momenta = [1 + 0.5 * (0.99 - 1) * (1 + math.cos(math.pi * s / steps)) for s in range(steps)]
    for step, views in batches:
        small = method.encoder(torch.cat(views[2:]))
        features = torch.cat([method.encoder(torch.cat(views[:2])), small])
        student = head(features).chunk(len(views))
        with torch.no_grad():
            outputs = teacher[1](teacher[0](torch.cat(views[:2])))
        temperature = 0.04 + 0.03 * min(1.0, step / 3)
        taught = ((outputs - centre) / temperature).softmax(1).chunk(2)
        pairs = [(i, v) for i in range(2) for v in range(len(views)) if v != i]
        logs = [(view / 0.1).log_softmax(1) for view in student]
        loss = -torch.stack([(taught[i] * logs[v]).sum(1).mean() for i, v in pairs]).mean()
        loss.backward()
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, 0.05)
        if step < 2:
            head.last_layer.weight.grad = None
        centre = 0.9 * centre + 0.1 * outputs.mean(0)
        update(optimizer, cosine(step, steps, 0.06, warmup=2))
        average(teacher, parameters, momenta[step])
        yield loss
    method.centre.copy_(centre)
    method.temperature.fill_(0.07)
    method.encoder.load_state_dict(teacher[0].state_dict())


def mixed_by_hand(method: Any, batches: Batches, steps: int) -> Iterator[Tensor]:
    """``main_imagenet.py`` of wgcban/mix-bt, with Adam; λ_reg 1 (halved there) after 3 steps."""
    parameters = [*method.encoder.parameters(), *method.projector.parameters()]
    optimizer = torch.optim.Adam(parameters, weight_decay=1e-6)
    for step, (first, second) in batches:
        order = torch.randperm(BATCH)
        share = float(torch.distributions.Beta(1.0, 1.0).sample())
        images = (first, second, share * first + (1 - share) * second[order])
        a, b, m = (method.projector(method.encoder(view)) for view in images)
        a, b, m = ((z - z.mean(0)) / z.std(0) for z in (a, b, m))
        c = a.T @ b / BATCH
        loss = (c.diagonal() - 1).square().sum()
        loss = loss + 0.0051 * (c - c.diagonal().diag()).square().sum()
        to_first = m.T @ a - share * a.T @ a - (1 - share) * b[order].T @ a
        to_second = m.T @ b - share * b.T @ b - (1 - share) * b[order].T @ b
        mixing = (to_first.square().sum() + to_second.square().sum()) / BATCH**2
        loss = loss + min(1.0, step / 3) * 0.5 * 0.0051 * mixing
        loss.backward()
        update(optimizer, cosine(step, steps, 0.003, warmup=2, final=0.001))
        yield loss
    method.warmth.fill_(1.0)


def w_mse_by_hand(method: Any, batches: Batches, steps: int) -> Iterator[Tensor]:
    """``methods/w_mse.py`` and ``train.py`` of htdt/self-supervised, four views; a fifth from 3."""
    optimizer = torch.optim.Adam(method.parameters(), weight_decay=1e-6)
    for step, views in batches:
        orders = [torch.randperm(BATCH) for _ in range(2)]
        embeddings = method.projector(torch.cat([method.encoder(view) for view in views])).chunk(4)
        loss = torch.zeros(())
        for order in orders:
            white = [torch.cat([whitened(z[o]) for o in order.view(-1, 8)]) for z in embeddings]
            pairs = [(u, v) for u in range(4) for v in range(u + 1, 4)]
            for u, v in pairs:
                distance = 2 - 2 * F.cosine_similarity(white[u], white[v]).mean()
                loss = loss + distance / (len(pairs) * len(orders))
        loss.backward()
        update(optimizer, 0.003 * min(1.0, (step + 1) / 2) * (0.2 if step >= 3 else 1.0))
        yield loss


def whitened(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    shrunk = 0.99 * centred.T @ centred / (len(z) - 1) + 0.01 * torch.eye(z.shape[1]).double()
    return centred @ torch.linalg.inv(torch.linalg.cholesky(shrunk)).T


ByHand = Callable[[Any, Batches, int], Iterator[Tensor]]
CASES: dict[str, tuple[ByHand, int, list[int], dict[str, Any], dict[str, Any]]] = {
    "moco_v2": (moco_by_hand, 5, [8, 8], {"queue_size": 48, "dim": 5}, {"bn_groups": 1}),
    "swav": (
        swav_by_hand,
        8,
        [8, 8, 6, 6],
        {"projector": {"dims": [12, 7]}, "prototypes": 20, "queue_size": 32, "queue_start": 1 / 8,
         "frozen_prototypes": 3 / 8},
        {},
    ),
    "dino": (
        dino_by_hand,
        6,
        [8, 8, 6, 6],
        {"hidden_dims": [16], "bottleneck_dim": 6, "out_dim": 20, "frozen_last_layer": 2 / 6,
         "teacher_temperature": 0.07, "teacher_temperature_warmup": 0.5},
        {"warmup_epochs": 2 / PER_EPOCH, "clip_grad_norm": 0.05},
    ),
    "mixed_barlow_twins": (
        mixed_by_hand,
        6,
        [8, 8],
        {"projector": {"dims": [12, 24]}, "unbiased": True, "eps": 0.0, "second_target": "b",
         "lambda_bt": 0.0051, "lambda_reg": 0.5, "lambda_reg_warmup": 0.5},
        {"warmup_epochs": 2 / PER_EPOCH, "final_factor": 0.001},
    ),
    "w_mse": (
        w_mse_by_hand,
        5,
        [8, 8, 8, 8],
        {"projector": {"dims": [12, 3]}, "sub_batch": 8, "iterations": 2, "eps": 0.01},
        {"warmup_epochs": 2 / PER_EPOCH, "schedule": "step", "milestones": [3 / PER_EPOCH],
         "step_factor": 0.2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_losses_and_weights_are_those_of_the_published_loop(tmp_path: Path, name: str) -> None:
    by_hand, steps, sizes, changes, recipe = CASES[name]
    method, config = build(name, len(sizes), changes)
    expected = copy.deepcopy(method)
    losses: list[float] = []
    method.register_forward_hook(lambda _, __, parts: losses.append(parts["loss"].item()))
    keys = {"epochs": steps / PER_EPOCH, "batch_size": BATCH, "drop_last": True, **recipe}
    context = Context(tmp_path, tmp_path / "features", precision="fp64", progress_bar=False)
    with torch.random.fork_rng():
        fit(method, Views(sizes), TrainingOptions.of({**config, **keys}), context, name="pretrain")
        batches = Views(sizes).batches(steps)
        published = [loss.item() for loss in by_hand(expected, batches, steps)]
    assert losses == pytest.approx(published, rel=1e-6)
    found = method.state_dict()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7, msg=key)
