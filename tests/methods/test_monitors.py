"""What monitors say, and that they change nothing."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import datasets, methods, models
from ssl_transfer.config import UNTRAINED, compose, options, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.estimators.neighbours import vote
from ssl_transfer.features import extract
from ssl_transfer.methods.monitors import (
    Monitor,
    Monitoring,
    OnlineProbe,
    bank_and_queries,
    correlation,
    rankme,
)
from ssl_transfer.methods.pretraining import monitored, train
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import distributed

OFTEN = {"every_steps": 2, "every_epochs": 1, "k": 5}
METHODS = [name for name in options("method") if name not in UNTRAINED]


# Values


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_orthonormal_directions_have_their_number_as_rankme(rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0][:rank]
    features = torch.cat([basis, torch.zeros(20 - rank, 12, dtype=torch.float64)])
    assert rankme(features, eps=0.0).item() == pytest.approx(rank)
    assert rankme(features).item() == pytest.approx(rank, rel=1e-4)


def test_rankme_is_the_published_formula_on_random_features() -> None:
    features = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    shares = values / values.sum() + 1e-7
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert rankme(features).item() == pytest.approx(expected, rel=1e-12)
    assert torch.isfinite(rankme(torch.zeros(4, 3)))


def test_correlation_is_numpys_and_constant_features_have_none() -> None:
    features = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    off_diagonal = ~np.eye(6, dtype=bool)
    expected = np.abs(np.corrcoef(features.numpy().T))[off_diagonal].mean()
    assert correlation(features).item() == pytest.approx(expected, rel=1e-12)
    same = features[:, :1].repeat(1, 4)
    assert correlation(same).item() == pytest.approx(1.0)
    assert correlation(torch.cat([same[:, :1], torch.ones(50, 3)], dim=1)).item() == 0.0


def test_the_probe_is_softmax_regression_by_torchs_sgd() -> None:
    generator = torch.Generator().manual_seed(0)
    judge = nn.Linear(5, 3).double()
    nn.init.zeros_(judge.weight)
    nn.init.zeros_(judge.bias)
    optimizer = torch.optim.SGD(judge.parameters(), lr=0.3, momentum=0.9)
    probe = OnlineProbe(5, 3, 0.3, torch.device("cpu"))
    losses, hits = [], []
    for _ in range(4):
        features = 7 + 3 * torch.randn(12, 5, dtype=torch.float64, generator=generator)
        targets = torch.randint(0, 3, (12,), generator=generator)
        logits = judge(F.layer_norm(features, (5,)))
        torch.testing.assert_close(probe.logits(features), logits)
        loss = F.cross_entropy(logits, targets)
        losses.append(loss.item())
        hits.append((logits.argmax(1) == targets).double().mean().item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # What has no class is passed over.
        nothing = torch.randn(4, 5, dtype=torch.float64, generator=generator)
        probe.learn(torch.cat([nothing, features]), torch.cat([torch.full((4,), -1), targets]))
    torch.testing.assert_close(probe.weight[:, :5], judge.weight.detach())
    torch.testing.assert_close(probe.weight[:, 5], judge.bias.detach())
    assert probe.report() == pytest.approx(
        {"probe_loss": np.mean(losses), "probe_top1": np.mean(hits)}
    )
    assert probe.report() == {}


# A small pre-training


class Lines:
    """A logger that keeps what is logged, and may fail in the middle of a training."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.fail_at = fail_at

    def log(self, values: dict[str, Any]) -> None:
        if values["training"] == "monitor":
            if self.fail_at is not None and values["step"] >= self.fail_at:
                raise RuntimeError("the computer is gone")
            self.lines.append(values)


def small_set(**changes: Any) -> Dataset:
    node = resolve(plain(compose(["dataset=digits"])))["dataset"]
    return datasets.build({**node, "labels_per_class": 6, "test_per_class": 1, **changes})


def encoder(dropout: float = 0.0) -> models.Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, 2, bias=False), nn.BatchNorm2d(6), nn.SiLU()),
            *(nn.Conv2d(6, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.SiLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)),
        )
    return models.wrap(module, Preprocessing(size=12, resize=None))


def node(name: str, *overrides: str) -> dict[str, Any]:
    config = resolve(plain(compose([f"method={name}", "protocol=pretrain", *overrides])))["method"]
    if "projector" in config:
        config["projector"]["dims"] = [16, 8]
    config |= {"epochs": 3, "batch_size": 16, "warmup_epochs": 0}
    config["bn_groups"] = min(4, config["bn_groups"])
    config |= {key: 16 for key in ("sub_batch", "queue_size") if config.get(key)}
    if "teacher" in config:
        config["teacher_output"] = "features"  # that of the tests has no projector
    return config


