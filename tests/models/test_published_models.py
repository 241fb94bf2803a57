"""The options of ``conf/model`` with published weights, each on a file of the published layout.

The files have the names and shapes of the published ones, built from the rules cited at each; a
tensor holds one number of its own, so that it is seen where it ends.
"""

import dataclasses
import pickle
import sys
import types
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from todays_encoders import TODAYS
from torch import Tensor, nn

from ssl_transfer import models
from ssl_transfer.config import compose, options, plain, resolve
from ssl_transfer.models import inspect
from ssl_transfer.models.backbones import timm_backbone, torchvision_resnet
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.reading import read_state
from ssl_transfer.models.weights import load_weights
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.signature import problems

RESNETS = (
    "insdis", "moco_v1", "moco_v2", "pcl_v1", "pcl_v2", "pirl", "simclr_v1", "simclr_v2",
    "sela_v2", "infomin", "byol", "deepcluster_v2", "swav", "barlow_twins", "supervised",
    "dino_resnet50",
)  # fmt: skip
TIMM = {
    "dino_vit_small": 384, "dinov2_small": 384, "dinov2_base": 768, "mae_vit_base": 768,
    "clip_resnet50": 2048, "swsl_resnet50": 2048,
}  # fmt: skip
PUBLISHED = (*RESNETS, *TIMM)

OTHERS = (
    "rrl_",
    "swav_",
    "seer_",
    "joint",
    "two_",
    "four_",
    "mixed_bt_",
    "resnet",
    "small_",
    "mobilenet",
    "efficient",
    "vit_",
    "invariances_",
    "ssl_small_",
)

Shapes = dict[str, tuple[int, ...]]


def _node(*overrides: str) -> dict[str, Any]:
    found: dict[str, Any] = resolve(plain(compose(overrides)))["model"]
    return found


# ---- the options --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PUBLISHED, "moco"])
def test_every_option_composes_and_without_weights_says_how_to_get_them(
    tmp_path: Path, name: str
) -> None:
    config = plain(compose([f"model={name}", f"paths.weights={tmp_path}"]))
    assert problems(config) == []
    label = "moco_v2" if name == "moco" else name
    run = Run(config)
    assert run.label == label
    sentence = preflight.check(run)
    assert sentence is not None
    file = run.resolved["model"]["weights"]["path"]
    assert sentence.startswith(f"The weights of `{label}` must exist, but `{file}` does not; ")
    assert file.startswith(f"{tmp_path}/")
    assert "\n" not in sentence
    url = config["model"]["weights"]["url"]
    assert (f"download=true to fetch them from {url}," in sentence) == (url is not None)
    assert ("convert.py of https://github.com/" in sentence) == (url is None)


def test_the_options_are_all_here() -> None:
    rest = {"custom", "timm", "torchvision", "moco", "densenet121", "fused"}
    published = {
        name for name in {*options("model")} - rest
        if not name.startswith(OTHERS) and name not in TODAYS
    }  # fmt: skip
    assert {*PUBLISHED} == published


def test_the_short_name_of_moco_v2_is_the_same_run() -> None:
    alias, full = (Run(plain(compose([f"model={name}"]))) for name in ("moco", "moco_v2"))
    assert (alias.id, alias.place) == (full.id, full.place)


def test_where_weights_come_from_and_what_was_published_is_in_no_id() -> None:
    usual = Run(plain(compose(["model=swav"])))
    for override in ("url=https://mirror.org/swav", "download=true", "obtain=ask"):
        assert Run(plain(compose(["model=swav", f"model.weights.{override}"]))).id == usual.id
    assert Run(plain(compose(["model=swav", "model.facts.epochs=1"]))).id == usual.id
    assert Run(plain(compose(["model=swav", "paths.weights=elsewhere"]))).id == usual.id
    plain_padding = Run(plain(compose(["model=byol", "model.padding=torchvision"])))
    assert plain_padding.id != Run(plain(compose(["model=byol"]))).id


