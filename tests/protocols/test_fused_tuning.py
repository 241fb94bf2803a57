"""Several encoders as one, trained and probed: each member sees the same crops in its own way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import run_all, tiny
from torch import Tensor, nn

from ssl_transfer import datasets, models
from ssl_transfer.classifier import load_classifier
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Augmentation, Pipeline
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.models import Encoder
from ssl_transfer.models.batch_norm import batch_norm_layers
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.heads import load_head
from ssl_transfer.models.saved_fusion import saved_fusion
from ssl_transfer.protocols.tuning import Tuning, TuningRun
from ssl_transfer.runs import Run
from ssl_transfer.runs.builders import dataset_of
from ssl_transfer.system import distributed
from ssl_transfer.training import trainer

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
KINDS = ("head", "batch_norm", "all")


def small_set() -> Dataset:
    node = resolve(plain(compose(["dataset=digits"])))["dataset"]
    return datasets.build({**node, "labels_per_class": 4, "test_per_class": 2})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return small_set()


def encoder(seed: int = 0, size: int = 16, mean: float = 0.5, width: int = 4) -> Encoder:
    keys = [f"model.preprocessing.size={size}", f"model.width={width}"]
    node = resolve(plain(compose(keys)))["model"]
    node["preprocessing"]["mean"] = [mean] * 3
    return models.build(node, seed=seed)


def mixed() -> FusedEncoder:
    """Return three encoders of two sizes, two widths and two preprocessings."""
    return FusedEncoder([encoder(0), encoder(1, 20, 0.2, width=6), encoder(2)], "concatenate")


def context(folder: Path, **options: Any) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    return Context(folder, folder / "features", progress_bar=False, **options)


def tuning(trainable: Any, **options: Any) -> Tuning:
    return Tuning(
        trainable=trainable, **{"epochs": 2, "batch_size": 16, "optimizer": SGD, **options}
    )


def trained(judged: Encoder, protocol: Tuning, dataset: Dataset, where: Context) -> Any:
    """Return the class scores of the test images, and the encoder's tensors afterwards."""
    trial = TuningRun(protocol, judged, dataset, where)
    learner = trial.train([{}], ["train"], "refit")
    (logits,) = trial.predict(learner, "test")
    return logits, [tensor.clone() for tensor in judged.state_dict().values()]


@pytest.mark.parametrize("trainable", KINDS)
def test_one_member_is_that_encoder_bit_for_bit(
    tmp_path: Path, digits: Dataset, trainable: str
) -> None:
    protocol = tuning(trainable)
    alone, weights = trained(encoder(), protocol, digits, context(tmp_path / "a"))
    single = FusedEncoder([encoder()], "concatenate")
    fused, same = trained(single, protocol, digits, context(tmp_path / "b"))
    np.testing.assert_array_equal(alone, fused)
    assert all(torch.equal(a, b) for a, b in zip(weights, same[-len(weights) :], strict=True))
    rows = [
        FrozenFeatures(one, digits, context(tmp_path / "c")).rows("test")
        for one in (encoder(), FusedEncoder([encoder()], "concatenate"))
    ]
    np.testing.assert_array_equal(*rows)


