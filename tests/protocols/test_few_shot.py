import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from tiny_runs import run_all, tiny
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, locate, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.errors import NotApplicable
from ssl_transfer.estimators.episodes import draw_episodes
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols import few_shot
from ssl_transfer.protocols.base import require
from ssl_transfer.protocols.few_shot import FewShot
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.signature import problems

FOUR = Preprocessing(size=4, resize=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
TINY = {"ways": 3, "shots": 2, "queries": 3, "episodes": 30}
FROZEN = ("class_mean", "logistic_regression", "linear", "cosine")


def split(counts, seed):
    """Noisy patterns, with this number of images of each class."""
    generator = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).integers(60, 196, (len(counts), 4, 4, 3))
    targets = generator.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    noise = generator.normal(0, 60, (len(targets), 4, 4, 3))
    pixels = (patterns[targets] + noise).clip(0, 255).astype(np.uint8)
    return Split(ArrayImages(pixels), targets, [f"{seed}/{i}" for i in range(len(targets))])


def toy(test=(9, 8, 10, 7), train=(3, 3, 3, 3)):
    names = tuple("abcd")[: len(test)]
    splits = {"train": split(train, 1), "val": split((1,) * len(train), 2), "test": split(test, 3)}
    return Dataset("toy", names, "class", "top1", splits, True, "f" * 64, {}, split_seed=7)


@pytest.fixture
def encoder():
    return models.wrap(nn.Flatten(), FOUR)


def run(protocol, encoder, dataset, folder, **options):
    surroundings = Context(folder, folder / "features", progress_bar=False, **options)
    scores = {score.metric: score for score in protocol.run(encoder, dataset, surroundings)}
    return scores, surroundings.facts, np.load(folder / "episodes.npz")


def features(samples):
    images = np.stack([np.asarray(image) for image in samples.images]) / 255
    return ((images - 0.5) / 0.25).transpose(0, 3, 1, 2).reshape(len(samples), -1)


def test_the_option_composes_binds_and_has_the_published_numbers():
    config = plain(compose(["protocol=few_shot"]))
    assert problems(config) == []
    node = resolve(config)["protocol"]
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    protocol = locate(node["_target_"])(**keys)
    assert protocol == FewShot()
    assert (protocol.ways, protocol.shots, protocol.queries, protocol.episodes) == (5, 5, 15, 600)
    assert (protocol.classifier, protocol.pool) == ("class_mean", "test")


@pytest.mark.parametrize("pool", ["test", "all"])
def test_the_score_is_the_published_loop_over_episodes(pool, encoder, tmp_path):
    # few_shot.py of github.com/linusericsson/ssl-transfer (416913f) on the same episodes.
    dataset = toy()
    splits = ("train", "val", "test") if pool == "all" else ("test",)
    rows = np.concatenate([features(dataset[key]) for key in splits])
    labels = np.concatenate([dataset[key].targets for key in splits])
    episodes = draw_episodes(labels, **TINY, seed=7)
    accuracies = []
    for support, queries in zip(episodes.support, episodes.queries, strict=True):
        means = rows[support].mean(1)
        distances = ((rows[queries][:, :, None] - means) ** 2).sum(-1)
        accuracies.append((distances.argmin(-1) == np.arange(3)[:, None]).mean())
    protocol = FewShot(**TINY, pool=pool)
    scores, facts, kept = run(protocol, encoder, dataset, tmp_path)
    assert kept["accuracies"] == pytest.approx(accuracies)
    assert np.array_equal(kept["ways"], episodes.classes)
    assert kept["classes"].tolist() == list("abcd")
    assert scores["top1"].value == pytest.approx(np.mean(accuracies))
    assert 0.5 < scores["top1"].value < 1
    interval = 1.96 * np.std(accuracies) / np.sqrt(30)
    assert scores["top1_interval_95"].value == pytest.approx(interval)
    assert facts["episodes"]["interval_95"] == pytest.approx(interval)
    assert facts["episodes"]["pool"] == list(splits)
    assert [metric for metric, score in scores.items() if score.primary] == ["top1"]