def test_only_simclr_s_images_are_not_standardised() -> None:
    for name in RESNETS:
        found = _node(f"model={name}")["preprocessing"]
        unit = name in ("simclr_v1", "simclr_v2")
        assert found["mean"] == ([0, 0, 0] if unit else [0.485, 0.456, 0.406])
        assert found["std"] == ([1, 1, 1] if unit else [0.229, 0.224, 0.225])
        assert (found["size"], found["resize"]) == (224, 256)


# Epochs, batch and top-1 of tables 1 and 10 of https://arxiv.org/abs/2011.13377; of Barlow Twins:
# README of facebookresearch/barlowtwins.
FACTS = {
    "insdis": (200, 256, 0.595), "moco_v1": (200, 256, 0.606), "pcl_v1": (200, 256, 0.615),
    "pirl": (200, 1024, 0.617), "pcl_v2": (200, 256, 0.676), "simclr_v1": (1000, 4096, 0.693),
    "moco_v2": (800, 256, 0.711), "simclr_v2": (800, 4096, 0.717), "sela_v2": (400, 4096, 0.718),
    "infomin": (800, 256, 0.730), "byol": (1000, 4096, 0.743),
    "deepcluster_v2": (800, 4096, 0.752), "swav": (800, 4096, 0.753),
    "supervised": (120, 256, 0.772), "barlow_twins": (1000, 2048, 0.735),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_the_published_facts_are_those_of_the_tables(name: str) -> None:
    facts = _node(f"model={name}")["facts"]
    assert (facts["epochs"], facts["batch_size"], facts["imagenet_top1"]) == FACTS[name]
    assert facts["licence"]


@pytest.mark.parametrize(("name", "dim"), TIMM.items())
def test_the_models_of_timm_end_in_their_documented_features(name: str, dim: int) -> None:
    node = _node(f"model={name}")
    with torch.device("meta"):
        net = timm_backbone(node["arch"], options=node["options"])
    if name == "dinov2_small":
        # At the size that its position embeddings are interpolated to, which takes arithmetic.
        net = net.to_empty(device="cpu")
        for parameter in net.parameters():  # Memory as it comes may hold NaN, which is refused.
            nn.init.zeros_(parameter)
        encoder = models.wrap(net, node["preprocessing"])
        assert encoder.feature_dim == dim
        assert (encoder.preprocessing.size, encoder.preprocessing.resize) == (224, 256)
        assert encoder.preprocessing.interpolation == "bicubic"
    else:
        side = 518 if name == "dinov2_base" else 224
        assert net(torch.zeros(1, 3, side, side, device="meta")).shape == (1, dim)
    if name == "clip_resnet50":
        assert isinstance(net.preprocessing, Preprocessing)
        assert net.preprocessing.mean == (0.48145466, 0.4578275, 0.40821073)


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    """Names and shapes of torchvision's ResNet-50, its classifier included."""
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def _backbone(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.startswith("fc.")}


def _uncounted(shapes: Shapes) -> Shapes:
    kept = {n: s for n, s in _backbone(shapes).items() if not n.endswith("num_batches_tracked")}
    assert len(kept) == 265  # 53 convolutions, 53 BatchNorms of 4 tensors
    return kept


def _numbered(shapes: Shapes) -> dict[str, Tensor]:
    """Return tensors of which each is one stored number, seen in its whole shape."""
    return {
        name: torch.tensor(float(number)).expand(shape) if shape else torch.tensor(number)
        for number, (name, shape) in enumerate(shapes.items())
    }


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _layer(prefix: str, out: int, inside: int) -> dict[str, Tensor]:
    zeros = torch.zeros(())
    return {f"{prefix}.weight": zeros.expand(out, inside), f"{prefix}.bias": zeros.expand(out)}


def _moco(numbered: dict[str, Tensor], mlp: bool) -> dict[str, Any]:
    # facebookresearch/moco, moco/builder.py and main_lincls.py: `module.encoder_q.`, its fc one
    # linear layer (v1) or two with a ReLU between (v2).
    heads = _layer("fc", 128, 2048)
    if mlp:
        heads = _layer("fc.0", 2048, 2048) | _layer("fc.2", 128, 2048)
    state = _prefixed("module.encoder_q.", numbered | heads)
    return {"epoch": 200, "arch": "resnet50", "state_dict": state}


def _pcl(numbered: dict[str, Tensor], mlp: bool) -> dict[str, Any]:
    # salesforce/PCL, pcl/builder.py: MoCo's names with the key encoder and the queue.
    file = _moco(numbered, mlp)
    keys = _prefixed("module.encoder_k.", {n: torch.zeros(()).expand(t.shape)
                                           for n, t in numbered.items()})  # fmt: skip
    queue = {"module.queue": torch.zeros(()).expand(128, 16384), "module.queue_ptr": torch.zeros(1)}
    return {**file, "state_dict": file["state_dict"] | keys | queue}


def _pycontrast(numbered: dict[str, Tensor], mlp: bool, jigsaw: bool) -> dict[str, Any]:
    # HobbitLong/PyContrast, networks/build_backbone.py: encoder, head, with a jigsaw branch
    # head_jig; learning/contrast_trainer.py saves `model` beside `opt`.
    heads = _layer("head.0", 128, 2048)
    if mlp:
        heads = _layer("head.0", 2048, 2048) | _layer("head.2", 128, 2048)
    if jigsaw:
        heads |= _layer("head_jig.fc1.0", 128, 2048) | _layer("head_jig.fc2", 128, 9 * 128)
    state = _prefixed("module.", _prefixed("encoder.", numbered) | heads)
    return {"opt": {"epochs": 200}, "model": state, "epoch": 200}


def _swav(numbered: dict[str, Tensor], prototypes: list[str]) -> dict[str, Any]:
    # facebookresearch/swav, src/resnet50.py and hubconf.py: `module.`, projection head of linear,
    # BatchNorm, ReLU, linear; prototypes of one or several linear layers.
    heads = _layer("projection_head.0", 2048, 2048) | _layer("projection_head.3", 128, 2048)
    heads |= _layer("projection_head.1", 2048, 1)
    heads |= {name: torch.zeros(()).expand(3000, 128) for name in prototypes}
    return _prefixed("module.", numbered | heads)


def _simclr_v2(shapes: Shapes) -> tuple[dict[str, Any], dict[str, str]]:
    # Separius/SimCLRv2-Pytorch, resnet.py and convert.py; 265 names: simclr_keys.pkl of
    # linusericsson/ssl-transfer. Returns the file and torchvision's name of each of the names.
    names = {"net.0.0.weight": "conv1.weight"}
    parts = ("weight", "bias", "running_mean", "running_var")
    names |= {f"net.0.1.0.{part}": f"bn1.{part}" for part in parts}
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            here, there = f"net.{stage}.blocks.{block}", f"layer{stage}.{block}"
            pairs = [(f"net.{2 * i}", f"conv{i + 1}", f"net.{2 * i + 1}.0", f"bn{i + 1}")
                     for i in range(3)]  # fmt: skip
            if block == 0:
                pairs += [("projection.shortcut", "downsample.0", "projection.bn.0",
                           "downsample.1")]  # fmt: skip
            for conv, conv_there, norm, norm_there in pairs:
                names[f"{here}.{conv}.weight"] = f"{there}.{conv_there}.weight"
                names |= {f"{here}.{norm}.{p}": f"{there}.{norm_there}.{p}" for p in parts}
    assert len(names) == 265
    numbered = _numbered({name: shapes[there] for name, there in names.items()})
    counters = {n.replace("running_var", "num_batches_tracked"): torch.tensor(0)
                for n in names if n.endswith("running_var")}  # fmt: skip
    resnet = numbered | counters | _layer("fc", 1000, 2048)
    return {"resnet": resnet, "head": _layer("layers.0", 2048, 2048)}, names


def _file(name: str, shapes: Shapes) -> Any:
    numbered = _numbered(_backbone(shapes))
    return {
        "moco_v1": lambda: _moco(numbered, mlp=False),
        "moco_v2": lambda: _moco(numbered, mlp=True),
        "pcl_v1": lambda: _pcl(numbered, mlp=False),
        "pcl_v2": lambda: _pcl(numbered, mlp=True),
        "insdis": lambda: _pycontrast(numbered, mlp=False, jigsaw=False),
        "pirl": lambda: _pycontrast(numbered, mlp=False, jigsaw=True),
        "infomin": lambda: _pycontrast(numbered, mlp=True, jigsaw=True),
        "swav": lambda: _swav(numbered, ["prototypes.weight"]),
        "sela_v2": lambda: _swav(numbered, [f"prototypes.prototypes{i}.weight" for i in range(10)]),
        "deepcluster_v2": lambda: _swav(
            numbered, [f"prototypes.prototypes{i}.weight" for i in range(3)]
        ),
        # tonylins/simclr-converter, convert.py: torchvision's names with the classifier.
        "simclr_v1": lambda: {"state_dict": numbered | _layer("fc", 1000, 2048)},
        # torchvision's own file.
        "supervised": lambda: OrderedDict(numbered | _layer("fc", 1000, 2048)),
        # facebookresearch/barlowtwins and facebookresearch/dino, hubconf.py.
        "barlow_twins": lambda: numbered,
        "dino_resnet50": lambda: numbered,
    }[name]()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    with torch.device("meta"):
        net = torchvision_resnet("resnet50")
    return Encoder(net.to_empty(device="cpu"), 2048, Preprocessing(), "resnet50")


@pytest.fixture(autouse=True)
def emptied(encoder: Encoder) -> None:
    """Leave no tensor of an earlier test in the shared encoder."""
    for tensor in encoder.state_dict().values():
        tensor.fill_(-1)


def _load(encoder: Encoder, path: Path, name: str) -> models.LoadReport:
    """Load as ``factory.build`` would, into an encoder that exists."""
    weights = _node(f"model={name}")["weights"] | {"path": str(path), "sha256": None, "md5": None}
    return load_weights(encoder, **weights)


def _holds(encoder: Encoder, shapes: Shapes) -> bool:
    state = encoder.backbone.state_dict()
    return all(torch.equal(state[name], tensor.to(state[name].dtype))
               for name, tensor in _numbered(_backbone(shapes)).items())  # fmt: skip


@pytest.mark.parametrize("name", [n for n in RESNETS if n not in ("simclr_v2", "byol")])
def test_a_published_resnet50_is_read_whole_by_its_option(
    tmp_path: Path, encoder: Encoder, shapes: Shapes, name: str
) -> None:
    path = tmp_path / "x.pth.tar"
    torch.save(_file(name, shapes), path)
    report = _load(encoder, path, name)
    assert report.complete
    assert len(report.matched) == report.total == 318
    assert _holds(encoder, shapes)
    assert sum(p.numel() for p in encoder.parameters()) == 23_508_032


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_openmmlab_s_backbones_are_read_with_and_without_prefix(
    tmp_path: Path, encoder: Encoder, shapes: Shapes, prefix: str
) -> None:
    # open-mmlab/mmselfsup: `load_from` needs `backbone.`; tools/model_converters/
    # extract_backbone_weights.py writes {state_dict, author} without it.
    state = _prefixed(prefix, _numbered(_backbone(shapes)))
    if prefix:
        state |= _layer(f"{prefix.replace('backbone.', '')}head.fc_cls", 47, 2048)
    torch.save({"state_dict": state, "author": "OpenSelfSup"}, tmp_path / "swav_backbone.pth")
    report = load_weights(encoder, tmp_path / "swav_backbone.pth", layout="mmselfsup")
    assert len(report.matched) == 318
    assert _holds(encoder, shapes)


def test_simclr_v2_s_265_names_are_read(tmp_path: Path, encoder: Encoder, shapes: Shapes) -> None:
    file, names = _simclr_v2(shapes)
    torch.save(file, tmp_path / "r50_1x_sk0.pth")
    report = _load(encoder, tmp_path / "r50_1x_sk0.pth", "simclr_v2")
    assert sorted(set(report.matched) & set(_uncounted(shapes))) == sorted(_uncounted(shapes))
    state = encoder.backbone.state_dict()
    for name, there in names.items():
        assert torch.equal(state[there], file["resnet"][name]), there


# ---- BYOL ---------------------------------------------------------------------------------------


def _haiku_arrays(shapes: Shapes) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """Return parameters and state as Haiku has them, and the number in each of our tensors.

    google-deepmind/deepmind-research, byol/utils/networks.py (ResNetTorso: initial_conv,
    initial_batchnorm, block_group_i) and dm-haiku, haiku/_src/nets/resnet.py (block_i, conv_i,
    batchnorm_i, shortcut_conv, shortcut_batchnorm), batch_norm.py (scale and offset [1, 1, 1, C];
    mean_ema, var_ema), moving_averages.py (counter, hidden, average). Modules made in a
    constructor stand below `~`.
    """
    params: dict[str, Any] = {}
    state: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    root = "res_net50/~"

    def add(conv: str, norm: str, conv_there: str, norm_there: str) -> None:
        out, inside, height, width = shapes[f"{conv_there}.weight"]
        values = [len(numbers) + i for i in range(5)]
        params[f"{root}/{conv}"] = {"w": _array((height, width, inside, out), values[0])}
        numbers[f"{conv_there}.weight"] = values[0]
        row = (1, 1, 1, out)
        params[f"{root}/{norm}"] = {
            "scale": _array(row, values[1]),
            "offset": _array(row, values[2]),
        }
        for moment, there, value in (("mean", "mean", values[3]), ("var", "var", values[4])):
            state[f"{root}/{norm}/~/{moment}_ema"] = {
                "average": _array(row, value), "counter": np.array(7, np.int32),
                "hidden": _array(row, 250),
            }  # fmt: skip
            numbers[f"{norm_there}.running_{there}"] = value
        numbers[f"{norm_there}.weight"], numbers[f"{norm_there}.bias"] = values[1], values[2]

    for group, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            here, there = f"block_group_{group}/~/block_{block}/~", f"layer{group + 1}.{block}"
            for i in range(3):
                add(f"{here}/conv_{i}", f"{here}/batchnorm_{i}", f"{there}.conv{i + 1}",
                    f"{there}.bn{i + 1}")  # fmt: skip
            if block == 0:
                add(f"{here}/shortcut_conv", f"{here}/shortcut_batchnorm",
                    f"{there}.downsample.0", f"{there}.downsample.1")  # fmt: skip
    add("initial_conv", "initial_batchnorm", "conv1", "bn1")
    params["projector/linear"] = {"w": _array((2048, 4096), 1), "b": _array((4096,), 1)}
    params["classifier"] = {"w": _array((2048, 1000), 1)}
    return params, state, numbers


def _array(shape: tuple[int, ...], value: int) -> np.ndarray:
    # The published arrays are float32; a quarter of the bytes makes the test faster.
    return np.full(shape, value % 251, np.uint8)


FIELDS = ["online_params", "target_params", "online_state", "target_state", "opt_state"]


@pytest.fixture
def foreign() -> Iterator[types.SimpleNamespace]:
    """What a pickle of BYOL names, importable while it is written and gone when it is read.

    Haiku's FlatMapping: haiku/_src/data_structures.py; dill's treatment of named tuples:
    dill/_dill.py, save_type; optax's LARS state: byol/utils/optimizers.py.
    """

    class FlatMapping(dict[str, Any]):
        def __reduce__(self) -> tuple[Any, ...]:
            return FlatMapping, (dict(self),)

    def _create_namedtuple(name: str, fields: list[str], module: str) -> Any:
        raise AssertionError("foreign code was executed")

    LarsState = namedtuple("LarsState", ["mu"])
    places = {
        FlatMapping: "haiku._src.data_structures",
        _create_namedtuple: "dill._dill",
        LarsState: "byol.utils.optimizers",
    }
    before = set(sys.modules)
    for thing, place in places.items():
        thing.__module__, thing.__qualname__ = place, thing.__name__
        for depth in range(1, place.count(".") + 2):
            name = ".".join(place.split(".")[:depth])
            sys.modules.setdefault(name, types.ModuleType(name))
        setattr(sys.modules[place], thing.__name__, thing)
    yield types.SimpleNamespace(FlatMapping=FlatMapping, create=_create_namedtuple, Lars=LarsState)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _write_byol(path: Path, params: Any, state: Any, foreign: types.SimpleNamespace) -> None:
    """Pickle as ``dill.dump(…, protocol=2)`` of byol/utils/checkpointing.py does."""
    experiment = namedtuple("_ByolExperimentState", FIELDS)

    class Pickler(pickle.Pickler):
        def reducer_override(self, thing: Any) -> Any:
            if thing is experiment:
                where = "byol.byol_experiment"
                return foreign.create, (experiment.__name__, tuple(FIELDS), where)
            return NotImplemented

    flat = foreign.FlatMapping
    held = experiment(
        flat({k: flat(v) for k, v in params.items()}), flat(),
        flat({k: flat(v) for k, v in state.items()}), flat(),
        foreign.Lars(flat(x=np.zeros(3, np.float32))),
    )  # fmt: skip
    with path.open("wb") as file:
        content = {"experiment_state": held, "step": 300_000, "rng": np.zeros(2, np.uint32)}
        Pickler(file, protocol=2).dump(content)


def _forget(foreign: types.SimpleNamespace) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("haiku", "dill", "byol")]:
        del sys.modules[name]
    assert foreign


