"""The schema of the shared groups, composition, and ``problems``: everything wrong, at once."""

import dataclasses
import functools
import importlib
import inspect
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ssl_transfer import places
from ssl_transfer.arguments import argument
from ssl_transfer.complaints import did_you_mean
from ssl_transfer.composer import Composer
from ssl_transfer.ranges import Count, Matching, Range, Seed, Text, faults, shown

CONF = Path(__file__).resolve().parent.parent / "conf"
AXES = ("model", "method", "dataset", "protocol")
DEVICE = Matching("auto|(cpu|cuda|mps|xpu)(:[0-9]+)?", "auto, cpu or cuda")


@dataclasses.dataclass
class TrainerOptions:
    """Group ``trainer``: how training is carried out; nothing here can change a score."""

    device: Annotated[str, Matching("auto|(cpu|cuda|mps|xpu)(:[0-9]+)?", "auto, cpu or cuda")] = (
        "auto"
    )
    workers: Annotated[int, Range(0, cap=512)] = 0
    accumulate: Count = 1
    batch_size_eval: Annotated[int, Range(1, cap=10**6)] = 256
    checkpoint_every_steps: Count | None = None
    checkpoint_every_minutes: Annotated[float, Range(0, cap=10**6)] = 5.0
    compile: bool = False
    channels_last: bool = False
    progress_bar: bool = True
    decode_once: Literal["auto", "always", "never"] = "auto"
    monitor: Any = None


@dataclasses.dataclass
class PathOptions:
    """Group ``paths``: where things lie on this computer."""

    outputs: str = "outputs"
    data: str = "data"
    weights: str = "weights"
    features: str = "outputs/features"
    stage: str | None = None
    group_writable: bool = False


@dataclasses.dataclass
class LoggerOptions:
    """Group ``logger``; all keys but the name belong to wandb."""

    name: Literal["none", "wandb"]
    project: Text = "ssl_transfer"
    entity: str | None = None
    group: str | None = None
    run_name: str | None = None
    tags: Sequence[str] = ()
    mode: Literal["online", "offline", "disabled"] = "online"


@dataclasses.dataclass
class RootOptions:
    """The whole configuration of a run."""

    model: Any = MISSING
    method: Any = MISSING
    dataset: Any = MISSING
    protocol: Any = MISSING
    trainer: Any = dataclasses.field(default_factory=lambda: dataclasses.asdict(TrainerOptions()))
    logger: Any = MISSING
    paths: Any = dataclasses.field(default_factory=lambda: dataclasses.asdict(PathOptions()))
    seed: Seed = 0
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    debug: bool = False
    retry: bool = False
    force: bool = False
    tables: bool = True


# Without types: OmegaConf would take 2 for true and 2.5 for 2. `problems` reads the annotations.
ConfigStore.instance().store(name="schema", node=dataclasses.asdict(RootOptions()))

NEEDED = (*AXES, "trainer", "paths", "seed", "precision", "debug", "retry", "force")
"""Keys without which a run has no identity or no place."""


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the configuration that these overrides give on the command line.

    Raises:
        hydra.errors.HydraException: for an unknown option or key; the message lists the known.
    """
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        loader = GlobalHydra.instance().config_loader()
    else:
        loader = _loader(_edits())
    return _composer(loader).compose(overrides)


def _edits() -> tuple[int, int]:
    """Return the number of the files in ``conf/`` and the latest time at which one was written."""
    times = [
        Path(folder, name).stat().st_mtime_ns
        for folder, _, names in os.walk(CONF)
        for name in names
    ]
    return len(times), max(times)


@functools.lru_cache(maxsize=1)
def _loader(edits: tuple[int, int]) -> ConfigLoader:
    """Return Hydra's loader of ``conf/``; ``edits`` tells versions of the files apart."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


@functools.lru_cache(maxsize=4)
def _composer(loader: ConfigLoader) -> Composer:
    def whole(overrides: Sequence[str]) -> DictConfig:
        config = loader.load_configuration(
            "config", list(overrides), run_mode=RunMode.RUN, from_shell=False
        )
        with open_dict(config):
            del config["hydra"]
        return config

    return Composer(loader, whole)


def options(group: str) -> list[str]:
    """Return the names of a configuration group's options."""
    names = (path.stem for path in (CONF / group).glob("*.yaml"))
    return sorted(name for name in names if not name.startswith("_"))


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain dictionaries, interpolations unresolved.

    Raises:
        hydra.errors.HydraException: if an encoder reference in it does not compose.
    """
    from ssl_transfer.references import expanded

    container = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(container, dict)
    return expanded({str(k): v for k, v in container.items() if k != "hydra"})


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain configuration as it is meant here: without interpolations and ``~``."""
    resolved = OmegaConf.to_container(OmegaConf.create(_unsettled(config)), resolve=True)
    assert isinstance(resolved, dict)
    return {key: _copied(resolved[key] if key in resolved else config[key]) for key in config}


