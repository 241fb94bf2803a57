"""Class scores of several members, averaged."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.averaged_scores import AveragedScores, average_class_scores
from ssl_transfer.protocols.knn import KNN
from ssl_transfer.protocols.logistic_regression import LogisticRegression
from ssl_transfer.protocols.required import Evaluated, Predictions


def logits() -> torch.Tensor:
    torch.manual_seed(0)
    return 4 * torch.randn(3, 50, 6, dtype=torch.float64)


def test_probabilities_are_the_mean_of_the_members_probabilities() -> None:
    ours = average_class_scores(logits(), "probabilities", several_classes=False)
    torch.testing.assert_close(ours.exp(), logits().softmax(-1).mean(0))
    torch.testing.assert_close(ours.softmax(-1), logits().softmax(-1).mean(0))


def test_with_several_classes_per_image_they_are_those_of_the_sigmoid() -> None:
    ours = average_class_scores(logits(), "probabilities", several_classes=True)
    torch.testing.assert_close(ours.sigmoid(), logits().sigmoid().mean(0))


@pytest.mark.parametrize("several_classes", [False, True])
def test_extreme_logits_stay_finite_and_logits_are_their_plain_mean(several_classes: bool) -> None:
    extreme = 1e4 * logits()
    ours = average_class_scores(extreme, "probabilities", several_classes=several_classes)
    assert ours.isfinite().all()
    mean = average_class_scores(extreme, "logits", several_classes=several_classes)
    torch.testing.assert_close(mean, extreme.sum(0) / 3)


def test_the_average_of_one_member_has_its_probabilities() -> None:
    one = logits()[:1]
    ours = average_class_scores(one, "probabilities", several_classes=False)
    torch.testing.assert_close(ours, one[0].log_softmax(-1))
    entries = average_class_scores(one, "probabilities", several_classes=True)
    torch.testing.assert_close(entries, one[0])


@pytest.fixture
def dataset() -> Dataset:
    def split(count: int, seed: int) -> Split:
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        targets = np.arange(count, dtype=np.int64) % 2
        return Split(ArrayImages(pixels), targets, [f"{seed}/{i}" for i in range(count)])

    splits = {"train": split(9, 1), "val": split(4, 2), "test": split(6, 3)}
    return Dataset("toy", ("a", "b"), "class", "top1", splits, True, "f" * 64, {})


def members(dataset: Dataset) -> tuple[FusedEncoder, list[Evaluated]]:
    torch.manual_seed(0)
    zeros = Preprocessing(size=4, resize=None)
    networks = [
        models.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)), zeros)
        for _ in range(2)
    ]
    test = dataset["test"]
    evaluated = [
        Evaluated(
            f"run {number}",
            str(number),
            models.fingerprint(network),
            predictions=Predictions(
                np.asarray(test.names),
                test.targets,
                torch.randn(6, 2).numpy(),
                tuple(dataset.classes),
            ),
        )
        for number, network in enumerate(networks)
    ]
    return FusedEncoder(networks, "concatenate"), evaluated


def measure(
    folder: Path,
    dataset: Dataset,
    required: list[Evaluated],
    protocol: AveragedScores,
    encoder: FusedEncoder,
) -> dict[str, float]:
    named = {f"members[{number}]": one for number, one in enumerate(required)}
    context = Context(folder, folder / "features", required=named)
    return {score.metric: score.value for score in protocol.run(encoder, dataset, context)}


def test_the_metrics_are_those_of_the_averaged_scores(tmp_path: Path, dataset: Dataset) -> None:
    encoder, required = members(dataset)
    scores = measure(
        tmp_path, dataset, required, AveragedScores(LogisticRegression(), "logits"), encoder
    )
    mean = np.mean([one.predictions.scores for one in required if one.predictions], axis=0)
    assert scores["top1"] == (mean.argmax(1) == dataset["test"].targets).mean()
    kept = np.load(tmp_path / "test_predictions.npz")
    np.testing.assert_allclose(kept["scores"], mean, rtol=1e-6)
    assert kept["files"].tolist() == list(dataset["test"].names)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("files", np.asarray([f"3/{i}" for i in (1, 0, 2, 3, 4, 5)])),
        ("files", np.asarray([f"2/{i}" for i in range(6)])),
        ("targets", np.asarray([0, 1, 0, 1, 1, 0])),
        ("classes", ("b", "a")),
    ],
)
def test_scores_of_other_images_in_another_order_or_of_other_classes_are_refused(
    tmp_path: Path, dataset: Dataset, what: str, value: object
) -> None:
    encoder, required = members(dataset)
    assert required[1].predictions is not None
    other = dataclasses.replace(required[1].predictions, **{what: value})
    required[1] = dataclasses.replace(required[1], predictions=other)
    name = "images" if what == "files" else what
    with pytest.raises(ValueError, match=f"run 1 must have scored the {name} of `toy` in their"):
        measure(
            tmp_path, dataset, required, AveragedScores(LogisticRegression(), "logits"), encoder
        )


def test_scores_of_other_weights_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    encoder, required = members(dataset)
    required[1] = dataclasses.replace(required[1], initial_sha256="0" * 64)
    with pytest.raises(ValueError, match="run 1 must have started from the weights of today"):
        measure(
            tmp_path, dataset, required, AveragedScores(LogisticRegression(), "logits"), encoder
        )


def test_shares_of_votes_have_no_logits(tmp_path: Path, dataset: Dataset) -> None:
    encoder, required = members(dataset)
    with pytest.raises(NotApplicable, match="needs logits, but KNN gives shares of votes"):
        measure(tmp_path, dataset, required, AveragedScores(KNN(), "logits"), encoder)