def test_byol_s_haiku_arrays_are_read_without_executing_anything(
    tmp_path: Path, encoder: Encoder, shapes: Shapes, foreign: types.SimpleNamespace
) -> None:
    params, state, numbers = _haiku_arrays(shapes)
    assert (len(params), len(state), len(numbers)) == (53 + 53 + 2, 106, 265)
    stem = np.arange(7 * 7 * 3 * 64, dtype=np.float32).reshape(7, 7, 3, 64)
    params["res_net50/~/initial_conv"]["w"] = stem
    path = tmp_path / "pretrain_res50x1.pkl"
    _write_byol(path, params, state, foreign)
    _forget(foreign)
    assert inspect.main([str(path), "--to", str(tmp_path / "byol.safetensors")]) == 0
    assert set(load_file(tmp_path / "byol.safetensors")) == set(numbers)
    report = _load(encoder, path, "byol")
    assert not {"haiku", "dill", "byol"} & set(sys.modules)
    assert report.complete
    assert len(report.matched) == 265
    found = encoder.backbone.state_dict()
    for name, number in numbers.items():
        if name != "conv1.weight":
            assert torch.all(found[name] == number % 251), name
    # Height, width, in, out became out, in, height, width.
    assert found["conv1.weight"][5, 2, 6, 1] == stem[6, 1, 2, 5]


