"""Images without augmentation are prepared once."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer.datasets import Split, prepared
from ssl_transfer.datasets.prepared import KeptViews, prepared_once
from ssl_transfer.datasets.transforms import CROP_FLIP, Pipeline, ViewDataset
from ssl_transfer.preprocessing import Preprocessing


class Counted(Sequence[Image.Image]):
    """Images that count how often each is decoded."""

    def __init__(self, count: int) -> None:
        chance = np.random.default_rng(0)
        self.pixels = chance.integers(0, 256, (count, 13, 17, 3), dtype=np.uint8)
        self.decoded = np.zeros(count, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        self.decoded[index] += 1
        return Image.fromarray(self.pixels[index])


def data(*pipelines: Pipeline) -> tuple[Counted, ViewDataset]:
    images = Counted(6)
    split = Split(images, np.arange(6) % 3, [str(number) for number in range(6)])
    images.decoded[:] = 0  # the check of the split's types decodes one
    return images, ViewDataset(split, pipelines, seed=3)


PIPELINES = [Pipeline(Preprocessing(8)), Pipeline(Preprocessing(5, 7))]


def test_batches_are_the_same_and_each_image_is_decoded_once() -> None:
    _, plain = data(*PIPELINES)
    images, viewed = data(*PIPELINES)
    kept = prepared_once(viewed)
    assert isinstance(kept, KeptViews)
    assert len(kept) == 6
    for items in ([(0, 4), (0, 1)], [(1, 1), (1, 5), (1, 4)], [(2, 0), (2, 2), (2, 3), (2, 1)]):
        one, other = plain.__getitems__(items), kept.__getitems__(items)
        assert len(one.views) == len(other.views) == 2
        for view, same in zip(one.views, other.views, strict=True):
            assert torch.equal(view, same)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.indices, other.indices)
        assert one.indices.dtype == other.indices.dtype
        # A change of a batch does not change what is kept.
        other.views[0].zero_()
    assert images.decoded.tolist() == [1] * 6


def test_random_views_and_large_sets_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _, random = data(PIPELINES[0], Pipeline(Preprocessing(8), CROP_FLIP))
    assert prepared_once(random) is random
    _, plain = data(*PIPELINES)
    monkeypatch.setattr(prepared, "MOST_BYTES", 6 * 3 * (64 + 25) * 4)
    assert isinstance(prepared_once(plain), KeptViews)
    monkeypatch.setattr(prepared, "MOST_BYTES", 6 * 3 * (64 + 25) * 4 - 1)
    assert prepared_once(plain) is plain
