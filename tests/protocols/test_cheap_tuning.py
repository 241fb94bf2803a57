"""The cheap relatives of fine-tuning: what each of them trains, and that the rest stays."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_tuning import SGD, changed, context
from tiny_runs import DATA, TUNING, run_all, tiny
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ssl_transfer import datasets, models
from ssl_transfer.classifier import load_classifier
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.datasets import Dataset
from ssl_transfer.models.backbones import timm_backbone
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.tuning import Tuning, TuningRun
from ssl_transfer.runs import Run
from ssl_transfer.system import distributed
from ssl_transfer.system.counts import Count
from ssl_transfer.training import trainer

CHEAP = ("norm", "bias", "last_block")
SMALL_VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def digits_of(per_class: int = 4) -> Dataset:
    node = resolve(plain(compose(["dataset=digits"])))["dataset"]
    return datasets.build({**node, "labels_per_class": per_class, "test_per_class": 3})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return digits_of()


def transformer() -> Encoder:
    torch.manual_seed(0)
    network = timm_backbone("vit_tiny_patch16_224", options=SMALL_VIT)
    return models.wrap(network, Preprocessing(size=16, resize=None))


def resnet() -> Encoder:
    torch.manual_seed(0)
    return models.wrap(small_resnet(4), Preprocessing(size=16, resize=None))


class Flat(nn.Module):
    """A network without blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


KINDS = (*CHEAP, "attention", "attention_block")
CASES = [*((make, kind) for make in (transformer, resnet) for kind in KINDS),
         (transformer, "drop_path")]  # fmt: skip


def tuning(trainable: Any, **options: Any) -> Tuning:
    values = {"epochs": 2, "batch_size": 20, "optimizer": SGD, **options}
    return Tuning(trainable=trainable, **values)