# An interpolation that spells out what it stands for, without another one or a user's resolver.
_SPELT_OUT = re.compile(r"\$\{(oc\.(env|select):)?[^${}:\\'\"]*\}")
_SIMPLE = frozenset({str, int, float, bool, type(None)})


def _unsettled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes with interpolations or missing values, and all that these may refer to.

    OmegaConf takes 20 ms for a whole configuration, of which next to nothing needs it.
    """
    unsettled: dict[str, str] = {}
    for key, node in config.items():
        texts = []
        for leaf in _leaves(node):
            if type(leaf) not in _SIMPLE:
                return dict(config)
            if isinstance(leaf, str) and ("${" in leaf or "???" in leaf):
                texts.append(leaf)
        if any("${" in _SPELT_OUT.sub("", text) for text in texts):
            return dict(config)
        if texts:
            unsettled[key] = " ".join(texts)
    mentions = " ".join(unsettled.values())
    return {k: node for k, node in config.items() if k in unsettled or k in mentions}


def _leaves(node: Any) -> Iterator[Any]:
    """Yield everything in a node but lists and dictionaries with textual keys."""
    if type(node) is dict and all(type(key) is str for key in node):
        for value in node.values():
            yield from _leaves(value)
    elif type(node) in (list, tuple):
        for value in node:
            yield from _leaves(value)
    else:
        yield node


def _copied(node: Any) -> Any:
    """Return a copy, as OmegaConf would: with lists for tuples; ``~`` is the home folder."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    if isinstance(node, str):
        return places.at_home(node) if node.startswith("~") else node
    return [_copied(item) for item in node] if isinstance(node, list | tuple) else node


def locate(target: str) -> Callable[..., Any]:
    """Return the function or class that ``package.module.name`` names.

    Raises:
        ValueError: if it cannot be imported; the sentence says which part is missing.
    """
    module_name, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`_target_` must name something that can be imported as package.module.name, "
            f"but `{target}` cannot ({error})."
        ) from error
    if not callable(found):
        raise ValueError(f"`_target_` must name a function or class, but `{target}` is neither.")
    return typing.cast("Callable[..., Any]", found)


def problems(config: Mapping[str, Any], *, processes: int = 1) -> list[str]:
    """Return one sentence for everything that is wrong with a composed configuration.

    Nothing is read but the code that the configuration names: missing data or weights are the
    business of ``runs.check``.

    Args:
        config: the whole configuration, plain, interpolations unresolved.
        processes: number of processes that will share a batch.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(OmegaConf.create(_unsettled(config))))
        if missing:
            return [f"`{key}` must be given; add `{key}=…` to the command line." for key in missing]
        resolved = resolve(config)
    except OmegaConfBaseException as error:
        return [f"every interpolation must resolve, but {str(error).splitlines()[0]}."]
    found = shared_problems(resolved)
    found += places.problems(resolved)
    for axis in AXES:
        if (
            axis == "dataset"
            and resolved[axis] is None
            and _name(resolved["protocol"]) == "pretrain"
        ):
            continue  # the pre-training set stands in the method
        found += _node_problems(axis, resolved[axis])
    if not found:
        found += _pretraining_problems(resolved)
        found += _batch_problems(resolved, processes)
        found += _start_problems(resolved)
    return found


def shared_problems(config: Mapping[str, Any], *, with_monitor: bool = True) -> list[str]:
    """Return what is wrong with everything but the axes; quick enough for finished runs, too.

    Args:
        config: the whole configuration.
        with_monitor: whether to look into ``trainer.monitor``, too, which takes torch.
    """
    if missing := list(_missing(config)):
        return [f"`{key}` must be given, but is removed; leave out `~{key}`." for key in missing]
    own = {key: value for key, value in config.items() if key not in (*AXES, "hydra")}
    seed = own.get("seed")
    # The runs of a sweep differ in their seeds; a plain one is fine.
    plain_seed = type(seed) is int and 0 <= seed < 1 << 31
    told_apart = {key: value for key, value in own.items() if key != "seed" or not plain_seed}
    seen: tuple[str, str] | None = ("" if with_monitor else "light", repr(told_apart))
    if seen in _FINE:
        return []
    try:
        resolved = resolve(own)
    except OmegaConfBaseException:  # a value may refer to one of an axis
        seen = None
        resolved = {key: resolve(config)[key] for key in own}
    found = signature_problems("", RootOptions, resolved, supplied=frozenset(AXES))
    groups = {"trainer": TrainerOptions, "paths": PathOptions, "logger": LoggerOptions}
    for group, options_of in groups.items():
        node = resolved.get(group, {"name": "none"} if group == "logger" else {})
        if not isinstance(node, Mapping):
            found.append(f"`{group}` must be an option of its group, but is {shown(node)}.")
            continue
        found += signature_problems(group, options_of, node, supplied=frozenset())
        if with_monitor and (monitor := node.get("monitor")) is not None:
            found += _node_problems("trainer.monitor", monitor)
    if not found and seen is not None:
        _FINE.add(seen)
    return found


def _missing(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that a run needs and a configuration lacks."""
    yield from (key for key in NEEDED if key not in config)
    for axis in AXES:
        node = config.get(axis)
        needed = ("name", "seed") if axis == "method" else ("name",)
        if isinstance(node, Mapping):
            yield from (f"{axis}.{key}" for key in needed if key not in node)