@pytest.mark.parametrize("classifier", FROZEN)
def test_chunks_of_episodes_change_nothing(classifier, encoder, tmp_path, monkeypatch):
    protocol = FewShot(**TINY, classifier=classifier, epochs=4, lr=1.0, normalise=True)
    _, _, whole = run(protocol, encoder, toy(), tmp_path / "whole")
    monkeypatch.setattr(few_shot, "CHUNK_ELEMENTS", 7 * 15 * 48)
    _, _, parts = run(protocol, encoder, toy(), tmp_path / "parts")
    assert np.abs(whole["accuracies"] - parts["accuracies"]).mean() < 0.01
    assert whole["accuracies"].mean() > 0.5


def test_encoders_are_compared_on_the_same_episodes(encoder, tmp_path):
    other = models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), FOUR)
    kept = [
        run(FewShot(**TINY), one, toy(), tmp_path / str(number), seed=number)[2]
        for number, one in enumerate((encoder, other))
    ]
    assert kept[0]["drawn"] == kept[1]["drawn"]
    assert np.array_equal(kept[0]["ways"], kept[1]["ways"])
    assert not np.array_equal(kept[0]["accuracies"], kept[1]["accuracies"])
    moved = dataclasses.replace(toy(), split_seed=8)
    assert run(FewShot(**TINY), encoder, moved, tmp_path / "2")[2]["drawn"] != kept[0]["drawn"]


def test_a_single_episode_has_no_interval(encoder, tmp_path):
    scores, facts, _ = run(FewShot(**TINY | {"episodes": 1}), encoder, toy(), tmp_path)
    assert list(scores) == ["top1"]
    assert facts["episodes"]["interval_95"] is None


def test_constant_features_are_right_once_per_way(tmp_path):
    blind = models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), FOUR)
    nn.init.zeros_(blind.backbone[1].weight)
    scores, _, _ = run(FewShot(**TINY), blind, toy(), tmp_path)
    assert scores["top1"].value == pytest.approx(1 / 3)
    assert scores["top1_interval_95"].value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("keys", "test", "sentence"),
    [
        ({}, (9, 3, 10, 7), "every class must have 5 images (`protocol.shots` + `protocol.queries`)"
         " in the test split of `toy`, but `b` has fewer; lower `protocol.shots` or "),
        ({}, (9, 3, 2, 7), "at least 3 classes (`protocol.ways`) must have 5 images"),
        ({}, (9, 3, 2, 7), "only 2 have; too small are `b`, `c`"),
        ({"ways": 5}, (9, 9, 9, 9), "must have at least 5 classes (`protocol.ways`), but has 4"),
        ({"ways": 2}, (9,), "must have at least 2 classes (`protocol.ways`), but has 1"),
    ],
)  # fmt: skip
def test_a_pool_without_enough_images_is_refused_before_any_work(keys, test, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        require(FewShot(**TINY | keys), toy(test, (3,) * len(test)))


def test_small_classes_are_left_out_by_an_option_and_absent_ones_never_count(encoder, tmp_path):
    dataset = toy((9, 3, 10, 7))
    protocol = FewShot(**TINY, small_classes="leave_out")
    require(protocol, dataset)
    _, facts, kept = run(protocol, encoder, dataset, tmp_path)
    assert facts["episodes"]["left_out"] == ["b"]
    assert facts["episodes"]["classes"] == 3
    assert set(kept["ways"].reshape(-1)) == {0, 2, 3}
    require(FewShot(**TINY), toy((9, 0, 10, 7)))


def test_several_classes_per_image_are_refused():
    labels = np.eye(4, dtype=np.int64)
    images = split((1, 1, 1, 1), 0)
    splits = dict.fromkeys(("train", "val", "test"), dataclasses.replace(images, targets=labels))
    several = dataclasses.replace(toy(), target="classes", splits=splits)
    with pytest.raises(ValueError, match=r"one of \['class'\], but `toy` has `classes`"):
        require(FewShot(), several)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"ways": 1}, "`ways` must be at least 2"),
        ({"shots": 0}, "`shots` must be at least 1"),
        ({"C": 0.0}, "`C` must be positive"),
        ({"classifier": "bn_tune", "batch_size": 4}, "`batch_size` must be null for"),
        ({"classifier": "bn_tune", "representation": "embeddings"}, "`representation` must be"),
    ],
)
def test_keys_are_checked(keys, sentence):
    with pytest.raises(ValueError, match=sentence):
        FewShot(**keys)