def test_a_pickle_like_byol_s_with_code_in_it_is_refused_unexecuted(
    tmp_path: Path, foreign: types.SimpleNamespace
) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / "x.pkl"
    state = {"x": {"average": np.zeros(2)}, "y": {"average": Attack()}}
    _write_byol(path, {}, state, foreign)
    _forget(foreign)
    with pytest.raises(ValueError, match="would execute code when loaded"):
        read_state(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_half_a_pickle_of_byol_s_is_refused(
    tmp_path: Path, foreign: types.SimpleNamespace, share: float
) -> None:
    path = tmp_path / "x.pkl"
    params = {"res_net50/~/initial_conv": {"w": np.ones((7, 7, 3, 64), np.float32)}}
    _write_byol(path, params, {}, foreign)
    _forget(foreign)
    assert read_state(path)["experiment_state.online_params.res_net50/~/initial_conv.w"].sum() > 0
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"x\.pkl"):
        read_state(path)


# ---- padding ------------------------------------------------------------------------------------


def _padded_pair(seed: int = 0) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(seed)
    usual = torchvision_resnet("resnet18").eval()
    same = torchvision_resnet("resnet18", padding="same").eval()
    same.load_state_dict(usual.state_dict())
    return usual, same


def test_same_padding_changes_no_weight_and_only_even_sizes() -> None:
    usual, same = _padded_pair()
    assert list(usual.state_dict()) == list(same.state_dict())
    with torch.no_grad():
        # 65, 33, 17, 9, 5: with an odd size both rules put as much on either side.
        odd, even = torch.rand(2, 3, 65, 65), torch.rand(2, 3, 64, 64)
        assert torch.allclose(usual(odd), same(odd), atol=1e-6)
        assert usual(even).shape == same(even).shape
        assert not torch.allclose(usual(even), same(even), atol=1e-2)


