import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from ssl_transfer import models
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.models.weights import LAYOUTS, load_weights
from ssl_transfer.preprocessing import Preprocessing

SMALL = Preprocessing(size=32, resize=None)
CONFIG = {
    "_target_": "ssl_transfer.models.small_resnet.small_resnet",
    "name": "tiny",
    "width": 2,
    "preprocessing": {"size": 32, "resize": None},
}


def _tiny(seed: int = 0) -> Encoder:
    return models.build(CONFIG, seed=seed)


@pytest.fixture
def donor() -> Encoder:
    """An encoder whose every tensor differs from a fresh one's."""
    encoder = _tiny(seed=1)
    torch.manual_seed(0)
    for tensor in encoder.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor))
        else:
            tensor.fill_(7)
    return encoder


def _saved(path: Path, state: dict[str, torch.Tensor], wrapper: str | None = None) -> Path:
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 1}, path)
    return path


def _prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


# Wrapper, prefix and neighbours as in the converters of
# github.com/linusericsson/ssl-transfer (download_and_prepare_models.py, commit 416913f) and
# OpenMMLab's mmselfsup.
FILES: dict[str, tuple[str | None, str, list[str]]] = {
    "torchvision": (None, "", ["fc.weight", "fc.bias"]),
    "moco": ("state_dict", "module.encoder_q.",
             ["module.encoder_q.fc.0.weight", "module.encoder_k.conv1.weight", "module.queue"]),
    "pycontrast": ("model", "module.encoder.",
                   ["module.head.0.weight", "module.head_jig.fc1.weight", "module.jigsaw.x"]),
    "swav": (None, "module.", ["module.projection_head.0.weight", "module.prototypes.weight"]),
    "mmselfsup": ("state_dict", "backbone.", ["head.fc_cls.weight", "neck.mlp.0.weight"]),
}  # fmt: skip


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("layout", FILES)
def test_a_published_layout_is_read_whole(
    tmp_path: Path, donor: Encoder, layout: str, explicit: bool
) -> None:
    wrapper, prefix, others = FILES[layout]
    state = _prefixed(prefix, donor.backbone.state_dict())
    state |= {name: torch.zeros(2) for name in others}
    path = _saved(tmp_path / "x.pth", state, wrapper)
    encoder = _tiny()
    report = load_weights(encoder, path, layout=layout if explicit else "auto")
    assert models.fingerprint(encoder) == models.fingerprint(donor)
    assert report.complete
    assert len(report.matched) == report.total == len(donor.backbone.state_dict())
    assert LAYOUTS[report.layout] is LAYOUTS[layout]


def test_only_the_counters_of_batches_may_be_missing(tmp_path: Path, donor: Encoder) -> None:
    state = dict(donor.backbone.state_dict())
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    path = _saved(tmp_path / "x.pth", {n: t for n, t in state.items() if n not in counters})
    encoder = _tiny()
    report = load_weights(encoder, path)
    assert report.total - len(report.matched) == len(counters)
    assert models.fingerprint(encoder) == models.fingerprint(donor)
    del state["layer3.0.bn2.running_mean"]
    with pytest.raises(ValueError, match=r"the file lacks layer3\.0\.bn2\.running_mean;"):
        load_weights(_tiny(), _saved(path, state))