def test_stored_features_of_half_precision_are_judged_in_full(encoder, tmp_path):
    half = FewShot(**TINY, feature_precision="fp16", classifier="logistic_regression")
    full = dataclasses.replace(half, feature_precision="fp32")
    means = [
        run(protocol, encoder, toy(), tmp_path / str(n))[0]["top1"].value
        for n, protocol in enumerate((half, full))
    ]
    assert means[0] == pytest.approx(means[1], abs=0.02)


def test_a_diverged_head_is_reported(encoder, tmp_path):
    protocol = FewShot(**TINY, classifier="linear", lr=1e30, epochs=5)
    with pytest.raises(ValueError, match=r"must give finite class scores.*lower `protocol.lr`"):
        run(protocol, encoder, toy(), tmp_path)


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.wrap(small_resnet(width=4), FOUR)


BN_TUNE = FewShot(**TINY | {"episodes": 22}, classifier="bn_tune", epochs=3, lr=0.1)


def test_bn_tuned_episodes_resume_after_the_last_block(network, tmp_path, monkeypatch):
    monkeypatch.setattr(few_shot, "BLOCK", 10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    _, _, whole = run(BN_TUNE, network, toy(), tmp_path / "whole")
    judged = few_shot.tuned_scores
    calls = []

    def interrupted(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        return judged(*arguments)

    monkeypatch.setattr(few_shot, "tuned_scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(BN_TUNE, network, toy(), tmp_path / "parts", run_id="a")
    done = json.loads((tmp_path / "parts" / "progress.json").read_text())
    assert {"episodes 0", "episodes 10"} <= done.keys()
    calls.clear()
    _, _, parts = run(BN_TUNE, network, toy(), tmp_path / "parts", run_id="a")
    assert len(calls) == 1
    assert np.array_equal(parts["accuracies"], whole["accuracies"])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def tuned_by_a_process(folder):
    """The scores of BN-tuned episodes; each process gets its share of three batches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.wrap(small_resnet(width=4), FOUR)
    protocol = dataclasses.replace(BN_TUNE, episodes=3)
    options = {"precision": "fp64", "batch_size_eval": 6, "progress_bar": False}
    surroundings = Context(folder, folder / "features", **options)
    return [score.value for score in protocol.run(network, toy(), surroundings)]


def test_two_processes_share_tuned_episodes_and_get_the_same_scores(tmp_path, gloo_pool):
    alone = tuned_by_a_process(tmp_path / "one")
    first, second = gloo_pool.run(tuned_by_a_process, tmp_path / "two")
    assert first == second == alone


def test_an_encoder_without_batch_norm_is_not_applicable(encoder, tmp_path):
    with pytest.raises(NotApplicable):
        run(BN_TUNE, encoder, toy(), tmp_path)


def test_half_precision_without_scaled_gradients_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match="`precision` must be fp32 or bf16"):
        run(BN_TUNE, network, toy(), tmp_path, precision="fp16")


@pytest.mark.parametrize("classifier", ["class_mean", "bn_tune"])
def test_a_run_leaves_its_episodes_beside_the_record(classifier, tmp_path):
    keys = [f"protocol.{key}={value}" for key, value in (TINY | {"episodes": 4}).items()]
    keys += [f"protocol.classifier={classifier}", "protocol.steps=2"]
    asked = tiny(tmp_path, "protocol=few_shot", *keys, "dataset.test_per_class=5",
                 tuned=False, data=False)  # fmt: skip
    assert run_all(asked).failures == {}
    record = asked.record()
    assert record["episodes"]["pool"] == ["test"]
    assert "episodes.npz" in record["files"]
    assert [score["metric"] for score in record["scores"]] == ["top1", "top1_interval_95"]