class Seen(nn.Module):
    """Keeps what a backbone sees."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.images: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.images.append(images.detach().clone())
        features: Tensor = self.backbone(images)
        return features


def test_each_member_sees_the_crops_that_it_would_see_alone(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[Tensor]] = {}

    def watching(judged: Encoder) -> Encoder:
        for one in judged.encoders if isinstance(judged, FusedEncoder) else [judged]:
            one.backbone = Seen(one.backbone)
        return judged

    loaded: list[int] = []
    original = Pipeline.__call__

    def counted(self: Pipeline, *arguments: Any, **keys: Any) -> Tensor:
        loaded.append(self.preprocessing.size)
        return original(self, *arguments, **keys)

    members = [watching(encoder(0)), watching(encoder(1, 20, 0.2)), watching(encoder(2))]
    monkeypatch.setattr(Pipeline, "__call__", counted)
    trained(FusedEncoder(members, "concatenate"), tuning("head"), digits, context(tmp_path / "all"))
    assert loaded.count(16) == loaded.count(20)  # two members share one
    for number, alone in enumerate((encoder(0), encoder(1, 20, 0.2), encoder(2))):
        trained(watching(alone), tuning("head"), digits, context(tmp_path / str(number)))
        for mine, theirs in zip(
            members[number].backbone.images, alone.backbone.images, strict=True
        ):
            assert torch.equal(mine, theirs)  # in training and in the test
        seen[number] = alone.backbone.images
    assert [seen[number][0].shape[-1] for number in range(3)] == [16, 20, 16]


@pytest.mark.parametrize("trainable", KINDS)
def test_mixed_members_are_trained_and_tested(
    tmp_path: Path, digits: Dataset, trainable: str
) -> None:
    judged = mixed()
    before = [tensor.clone() for tensor in judged.state_dict().values()]
    scores = list(tuning(trainable).run(judged, digits, context(tmp_path)))
    assert sum(score.primary for score in scores) == 1
    moved = [
        not torch.equal(a, b) for a, b in zip(before, judged.state_dict().values(), strict=True)
    ]
    assert any(moved) == (trainable != "head")
    if trainable == "all":
        assert sum(moved) == len(moved) - 1  # all but the number of the fusion


def test_a_size_that_the_protocol_sets_holds_for_every_member(
    tmp_path: Path, digits: Dataset
) -> None:
    trial = TuningRun(tuning("all", image_size=18), mixed(), digits, context(tmp_path))
    assert [one.size for one in trial.prepared.distinct] == [18, 18]
    assert trial.prepared.places == (0, 1, 0)
    same = tuning("all", image_size=18, preprocessing={"mean": [0, 0, 0]})
    trial = TuningRun(same, mixed(), digits, context(tmp_path))
    assert (len(trial.prepared.distinct), trial.prepared.places) == (1, (0, 0, 0))
    trial.train([{}], ["train"], "refit")


def test_an_augmentation_without_chance_is_what_stored_features_are(
    tmp_path: Path, digits: Dataset
) -> None:
    """The random part is left out by hand, so that images pass the members' own evaluation."""
    stored, _ = trained(
        mixed(), tuning("head", augmentation="none"), digits, context(tmp_path / "stored")
    )
    steady = vars(Augmentation(crop_scale=None, flip_probability=0.0))
    passed, _ = trained(
        mixed(), tuning("head", augmentation=dict(steady)), digits, context(tmp_path / "passed")
    )
    np.testing.assert_allclose(stored, passed, rtol=1e-4, atol=1e-5)


def test_the_published_scope_is_that_of_each_member() -> None:
    members = [encoder(0), encoder(1)]
    names = batch_norm_layers(FusedEncoder(members, "concatenate"), "published")
    alone = list(batch_norm_layers(members[0], "published"))
    assert list(names) == [f"members.{number}.{name}" for number in (0, 1) for name in alone]


# ---- what a run keeps ----------------------------------------------------------------------------

SHARED = ["method=cat", "protocol.keep_encoder=true", "protocol.image_size=null"]


def finetuned(folder: Path, *overrides: str) -> Run:
    sizes = (16, 20)
    members = ",".join(
        f"{{model:small_resnet,seed:{number},overrides:"
        f"['model.width={4 + 2 * number}','model.preprocessing.size={size}']}}"
        for number, size in enumerate(sizes)
    )
    run = tiny(
        folder, *SHARED, "protocol=finetune", f"method.members=[{members}]", *overrides
    )  # fmt: skip
    assert run_all(run).failures == {}
    return run


