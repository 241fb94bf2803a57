import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.features import FrozenFeatures, statistics
from ssl_transfer.features.statistics import split_statistics
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import distributed

TWO = Preprocessing(size=2, resize=None, mean=(0, 0, 0), std=(1, 1, 1))


def split(samples, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (samples, 2, 2, 3), dtype=np.uint8)
    targets = np.zeros(samples, dtype=np.int64)
    return Split(ArrayImages(pixels), targets, [f"{seed}/{i}" for i in range(samples)])


def dataset(fingerprint="a" * 64):
    splits = {"train": split(30, 1), "val": split(4, 2), "test": split(40, 3)}
    return Dataset("toy", ("a",), "class", "top1", splits, True, fingerprint, {})


def encoder(scale=1.0):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 12, bias=False))
    nn.init.eye_(network[1].weight)
    network[1].weight.data *= scale
    return models.wrap(network, TWO)


def features(folder, *, scale=1.0, **changes):
    context = Context(folder, folder / "features", progress_bar=False)
    return FrozenFeatures(encoder(scale), dataset(**changes), context)


@pytest.fixture
def computed(monkeypatch):
    """The number of computations."""
    calls = []
    compute = statistics.feature_statistics

    def counted(*arguments, **keys):
        calls.append(1)
        return compute(*arguments, **keys)

    monkeypatch.setattr(statistics, "feature_statistics", counted)
    return calls


def test_statistics_are_those_of_the_split_and_are_computed_once(tmp_path, computed):
    first = split_statistics(features(tmp_path), "test")
    rows = np.asarray(features(tmp_path).rows("test"), dtype=np.float64)
    np.testing.assert_allclose(first.mean, rows.mean(0))
    np.testing.assert_allclose(first.covariance, np.cov(rows, rowvar=False), atol=1e-12)
    again = split_statistics(features(tmp_path), "test")
    assert len(computed) == 1
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(again, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_other_weights_images_splits_and_preprocessing_have_statistics_of_their_own(
    tmp_path, computed
):
    split_statistics(features(tmp_path), "test")
    split_statistics(features(tmp_path), "train")
    split_statistics(features(tmp_path, fingerprint="b" * 64), "test")
    doubled = split_statistics(features(tmp_path, scale=2.0), "test")
    assert len(computed) == 4
    plain = split_statistics(features(tmp_path), "test")
    np.testing.assert_allclose(doubled.covariance, 4 * plain.covariance, rtol=1e-5, atol=1e-9)


def test_features_that_are_stored_in_half_precision_have_statistics_of_their_own(
    tmp_path, computed
):
    context = Context(tmp_path, tmp_path / "features", progress_bar=False)
    split_statistics(features(tmp_path), "test")
    rounded = FrozenFeatures(encoder(), dataset(), context, precision="fp16")
    rows = np.asarray(rounded.rows("test"), dtype=np.float64)
    assert rows.dtype != rounded.rows("test").dtype
    np.testing.assert_allclose(split_statistics(rounded, "test").mean, rows.mean(0))
    assert len(computed) == 2


def test_a_damaged_file_and_one_of_other_features_are_computed_again(tmp_path, computed, caplog):
    first = split_statistics(features(tmp_path), "test")
    (path,) = (tmp_path / "features" / "statistics").iterdir()
    content = bytearray(path.read_bytes())
    content[content.index(first.mean.numpy().tobytes()) + 5] ^= 255
    path.write_bytes(content)
    assert torch.equal(split_statistics(features(tmp_path), "test").mean, first.mean)
    assert "is damaged" in caplog.text
    split_statistics(features(tmp_path), "train")
    (other,) = set(path.parent.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    assert torch.equal(split_statistics(features(tmp_path), "test").mean, first.mean)
    assert "statistics of other features" in caplog.text


def test_a_folder_that_cannot_be_written_costs_the_computation_only(tmp_path, computed, caplog):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "statistics").write_text("a file is in the way")
    for _ in range(2):
        assert split_statistics(features(tmp_path), "test").samples == 40
    assert len(computed) == 2
    assert "statistics are not kept" in caplog.text


def _statistics_of_one_process(folder):
    result = split_statistics(features(folder), "test")
    return result.covariance.numpy(), distributed.is_main()


def test_two_processes_have_the_statistics_of_one(tmp_path, gloo_pool):
    alone, _ = _statistics_of_one_process(tmp_path / "one")
    for folder in (tmp_path, tmp_path):  # computed, then read
        (first, _), (second, _) = gloo_pool.run(_statistics_of_one_process, folder)
        assert np.array_equal(first, second)
        np.testing.assert_allclose(first, alone, atol=1e-9)
