"""``score_as_is``: the scores of published classifiers, by the names of their classes."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.imagenet_variants import imagenet_classes
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.heads import Head
from ssl_transfer.protocols.base import require
from ssl_transfer.protocols.score_as_is import ScoreAsIs

COLOURS = np.repeat(np.eye(3, dtype=np.uint8) * 255, 2, axis=0)  # two images of each colour


class MeanColour(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


def encoder(head: Head | None) -> models.Encoder:
    made = models.wrap(
        MeanColour(), {"size": 4, "resize": None, "mean": [0, 0, 0], "std": [1, 1, 1]}
    )
    made.head = head
    return made


def outputs(count: int, red: int, green: int, blue: int) -> nn.Linear:
    """Return a head of which these outputs show the colours; all others are higher by 1."""
    layer = nn.Linear(3, count)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(2.0)
        for colour, place in enumerate((red, green, blue)):
            layer.weight[place, colour] = 1.0
            layer.bias[place] = 0.0
    return layer


def colours(*classes: str) -> Dataset:
    pixels = np.broadcast_to(COLOURS[:, None, None], (6, 4, 4, 3)).copy()
    targets = np.repeat(np.arange(3), 2)
    test = Split(ArrayImages(pixels), targets, [f"{i}.png" for i in range(6)])
    empty = Split([], np.empty(0, np.int64), [])
    splits = {"train": empty, "val": empty, "test": test}
    return Dataset("colours", classes, "class", "top1", splits, True, "fingerprint", facts={})


def top1(head: Head | None, dataset: Dataset, folder: Path) -> float:
    context = Context(folder, folder / "features", progress_bar=False)
    require(ScoreAsIs(), dataset)
    scores = {
        score.metric: score.value for score in ScoreAsIs().run(encoder(head), dataset, context)
    }
    assert np.load(folder / "test_predictions.npz")["scores"].shape == (6, 3)
    return scores["top1"]


def test_classes_are_matched_by_name_and_other_outputs_do_not_count(tmp_path: Path) -> None:
    head = Head(outputs(5, red=3, green=0, blue=1), classes=("g", "b", "other", "r", "none"))
    assert top1(head, colours("r", "g", "b"), tmp_path) == 1.0
    assert top1(head, colours("g", "r", "b"), tmp_path) == pytest.approx(1 / 3)


def test_groups_of_test_images_are_kept_with_the_predictions(tmp_path: Path) -> None:
    head = Head(outputs(3, red=0, green=1, blue=2), classes=("r", "g", "b"))
    dataset = colours("r", "g", "b")
    top1(head, dataset, tmp_path)
    assert "groups" not in np.load(tmp_path / "test_predictions.npz").files
    groups = np.array([4, 4, 7, 7, 9, 9])
    test = dataclasses.replace(dataset["test"], groups=groups)
    splits = {**dataset.splits, "test": test}
    top1(head, dataclasses.replace(dataset, splits=splits), tmp_path)
    assert np.load(tmp_path / "test_predictions.npz")["groups"].tolist() == groups.tolist()


def test_a_thousand_outputs_are_imagenets(tmp_path: Path) -> None:
    wnids = imagenet_classes()
    assert (len(wnids), wnids[0], wnids[999]) == (1000, "n01440764", "n15075141")
    head = Head(outputs(1000, red=7, green=999, blue=500))
    assert top1(head, colours(wnids[7], wnids[999], wnids[500]), tmp_path) == 1.0


def test_outputs_without_names_are_taken_in_order_and_this_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert top1(Head(outputs(3, 0, 1, 2)), colours("r", "g", "b"), tmp_path) == 1.0
    assert "3 outputs have no names; they are taken for the classes of `colours`" in caplog.text


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "hold none, or several"),
        (Head(outputs(4, 0, 1, 2)), "of its 4 outputs none is `b`, `g`, `r`"),
        (Head(outputs(3, 0, 1, 2), classes=("r", "g", "x")), "of its 3 outputs none is `b`"),
    ],
)
def test_other_classifiers_are_not_applicable(
    tmp_path: Path, head: Head | None, message: str
) -> None:
    with pytest.raises(NotApplicable, match=message):
        top1(head, colours("r", "g", "b"), tmp_path)