def test_same_padding_puts_the_odd_pixel_right_and_below() -> None:
    _, same = _padded_pair()
    stem, pool = same.get_submodule("conv1"), same.get_submodule("maxpool")
    with torch.no_grad():
        stem.weight.fill_(1.0)  # type: ignore[operator, union-attr]
        counted = stem(torch.ones(1, 3, 8, 8))[0, 0] / 3
    # 7 wide, stride 2, 8 pixels: 5 more are needed, 2 before and 3 after; the first window holds
    # pixels 0 to 4, the last (from 4 on) 4 to 7.
    assert counted.shape == (4, 4)
    assert counted[0, 0] == 5 * 5
    assert counted[3, 3] == 4 * 4
    ramp = -1.0 - torch.arange(16.0).reshape(1, 1, 4, 4)
    # 3 wide, stride 2, 4 pixels: one more, after; padding never is the largest.
    assert torch.equal(pool(ramp)[0, 0], torch.tensor([[-1.0, -3.0], [-9.0, -11.0]]))


def test_byol_s_option_pads_as_jax_and_others_as_torchvision() -> None:
    assert _node("model=byol")["padding"] == "same"
    assert _node("model=swav")["padding"] == "torchvision"
    (found,) = problems(plain(compose(["model=byol", "model.padding=valid"])))
    assert "`model.padding` must be one of ['torchvision', 'same'], but is 'valid'" in found


