"""Checks of frozen features, of tuning, and of measures and estimators."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_checks.common import VIT, Row, Settings, context_of, difference, drawn_split, node_of
from ssl_transfer import evaluate, models
from ssl_transfer.datasets import in_memory
from ssl_transfer.estimators.kernel_ridge import KernelRidge
from ssl_transfer.estimators.neighbours import vote
from ssl_transfer.estimators.softmax_regression import fit_path
from ssl_transfer.features import FrozenFeatures, extract
from ssl_transfer.models.fusion import FusedEncoder

TUNED = {
    "linear_probe": [],
    "attentive_probe": [],
    "norm_tune": [],
    "bias_tune": [],
    "last_block": [],
    "finetune": ["protocol.layer_decay=0.75", "protocol.drop_path=0.2"],
}
"""Protocols that train on the vision transformer, with their overrides."""

MEASURED = {
    "transferability": (["protocol.lidar_images=100"], 1e-2),
    "alignment_uniformity": ([], 1e-3),
    "instance_discrimination": ([], 2e-2),
    "few_shot": (["protocol.pool=all", "protocol.episodes=20", "protocol.queries=5"], 2e-2),
}
"""Protocols on frozen features, with their overrides and the largest difference of a score.

Counts of images, such as a top-1, may differ by an image; the other scores are continuous."""


def check_frozen(settings: Settings) -> Iterator[Row]:
    """Compare features, neighbours' votes and logistic regression with the CPU's."""
    config = node_of("simclr")
    split = drawn_split(200 if settings.small else 2000, 32)
    labels = torch.from_numpy(split.targets)
    half = len(split) // 2
    rows = {}
    for device in (torch.device("cpu"), settings.device):
        encoder = models.build(config["model"], seed=0).to(device)
        with tempfile.TemporaryDirectory() as folder:
            features = extract(encoder, split, encoder.preprocessing, context_of(folder, device))
        rows[device.type] = torch.from_numpy(features)
    yield Row("features", difference(rows[settings.device.type].double(), rows["cpu"].double()),
              "relative", 1e-4)  # fmt: skip
    # From here on both devices get the same features.
    results: dict[str, list[Any]] = {"vote": [], "loss": []}
    for device in (torch.device("cpu"), settings.device):
        bank, queries = (part.to(device) for part in (rows["cpu"][:half], rows["cpu"][half:]))
        known, expected = labels[:half].to(device), labels[half:].to(device)
        votes = vote(queries, bank, known, k=20, temperature=0.07, classes=10)
        results["vote"].append(votes.double().cpu().flatten())
        fitted = fit_path(bank, known, C=[0.1, 10.0], classes=10)
        losses = [
            torch.nn.functional.cross_entropy(fitted.logits(p, queries), expected) for p in (0, 1)
        ]
        results["loss"].append(torch.stack(losses).double().cpu())
    for name, limit in (("vote", 1e-4), ("loss", 1e-2)):
        title = {"vote": "knn: votes", "loss": "logistic regression: test loss"}[name]
        yield Row(title, difference(results[name][1], results[name][0]), "relative", limit)


def evaluated(
    config: dict[str, Any], split: Any, protocol: str, overrides: list[str], device: Any
) -> tuple[dict[str, float], Any]:
    """Return the scores of an untrained encoder by a protocol, and its class scores on test images.

    The class scores are None if the protocol has none.
    """
    pixels = np.stack([np.asarray(image) for image in split.images])
    common = [f"trainer.device={device}", "trainer.progress_bar=false"]
    encoder = models.build(config["model"], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        scores = evaluate(
            encoder,
            (pixels, split.targets),
            protocol,
            overrides=[*common, *overrides],
            folder=Path(folder),
        )
        predictions = Path(folder) / "test_predictions.npz"
        if not predictions.exists():
            return scores, None
        with np.load(predictions) as arrays:
            return scores, torch.from_numpy(arrays["scores"]).double()


def check_tuning(settings: Settings) -> Iterator[Row]:
    """Compare the class scores after some steps of every kind of tuning with the CPU's."""
    split = drawn_split(120, 32)
    steps = ["protocol.steps=4", "protocol.batch_size=32", "protocol.grid.lr=[0.01]"]
    for protocol, own in TUNED.items():
        outputs = [
            evaluated(node_of("simclr", *VIT), split, protocol, [*steps, *own], device)[1]
            for device in (torch.device("cpu"), settings.device)
        ]
        yield Row(f"{protocol}: class scores", difference(outputs[1], outputs[0]),
                  "relative", 1e-2)  # fmt: skip


def check_measures(settings: Settings) -> Iterator[Row]:
    """Compare measures and estimators of frozen features with the CPU's."""
    split = drawn_split(200, 32)
    for protocol, (overrides, limit) in MEASURED.items():
        here, there = (
            evaluated(node_of("simclr"), split, protocol, overrides, device)[0]
            for device in (torch.device("cpu"), settings.device)
        )
        missing = here.keys() ^ there.keys()
        gaps = {
            name: abs(there[name] - here[name]) / max(1.0, abs(here[name]))
            for name in here.keys() & there.keys()
        }
        worst = max(gaps, key=lambda name: gaps[name])
        yield Row(f"{protocol}: scores", float("nan") if missing else gaps[worst], "relative",
                  limit, f"{len(gaps)} scores, {worst}")  # fmt: skip


def check_features(settings: Settings) -> Iterator[Row]:
    """Compare features of chosen tokens, out of one extraction, and of a CAT with the CPU's."""
    split = drawn_split(120, 32)
    images = np.stack([np.asarray(image) for image in split.images])
    dataset = in_memory((images, split.targets))
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        passes = 0
        for choice in ("cls", "mean", "cls_mean", "last4"):
            config = node_of("simclr", *VIT, f"model.features={choice}")
            encoder = models.build(config["model"], seed=0)
            preprocessing = encoder.preprocessing
            reference = extract(encoder, dataset["test"], preprocessing, context_of(other, cpu))
            context = context_of(folder, settings.device)
            stored, _ = FrozenFeatures(encoder, dataset, context).load("test")
            passes += sum(not use["reused"] for use in context.facts["features"])
            gap = difference(stored.double().cpu(), torch.from_numpy(reference).double())
            yield Row(f"model.features={choice}: features", gap, "relative", 1e-4)
        yield Row("model.features: arrays of four choices and tokens", float(passes), "", 5.0)
    rows = []
    for device in (cpu, settings.device):
        members = [models.build(node_of("simclr")["model"], seed=seed) for seed in (0, 1)]
        cat = FusedEncoder(members, "concatenate").to(device)
        with tempfile.TemporaryDirectory() as folder:
            features = extract(cat, split, cat.preprocessing, context_of(folder, device))
        rows.append(torch.from_numpy(features).double())
    yield Row("concatenated encoders: features", difference(rows[1], rows[0]), "relative", 1e-4)


def check_kernel_ridge(settings: Settings) -> Iterator[Row]:
    """Compare predictions of kernel ridge regression with the CPU's on the same features."""
    generator = torch.Generator().manual_seed(0)
    features, queries = torch.randn(2, 200, 16, generator=generator)
    targets = features[:, :3].sin()
    predicted = []
    for device in (torch.device("cpu"), settings.device):
        model = KernelRidge(features.to(device), targets.to(device))
        coefficients = model.coefficients(0.02, [0.01, 1.0])
        predicted.append(model.predict(queries.to(device), 0.02, coefficients).cpu())
    yield Row("kernel ridge regression: predictions", difference(*predicted[::-1]),
              "relative", 1e-8)  # fmt: skip