def test_half_precision_weights_become_the_encoder_s_type(tmp_path: Path, donor: Encoder) -> None:
    state = {name: tensor.half() for name, tensor in donor.backbone.state_dict().items()}
    encoder = _tiny()
    load_weights(encoder, _saved(tmp_path / "x.pth", state))
    weight = encoder.backbone.get_parameter("conv1.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["conv1.weight"].float())


@pytest.mark.parametrize(
    ("prefix", "options", "hint"),
    [
        ("net.", {}, "all {n} tensors match after removing the prefix `net.`: "
                     "use `model.weights.prefix=net.`."),
        ("module.", {"layout": "plain"}, "(this looks like a network saved from DataParallel, as "
                                         "SwAV's are): use model.weights.layout=swav"),
        ("", {"layout": "moco"}, "use model.weights.layout="),
        ("", {"prefix": "no."}, "use model.weights.layout=ssl_transfer without other prefixes"),
        ("teacher.net.", {"prefix": "net."}, "use `model.weights.prefix=teacher.net.`"),
    ],
)  # fmt: skip
def test_a_wrong_prefix_refuses_with_a_hint_and_changes_nothing(
    tmp_path: Path, donor: Encoder, prefix: str, options: dict[str, Any], hint: str
) -> None:
    path = _saved(tmp_path / "x.pth", _prefixed(prefix, donor.backbone.state_dict()))
    encoder = _tiny()
    before = models.fingerprint(encoder)
    with pytest.raises(ValueError, match=r"but 0 match .*the file lacks conv1.weight") as caught:
        load_weights(encoder, path, **options)
    sentence = str(caught.value)
    assert hint.format(n=len(donor.backbone.state_dict())) in sentence
    assert "\n" not in sentence
    assert models.fingerprint(encoder) == before
    told = re.search(r"use `?model\.weights\.(\w+)=([^ `]+?)(`|\.?$| )", sentence)
    assert told is not None
    load_weights(encoder, path, **{told[1]: told[2]})  # what the hint says works
    assert models.fingerprint(encoder) == models.fingerprint(donor)


def test_a_prefix_is_added_where_the_encoder_wraps_a_network(
    tmp_path: Path, donor: Encoder
) -> None:
    wrapped = Encoder(nn.Sequential(small_resnet(2)), 8, SMALL, "mine")
    path = _saved(tmp_path / "x.pth", donor.backbone.state_dict())
    with pytest.raises(ValueError, match=r"use `model.weights.add_prefix=0\.`"):
        load_weights(wrapped, path)
    load_weights(wrapped, path, add_prefix="0.")
    assert isinstance(wrapped.backbone, nn.Sequential)
    assert models.fingerprint(wrapped.backbone[0]) == models.fingerprint(donor)


def test_another_width_is_named_with_both_shapes(tmp_path: Path) -> None:
    other = models.build({**CONFIG, "width": 3})
    path = _saved(tmp_path / "x.pth", other.backbone.state_dict())
    with pytest.raises(
        ValueError, match=r"another architecture.*conv1.weight is \[3, 3, 3, 3\] for \[2, 3, 3, 3\]"
    ):
        load_weights(_tiny(), path)


def test_a_deeper_network_that_contains_the_encoder_is_refused(tmp_path: Path) -> None:
    deeper = models.build({**CONFIG, "blocks": 2})
    path = _saved(tmp_path / "x.pth", deeper.backbone.state_dict())
    with pytest.raises(ValueError, match=r"the encoder lacks layer1.1.conv1.weight, .* more"):
        load_weights(_tiny(), path)


def test_a_resnet50_in_a_wrapper_of_its_own_counts_318_tensors(tmp_path: Path) -> None:
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    del net.fc
    encoder = Encoder(net, 2048, Preprocessing(), "resnet50")
    # One number per tensor, expanded: the names matter here.
    state = {n: torch.zeros(()).expand(t.shape) for n, t in net.state_dict().items()}
    path = _saved(tmp_path / "x.pth", _prefixed("module.", state))
    with pytest.raises(ValueError, match="all 318 tensors match under another layout"):
        load_weights(encoder, path, layout="plain")


def test_foreign_tensors_are_dropped_by_name_only(tmp_path: Path, donor: Encoder) -> None:
    state = {**donor.backbone.state_dict(), "my_task.weight": torch.zeros(2)}
    path = _saved(tmp_path / "x.pth", state)
    with pytest.raises(ValueError, match=r"the encoder lacks my_task.weight;"):
        load_weights(_tiny(), path)
    assert load_weights(_tiny(), path, drop=["my_task."]).dropped == ("my_task.weight",)


def test_an_unknown_layout_is_answered_with_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"auto or one of \['barlow_twins', .*'byol', .*'moco', .*'mocco'"
    ):
        load_weights(_tiny(), "x.pth", layout="mocco")


# ---- saving -------------------------------------------------------------------------------------


def test_a_saved_encoder_is_a_model_s_weights(tmp_path: Path, donor: Encoder) -> None:
    folder = tmp_path / "run"
    models.save_encoder(donor, folder, config=CONFIG, parents=["0123456789abcdef"])
    for path in (folder, folder / "encoder.safetensors"):
        built = models.build({**CONFIG, "weights": {"path": str(path), "layout": "auto"}})
        assert models.fingerprint(built) == models.fingerprint(donor)
    fresh = _tiny()
    assert models.load_encoder(fresh, folder).complete
    assert models.fingerprint(fresh) == models.fingerprint(donor)
    facts = yaml.safe_load((folder / "encoder.yaml").read_text())
    assert facts["model"] == CONFIG
    assert facts["parents"] == ["0123456789abcdef"]
    assert facts["feature_dim"] == 8
    assert Preprocessing(**{
        key: tuple(value) if isinstance(value, list) else value
        for key, value in facts["preprocessing"].items()
    }) == SMALL  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.safetensors", "encoder.yaml"]
    assert set(load_file(folder / "encoder.safetensors")) == set(donor.backbone.state_dict())


