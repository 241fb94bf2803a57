"""Types and ranges of what a user sets: sentences before any work, from YAML and from Python."""

import copy
import functools
import math
import typing
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from launchers.local import Slots
from launchers.slurm import Options
from launchers.sweeper import command_lines
from ssl_transfer.config import (
    AXES,
    RootOptions,
    TrainerOptions,
    compose,
    locate,
    options,
    plain,
    ranges,
    resolve,
)
from ssl_transfer.config.ranges import Count, Fraction, Positive, Range, Seed, Side, Text, fault
from ssl_transfer.datasets.transforms import Augmentation, View
from ssl_transfer.methods.monitors import Monitoring
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.knn import KNN
from ssl_transfer.protocols.logistic_regression import LogisticRegression
from ssl_transfer.protocols.tuning import Tuning
from ssl_transfer.runs import config_parts
from ssl_transfer.runs.signature import problems, shared_problems, signature_problems
from ssl_transfer.training import optim
from ssl_transfer.training.options import TrainingOptions

SGD = {"name": "sgd", "lr": 0.1}
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 8}


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    return plain(compose(overrides))


def edited(path: str, value: Any, *overrides: str) -> dict[str, Any]:
    """Return a configuration with one value replaced, as ``path=value`` would."""
    config = copy.deepcopy(composed(*overrides))
    *parents, key = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[key] = value
    return config


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("path", "value", "must"),
    [
        ("protocol.grid.lr", [], "`grid.lr` must list one value or more"),
        ("protocol.grid.lr", [-1], "every item of `grid.lr` must be positive, but one is -1"),
        ("protocol.grid.lr", [0], "every item of `grid.lr` must be positive, but one is 0"),
        ("protocol.grid.lr", [NAN], "every item of `grid.lr` must be positive, but one is nan"),
        ("protocol.grid.lr", [0.1, 0.1], "`grid.lr` must list one value or more, each once"),
        ("protocol.grid.lr", [1e300], "every item of `grid.lr` must be at most 1e+30"),
        ("protocol.grid.weight_decay", [-5], "`grid.weight_decay` must be at least 0, but one is"),
        ("protocol.grid.lr", [True], "`protocol.grid` must be a mapping to a list of numbers"),
        ("protocol.optimizer.momentum", 2, "`protocol.optimizer.momentum` must lie in [0, 1)"),
        ("protocol.optimizer.nesterov", 1, "`protocol.optimizer.nesterov` must be bool"),
        ("protocol.batch_size", True, "`protocol.batch_size` must be int, but is True"),
        ("protocol.batch_size", 10**400, "`protocol.batch_size` must be at most 1048576"),
        ("protocol.batch_size", 64.0, "`protocol.batch_size` must be int, but is 64.0"),
        ("protocol.warmup_epochs", 31, "`warmup_epochs` must be at most `epochs` (30)"),
        ("protocol.epochs", INF, "`protocol.epochs` must be at most 1000000, but is inf"),
        ("protocol.epochs", "many", "`protocol.epochs` must be float, but is 'many'"),
        ("protocol.keep_encoder", 0, "`protocol.keep_encoder` must be bool, but is 0"),
        ("protocol.image_size", 10**5, "`protocol.image_size` must be at most 8192"),
        ("protocol.name", "", "`protocol.name` must not be empty"),
        ("protocol.resources", "a lot", "`protocol.resources` must be a mapping or null"),
        ("seed", -1, "`seed` must be at least 0, but is -1"),
        ("seed", 2**70, "`seed` must be at most 9223372036854775807"),
        ("seed", 2.5, "`seed` must be int, but is 2.5"),
        ("seed", None, "`seed` must be int, but is None"),
        ("method.seed", 2.5, "`method.seed` must be int, but is 2.5"),
        ("dataset.split_seed", -1, "`dataset.split_seed` must be at least 0"),
        ("dataset.name", "", "`dataset.name` must not be empty"),
        ("dataset.name", "  ", "`dataset.name` must not be empty"),
        ("dataset.val_fraction", 1, "`dataset.val_fraction` must lie in [0, 1), but is 1"),
        ("dataset.label_fraction", 0, "`dataset.label_fraction` must lie in (0, 1], but is 0"),
        ("dataset.label_fraction", 1.5, "`dataset.label_fraction` must lie in (0, 1]"),
        ("dataset.label_fraction", None, "`dataset.label_fraction` must be float, but is None"),
        ("dataset.labels_per_class", 1, "`dataset.labels_per_class` must be at least 2"),
        ("trainer.checkpoint_every_steps", 0, "`trainer.checkpoint_every_steps` must be at least"),
        ("trainer.checkpoint_every_steps", -1, "must be at least 1, but is -1"),
        ("trainer.checkpoint_every_minutes", NAN, "must be at least 0, but is nan"),
        ("trainer.workers", 1000, "`trainer.workers` must be at most 512, but is 1000"),
        ("trainer.workers", True, "`trainer.workers` must be int, but is True"),
        ("trainer.device", "gpu", "`trainer.device` must be auto, cpu or cuda, but is 'gpu'"),
        ("trainer.compile", "yes", "`trainer.compile` must be bool, but is 'yes'"),
        ("trainer.batch_size_eval", 0, "`trainer.batch_size_eval` must be at least 1"),
        ("trainer.monitor.k", 0, "`trainer.monitor.k` must be at least 1"),
        ("force", 2, "`force` must be bool, but is 2"),
        ("debug", 0, "`debug` must be bool, but is 0"),
        ("seeed", 4, "`seeed` is not a key of the configuration; did you mean `seed`?"),
        ("trainer.worker", 4, "`trainer.worker` is not a key of `trainer`; did you mean `workers`"),
        ("logger.mode", "sideways", "`logger.mode` must be one of ['online', 'offline', 'disab"),
        ("logger.name", 5, "must be one of ['none', 'wandb', 'tensorboard'], but is 5"),
        ("precision", "bf17", "`precision` must be one of ['fp32', 'bf16', 'fp16', 'fp64']"),
        ("paths.outputs", 3, "`paths.outputs` must be str, but is 3"),
        ("model.preprocessing.size", 10**5, "`model.preprocessing.size` must be at most 8192"),
        ("model.preprocessing.std", [0.2, 0.2, 0], "`model.preprocessing.std` must be positive"),
        ("model.preprocessing.mean", [0.5], "must be a list of 3 numbers, but is [0.5]"),
        ("model.width", 0, "`model.width` must be at least 1, but is 0"),
        ("model.name", None, "`model.name` must be str or int or float, but is None"),
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_one_sentence(path: str, value: Any, must: str) -> None:
    told = problems(edited(path, value))
    assert len(told) == 1
    assert must in told[0]
    assert "\n" not in told[0]


@pytest.mark.parametrize("key", ["seed", "trainer", "precision", "model.name", "method.seed"])
def test_a_key_that_a_run_needs_cannot_be_removed(key: str) -> None:
    config = copy.deepcopy(composed())
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    del node[last]
    assert shared_problems(config) == [
        f"`{key}` must be given, but is removed; leave out `~{key}`."
    ]


def test_a_value_outside_of_the_axes_may_refer_to_one_inside() -> None:
    assert problems(edited("seed", "${model.width}")) == []
    assert problems(edited("seed", "${model.name}")) == [
        "`seed` must be int, but is 'small_resnet'."
    ]


@pytest.mark.parametrize(
    ("recipe", "samples", "must"),
    [
        ({"batch_size": 1001}, 10, "`batch_size` must be at most 100 times the training images"),
        ({"batch_size": 10, "steps": 5, "warmup_epochs": 1.0}, 100, "at most the 0.5 epochs that"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(recipe: Any, samples: int, must: str) -> None:
    whole = TrainingOptions(**{"epochs": 10, "optimizer": SGD} | recipe)
    whole.check_samples(50)
    with pytest.raises(ValueError, match=must):
        whole.check_samples(samples)


@pytest.mark.parametrize(
    "line", ["seed=range(5,0)", "seed=range(0,5,0)", "seed=range(0,1000000000)", "seed=glob(x*)"]
)
def test_a_sweep_of_no_runs_or_too_many_is_refused(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = SimpleNamespace(get_group_options=lambda *_, **__: [])
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([line])
    with pytest.raises(SystemExit) as refusal:
        command_lines(overrides)
    assert refusal.value.code == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "value", "must"),
    [
        ("method.temperature", 0, "`method.temperature` must be positive, but is 0"),
        ("method.epochs", 5, "`warmup_epochs` must be at most `epochs` (5)"),
        ("method.projector.dims", [], "`method.projector.dims` must not be empty"),
        ("method.projector.dims", [0], "`method.projector.dims` must be at least 1, but one is 0"),
        ("method.optimizer.betas", [0.9], "`method.optimizer.betas` must have 2 items"),
        ("method.optimizer.betas", [0.9, 1.0], "`method.optimizer.betas` must lie in [0, 1)"),
        ("method.optimizer.lr", -0.1, "`method.optimizer.lr` must be at least 0, but is -0.1"),
        ("method.pretrain_on.val_fraction", NAN, "`method.pretrain_on.val_fraction` must lie in"),
        ("method.pretrain_on.test_fraction", 2, "`method.pretrain_on.test_fraction` must lie in"),
        ("method.bn_groups", False, "`method.bn_groups` must be int, but is False"),
    ],
)
def test_so_are_those_of_a_pretraining(path: str, value: Any, must: str) -> None:
    line = ["method=simclr", "dataset@method.pretrain_on=image_folder", "method.pretrain_on.root=."]
    told = problems(edited(path, value, *line))
    assert len(told) == 1
    assert must in told[0]


def _numeric(hint: Any, *, bounded: bool = False) -> bool:
    """Return whether an annotation takes numbers that no range limits."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounded = bounded or any(isinstance(extra, Range) for extra in parts[1:])
        return _numeric(parts[0], bounded=bounded)
    if origin is Literal:
        return False
    if parts:
        return any(_numeric(part, bounded=bounded) for part in parts)
    return hint in (int, float) and not bounded


def _targets() -> dict[Any, str]:
    """Return every callable that an option of an axis names, with where it stands."""
    found: dict[Any, str] = {}
    more = {"timm": ["model.arch=resnet18"], "torchvision": ["model.arch=resnet18"],
            "seed": ["+method.teacher={model:resnet50}"]}  # fmt: skip
    for axis in AXES:
        for path in sorted((ranges_folder() / axis).glob("[!_]*.yaml")):
            text = path.read_text(encoding="utf-8")
            if "_target_: ssl_transfer" in text:
                target = text.partition("_target_: ")[2].split()[0]
                found[locate(target)] = f"{axis}={path.stem}"
    config = resolve(composed("method=simclr", "protocol=finetune", *more["torchvision"][:0]))
    for axis in AXES:
        for part in config_parts.parts(axis, config[axis]):
            target = locate(part.target) if isinstance(part.target, str) else part.target
            found.setdefault(target, part.path)
    return found


def ranges_folder() -> Any:
    from ssl_transfer.config import CONF

    return CONF


def test_every_number_that_a_user_sets_has_a_range() -> None:
    targets = _targets()
    assert len(targets) > 50
    others = [*optim.OPTIMIZERS.values(), TrainingOptions, Monitoring, View, Preprocessing,
              TrainerOptions, RootOptions, Slots, Options]  # fmt: skip
    # A name may be a number;
    # `grid` is checked by the ranges of the optimizer's keys, class weights against each other.
    exempt = {"name", "grid", "class_weights", "additional", "num_classes", "in_dim"}
    unbounded = {
        f"{target.__qualname__}.{name}"
        for target in (*targets, *others)
        for name, hint in ranges.hints(target).items()
        if name not in exempt and _numeric(hint)
    }
    assert unbounded == set()


@pytest.mark.parametrize(
    ("build", "must"),
    [
        (lambda: KNN(k=0), "`k` must be at least 1, but is 0"),
        (lambda: KNN(temperature=INF), "`temperature` must be finite, but is inf"),
        (lambda: LogisticRegression(tol=1), r"`tol` must lie in \(0, 1\), but is 1"),
        (lambda: Preprocessing(size=0), "`preprocessing.size` must be at least 1"),
        (lambda: Preprocessing(std=(1.0, 0.0, 1.0)), "every item of `preprocessing.std` must be p"),
        (lambda: Augmentation(hue=0.6), r"`hue` must lie in \[0, 0.5\]"),
        (lambda: Augmentation(crop_scale=(0.9, 0.1)), "`crop_scale` must be a range in ascending"),
        (lambda: View(count=0), "`count` must be at least 1"),
        (lambda: Monitoring(every_epochs=0.0), "`every_epochs` must be positive"),
        (lambda: small_resnet(blocks=-1), "`model.blocks` must be at least 1"),
        (lambda: TrainingOptions(**SHORT, optimizer={**SGD, "momentum": 1.0}), "momentum` m"),
        (lambda: TrainingOptions(**SHORT, optimizer=SGD, warmup_epochs=2), "`warmup_epochs`"),
        (lambda: Tuning(trainable="all", epochs=1, batch_size=8, optimizer=SGD,
                        grid={"lr": [0.1, 0.1]}), "`grid.lr` must list one value or more"),
        (lambda: Tuning(trainable="all", epochs=1, batch_size=8, optimizer=SGD,
                        grid={"encoder_lr": [0.0]}), "every item of `grid.encoder_lr` must be p"),
        (lambda: optim.build({"name": "sgd", "lr": -1.0}, []), "`optimizer.lr` must be at least 0"),
    ],
)  # fmt: skip
def test_python_code_meets_the_same_ranges(build: Any, must: str) -> None:
    with pytest.raises(ValueError, match=must):
        build()


def test_a_signature_stays_what_it_was() -> None:
    @ranges.checked("my.")
    def function(a: Count, b: Positive = 2.0, *, c: str = "c") -> tuple[int, float, str]:
        """Return all."""
        return a, b, c

    assert function(3, c="d") == (3, 2.0, "d")
    assert function.__doc__ == "Return all."
    assert signature_problems("my", function, {"d": 1}, supplied=frozenset()) == [
        "`my.d` is not a key of `my`; known keys: a, b, c.",
        "`my.a` must be given.",
    ]
    with pytest.raises(ValueError, match=r"`my\.b` must be positive, but is -1"):
        function(1, -1)
    with pytest.raises(TypeError):
        function()


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (3, Count, True),
        (True, Count, False),
        (3.0, Count, False),
        ("3", Count, False),
        (None, Count | None, True),
        (0, Count | None, False),
        (1, Fraction, True),
        (1.0000001, Fraction, False),
        (NAN, Fraction, False),
        (False, Fraction, False),
        (1, bool, False),
        (True, bool, True),
        (2**63 - 1, Seed, True),
        (2**63, Seed, False),
        (8192, Side, True),
        ("", Text, False),
        (False, Literal[0, -1], False),
        (0, Literal[0, -1], True),
        ([1, 2.5], list[Positive], True),
        ([1, -2.5], list[Positive], False),
        ([0.1, 1], tuple[Fraction, Fraction], True),
        ([0.1], tuple[Fraction, Fraction], False),
        ({"a": [1.0], "b": None}, dict[str, list[float] | None], True),
        ({"a": ["1"]}, dict[str, list[float] | None], False),
        (10**400, float, True),
        ({1: 2}, Mapping[str, Any], False),
    ],
)
def test_what_fits_an_annotation(value: Any, hint: Any, fits: bool) -> None:
    assert (fault(value, hint) is None) == fits


def test_a_range_names_the_bound_that_is_violated() -> None:
    assert Range(1, cap=9).violated(0) == "be at least 1"
    assert Range(1, cap=9).violated(10) == "be at most 9"
    assert Range(0, 1, open_low=True).violated(0) == "lie in (0, 1]"
    assert Range(0, open_low=True).violated(NAN) == "be positive"
    assert Range(0).violated(INF) == "be finite"
    assert Range(0.5, open_low=True).violated(0.5) == "be above 0.5"
    assert Range(0).violated(10**400) is None


def test_a_monstrous_number_is_shown_briefly() -> None:
    assert ranges.shown(10**5000) == "a number of thousands of digits"
    assert len(ranges.shown("x" * 10_000)) == 198


def test_options_are_among_those_that_are_checked() -> None:
    assert {"simclr", "dino"} <= set(options("method"))
