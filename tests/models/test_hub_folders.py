"""Folders of the Hugging Face hub: those of timm and of transformers, judged by these packages."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from ssl_transfer import models
from ssl_transfer.config import compose, plain
from ssl_transfer.models.sources import network
from ssl_transfer.models.tokens import has_tokens, tokens_of
from ssl_transfer.models.weights import load_weights, save_encoder
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import hub

TIMM_ARCH = "vit_tiny_patch16_224"
TIMM_KEYS = {"img_size": 48, "embed_dim": 32, "num_heads": 2, "depth": 4}
PREPARED = {"size": 48, "resize": None}

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 48, "patch_size": 16,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 50,
}  # fmt: skip
STAGES = {"hidden_sizes": [8, 12, 16, 32], "depths": [1, 1, 1, 1]}
REGISTERS = {"num_register_tokens": 4}
DECODER = {
    "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip
SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 3, "patch_size": 4}
BOTH = {"vision_config": SMALL, "text_config": TEXT}

# Type of model -> (configuration, the class that is saved, the class that judges).
KINDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "beit": (SMALL, "BeitForImageClassification", "BeitModel"),
    "clip": (BOTH, "CLIPModel", "CLIPVisionModel"),
    "convnext": (STAGES, "ConvNextForImageClassification", "ConvNextModel"),
    "convnextv2": (STAGES, "ConvNextV2Model", "ConvNextV2Model"),
    "deit": (SMALL, "DeiTModel", "DeiTModel"),
    "dinov2": (SMALL, "Dinov2ForImageClassification", "Dinov2Model"),
    "dinov2_with_registers": (SMALL | REGISTERS, *2 * ("Dinov2WithRegistersModel",)),
    "dinov3_convnext": (STAGES, *2 * ("DINOv3ConvNextModel",)),
    "dinov3_vit": (SMALL | REGISTERS, *2 * ("DINOv3ViTModel",)),
    "ijepa": (SMALL, "IJepaModel", "IJepaModel"),
    "resnet": (STAGES | {"embedding_size": 8}, "ResNetForImageClassification", "ResNetModel"),
    "siglip": (BOTH, "SiglipModel", "SiglipVisionModel"),
    "swin": (SWIN | {"image_size": 48}, "SwinModel", "SwinModel"),
    "vit": (SMALL, "ViTForImageClassification", "ViTModel"),
    "vit_mae": (SMALL | DECODER, "ViTMAEForPreTraining", "ViTMAEModel"),
    "vit_msn": (SMALL, "ViTMSNModel", "ViTMSNModel"),
}
ORDINARY = ("clip", "dinov2", "dinov3_vit", "ijepa", "resnet", "siglip", "vit", "vit_mae")


def ordinary_and_slow() -> list[Any]:
    """Return the types of models; the rarer ones belong to the slow tests."""
    return [k if k in ORDINARY else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]


@pytest.fixture(scope="module")
def transformers() -> Any:
    package = pytest.importorskip("transformers", reason="the extra [huggingface] is missing")
    package.logging.set_verbosity_error()
    package.logging.disable_progress_bar()
    return package


@pytest.fixture(scope="module")
def saved(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns a folder that transformers saved, by type of model."""
    root = tmp_path_factory.mktemp("hub")

    def folder_of(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            keys, whole, _ = KINDS[kind]
            randomly(getattr(transformers, whole)(configuration(transformers, kind, keys))) \
                .save_pretrained(folder)  # fmt: skip
        return folder

    return folder_of


def configuration(transformers: Any, kind: str, keys: dict[str, Any]) -> Any:
    return type(transformers.AutoConfig.for_model(kind)).from_dict(keys)


def randomly(module: nn.Module) -> nn.Module:
    """Return a network whose parameters are all random: norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return module.eval()


def built(folder: Path, **keys: Any) -> models.Encoder:
    node = {
        "_target_": "ssl_transfer.models.backbones.timm_backbone",
        "name": "mine",
        "arch": f"local-dir:{folder}",
        "preprocessing": PREPARED,
    }
    return models.build({**node, **keys}).eval()


def images() -> Tensor:
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def judge(transformers: Any, kind: str, folder: Path, **keys: Any) -> Any:
    """Return the output of the package's own model of a folder."""
    own = getattr(transformers, KINDS[kind][2])
    if kind != "vit_mae":
        return own.from_pretrained(folder).eval()(images(), **keys)
    model = own.from_pretrained(folder, mask_ratio=0.0).eval()
    return model(images(), noise=torch.arange(9.0).expand(3, -1), **keys)


# ---- transformers -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ordinary_and_slow())
@torch.no_grad()
def test_features_are_those_of_transformers(
    transformers: Any, saved: Callable[[str], Path], kind: str
) -> None:
    encoder, output = built(saved(kind)), judge(transformers, kind, saved(kind))
    pooled = getattr(output, "pooler_output", None)
    if kind in ("vit", "deit", "vit_mae", "vit_msn"):  # as their classifiers, the class token
        pooled = output.last_hidden_state[:, 0]
    elif kind == "ijepa":  # as its classifier, the mean
        pooled = output.last_hidden_state.mean(1)
    expected = pooled.flatten(1)
    assert encoder.feature_dim == expected.shape[1]
    assert expected.std() > 1e-3
    torch.testing.assert_close(encoder(images()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit_mae", "dinov2_with_registers", "clip"])
@torch.no_grad()
def test_tokens_are_those_of_transformers(
    transformers: Any, saved: Callable[[str], Path], kind: str
) -> None:
    output = judge(transformers, kind, saved(kind))
    tokens = output.last_hidden_state
    if kind == "clip":  # whose package applies the final norm to the class token only
        own = transformers.CLIPVisionModel.from_pretrained(saved(kind))
        tokens = own.post_layernorm(tokens)
    prefix = 5 if kind == "dinov2_with_registers" else 1
    encoder = built(saved(kind), features="cls_mean")
    expected = torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], dim=1)
    torch.testing.assert_close(encoder(images()), expected, rtol=0, atol=1e-5)
    patches = tokens_of(encoder.backbone, images()).patches
    torch.testing.assert_close(patches, tokens[:, prefix:], rtol=0, atol=1e-5)
    last4 = built(saved(kind), features="last4")(images())
    assert last4.shape == (3, 4 * 32)
    torch.testing.assert_close(last4[:, -32:], tokens[:, 0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_last_four_blocks_are_those_of_transformers(
    transformers: Any, saved: Callable[[str], Path]
) -> None:
    model = transformers.Dinov2Backbone.from_pretrained(
        saved("dinov2"), out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    ).eval()
    expected = [tokens[:, 0] for tokens in model(images()).feature_maps]
    last4 = built(saved("dinov2"), features="last4")(images())
    torch.testing.assert_close(last4, torch.cat(expected, 1), rtol=0, atol=1e-5)


def test_networks_in_stages_have_no_tokens_and_ijepa_and_siglip_no_class_token(
    saved: Callable[[str], Path],
) -> None:
    for kind in ("convnext", "swin"):
        assert not has_tokens(built(saved(kind)).backbone)
    for kind in ("ijepa", "siglip"):
        assert built(saved(kind), features="mean").feature_dim == 32
        with pytest.raises(ValueError, match=r"with a class token, but `mine` has none"):
            built(saved(kind), features="cls")


def test_a_trained_encoder_is_saved_and_loaded_again(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder = built(saved("dinov2"))
    nn.init.ones_(next(encoder.backbone.parameters()))
    save_encoder(encoder, tmp_path, config={"name": "mine"}, parents=[])
    other = built(saved("dinov2"))
    assert models.fingerprint(other) != models.fingerprint(encoder)
    load_weights(other, tmp_path)
    assert models.fingerprint(other) == models.fingerprint(encoder)


def test_the_place_of_a_folder_is_no_part_of_its_network(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(saved("vit"), tmp_path / "copy")
    one, other = built(saved("vit")), built(copy)
    assert models.fingerprint(one) == models.fingerprint(other)
    assert network(one.backbone) == network(other.backbone)


@pytest.mark.slow  # each layout is tried before the message
def test_a_folder_lacks_no_tensor_and_has_no_block_more_than_its_network(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved("dinov2"), tmp_path / "copy")
    whole = load_file(folder / "model.safetensors")
    name = next(name for name in whole if ".layer.2." in name)
    save_file({n: t for n, t in whole.items() if n != name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"but \d+ match .*the file lacks network\.encoder\.laye"):
        built(folder)
    further = whole | {name.replace(".layer.2.", ".layer.4."): whole[name].clone()}
    save_file(further, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"the encoder lacks .*\.layer\.4\."):
        built(folder)
    save_file({n: t[:-1] if n == name else t for n, t in whole.items()},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match="shapes differ"):
        built(folder)


def test_images_are_prepared_as_the_processor_in_the_folder_states(
    transformers: Any, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved("vit"), tmp_path / "copy")
    with pytest.raises(ValueError, match="must say how its images are prepared"):
        built(folder, preprocessing=None)
    transformers.ViTImageProcessor(
        size={"height": 48, "width": 48}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    ).save_pretrained(folder)
    prepared = built(folder, preprocessing=None).preprocessing
    assert (prepared.size, prepared.square, prepared.interpolation) == (48, True, "bilinear")
    assert (prepared.mean, prepared.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    run = Run(plain(compose(["model=timm", f"model.arch=local-dir:{folder}"])))
    assert run.config["model"]["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
    assert run.config["model"]["weights"]["path"] == str(folder)


def test_a_folder_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"Weights must be a file, or a folder"):
        built(tmp_path)
    (tmp_path / "model.safetensors").touch()
    config = tmp_path / "config.json"
    for content, sentence in (
        ("[]", "must describe a model as JSON"),
        ('{"model_type": "bert"}', r"one of the types \['beit', .*but its type is 'bert'"),
        ('{"model_type": "vit", "hidden_size": "x"}', "must describe a network, but|transformers"),
    ):
        config.write_text(content)
        with pytest.raises(ValueError, match=sentence):
            built(tmp_path, weights={})
    config.write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match=r"`model\.options` must be null"):
        built(tmp_path, weights={}, options={"depth": 3})
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'ssl_transfer\[huggingface\]'"):
        built(tmp_path, weights={})
    (tmp_path / "model.safetensors").rename(tmp_path / "model.safetensors.index.json")
    with pytest.raises(ValueError, match=r"must be one file, model\.safetensors, but are"):
        built(tmp_path)


# ---- timm ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that timm saved, with a classifier of three classes."""
    folder = tmp_path_factory.mktemp("timm")
    whole = randomly(timm.create_model(TIMM_ARCH, num_classes=3, **TIMM_KEYS))
    # Before 1.0.30, timm does not save what its builder was told unless it is repeated here.
    whole.pretrained_cfg.update(  # type: ignore[operator, union-attr]
        input_size=(3, 48, 48), mean=(0.1, 0.2, 0.3), crop_pct=0.8
    )
    save_for_hf(whole, folder, model_args=TIMM_KEYS, safe_serialization=True)
    return folder


def by_timm(folder: Path, **keys: Any) -> nn.Module:
    """Return the network that timm builds from a folder, or a part of it."""
    network = timm.create_model(f"local-dir:{folder}", **keys)
    # timm 1.0.25 does not read safetensors from a folder.
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=not keys)
    return network.eval()


@torch.no_grad()
def test_a_folder_of_timm_gives_the_features_of_timm(of_timm: Path) -> None:
    encoder = built(of_timm, preprocessing=None)
    expected = by_timm(of_timm, num_classes=0)
    torch.testing.assert_close(encoder(images()), expected(images()), rtol=0, atol=1e-6)
    assert encoder.preprocessing.mean == (0.1, 0.2, 0.3)
    assert (encoder.preprocessing.size, encoder.preprocessing.resize) == (48, 60)
    classifier = by_timm(of_timm)
    assert encoder.head is not None
    logits = encoder.head.layers(encoder(images()))
    torch.testing.assert_close(logits, classifier(images()), rtol=0, atol=1e-5)


def test_a_run_names_the_weights_of_its_folder(of_timm: Path) -> None:
    by_arch = Run(plain(compose(["model=timm", f"model.arch=local-dir:{of_timm}"])))
    assert by_arch.config["model"]["weights"]["path"] == str(of_timm)
    assert by_arch.config["model"]["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
    assert problems(by_arch.config) == []
    assert preflight.check(by_arch) is None
    options = [f"{key}:{value}" for key, value in TIMM_KEYS.items()]
    named = ["model=timm", f"model.arch={TIMM_ARCH}", f"model.options={{{','.join(options)}}}"]
    by_path = Run(plain(compose([*named, f"model.weights.path={of_timm}"])))
    assert preflight.check(by_path) is None
    encoders = [models.build(run.resolved["model"]) for run in (by_arch, by_path)]
    assert len({models.fingerprint(one) for one in encoders}) == 1
    assert len({one.preprocessing for one in encoders}) == 1


# ---- the hub ------------------------------------------------------------------------------------


def remote(pretrained: bool) -> dict[str, Any]:
    config = plain(compose(["model=timm", "model.arch=hf-hub:me/net"]))
    return {**config, "model": {**config["model"], "pretrained": pretrained}}


def test_nothing_is_fetched_unless_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    sentence = preflight.check(Run(remote(pretrained=False)))
    assert sentence is not None
    assert "nothing is fetched unless it is asked; add model.pretrained=true" in sentence
    assert "\n" not in sentence


def test_a_name_on_the_hub_is_fetched_and_then_a_folder(
    of_timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def snapshot_download(repository: str, **keys: Any) -> str:
        calls.append((repository, keys["revision"], keys["allow_patterns"]))
        return str(of_timm)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    encoder = models.build(Run(remote(pretrained=True)).resolved["model"])
    assert models.fingerprint(encoder) == models.fingerprint(built(of_timm))
    assert encoder.preprocessing.mean == (0.1, 0.2, 0.3)
    assert hub.fetched("me/net@v2") == of_timm
    described = ["config.json", "preprocessor_config.json", "model.safetensors.index.json",
                 "pytorch_model.bin.index.json", "model.safetensors"]  # fmt: skip
    assert calls == [("me/net", None, described), ("me/net", "v2", described)]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (GatedRepoError, "accept it at https://huggingface.co/me/net, log in by `hf auth login`"),
        (RepositoryNotFoundError, "must be a repository of the Hugging Face hub, but is none"),
        (OSError, r"that fails \(OSError: no route\); fetch its files elsewhere"),
    ],
)
def test_what_cannot_be_fetched_is_said_before_work(
    kind: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        error = kind.__new__(kind, "no route")
        error.args = ("no route",)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    told = preflight.check(Run(remote(pretrained=True)))
    assert told is not None
    assert "\n" not in told
    with pytest.raises(ValueError, match=sentence):
        hub.fetched("me/net")


def test_a_file_of_weights_by_another_name_is_read_where_there_is_no_safetensors(
    of_timm: Path, tmp_path: Path
) -> None:
    shutil.copy(of_timm / "config.json", tmp_path)
    torch.save(load_file(of_timm / "model.safetensors"), tmp_path / "pytorch_model.bin")
    assert models.fingerprint(built(tmp_path)) == models.fingerprint(built(of_timm))
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == TIMM_ARCH