# ---- recognition and inspection -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "looks", "layout"),
    [
        ("swav", "a SwAV, DeepCluster-v2 or SeLa-v2 checkpoint", "swav"),
        ("deepcluster_v2", "a SwAV, DeepCluster-v2 or SeLa-v2 checkpoint", "swav"),
        ("moco_v2", "a MoCo or PCL checkpoint", "moco"),
        ("pcl_v1", "a MoCo or PCL checkpoint", "moco"),
        ("pirl", "a PyContrast checkpoint (InsDis, PIRL, InfoMin)", "pycontrast"),
        ("barlow_twins", "a ResNet with torchvision's names", "torchvision"),
    ],
)
def test_a_file_of_another_layout_is_named(
    tmp_path: Path, encoder: Encoder, shapes: Shapes, name: str, looks: str, layout: str
) -> None:
    path = tmp_path / "x.pth"
    torch.save(_file(name, shapes), path)
    with pytest.raises(ValueError, match="all 318 tensors match under another layout") as caught:
        load_weights(encoder, path, layout="simclr_v2" if name != "barlow_twins" else "moco")
    sentence = str(caught.value)
    if name != "barlow_twins":  # which several layouts read
        assert f"(this looks like {looks}): use model.weights.layout={layout}." in sentence
    assert inspect.recognised(read_state(path)) == (looks, layout)


