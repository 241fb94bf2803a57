"""Options of today's encoders: timm's weights by its registry, other files by a layout.

The layouts are judged on files of the published names, each cited where it is written.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from todays_encoders import OPENMMLAB, RESNETS, TIMM_HUB, TODAYS, VISSL
from torch import Tensor, nn

from ssl_transfer import models
from ssl_transfer.config import compose, plain
from ssl_transfer.models.backbones import timm_backbone
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.layouts import recognised
from ssl_transfer.models.reading import read_state
from ssl_transfer.models.tokens import features_of
from ssl_transfer.models.weights import load_weights
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.signature import problems
from ssl_transfer.system.weights_files import say_terms

State = dict[str, Tensor]
FAST = ("dinov3_vit_small", "dinov2_reg_small", "siglip2_base", "moco_v3_vit_small", "jigsaw")


def fast_and_slow(names: Any) -> list[Any]:
    return [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in names]


def run_of(name: str, *overrides: str) -> Run:
    return Run(plain(compose([f"model={name}", *overrides])))


# ---- the options --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fast_and_slow(TODAYS))
def test_an_option_composes_binds_and_says_how_to_get_its_weights(
    tmp_path: Path, name: str
) -> None:
    run = run_of(name, f"paths.weights={tmp_path}")
    assert problems(run.config) == []
    assert run.label == name
    sentence = preflight.check(run)
    assert sentence is not None
    weights, facts = run.resolved["model"]["weights"], run.resolved["model"]["facts"]
    assert sentence.startswith(f"The weights of `{name}` must exist, but `{tmp_path}/")
    assert f"download=true to fetch them from {weights['url']}," in sentence
    assert "\n" not in sentence
    assert ("accept the DINOv3 licence of Meta, https://" in sentence) == ("dinov3" in name)
    assert {"trained_on", "epochs", "batch_size", "imagenet_top1", "licence"} <= set(facts)
    for key in ("imagenet_top1", "imagenet_knn"):
        assert facts.get(key) is None or 0.5 < facts[key] < 0.9


@pytest.mark.parametrize("name", fast_and_slow(n for n in TODAYS if n not in RESNETS))
def test_an_image_passes_through_the_whole_network(name: str) -> None:
    dim, side = TODAYS[name]
    node = run_of(name).resolved["model"]
    with torch.device("meta"):
        net = timm_backbone(node["arch"], options=node["options"]).eval()
    images, choice = torch.zeros(1, 3, side, side, device="meta"), node["features"]
    features = net(images) if choice == "pooled" else features_of(net, images, choice)
    assert features.shape == (1, dim)
    assert isinstance(net.preprocessing, Preprocessing)
    assert net.preprocessing.replaced(values=node["preprocessing"]).size == side


@pytest.mark.parametrize("name", fast_and_slow(TIMM_HUB))
def test_address_and_licence_are_those_of_timm_s_registry(name: str) -> None:
    node = run_of(name).resolved["model"]
    registered = timm.models.get_pretrained_cfg(node["arch"])
    repository = f"https://huggingface.co/{registered.hf_hub_id}/resolve/main/model.safetensors"
    assert node["weights"]["url"] == repository
    licence = str(node["facts"]["licence"]).lower().replace(" licence", "-license")
    if "clip" not in name or "siglip" in name:  # CLIP's: the authors' repository
        assert licence == registered.license


def test_the_class_token_is_judged_where_timm_pools_otherwise() -> None:
    assert run_of("dinov3_vit_small").resolved["model"]["features"] == "cls"
    for name in ("dinov3_convnext_tiny", "siglip2_base", "ijepa_vit_huge", "dino_vit_base"):
        assert run_of(name).resolved["model"]["features"] == "pooled"
    siglip = run_of("siglip2_base").resolved["model"]["preprocessing"]
    assert siglip["square"]


def test_moco_v3_s_small_vit_has_twelve_heads() -> None:
    node = run_of("moco_v3_vit_small").resolved["model"]  # vits.py of facebookresearch/moco-v3
    with torch.device("meta"):
        net: Any = timm_backbone(node["arch"], options=node["options"])
    assert net.blocks[0].attn.num_heads == 12


def test_a_licence_that_must_be_accepted_is_said_before_work_and_is_in_no_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    say_terms.cache_clear()
    keys = ["model.options={embed_dim:64,num_heads:2,depth:2}", f"model.weights.path={tmp_path}/x"]
    run = run_of("dinov3_vit_small", *keys)
    other = run_of("dinov3_vit_small", *keys, "model.weights.terms=null")
    assert run.id == other.id
    source = models.build({**run.resolved["model"], "weights": None})
    torch.save(source.backbone.state_dict(), tmp_path / "x")
    with caplog.at_level(logging.WARNING):
        assert preflight.check(run) is None
    (message,) = (r.getMessage() for r in caplog.records if "accepts" in r.getMessage())
    assert message.startswith("whoever uses the weights of `dinov3_vit_small` accepts the DINOv3")


# ---- layouts ------------------------------------------------------------------------------------

SMALL = {"img_size": 32, "embed_dim": 32, "num_heads": 2, "depth": 2}


def vit(arch: str = "vit_base_patch16_224", **options: Any) -> Encoder:
    return encoder_of(timm_backbone(arch, options={**SMALL, **options}))


def encoder_of(net: nn.Module) -> Encoder:
    """Return a network whose tensors all differ."""
    generator = torch.Generator().manual_seed(0)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(generator=generator)
    return Encoder(net, 32, Preprocessing(size=32, resize=None))


def layer(name: str, out: int, inside: int) -> State:
    return {f"{name}.weight": torch.ones(out, inside), f"{name}.bias": torch.ones(out)}


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def vissl(state: State) -> dict[str, Any]:
    # models/jigsaw.py of manuelknott/ssl_eval_protocols reads ["classy_state_dict"]["base_model"]
    # ["model"]["trunk"] and removes `_feature_blocks.`; heads stand beside the trunk.
    trunk = below("_feature_blocks.", state)
    model = {"trunk": trunk, "heads": layer("0.clf.0", 4, 2048)}
    return {"classy_state_dict": {"base_model": {"model": model}}, "phase_idx": 104}


def converted_vissl(state: State) -> dict[str, Any]:
    # models/npid.py there: numpy arrays below `model_state_dict`.
    named = {n: t.numpy() for n, t in below("_feature_blocks.", state).items()}
    return {"model_state_dict": named}


def moco_v3(state: State) -> dict[str, Any]:
    # moco/builder.py of facebookresearch/moco-v3: base_encoder, momentum_encoder, predictor; the
    # projector is the head (ViT) or fc (ResNet) of both.
    head = "head" if "cls_token" in state else "fc"
    whole = state | {f"{head}.0.weight": torch.ones(8, 32), f"{head}.1.running_mean": torch.ones(8)}
    other = {n: torch.zeros_like(t) for n, t in whole.items()}
    both = below("module.base_encoder.", whole) | below("module.momentum_encoder.", other)
    return {"epoch": 300, "state_dict": both | below("module.predictor.", layer("0", 8, 8))}


def ijepa(state: State) -> dict[str, Any]:
    # save_checkpoint in src/train.py of facebookresearch/ijepa, modules in DistributedDataParallel.
    context = {n: torch.zeros_like(t) for n, t in state.items()}
    return {
        "encoder": below("module.", context),
        "predictor": below("module.", layer("predictor_embed", 8, 32)),
        "target_encoder": below("module.", state),
        "opt": {"state": {}}, "scaler": None, "epoch": 300, "loss": 0.1,
    }  # fmt: skip


def openmmlab(state: State) -> dict[str, Any]:
    # models/pixmim.py of manuelknott/ssl_eval_protocols has the opposite table of names;
    # `mask_token`: models/maskfeat.py there.
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in (
            (r"^blocks\.", "layers."), (r"^patch_embed\.proj\.", "patch_embed.projection."),
            (r"^norm\.", "ln1."), (r"\.norm(\d)\.", r".ln\1."),
            (r"\.mlp\.fc1\.", ".ffn.layers.0.0."), (r"\.mlp\.fc2\.", ".ffn.layers.1."),
        ):  # fmt: skip
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    heads = layer("neck.decoder_pred", 8, 32) | {"data_preprocessor.mean": torch.ones(3, 1, 1)}
    whole = below("backbone.", renamed | {"mask_token": torch.ones(1, 1, 32)}) | heads
    return {"state_dict": whole, "meta": {"epoch": 300}}


def beit_v2(state: State) -> dict[str, Any]:
    # modeling_pretrain.py of microsoft/unilm/beit2: one table of relative positions, as
    # models/impl_utils/beit_state_dict.py of manuelknott/ssl_eval_protocols expands it.
    key = "attn.relative_position_bias_table"
    shared = state[f"blocks.0.{key}"]
    kept = {n: t for n, t in state.items() if not n.endswith(key)}
    kept |= {
        "rel_pos_bias.relative_position_bias_table": shared,
        "rel_pos_bias.relative_position_index": torch.zeros(5, 5),
        "mask_token": torch.ones(1, 1, 32),
        "cls_pt_layers.0.norm1.weight": torch.ones(32),
    }
    return {"model": kept | layer("lm_head", 8, 32), "epoch": 1599}


def ibot(state: State) -> dict[str, Any]:
    # models/ibot.py of manuelknott/ssl_eval_protocols: `state_dict` with a head of DINO's names.
    return {"state_dict": state | layer("head.mlp.0", 8, 32) | layer("head.last_layer", 8, 8)}


def resnet() -> Encoder:
    """Return layers with names of a ResNet's, which layouts do not look into."""
    layers = {"conv1": nn.Conv2d(3, 8, 3), "bn1": nn.BatchNorm2d(8), "layer1": nn.Conv2d(8, 8, 3)}
    return encoder_of(nn.Sequential(OrderedDict(layers)))