def learnt(judged: Encoder, dataset: Dataset, folder: Path, protocol: Tuning, **keys: Any) -> Any:
    """Return the logits of the test images, and the names of the encoder's changed tensors."""
    before = copy.deepcopy(judged.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    trial = TuningRun(protocol, judged, dataset, context(folder, precision="fp64", **keys))
    (logits,) = trial.predict(trial.train([{}], ["train"], "x"), "test")
    before = {name: tensor.to(judged.state_dict()[name].dtype) for name, tensor in before.items()}
    return logits, {name.removeprefix("backbone.") for name in changed(before, judged.state_dict())}


def test_norm_tuning_moves_the_norms_of_a_transformer_alone(
    digits: Dataset, tmp_path: Path
) -> None:
    judged = transformer()
    _, names = learnt(judged, digits, tmp_path, tuning("norm"))
    layers = {f"blocks.{i}.norm{n}" for i in (0, 1) for n in (1, 2)} | {"norm"}
    assert names == {f"{layer}.{tensor}" for layer in layers for tensor in ("weight", "bias")}


@pytest.mark.parametrize("make", [transformer, resnet])
def test_bias_tuning_moves_nothing_but_biases(make: Any, digits: Dataset, tmp_path: Path) -> None:
    judged = make()
    _, names = learnt(judged, digits, tmp_path, tuning("bias"))
    # Softmax takes the keys' bias away again, but the three biases are one tensor.
    assert names == {name for name, _ in judged.backbone.named_parameters() if "bias" in name}


def test_the_last_block_moves_with_its_running_statistics_and_nothing_before_it(
    digits: Dataset, tmp_path: Path
) -> None:
    judged = resnet()
    _, names = learnt(judged, digits, tmp_path / "resnet", tuning("last_block"))
    assert names == {name for name in judged.backbone.state_dict() if name.startswith("layer3.")}
    judged = transformer()
    _, names = learnt(judged, digits, tmp_path / "transformer", tuning("last_block"))
    expected = {name for name in judged.backbone.state_dict() if name.startswith("blocks.1.")}
    assert names == expected | {"norm.weight", "norm.bias"}


def test_stated_modules_replace_the_rule(digits: Dataset, tmp_path: Path) -> None:
    judged = resnet()
    protocol = tuning("last_block", trainable_modules=["layer2", "layer3.0.bn2"])
    _, names = learnt(judged, digits, tmp_path, protocol)
    assert {name.split(".")[0] for name in names} == {"layer2", "layer3"}
    assert not any(name.startswith("layer3.0.conv") for name in names)


def test_stated_modules_belong_to_the_last_block_alone() -> None:
    with pytest.raises(ValueError, match=r"must be null unless the protocol is last_block, but is"):
        tuning("norm", trainable_modules=["layer2"])


def test_norm_tuning_is_bn_tuning_bit_for_bit_where_all_norms_are_batch_norm(
    tmp_path: Path,
) -> None:
    kept = {}
    for protocol in ("bn_tune", "norm_tune"):
        keys = ("protocol.keep_encoder=true", "protocol.grid.lr=[0.1,0.01]", "protocol.epochs=2")
        run = tiny(tmp_path, f"protocol={protocol}", *keys)
        assert run_all(run).failures == {}
        facts = [run.record()[key] for key in ("scores", "trainable", "selection")]
        files = [(run.folder / f"{name}.safetensors").read_bytes() for name in ("encoder", "head")]
        predictions = np.load(run.folder / "test_predictions.npz")["scores"].tolist()
        kept[protocol] = facts, files, predictions
    assert kept["bn_tune"] == kept["norm_tune"]


def test_a_transformer_makes_the_cell_of_bn_tuning_not_applicable(tmp_path: Path) -> None:
    options = ",".join(f"{key}:{value}" for key, value in SMALL_VIT.items())
    model = ["model=timm", "model.arch=vit_tiny_patch16_224", f"model.options={{{options}}}"]
    places = [f"paths.outputs={tmp_path}", "trainer.progress_bar=false", "trainer.device=cpu"]
    run = Run(plain(compose([*model, "protocol=bn_tune", *places, *DATA, *TUNING])))
    assert run_all(run).failures == {}
    assert run.record()["status"] == "not_applicable"
    assert run.record()["reason"].startswith("BN-tuning is not applicable to `timm_vit_tiny")
    assert "norm_tune, which trains layers of every kind" in run.record()["reason"]


@pytest.mark.parametrize("trainable", CHEAP)
def test_the_trained_share_is_recorded(trainable: Any, digits: Dataset, tmp_path: Path) -> None:
    judged, surroundings = transformer(), context(tmp_path)
    list(tuning(trainable, epochs=1).run(judged, digits, surroundings))
    facts = surroundings.facts["trainable"]
    dim, hidden = 16, 64
    norm, head = 2 * dim, (dim + 1) * 10
    biases = (3 * dim + dim + hidden + dim + 2 * dim) * 2 + dim + dim
    block = 12 * dim * dim + 3 * dim + dim + hidden + dim + 2 * norm
    expected = {"norm": 5 * norm, "bias": biases, "last_block": block + norm}[trainable]
    total = sum(parameter.numel() for parameter in judged.parameters())
    assert facts == {
        "parameters": expected + head, "encoder_trained": expected, "encoder_parameters": total,
        "share": expected / total, "head_parameters": head,
    }  # fmt: skip


@pytest.mark.parametrize("make", [transformer, resnet])
@pytest.mark.parametrize("head", ["attention", "attention_block"])
def test_an_attentive_probe_trains_its_whole_head_and_leaves_its_encoder_as_it_is(
    make: Any, head: Any, digits: Dataset, tmp_path: Path
) -> None:
    judged = make()
    before = copy.deepcopy(judged.state_dict())
    trial = TuningRun(tuning("head", head=head), judged, digits, context(tmp_path))
    initial = copy.deepcopy(trial.learner([{}]).heads[0].state_dict())
    final = trial.train([{}], ["train"], "x").heads[0].state_dict()
    assert changed(before, judged.state_dict()) == set()
    # Softmax takes the bias of the keys away again.
    assert set(final) - changed(initial, final) <= {"0.key.bias"}


def test_an_attentive_head_is_refused_above_a_trained_encoder() -> None:
    with pytest.raises(ValueError, match=r"`head` must stand on features .* but is attention for"):
        tuning("all", head="attention")


@pytest.mark.parametrize("head", ["attention", "attention_block"])
def test_the_classifier_of_an_attentive_probe_gives_the_predictions_of_its_run(
    head: str, tmp_path: Path
) -> None:
    keys = (f"protocol.head={head}", "protocol.grid.lr=[0.1,0.01]", "dataset.name=digits")
    run = tiny(tmp_path, "protocol=attentive_probe", *keys[:2])
    assert run_all(run).failures == {}
    facts = run.record()["trainable"]
    assert facts["encoder_trained"] == 0
    dim = 16
    pooling = {"attention": dim + 2 * dim**2, "attention_block": 12 * dim**2 + 14 * dim}[head]
    assert facts["head_parameters"] == pooling + (dim + 1) * 10
    dataset = datasets.build(run.resolved["dataset"])
    classifier = load_classifier(run.folder)
    images = [Image.fromarray(np.asarray(image)) for image in dataset["test"].images]
    kept = np.load(run.folder / "test_predictions.npz")["scores"]
    scores = torch.tensor(kept).softmax(1)
    torch.testing.assert_close(classifier.predict(images), scores, rtol=1e-4, atol=1e-5)


# ---- layer-wise learning rates and drop paths ----------------------------------------------------


def test_layers_are_trained_by_their_own_learning_rates(digits: Dataset, tmp_path: Path) -> None:
    seen: dict[int, tuple[float, float]] = {}

    def look(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            rates = group["base_lr"], group["weight_decay"]
            seen.update({id(parameter): rates for parameter in group["params"]})

    keys = {"encoder_lr": 0.02, "layer_decay": 0.5, "optimizer": {**SGD, "weight_decay": 0.1}}
    trial = TuningRun(tuning("all", steps=1, **keys), transformer(), digits, context(tmp_path))
    hook = register_optimizer_step_pre_hook(look)
    try:
        learner = trial.train([{}], ["train"], "x")
    finally:
        hook.remove()
    network: Any = trial.encoder.backbone
    expected = {
        network.cls_token: 0.02 / 8, network.pos_embed: 0.02 / 8,
        network.blocks[0].attn.qkv.weight: 0.02 / 4, network.blocks[1].norm2.bias: 0.02 / 2,
        network.norm.weight: 0.02, learner.heads[0].weight: SGD["lr"],
    }  # fmt: skip
    for parameter, lr in expected.items():
        assert seen[id(parameter)] == pytest.approx((lr, 0.1))


@pytest.mark.parametrize(
    ("trainable", "key", "said"),
    [
        ("head", {"layer_decay": 0.5}, "`layer_decay` must be null where nothing"),
        ("norm", {"drop_path": 0.1}, "`drop_path` must be null unless the whole"),
        ("all", {"drop_path": 1.0}, r"`drop_path` must lie in \[0, 1\)"),
        ("all", {"layer_decay": 0.0}, r"`layer_decay` must lie in \(0, 1\]"),
    ],
)
def test_keys_that_do_not_fit_are_refused(trainable: Any, key: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tuning(trainable, **key)


def test_what_an_encoder_cannot_do_is_refused_before_any_work(
    digits: Dataset, tmp_path: Path
) -> None:
    flat = models.wrap(Flat(), Preprocessing(size=16, resize=None))
    for judged, key in ((flat, {"layer_decay": 0.5}), (resnet(), {"drop_path": 0.1})):
        with pytest.raises(ValueError, match="must be null for a network whose blocks"):
            TuningRun(tuning("all", **key), judged, digits, context(tmp_path))


def test_drop_paths_change_the_training_and_micro_batches_do_not(
    digits: Dataset, tmp_path: Path
) -> None:
    found = [
        learnt(transformer(), digits, tmp_path / str(rate), tuning("all", drop_path=rate))[0]
        for rate in (0.0, 0.5)
    ]
    plain_training, _ = learnt(transformer(), digits, tmp_path / "none", tuning("all"))
    np.testing.assert_array_equal(found[0], plain_training)
    assert not np.allclose(found[0], found[1])
    parts, _ = learnt(
        transformer(), digits, tmp_path / "parts", tuning("all", drop_path=0.5), accumulate=2
    )
    np.testing.assert_allclose(parts, found[1], rtol=0, atol=1e-9)


def test_what_is_compiled_reads_no_number_that_changes_in_every_step(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = tuning("all", drop_path=0.5)
    expected, _ = learnt(transformer(), digits, tmp_path / "plain", protocol)
    inside, read = [False], Count.__int__

    def compiled(learner: nn.Module) -> nn.Module:
        learner.register_forward_pre_hook(lambda *_: inside.append(True))
        learner.register_forward_hook(lambda *_: inside.append(False))
        return learner

    def read_outside(count: Count) -> int:
        assert not inside[-1], "torch.compile would compile the network for each number"
        return read(count)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(Count, "__int__", read_outside)
    outputs, _ = learnt(transformer(), digits, tmp_path / "compiled", protocol, compile=True)
    assert True in inside
    np.testing.assert_array_equal(outputs, expected)


# ---- processes and interruptions ----------------------------------------------------------------


def of(kind: Any) -> Tuning:
    """Return a protocol that trains a part of the encoder, a kind of head, or with drop paths."""
    if kind == "drop_path":
        return tuning("all", drop_path=0.5, layer_decay=0.65)
    return tuning("head", head=kind) if kind.startswith("attention") else tuning(kind)


def logits_of(folder: Path, kind: Any, make: Any) -> Any:
    place = folder / str(distributed.rank())
    return learnt(make(), digits_of(), place, of(kind))[0]


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_two_processes_train_as_one(gloo_pool: Any, tmp_path: Path, kind: Any, make: Any) -> None:
    alone = logits_of(tmp_path / "alone", kind, make)
    first, second = gloo_pool.run(logits_of, tmp_path, kind, make)
    np.testing.assert_allclose(first, alone, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(first, second)


class Killed(BaseException):
    """Ends a process where it stands; nothing may catch it."""


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_killed_equals_undisturbed(
    digits: Dataset, tmp_path: Path, monkeypatch: Any, kind: Any, make: Any
) -> None:
    undisturbed, _ = learnt(make(), digits, tmp_path / "whole", of(kind))
    save = trainer.Checkpointer.save

    def then_killed(checkpointer: Any, step: int) -> None:
        save(checkpointer, step)
        if step == 2:
            raise Killed

    keys = {"checkpoint_every_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Checkpointer, "save", then_killed)
        with pytest.raises(Killed):
            learnt(make(), digits, tmp_path / "part", of(kind), **keys)
    resumed, _ = learnt(make(), digits, tmp_path / "part", of(kind), **keys)
    np.testing.assert_array_equal(resumed, undisturbed)