def test_a_known_layout_of_another_architecture_is_named(
    tmp_path: Path, encoder: Encoder, shapes: Shapes
) -> None:
    file, _ = _simclr_v2(shapes)
    file["resnet"]["net.0.0.weight"] = torch.zeros(()).expand(128, 3, 7, 7)  # twice as wide
    torch.save(file, tmp_path / "r50_2x_sk0.pth")
    with pytest.raises(
        ValueError, match=r"looks like a SimCLR-v2 checkpoint of .* \(layout simclr_v2\)"
    ):
        load_weights(encoder, tmp_path / "r50_2x_sk0.pth", layout="simclr_v2")


def test_inspecting_says_what_a_file_is_and_converts_it(
    tmp_path: Path, encoder: Encoder, shapes: Shapes, capsys: pytest.CaptureFixture[str]
) -> None:
    path, clean = tmp_path / "swav.pth.tar", tmp_path / "clean.safetensors"
    torch.save(_file("swav", shapes), path)
    assert inspect.main([str(path), "--to", str(clean)]) == 0
    said = capsys.readouterr().out
    for line in (
        "looks like    a SwAV, DeepCluster-v2 or SeLa-v2 checkpoint",
        "architecture  resnet50\n",
        "layout        swav",
        "matched       318 of 318\n",
        "heads         7: projection_head.0.weight,",
        f"use           model=resnet50 model.weights.path={path} model.weights.layout=swav",
        f"wrote         {clean}, 318 tensors",
    ):
        assert line in said
    assert set(load_file(clean)) == set(_backbone(shapes))
    report = load_weights(encoder, clean, layout="torchvision")
    assert dataclasses.astuple(report)[2:5] == (tuple(_backbone(shapes)), (), ())
    assert _holds(encoder, shapes)