CASES: dict[str, tuple[Callable[[], Encoder], Callable[[State], Any], str, str | None]] = {
    "vissl": (resnet, vissl, "jigsaw", "a ResNet of VISSL"),
    "converted_vissl": (resnet, converted_vissl, "npid", "a ResNet of VISSL"),
    "moco_v3_resnet": (resnet, moco_v3, "moco_v3", "a MoCo-v3 checkpoint"),
    "moco_v3_vit": (vit, moco_v3, "moco_v3_vit_small", "a MoCo-v3 checkpoint"),
    "ijepa": (lambda: vit("vit_huge_patch14_gap_224", patch_size=16), ijepa, "ijepa_vit_huge",
              "an I-JEPA checkpoint"),
    "openmmlab": (vit, openmmlab, "pixmim_vit_base", "a vision transformer of OpenMMLab"),
    "beit_v2": (lambda: shared_table(vit("beitv2_base_patch16_224", global_pool="token")), beit_v2,
                "beit_v2_vit_base", "a BEiT-v2 checkpoint"),
    "ibot": (vit, ibot, "ibot_vit_base", None),
}  # fmt: skip


def shared_table(encoder: Encoder) -> Encoder:
    """Give all blocks of a network the relative positions of its first one."""
    state = encoder.backbone.state_dict()
    key = "attn.relative_position_bias_table"
    state[f"blocks.1.{key}"].copy_(state[f"blocks.0.{key}"])
    return encoder


@pytest.mark.parametrize("case", CASES)
def test_a_published_file_is_read_whole_and_exactly(tmp_path: Path, case: str) -> None:
    make, write, option, looks = CASES[case]
    source = make()
    torch.save(write(source.backbone.state_dict()), tmp_path / "x.pth")
    layout = run_of(option).config["model"]["weights"]["layout"]
    for name in (layout, "auto"):
        target = make()
        for tensor in target.backbone.state_dict().values():
            tensor.zero_()
        assert load_weights(target, tmp_path / "x.pth", layout=name).complete
        assert models.fingerprint(target) == models.fingerprint(source)
        assert target.head is None or case == "vissl"
    if looks is not None:
        words, recognised_layout = recognised(read_state(tmp_path / "x.pth")) or ("", "")
        assert (words, recognised_layout) == (looks, layout)


def test_options_name_the_layouts_of_their_authors() -> None:
    layouts = {n: run_of(n).config["model"]["weights"]["layout"] for n in (VISSL[0], OPENMMLAB[0])}
    assert layouts == {VISSL[0]: "vissl", OPENMMLAB[0]: "mmpretrain_vit"}