def _name(node: Any) -> Any:
    return node.get("name") if isinstance(node, Mapping) else None


# Nodes with nothing wrong, as (path, text): the runs of a sweep share them. A wrong one is looked
# at again, for the code that it names may have been put right.
_FINE: set[tuple[str, str]] = set()


def _node_problems(path: str, node: Any) -> list[str]:
    """Return what is wrong with one axis's node."""
    seen = (path, repr(node))
    if seen in _FINE:
        return []
    found = _bind(path, node)
    if not found:
        _FINE.add(seen)
    return found


def _bind(path: str, node: Any) -> list[str]:
    """Bind one axis's node to what it names: its target, its recipe, its optimizer."""
    from ssl_transfer import binding

    if not isinstance(node, Mapping):
        return [f"`{path}` must be an option of its group, but is {node!r}."]
    found: list[str] = []
    checkable: list[Callable[[], list[str]]] = []
    for part in binding.parts(path, node):
        if not isinstance(part.keys, Mapping):
            found.append(f"`{part.path}` must be a mapping of keys, but is {part.keys!r}.")
            continue
        if not (isinstance(part.target, str) or callable(part.target)):
            found.append(
                f"`{part.path}._target_` must name a function or class, but is {part.target!r}."
            )
            continue
        try:
            target = locate(part.target) if isinstance(part.target, str) else part.target
        except ValueError as error:
            found.append(f"`{part.path}`: {error}")
            continue
        found += signature_problems(part.path, target, part.keys, supplied=part.supplied)
        if part.built:
            checkable.append(functools.partial(_value_problems, part.path, target, part.keys))
    return found or [problem for check in checkable for problem in check()]


def _value_problems(path: str, target: Callable[..., Any], keys: Mapping[str, Any]) -> list[str]:
    """Return what an object that checks its own values has to say of them."""
    try:
        target(**keys)
    except ValueError as error:
        return [f"`{path}`: {error}"]
    return []


def signature_problems(
    path: str, target: Callable[..., Any], keys: Mapping[str, Any], *, supplied: frozenset[str]
) -> list[str]:
    """Return what is wrong with calling ``target(**keys)``, without calling it.

    Args:
        path: where the keys stand in the configuration.
        target: function or class.
        keys: the keyword arguments.
        supplied: parameters that the caller adds by itself.
    """
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [
        name
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in supplied
    ]
    place, whole = (f"{path}.", f"`{path}`") if path else ("", "the configuration")
    found = []
    for key in keys:
        if key not in named and not open_ended:
            hint = did_you_mean(str(key), named) or f"; known keys: {', '.join(named)}."
            found.append(f"`{place}{key}` is not a key of {whole}{hint}")
    for name in named:
        if parameters[name].default is inspect.Parameter.empty and name not in keys:
            found.append(f"`{place}{name}` must be given.")
    for key, fault in faults(target, keys).items():
        remedy = ""
        if fault.must == "be str" and type(keys[key]) in (int, float):
            typed = argument(f"{place}{key}", str(keys[key]))
            remedy = f"; a text that looks like a number stands in quotes, as in {typed}"
        found.append(fault.sentence(f"{place}{key}", remedy))
    return found


def _pretraining_problems(config: Mapping[str, Any]) -> Iterator[str]:
    method = config["method"]
    if config["protocol"]["name"] == "pretrain" and method.get("_target_") is None:
        known = ", ".join(name for name in options("method") if name != "as_is")
        yield (
            f"`method` must pre-train for `protocol=pretrain`, but is {method['name']!r}, "
            f"which takes weights as they are; known methods: {known}."
        )


def _start_problems(config: Mapping[str, Any]) -> Iterator[str]:
    start, model = config["method"].get("start_from"), config["model"]
    path = (model.get("weights") or {}).get("path")
    if start is not None and path is not None and start["model"] != model:
        yield (
            "`model.weights.path` must be null where `method.start_from` names another model's "
            f"weights, but is {path!r}; remove either."
        )


def _batch_problems(config: Mapping[str, Any], processes: int) -> Iterator[str]:
    accumulate = config["trainer"]["accumulate"]
    for owner in ("method", "protocol"):
        node = config[owner]
        size = node.get("batch_size")
        if size is None or (owner == "protocol" and config["protocol"]["name"] == "pretrain"):
            continue
        if size % (processes * accumulate):
            yield (
                f"`{owner}.batch_size` must be a multiple of processes × trainer.accumulate "
                f"({processes} × {accumulate}), but is {size}."
            )
        groups = node.get("bn_groups", 1)
        if size % groups or (groups % processes and processes % groups):
            yield (
                f"`{owner}.bn_groups` must divide the batch ({size}), and divide or be a multiple "
                f"of the processes ({processes}), but is {groups}."
            )