def test_inspecting_converts_simclr_v2_and_counts_what_is_left_out(
    tmp_path: Path, shapes: Shapes, capsys: pytest.CaptureFixture[str]
) -> None:
    file, names = _simclr_v2(shapes)
    torch.save(file, tmp_path / "r50_1x_sk0.pth")
    clean = tmp_path / "clean.safetensors"
    assert inspect.main([str(tmp_path / "r50_1x_sk0.pth"), "--to", str(clean)]) == 0
    said = capsys.readouterr().out
    assert "layout        simclr_v2\n" in said
    assert "use           model=simclr_v2 " in said  # which knows how its images are prepared
    assert set(names.values()) <= set(load_file(clean))


def test_what_cannot_be_inspected_or_converted_is_one_sentence(
    tmp_path: Path, shapes: Shapes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    assert inspect.main([str(path)]) == 1
    assert "but " in capsys.readouterr().err
    state = _numbered(_backbone(shapes))
    del state["layer4.2.bn3.running_var"]
    torch.save(state, path)
    out = str(tmp_path / "y.safetensors")
    assert inspect.main([str(path), "--arch", "resnet50", "--to", out]) == 1
    told = capsys.readouterr()
    assert "architecture  resnet50, but not all fits" in told.out
    assert "the file lacks layer4.2.bn3.running_var); name its architecture" in told.err
    assert inspect.main([str(path), "--arch", "resnet5"]) == 1
    assert "close ones are" in capsys.readouterr().err
    assert not Path(out).exists()
    torch.save({"a": torch.zeros(2)}, path)
    assert inspect.main([str(path), "--to", str(tmp_path / "y.pth")]) == 1
    told = capsys.readouterr()
    assert "none of those tried; name one by --arch" in told.out
    assert "must end in .safetensors" in told.err