def test_tied_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    net = nn.Sequential(nn.Conv2d(3, 3, 2).to(memory_format=torch.channels_last), nn.Flatten(),
                        first, second)  # fmt: skip
    encoder = models.wrap(net, Preprocessing(size=2, resize=None))
    before = models.fingerprint(encoder)
    models.save_encoder(encoder, tmp_path, config={}, parents=[])
    with torch.no_grad():
        first.weight.zero_()
    models.load_encoder(encoder, tmp_path)
    assert models.fingerprint(encoder) == before


def test_weights_that_expect_other_images_are_refused(tmp_path: Path, donor: Encoder) -> None:
    models.save_encoder(donor, tmp_path, config=CONFIG, parents=[])
    other = models.wrap(_tiny(), {"mean": [0, 0, 0]})
    with pytest.raises(ValueError, match=r"model.preprocessing.mean=\[0.485, 0.456, 0.406\]"):
        models.load_encoder(other, tmp_path)
    (tmp_path / "encoder.yaml").write_text("preprocessing: [")
    with pytest.raises(ValueError, match=r"encoder.yaml` must hold the facts"):
        models.load_encoder(other, tmp_path)
    (tmp_path / "encoder.yaml").unlink()
    assert models.load_encoder(other, tmp_path).complete


def test_a_full_disk_leaves_the_older_encoder_whole(
    tmp_path: Path, donor: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.save_encoder(donor, tmp_path, config=CONFIG, parents=["old"])
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        models.save_encoder(_tiny(), tmp_path, config=CONFIG, parents=["new"])
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder without them"):
        load_weights(_tiny(), tmp_path)


# ---- fingerprints -------------------------------------------------------------------------------


def test_a_fingerprint_is_the_sha256_of_names_shapes_types_and_bytes() -> None:
    layer = nn.Linear(2, 1, dtype=torch.float64)
    digest = hashlib.sha256()
    for name, shape in (("bias", "(1,)"), ("weight", "(1, 2)")):
        digest.update(f"{name} {shape} torch.float64\n".encode())
        digest.update(layer.get_parameter(name).detach().numpy().tobytes())
    assert models.fingerprint(layer) == digest.hexdigest()


def test_a_fingerprint_sees_every_value_but_not_the_counters(donor: Encoder) -> None:
    first = models.fingerprint(donor)
    assert isinstance(donor.backbone.bn1, nn.BatchNorm2d)
    assert donor.backbone.bn1.num_batches_tracked is not None
    donor.backbone.bn1.num_batches_tracked += 1
    assert models.fingerprint(donor) == first
    assert donor.backbone.bn1.running_var is not None
    donor.backbone.bn1.running_var[0] += 1e-3
    assert models.fingerprint(donor) != first


def test_every_type_of_tensor_has_a_fingerprint() -> None:
    net = nn.Module()
    for number, dtype in enumerate((torch.bfloat16, torch.float16, torch.int64, torch.bool)):
        net.register_buffer(f"b{number}", torch.ones((), dtype=dtype))
    net.register_buffer("empty", torch.zeros(0, 3))
    assert len(models.fingerprint(net)) == 64


def test_plain_safetensors_of_timm_or_others_load_too(tmp_path: Path, donor: Encoder) -> None:
    path = tmp_path / "model.safetensors"
    save_file({**donor.backbone.state_dict(), "head.weight": torch.zeros(2)}, path)
    encoder = _tiny()
    assert load_weights(encoder, path).dropped == ("head.weight",)
    assert models.fingerprint(encoder) == models.fingerprint(donor)


# ---- several networks in a file, and what files say ---------------------------------------------


def test_student_and_teacher_are_both_proposed(tmp_path: Path, donor: Encoder) -> None:
    # `main_dino.py` of facebookresearch/dino saves both, the student inside of DDP.
    state = donor.backbone.state_dict()
    teacher = {name: tensor + 1 for name, tensor in state.items()}
    content = {
        "student": _prefixed("module.backbone.", state), "teacher": _prefixed("backbone.", teacher),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 3, "args": {"lr": 0.1},
        "dino_loss": {"center": torch.zeros(1, 3)},
    }  # fmt: skip
    torch.save(content, path := tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="2 such networks") as caught:
        load_weights(_tiny(), path)
    prefixes = re.findall(r"`model\.weights\.prefix=(\S+)`", str(caught.value))
    assert prefixes == ["student.module.backbone.", "teacher.backbone."]
    for prefix, expected in zip(prefixes, (state, teacher), strict=True):
        encoder = _tiny()
        load_weights(encoder, path, prefix=prefix)
        assert torch.equal(encoder.backbone.state_dict()["conv1.weight"], expected["conv1.weight"])


@pytest.mark.parametrize("prefix", ["model_ema", "model_ema.", "model_ema.module."])
def test_an_average_beside_the_weights_is_named_and_can_be_chosen(
    tmp_path: Path, donor: Encoder, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    # DeiT's and ConvNeXt's `main.py` save `model` and `model_ema`.
    state = donor.backbone.state_dict()
    inner = "module." if "module" in prefix else ""
    average = {f"{inner}{name}": tensor + 1 for name, tensor in state.items()}
    content = {"model": state, "model_ema": average, "best_acc1": torch.tensor(1.0)}
    torch.save(content, path := tmp_path / "x.pth")
    encoder = _tiny()
    load_weights(encoder, path)
    assert models.fingerprint(encoder) == models.fingerprint(donor)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "model.weights.prefix=model_ema. takes that one" in warning
    load_weights(encoder, path, prefix=prefix)
    wanted = average[f"{inner}conv1.weight"]
    assert torch.equal(encoder.backbone.state_dict()["conv1.weight"], wanted)
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


# Names as these codes save them: lightning (`state_dict`, `hyper_parameters`, `callbacks`), timm's
# `CheckpointSaver` (`state_dict`, `state_dict_ema`), `torch.compile` (`_orig_mod.`), MoCo v3's
# `main_moco.py` (`module.base_encoder.`, `module.momentum_encoder.`), DeepSpeed (`module`).
@pytest.mark.parametrize(
    ("wrapper", "prefix", "loads"),
    [("state_dict", "", True), ("module", "", True), ("state_dict", "_orig_mod.", True),
     ("state_dict", "module._orig_mod.", True), ("state_dict", "module.base_encoder.", True),
     ("state_dict", "module.my_encoder.", False)],
)  # fmt: skip
def test_what_trainers_leave_beside_the_weights_is_no_obstacle(
    tmp_path: Path, donor: Encoder, wrapper: str, prefix: str, loads: bool
) -> None:
    content = {
        wrapper: _prefixed(prefix, donor.backbone.state_dict()), "epoch": 1, "global_step": 7,
        "pytorch-lightning_version": "2.0", "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "lr_schedulers": [], "loops": {}, "rng_state": torch.zeros(8, dtype=torch.uint8),
    }  # fmt: skip
    torch.save(content, path := tmp_path / "x.ckpt")
    encoder = _tiny()
    if loads:
        load_weights(encoder, path)
    else:
        with pytest.raises(ValueError, match=f"use `model.weights.prefix={prefix}`"):
            load_weights(encoder, path)
        load_weights(encoder, path, prefix=prefix)
    assert models.fingerprint(encoder) == models.fingerprint(donor)


@pytest.mark.parametrize("prefix", ["x; touch evil #.", "$(touch evil).", "a b.", "\x1b[2J."])
def test_text_of_a_file_is_no_advice_to_type(tmp_path: Path, donor: Encoder, prefix: str) -> None:
    path = _saved(tmp_path / "x.pth", _prefixed(prefix, donor.backbone.state_dict()))
    with pytest.raises(ValueError, match="choose the model that the weights belong") as caught:
        load_weights(_tiny(), path)
    assert prefix not in str(caught.value).rpartition("; ")[2]


def test_facts_of_an_encoder_show_checked_values_alone(tmp_path: Path, donor: Encoder) -> None:
    models.save_encoder(donor, tmp_path, config=CONFIG, parents=[])
    facts = yaml.safe_load((tmp_path / "encoder.yaml").read_text())
    for key, value in [
        ("size", "64; touch evil"),
        ("interpolation", "$(touch evil)"),
        ("mean", "abc"),
        ("std", [1, 1, "x"]),
        ("square", "yes"),
        ("size", True),
    ]:
        odd = {**facts, "preprocessing": {**facts["preprocessing"], key: value}}
        (tmp_path / "encoder.yaml").write_text(yaml.safe_dump(odd))
        with pytest.raises(ValueError, match="must hold the facts that were saved") as caught:
            models.load_encoder(_tiny(), tmp_path)
        assert "evil" not in str(caught.value)


DOUBLED = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
)


@pytest.mark.parametrize("text", [DOUBLED, MERGED, "a: &a [*a]\n", "[" * 1000, "", "x" * 2_000_000])
def test_facts_made_to_do_harm_are_refused(tmp_path: Path, donor: Encoder, text: str) -> None:
    models.save_encoder(donor, tmp_path, config=CONFIG, parents=[])
    (tmp_path / "encoder.yaml").write_text(text)
    with pytest.raises(ValueError, match="must hold the facts that were saved"):
        models.load_encoder(_tiny(), tmp_path)
