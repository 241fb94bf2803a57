"""Several encoders as one."""

import numpy as np
import pytest
import torch
from tiny_runs import run_all, tiny
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, plain
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.errors import NotApplicable
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.models.fusion import FusedEncoder, Preparations
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run
from ssl_transfer.runs.run import graph
from ssl_transfer.runs.signature import problems


def member(seed, size=4, dim=6):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, dim))
    zeros = Preprocessing(size=size, resize=None, mean=(0, 0, 0), std=(1, 1, 1))
    return models.wrap(network, zeros, name=f"m{seed}")


def refuse(*arguments, **keys):
    raise AssertionError("stored features must not be computed again")


@pytest.fixture
def dataset():
    def split(count, seed):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        targets = np.arange(count, dtype=np.int64) % 2
        return Split(ArrayImages(pixels), targets, [f"{seed}/{i}" for i in range(count)])

    splits = {"train": split(9, 1), "val": split(4, 2), "test": split(7, 3)}
    return Dataset("toy", ("a", "b"), "class", "top1", splits, True, "f" * 64, {})


@pytest.mark.parametrize("fuse", ["concatenate", "add", "mean"])
def test_fused_features_are_those_of_the_members_each_with_its_own_preprocessing(
    fuse, dataset, tmp_path, monkeypatch
):
    members = [member(0), member(1, size=8)]
    context = Context(tmp_path, tmp_path / "features", progress_bar=False)
    alone = [FrozenFeatures(one, dataset, context).rows("test") for one in members]
    expected = {
        "concatenate": np.concatenate(alone, axis=1),
        "add": alone[0] + alone[1],
        "mean": (alone[0] + alone[1]) / 2,
    }[fuse]
    files = set((tmp_path / "features").glob("*.npy"))
    monkeypatch.setattr("ssl_transfer.features.extraction.in_batches", refuse)
    rows = FrozenFeatures(FusedEncoder(members, fuse), dataset, context).rows("test")
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    added = set((tmp_path / "features").glob("*.npy")) - files
    assert len(added) == 1  # the members' features were there


def test_fused_in_another_way_or_order_is_another_encoder():
    members = [member(0), member(1)]
    hashes = {
        models.fingerprint(FusedEncoder(order, fuse))
        for order in (members, members[::-1])
        for fuse in ("concatenate", "add", "mean")
    }
    assert len(hashes) == 6


def test_images_pass_members_that_see_them_in_the_same_way_only():
    images = torch.rand(2, 3, 4, 4)
    members = [member(0).eval(), member(1).eval()]
    both = FusedEncoder(members, "concatenate")
    torch.testing.assert_close(both(images), torch.cat([one(images) for one in members], 1))
    assert both.feature_dim == 12
    mixed = FusedEncoder([member(0), member(2, size=8)], "concatenate")
    for alone in (mixed, mixed.backbone):
        with pytest.raises(NotApplicable, match=r"the members of `m0\+m2` must share one"):
            alone(images)
    larger = torch.rand(2, 3, 8, 8)
    each = [member(0)(images), member(2, size=8)(larger)]
    assert torch.equal(mixed(images, larger), torch.cat(each, 1))
    with pytest.raises(ValueError, match="must be given members with equally many features"):
        FusedEncoder([member(0), member(3, dim=7)], "add")


def test_members_with_equal_preprocessing_share_one_batch_of_images():
    encoders = [member(0), member(1, size=8), member(2), member(3, size=8)]
    small, large = encoders[0].preprocessing, encoders[1].preprocessing
    mixed = FusedEncoder(encoders, "concatenate")
    assert Preparations.of(mixed) == ((small, large), (0, 1, 0, 1))
    assert Preparations.of(mixed).inputs(["small", "large"]) == ["small", "large"] * 2
    # A size and values that the protocol sets hold for every member.
    assert Preparations.of(mixed, 6) == ((small.at_size(6),), (0, 0, 0, 0))
    (both,) = Preparations.of(mixed, 6, {"interpolation": "bicubic"}).distinct
    assert (both.size, both.interpolation) == (6, "bicubic")
    # Members that agree take one batch, as a single encoder does.
    assert Preparations.of(FusedEncoder(encoders[::2], "mean")) == ((small,), (0,))
    assert Preparations.of(encoders[1]) == ((large,), (0,))


def test_members_are_pretrained_once_for_all_fusions(tmp_path):
    shared = ",".join(f"'{override}'" for override in (
        "method.epochs=1", "method.warmup_epochs=0", "dataset@method.pretrain_on=digits",
        "method.pretrain_on.labels_per_class=4", "method.batch_size=16",
    ))  # fmt: skip
    members = [f"{{method:supervised,seed:{seed},overrides:[{shared}]}}" for seed in (0, 1)]
    runs = [
        tiny(tmp_path, "method=cat", f"method.members=[{','.join(chosen)}]", "protocol=knn",
             tuned=False)
        for chosen in (members, members[:1], members[::-1])
    ]  # fmt: skip
    assert len({run.id for run in runs}) == 3
    assert len(graph(runs)) == 5  # two pre-trainings for the three
    assert runs[0].label == "2x-small_resnet-supervised"
    outcome = run_all(*runs)
    assert outcome.failures == {}
    record = runs[0].record()
    assert len(record["members_sha256"]) == 2
    assert record["encoder"]["label"] == runs[0].label
    ids = [run.record()["encoder"]["id"] for run in runs]
    assert len(set(ids)) == 3


def test_fusions_of_untrained_models_differ_in_id_by_members_and_fuse():
    def run(*overrides):
        config = plain(compose(["method=cat", "protocol=knn", *overrides]))
        assert problems(config) == []
        return Run(config)

    one = run("method.members=[resnet18,resnet34]")
    assert one.label == "resnet18+resnet34"
    assert one.names["model"] == "resnet18+resnet34"
    assert one.requirements == ()
    # The model of the run itself plays no part.
    assert run("method.members=[resnet18,resnet34]", "model=swav").id == one.id
    assert run("method.members=[resnet34,resnet18]").id != one.id
    mean = run("method.members=[resnet18,resnet34]", "method.fuse=mean")
    assert (mean.id != one.id, mean.label) == (True, "mean(resnet18+resnet34)")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.members=[resnet18]", "method.fuse=product"], "`method.fuse` must"),
        ([], "`method.members` must be given"),
        (["method.members=[]"], "`method.members`: there must be a list of encoders, but is an em"),
        (["method.members=resnet18"], "there must be a list of encoders, but is a single one; wri"),
    ],
)
def test_a_wrong_fusion_is_refused_before_work(overrides, message):
    sentences = problems(plain(compose(["method=cat", "protocol=knn", *overrides])))
    assert len(sentences) == 1
    assert message in sentences[0]


def test_a_fused_encoder_has_the_parameters_of_its_members_and_no_projector_counts() -> None:
    members = [member(0, size=2, dim=3), member(1, size=2, dim=5)]
    members[0].projector = nn.Linear(3, 7)
    counts = [encoder.parameter_count for encoder in members]
    assert counts == [12 * 3 + 3, 12 * 5 + 5]
    assert FusedEncoder(members, "concatenate").parameter_count == sum(counts)
