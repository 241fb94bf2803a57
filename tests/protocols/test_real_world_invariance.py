"""``real_world_invariance`` from images to scores, judged by the published script."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_transfer import datasets, models
from ssl_transfer.config import compose, places, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Options, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.object_views import assemble_views
from ssl_transfer.features import extract
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols import real_world_invariance
from ssl_transfer.protocols.base import require
from ssl_transfer.protocols.real_world_invariance import RealWorldInvariance
from ssl_transfer.runs import Run
from ssl_transfer.runs.builders import protocol_of
from ssl_transfer.runs.signature import problems

TWO = Preprocessing(size=2, resize=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
GROUPS = (0, 0, 0, 1, 1, 2, 2, 2, 3, 3) * 4
STATISTICS = "+dataset@protocol.statistics=digits"


def views(groups: Sequence[int], seed: int = 0) -> Dataset:
    """Return noisy views of objects that differ in colour."""
    generator = np.random.default_rng(seed)
    numbers = np.array(groups, dtype=np.int64)
    colours = generator.integers(60, 196, (numbers.max() + 1, 1, 1, 3))
    pixels = colours[numbers] + generator.normal(0, 25, (len(numbers), 2, 2, 3))
    names = [f"object {number}, view {place}" for place, number in enumerate(groups)]
    split = Split(
        ArrayImages(pixels.clip(0, 255).astype(np.uint8)),
        np.zeros(len(names), dtype=np.int64),
        names,
        numbers,
    )
    return assemble_views(Options(name="toy"), views=split, content=f"{seed} {groups}")


def many(objects: int = 12) -> Dataset:
    return views([number // 3 if number < 18 else 6 + number // 2 for number in range(4 * objects)])


@pytest.fixture
def encoder() -> models.Encoder:
    return models.wrap(nn.Flatten(), TWO)


def flat(dataset: Dataset, split: str = "test") -> torch.Tensor:
    images = np.stack([np.asarray(image) for image in dataset[split].images]) / 255
    return torch.from_numpy(((images - 0.5) / 0.25).transpose(0, 3, 1, 2)).flatten(1)


def published(features: torch.Tensor, groups: np.ndarray, statistics: torch.Tensor) -> np.ndarray:
    """Return similarity and distance of every group as eval_realworld_invariance.py has them."""
    mean_feature = statistics.mean(dim=0)
    inverse = np.linalg.inv(np.cov(statistics.numpy(), rowvar=False))
    cholesky = torch.linalg.cholesky(torch.from_numpy(inverse))
    scores = []
    for number in np.unique(groups):
        whitened = (mean_feature - features[groups == number]) @ cholesky
        pairs = torch.stack([F.cosine_similarity(one, whitened, dim=-1) for one in whitened])
        scores.append((float(pairs.mean()), float(torch.pdist(whitened, p=2).mean())))
    return np.array(scores)


def run(protocol, encoder, dataset: Dataset, folder: Path):
    context = Context(folder, folder / "features", progress_bar=False)
    scores = {score.metric: score for score in protocol.run(encoder, dataset, context)}
    return scores, dict(np.load(folder / "objects.npz")), context.facts


def test_scores_are_those_of_the_published_script(encoder, tmp_path: Path) -> None:
    dataset = many()
    groups = dataset["test"].groups
    scores, objects, facts = run(RealWorldInvariance(), encoder, dataset, tmp_path)
    expected = published(flat(dataset), groups, flat(dataset))
    assert objects["similarity_with_self"] == pytest.approx(expected[:, 0], rel=1e-4)
    assert objects["distance"] == pytest.approx(expected[:, 1], rel=1e-4)
    assert scores["similarity_with_self"].value == pytest.approx(expected[:, 0].mean(), rel=1e-4)
    assert scores["distance"].value == pytest.approx(expected[:, 1].mean(), rel=1e-4)
    counts = np.bincount(groups)
    counts = counts[counts > 0]
    assert set(counts) == {2, 3}
    similarity = (counts * expected[:, 0] - 1) / (counts - 1)
    assert objects["similarity"] == pytest.approx(similarity, rel=1e-3, abs=1e-4)
    assert [name for name, score in scores.items() if score.primary] == ["similarity"]
    assert not scores["distance"].higher_is_better
    firsts = [dataset["test"].names[list(groups).index(number)] for number in np.unique(groups)]
    assert objects["first_view"].tolist() == firsts
    assert (facts["objects"], facts["views"]) == (len(counts), len(groups))


def test_views_of_one_object_are_more_alike_than_views_at_random(encoder, tmp_path: Path) -> None:
    dataset = many(20)
    shuffled = np.random.default_rng(0).permutation(dataset["test"].groups)
    split = dataclasses.replace(dataset["test"], groups=shuffled)
    random = dataclasses.replace(dataset, splits={**dataset.splits, "test": split})
    values = [
        run(RealWorldInvariance(), encoder, one, tmp_path / name)[0]["similarity"].value
        for name, one in (("objects", dataset), ("random", random))
    ]
    assert values[0] > values[1] + 0.1
    assert abs(values[1]) < 0.1


def test_the_order_of_the_views_and_bounded_memory_do_not_change_scores(
    encoder, tmp_path: Path, monkeypatch
) -> None:
    dataset = many()
    order = np.random.default_rng(1).permutation(len(dataset["test"]))
    splits = {**dataset.splits, "test": dataset["test"].subset(order)}
    shuffled = dataclasses.replace(dataset, splits=splits, fingerprint="other")
    whole, _, _ = run(RealWorldInvariance(), encoder, dataset, tmp_path / "whole")
    monkeypatch.setattr(real_world_invariance, "CHUNK_ELEMENTS", 100)
    turned, _, _ = run(RealWorldInvariance(), encoder, shuffled, tmp_path / "turned")
    for metric, score in whole.items():
        assert turned[metric].value == pytest.approx(score.value, rel=1e-6)


def test_statistics_can_come_from_another_set_with_a_preprocessing_of_its_own(
    encoder, tmp_path: Path
) -> None:
    dataset = many()
    node = plain(compose(["dataset=stereo_patches", "dataset.step=48"]))["dataset"]
    source = datasets.build(node)
    keys = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    protocol = RealWorldInvariance(statistics=node, statistics_preprocessing=keys)
    _, objects, facts = run(protocol, encoder, dataset, tmp_path)
    context = Context(tmp_path, tmp_path / "features", progress_bar=False)
    statistics = extract(encoder, source["test"], TWO.replaced(None, keys), context)
    assert 0 <= statistics.min() < statistics.max() <= 1
    expected = published(
        flat(dataset), dataset["test"].groups, torch.from_numpy(statistics).double()
    )
    assert objects["similarity_with_self"] == pytest.approx(expected[:, 0], rel=1e-4)
    assert objects["distance"] == pytest.approx(expected[:, 1], rel=1e-4)
    assert facts["statistics_of"] == {
        "dataset": "stereo_patches", "fingerprint": source.fingerprint,
    }  # fmt: skip
    assert facts["whitening"]["images"] == len(source["test"]) != len(dataset["test"])


def test_objects_with_a_single_view_are_named() -> None:
    dataset = views([0, 0, 1, 2, 2, 5])
    with pytest.raises(ValueError, match=r"two views, but 2 have only one: `object 1, view 2`, `o"):
        require(RealWorldInvariance(), dataset)


def test_views_without_the_numbers_of_their_objects_are_refused() -> None:
    dataset = views(GROUPS)
    split = dataclasses.replace(dataset["test"], groups=None)
    without = dataclasses.replace(dataset, splits={**dataset.splits, "test": split})
    with pytest.raises(ValueError, match="`toy` must have the numbers of their objects"):
        require(RealWorldInvariance(), without)


def test_other_kinds_of_target_are_refused() -> None:
    with pytest.raises(ValueError, match=r"target is one of \['views'\], but `digits` has `class`"):
        require(RealWorldInvariance(), datasets.embedded.digits(name="digits"))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"statistics_preprocessing": {}}, "`protocol.statistics_preprocessing` must be null if"),
        ({"statistics_preprocessing": {"sise": 2}, "statistics": {}}, "sise"),
        ({"shrinkage": 2.0}, "shrinkage"),
    ],
)
def test_wrong_keys_are_refused(keys, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        RealWorldInvariance(**keys)


def test_an_unusable_set_of_statistics_is_refused_before_any_work(tmp_path: Path) -> None:
    dataset = views(GROUPS)
    node = plain(compose(["dataset=coil100"]))["dataset"] | {"root": str(tmp_path)}
    with pytest.raises(ValueError, match=r"set protocol\.statistics\.root \(coil-100\.zip"):
        require(RealWorldInvariance(statistics=node), dataset)
    stereo = plain(compose(["dataset=stereo_patches", "dataset.step=48"]))["dataset"]
    with pytest.raises(ValueError, match=r"two images at least, but train of `stereo_patches` has"):
        require(RealWorldInvariance(statistics=stereo, statistics_split="train"), dataset)


def test_the_option_takes_an_embedded_set_of_views_unless_another_is_chosen() -> None:
    config = plain(compose(["protocol=real_world_invariance"]))
    assert problems(config) == []
    assert config["dataset"]["name"] == "stereo_patches"
    assert protocol_of(resolve(config)["protocol"]) == RealWorldInvariance()
    other = plain(compose(["protocol=real_world_invariance", "dataset=coil100"]))
    assert other["dataset"]["name"] == "coil100"


def test_the_set_of_statistics_is_a_node_of_its_own_in_checks_and_in_the_identity() -> None:
    base = ["protocol=real_world_invariance", STATISTICS]
    config = plain(compose(base))
    assert problems(config) == []
    assert config["protocol"]["statistics"]["name"] == "digits"
    ids = [
        Run(plain(compose([*base, *changed]))).id
        for changed in ([], ["protocol.statistics.sizes=warn"], ["protocol.statistics.flip=true"])
    ]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] != Run(plain(compose(base[:1]))).id
    for changed in ("+protocol.statistics.splt=1", "protocol.statistics_split=all"):
        (told,) = problems(plain(compose([*base, changed])))
        assert changed.strip("+").partition("=")[0] in told
    flowers = compose([base[0], "+dataset@protocol.statistics=flowers",
                       "protocol.statistics.root=''"])  # fmt: skip
    (told,) = places.problems(resolve(plain(flowers)))
    assert told.startswith("`protocol.statistics.root` must be the path")