def test_a_kept_concatenation_is_an_encoder_again(tmp_path: Path) -> None:
    run = finetuned(tmp_path)
    node = resolve(plain(compose(["model=fused", f"model.folder={run.folder}"])))["model"]
    again = models.build(node)
    assert isinstance(again, FusedEncoder)
    kept = load_file(run.folder / "encoder.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in again.backbone.state_dict().items())
    assert [one.preprocessing.size for one in again.encoders] == [16, 20]
    # The head that was trained on it scores the test images as the run did.
    head = load_head(run.folder, again.feature_dim)
    assert head is not None
    dataset = dataset_of(run)
    rows = FrozenFeatures(again, dataset, context(tmp_path / "again")).load("test")[0]
    scores = np.load(run.folder / "test_predictions.npz")["scores"]
    with torch.no_grad():
        np.testing.assert_allclose(head.layers(rows).numpy(), scores, rtol=1e-4, atol=1e-5)
    # A run takes it as it is.
    line = ["model=fused", f"model.folder={run.folder}", "protocol=knn", "method=as_is"]
    outputs = [
        f"paths.outputs={tmp_path}",
        "dataset.labels_per_class=4",
        "dataset.test_per_class=2",
    ]
    judged = Run(plain(compose([*line, *outputs, "trainer.progress_bar=false"])))
    assert run_all(judged).failures == {}
    assert len(judged.record()["members_sha256"]) == 2


def test_a_classifier_of_members_that_agree_is_loaded_and_of_others_refused(tmp_path: Path) -> None:
    agreeing = finetuned(tmp_path, "protocol.image_size=16")
    classifier = load_classifier(agreeing.folder)
    images = dataset_of(agreeing)["test"].images
    scores = np.load(agreeing.folder / "test_predictions.npz")["scores"]
    pixels = classifier.prepare(list(images))
    np.testing.assert_allclose(classifier(pixels).numpy(), scores, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="must prepare them once, but the members of"):
        load_classifier(finetuned(tmp_path).folder)


def test_a_folder_of_a_single_encoder_is_no_fusion(tmp_path: Path) -> None:
    models.save_encoder(encoder(), tmp_path, config={}, parents=[])
    with pytest.raises(ValueError, match="must name the members of several encoders as one"):
        saved_fusion(str(tmp_path))
    with pytest.raises(ValueError, match="must be the folder of a run that kept its encoder"):
        saved_fusion(str(tmp_path / "elsewhere"))


def test_code_of_others_in_a_kept_fusion_is_not_called(tmp_path: Path) -> None:
    judged = FusedEncoder([encoder()], "concatenate")
    judged.encoders[0].config = {"_target_": "os.system", "command": "false"}
    models.save_encoder(judged, tmp_path, config={}, parents=[])
    with pytest.raises(ValueError, match=r"os\.system"):
        saved_fusion(str(tmp_path))


# ---- processes and interruptions ----------------------------------------------------------------


def of_processes(folder: Path) -> Any:
    where = context(folder / str(distributed.rank()), precision="fp64")
    return trained(mixed(), tuning("all"), small_set(), where)


def test_two_processes_train_mixed_members_as_one(gloo_pool: Any, tmp_path: Path) -> None:
    alone, weights = of_processes(tmp_path / "alone")
    (first, mine), (second, theirs) = gloo_pool.run(of_processes, tmp_path)
    np.testing.assert_allclose(first, alone, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(first, second)
    for expected, one, two in zip(weights, mine, theirs, strict=True):
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-9)
        assert torch.equal(one, two)


class Killed(BaseException):
    """Ends a process where it stands; nothing may catch it."""


def test_an_interrupted_training_of_mixed_members_ends_as_an_undisturbed_one(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, weights = trained(mixed(), tuning("all"), digits, context(tmp_path / "calm"))
    save = trainer.Checkpointer.save

    def then_killed(checkpointer: Any, step: int) -> None:
        save(checkpointer, step)
        if step == 2:
            raise Killed

    place = tmp_path / "disturbed"
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Checkpointer, "save", then_killed)
        with pytest.raises(Killed):
            trained(mixed(), tuning("all"), digits, context(place, checkpoint_every_steps=1))
    resumed = context(place, checkpoint_every_steps=1)
    disturbed, same = trained(mixed(), tuning("all"), digits, resumed)
    assert resumed.facts["resumed_at"] == [["refit", 2]]
    np.testing.assert_array_equal(calm, disturbed)
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
