"""The schema of the shared groups, composition, and ``problems``: everything wrong, at once."""

import dataclasses
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_transfer import places
from ssl_transfer.arguments import argument
from ssl_transfer.complaints import did_you_mean

CONF = Path(__file__).resolve().parent.parent / "conf"
AXES = ("model", "method", "dataset", "protocol")


@dataclasses.dataclass
class TrainerOptions:
    """Group ``trainer``: how training is carried out; nothing here can change a score."""

    device: str = "auto"
    workers: int = 0
    accumulate: int = 1
    batch_size_eval: int = 256
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float = 5.0
    compile: bool = False
    channels_last: bool = False
    progress_bar: bool = True
    decode_once: str = "auto"
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
class RootOptions:
    """The whole configuration of a run."""

    model: Any = MISSING
    method: Any = MISSING
    dataset: Any = MISSING
    protocol: Any = MISSING
    trainer: TrainerOptions = dataclasses.field(default_factory=TrainerOptions)
    logger: Any = MISSING
    paths: PathOptions = dataclasses.field(default_factory=PathOptions)
    seed: int = 0
    precision: str = "fp32"
    debug: bool = False
    retry: bool = False
    force: bool = False
    tables: bool = True


ConfigStore.instance().store(name="schema", node=RootOptions)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the configuration that these overrides give on the command line.

    Raises:
        hydra.errors.HydraException: for an unknown option or key; the message lists the known.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        return hydra_compose("config", overrides=list(overrides))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides))


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
    found = list(_shared_problems(resolved))
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


def _shared_problems(config: Mapping[str, Any]) -> Iterator[str]:
    known = ("fp32", "bf16", "fp16", "fp64")
    if config["precision"] not in known:
        yield f"`precision` must be one of {list(known)}, but is {config['precision']!r}."
    for name in ("workers", "accumulate", "batch_size_eval"):
        lowest = 0 if name == "workers" else 1
        if config["trainer"][name] < lowest:
            yield (f"`trainer.{name}` must be at least {lowest}, but is {config['trainer'][name]}.")
    choice, choices = config["trainer"].get("decode_once", "auto"), ("auto", "always", "never")
    if choice not in choices:
        yield f"`trainer.decode_once` must be one of {list(choices)}, but is {choice!r}."
    if (monitor := config["trainer"].get("monitor")) is not None:
        yield from _node_problems("trainer.monitor", monitor)


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
    found = []
    for key in keys:
        if key not in named and not open_ended:
            hint = did_you_mean(key, named) or f"; known keys: {', '.join(named)}."
            found.append(f"`{path}.{key}` is not a key of `{path}`{hint}")
    for name in named:
        if parameters[name].default is inspect.Parameter.empty and name not in keys:
            found.append(f"`{path}.{name}` must be given.")
    hints = _type_hints(target)
    for key, value in keys.items():
        if key in hints and not _conforms(value, hints[key]):
            place = f"{path}.{key}"
            remedy = ""
            if hints[key] is str and type(value) in (int, float):
                typed = argument(place, str(value))
                remedy = f"; a text that looks like a number stands in quotes, as in {typed}"
            found.append(f"`{place}` must be {_wanted(hints[key])}, but is {value!r}{remedy}.")
    return found


def _wanted(hint: Any) -> str:
    """Return an annotation as words."""
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {list(typing.get_args(hint))}"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_wanted(part) for part in typing.get_args(hint))
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) in (Sequence, list):
        (item,) = typing.get_args(hint)
        return f"a list of {'numbers' if item is float else _wanted(item)}"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}  # a user's own callable may annotate with names that only a type checker knows


def _conforms(value: Any, hint: Any) -> bool:
    """Return whether a value has a type, every item of it included (beartype looks at one)."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_conforms(value, part) for part in parts)
    if origin in (Sequence, list) and isinstance(value, list):
        return all(_conforms(item, parts[0]) for item in value)
    if origin in (Mapping, dict) and isinstance(value, dict):
        return all(_conforms(k, parts[0]) and _conforms(v, parts[1]) for k, v in value.items())
    from beartype import BeartypeConf
    from beartype.door import is_bearable
    from beartype.roar import BeartypeException

    tower = BeartypeConf(is_pep484_tower=True)  # a whole number is a float, too
    try:
        # YAML knows lists only; a tuple may be asked for.
        return any(is_bearable(v, hint, conf=tower) for v in (value, _as_tuple(value)))
    except BeartypeException:
        return True  # an annotation beartype cannot judge


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


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