def pretrain(
    folder: str | Path,
    monitor: dict[str, Any] | None,
    name: str = "simclr",
    *overrides: str,
    fail_at: int | None = None,
    **surroundings: Any,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the encoder's tensors after three epochs of three steps, and what monitors logged."""
    place = Path(folder, str(distributed.world_size()), str(distributed.rank()))
    place.mkdir(parents=True, exist_ok=True)
    logger = Lines(fail_at)
    context = Context(place, place, progress_bar=False, monitor=monitor, logger=logger,
                      **surroundings)  # fmt: skip
    trained = encoder(dropout=0.5 if surroundings.get("precision") != "fp64" else 0.0)
    trained = trained.to(context.dtype)
    train(trained, small_set(), context, node(name, *overrides))
    return {key: value.clone() for key, value in trained.state_dict().items()}, logger.lines


@pytest.mark.parametrize("name", ["simclr", "dino", "moco_v2"])
def test_a_run_with_monitors_ends_with_the_weights_of_one_without(
    tmp_path: Path, name: str
) -> None:
    without, nothing = pretrain(tmp_path / "without", None, name)
    watched, lines = pretrain(tmp_path / "watched", OFTEN, name)
    assert nothing == []
    assert {line["step"] for line in lines} == {2, 3, 4, 6, 8, 9}
    assert all(torch.equal(without[key], watched[key]) for key in without)


def test_what_is_logged_is_complete_and_in_range(tmp_path: Path) -> None:
    _, lines = pretrain(tmp_path, OFTEN, "byol")
    steps = [line for line in lines if "epoch" not in line]
    epochs = [line for line in lines if "epoch" in line]
    assert [line["epoch"] for line in epochs] == [1.0, 2.0, 3.0]
    assert set(steps[0]) == {"training", "step", "probe_loss", "probe_top1", "momentum",
                             "batch_rankme", "batch_spread", "batch_correlation"}  # fmt: skip
    assert set(epochs[0]) == {"training", "step", "epoch", "rankme", "spread", "correlation",
                              "knn_top1", "probe_val_top1"}  # fmt: skip
    assert steps[0]["probe_loss"] == pytest.approx(np.log(10), abs=0.4)  # it knows next to nothing
    assert steps[0]["momentum"] == pytest.approx(1 - 0.01 * (1 + np.cos(np.pi * 2 / 9)) / 2)
    assert 1 <= epochs[0]["rankme"] <= 8
    assert all(0 <= epochs[0][key] <= 1 for key in ("knn_top1", "probe_val_top1", "correlation"))


# DINO, too, has views of two sizes.
@pytest.mark.parametrize("name", ["simclr", pytest.param("swav", marks=pytest.mark.slow), "dino"])
def test_monitors_of_two_processes_say_what_those_of_one_do(
    gloo_pool: Any, tmp_path: Path, name: str
) -> None:
    alone, lines = in_double_precision(tmp_path, name)
    (first, said), (second, silent) = gloo_pool.run(in_double_precision, tmp_path, name)
    assert silent == []  # only the first process logs
    assert len(said) == len(lines) > 4
    for mine, theirs in zip(said, lines, strict=True):
        assert mine.pop("training") == theirs.pop("training")
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    for key in alone:
        torch.testing.assert_close(first[key], alone[key], rtol=0, atol=1e-9)
        assert torch.equal(first[key], second[key])


def in_double_precision(folder: Path, name: str) -> tuple[dict[str, Tensor], list[Any]]:
    """Return what ``pretrain`` does; where the method takes them, with views of two sizes."""
    large, small = "{count:2,crop_scale:[0.3,1]}", "{count:3,size:8,crop_scale:[0.1,0.3]}"
    more = [] if name == "simclr" else [f"method.views=[{large},{small}]"]
    return pretrain(folder, OFTEN, name, *more, precision="fp64")


def test_an_interrupted_run_says_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    calm, lines = pretrain(tmp_path / "calm", OFTEN)
    place, saved = tmp_path / "broken", {"checkpoint_every_steps": 5}
    with pytest.raises(RuntimeError, match="computer is gone"):
        pretrain(place, OFTEN, fail_at=7, **saved)
    weights, later = pretrain(place, OFTEN, **saved)
    assert later == [line for line in lines if line["step"] > 5]
    assert all(torch.equal(calm[key], weights[key]) for key in calm)


def test_monitors_may_be_switched_on_and_off_between_interruptions(tmp_path: Path) -> None:
    saved = {"checkpoint_every_steps": 5}
    with pytest.raises(RuntimeError):
        pretrain(tmp_path / "off", OFTEN, fail_at=7, **saved)
    without, nothing = pretrain(tmp_path / "off", None, **saved)
    calm, _ = pretrain(tmp_path / "calm", None)
    assert nothing == []
    assert all(torch.equal(calm[key], without[key]) for key in calm)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_shows_its_encoder_first_views_first(name: str) -> None:
    torch.manual_seed(0)
    config = node(name)
    others: dict[str, Any] = {"teacher": encoder()} if "teacher" in config else {}
    if "teachers" in config:
        others["teachers"] = [encoder(), encoder()]
    method = methods.build(config, encoder(), 4, **others).train()
    count = len(method.views)
    views = tuple(torch.randn(16, 3, 12, 12) for _ in range(count))
    seen: list[Tensor] = []
    handle = method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    parts = method(views, torch.arange(16) % 4)
    handle.remove()
    assert torch.equal(seen[0].unflatten(0, (16, -1))[:, 0], views[0])
    assert parts["loss"].requires_grad


@dataclasses.dataclass(frozen=True, eq=False)
class WithoutTest(Dataset):
    def __getitem__(self, split: str) -> Split:
        assert split != "test", "monitors must not see the test split"
        return super().__getitem__(split)


def test_validation_images_of_other_classes_are_no_queries() -> None:
    dataset = small_set()
    train, val = dataset["train"], dataset["val"]
    assert bank_and_queries(dataset)[1] is val
    # As in few-shot sets: classes 0 to 4 train, and the others validate.
    base = train.subset(np.flatnonzero(train.targets < 5))
    other = val.subset(np.flatnonzero(val.targets >= 5))
    apart = dataclasses.replace(dataset, splits={**dataset.splits, "train": base, "val": other})
    bank, queries = bank_and_queries(apart)
    assert len(queries) > 0
    assert sorted([*bank.names, *queries.names]) == sorted(base.names)


def test_neighbours_are_those_of_the_protocol_on_train_and_validation(tmp_path: Path) -> None:
    plain_set = small_set()
    dataset = WithoutTest(**vars(plain_set))
    context = Context(tmp_path, tmp_path, progress_bar=False)
    method = methods.build(node("simclr"), encoder(), 10)
    chosen = Monitoring(k=7, metric="euclidean", weighting="uniform", samples=30)
    found = Monitor(chosen, method, dataset, dataset, context).look()
    train, val = dataset["train"], dataset["val"]
    assert len(train) > 30 > len(val)
    rows = {s: torch.from_numpy(extract(method.encoder, dataset[s], method.encoder.preprocessing,
                                        context)) for s in ("train", "val")}  # fmt: skip
    every = Monitor(dataclasses.replace(chosen, samples=1000), method, dataset, dataset, context)
    votes = vote(rows["val"], rows["train"], torch.from_numpy(train.targets), k=7, temperature=1.0,
                 classes=10, metric="euclidean", weighting="uniform")  # fmt: skip
    expected = (votes.argmax(1).numpy() == val.targets).mean()
    assert every.look()["knn_top1"] == pytest.approx(expected)
    assert every.look()["rankme"] == pytest.approx(float(rankme(rows["train"])))
    assert found["rankme"] != pytest.approx(float(rankme(rows["train"])))
    assert method.encoder.training  # as it was


def test_another_set_may_be_judged_whose_classes_the_probe_does_not_know(tmp_path: Path) -> None:
    line = ["+dataset@trainer.monitor.dataset=textures", "method=simclr"]
    config = plain(compose([*line, "trainer.monitor.dataset.labels_per_class=6"]))
    assert problems(config) == []
    monitor = resolve(config)["trainer"]["monitor"]
    context = Context(tmp_path, tmp_path, progress_bar=False, monitor=monitor)
    method = methods.build(node("simclr"), encoder(), 10)
    with monitored(method, small_set(), context) as watching:
        assert watching is not None
        found = watching.look()
    assert "knn_top1" in found
    assert "probe_val_top1" not in found
    assert not method.encoder._forward_hooks  # nothing is left behind


def test_without_a_validation_split_a_tenth_of_the_training_images_asks_and_does_not_vote(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = small_set(val_fraction=0.0)
    bank, queries = bank_and_queries(dataset)
    assert not set(bank.names) & set(queries.names)
    assert set(bank.names) | set(queries.names) == set(dataset["train"].names)
    assert np.bincount(queries.targets).tolist() == [1] * 10  # of 6 images per class
    context = Context(tmp_path, tmp_path, progress_bar=False)
    method = methods.build(node("simclr"), encoder(), 10)
    with caplog.at_level(logging.INFO):
        found = Monitor(Monitoring(), method, dataset, dataset, context).look()
    assert "knn_top1" in found
    assert "probe_val_top1" not in found  # the probe learns from these images
    assert "a tenth of its training images serves as queries" in caplog.text


def test_of_a_set_without_labels_only_the_labelled_images_vote(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labelled = small_set()
    train, val = labelled["train"], labelled["val"]
    nameless = Split(train.images, np.full(len(train), -1), [f"{n}'" for n in train.names])
    mixed = dataclasses.replace(
        labelled, target="none", splits={**labelled.splits, "train": train + nameless}
    )
    assert [s.names for s in bank_and_queries(mixed)] == [train.names, val.names]
    nothing = dataclasses.replace(mixed, splits={**labelled.splits, "train": nameless})
    bank, queries = bank_and_queries(nothing)
    assert (bank.names, queries.names) == (nameless.names, [])
    context = Context(tmp_path, tmp_path, progress_bar=False)
    method = methods.build(node("simclr"), encoder(), 10)
    with caplog.at_level(logging.INFO):
        found = Monitor(Monitoring(), method, nothing, nothing, context).look()
    assert set(found) == {"rankme", "spread", "correlation"}
    assert "no nearest neighbours" in caplog.text


@pytest.mark.parametrize(("max_steps", "looks"), [(None, [9]), (4, [])])
def test_the_last_look_is_after_the_last_step_but_in_a_debug_run(
    tmp_path: Path, max_steps: int | None, looks: list[int]
) -> None:
    _, lines = pretrain(tmp_path, {**OFTEN, "every_epochs": 20}, max_steps=max_steps)
    assert [line["step"] for line in lines if "knn_top1" in line] == looks


def test_accumulated_micro_batches_teach_the_probe_what_one_batch_does(tmp_path: Path) -> None:
    (_, whole), (_, parts) = (
        pretrain(tmp_path / str(count), OFTEN, "supervised", "method.bn_groups=4",
                 precision="fp64", accumulate=count)
        for count in (1, 4)
    )  # fmt: skip
    for mine, theirs in zip(whole, parts, strict=True):
        assert mine.pop("training") == theirs.pop("training")
        assert mine == pytest.approx(theirs, rel=1e-9)


def test_a_method_with_another_order_is_trained_without_monitors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, context = small_set(), Context(tmp_path, tmp_path, progress_bar=False)
    method = methods.build(node("simclr"), encoder(), 10).train()
    monitor = Monitor(Monitoring(every_steps=1), method, dataset, dataset, context)
    batch = Batch((torch.ones(4, 3, 12, 12),), torch.arange(4), torch.arange(4))
    with monitor.attached(), caplog.at_level(logging.WARNING):
        for _ in range(2):
            method.encoder(torch.randn(7, 3, 12, 12))
            monitor.after_step(1, 0.5, batch)
    assert caplog.text.count("SimCLR is not monitored") == 1


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.monitor.k=0", "`trainer.monitor.k` must be at least 1"),
        ("+trainer.monitor.every_stps=3", "did you mean `every_steps`"),
        ("trainer.monitor.metric=manhattan", "`trainer.monitor.metric` must be one of"),
        ("trainer.monitor.dataset={_target_:nowhere.at_all}", "`trainer.monitor.dataset`"),
    ],
)
def test_mistakes_are_told_before_any_work(override: str, told: str) -> None:
    (problem,) = problems(plain(compose(["method=simclr", override])))
    assert told in problem


def test_monitors_are_not_part_of_what_a_run_is() -> None:
    base = ["method=simclr", "protocol=pretrain"]
    ids = {Run(plain(compose([*base, *more]))).id
           for more in ([], ["trainer.monitor=null"], ["trainer.monitor.k=3"])}  # fmt: skip
    assert len(ids) == 1
