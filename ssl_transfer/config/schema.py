"""Names and types of the keys of every configuration: the axes and the other groups."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from ssl_transfer.config.ranges import Count, Matching, Range, Seed, Text

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel contains the files inside the package; a clone has them beside the package.
_PLACES = (_PACKAGE / "conf", _PACKAGE.parent / "conf")
CONF = next((place for place in _PLACES if (place / "config.yaml").is_file()), _PLACES[-1])
"""The folder of the configuration files."""
AXES = ("model", "method", "dataset", "protocol")
UNTRAINED = ("as_is", "cat", "cat_sub")
"""The methods that take weights as they are."""
DEVICE = Matching("auto|(cpu|cuda|mps|xpu)(:[0-9]+)?", "auto, cpu or cuda")


@dataclasses.dataclass
class TrainerOptions:
    """Group ``trainer``: how training is executed; no key changes a score."""

    device: Annotated[str, Matching("auto|(cpu|cuda|mps|xpu)(:[0-9]+)?", "auto, cpu or cuda")] = (
        "auto"
    )
    workers: Annotated[int, Range(0, cap=512)] = 0
    accumulate: Count = 1
    batch_size_eval: Annotated[int, Range(1, cap=10**6)] = 256
    checkpoint_every_steps: Count | None = None
    checkpoint_every_minutes: Annotated[float, Range(0, cap=10**6)] = 5.0
    compile: bool = False
    channels_last: bool | Literal["auto"] = "auto"
    progress_bar: bool = True
    decode_once: Literal["auto", "always", "never"] = "auto"
    monitor: Any = None


@dataclasses.dataclass
class PathOptions:
    """Group ``paths``: folders on this computer."""

    outputs: str = "outputs"
    data: str = "data"
    weights: str = "weights"
    features: str = "outputs/features"
    stage: str | None = None
    group_writable: bool = False


@dataclasses.dataclass
class LoggerOptions:
    """Group ``logger``; all keys except ``name`` are options of wandb."""

    name: Literal["none", "wandb", "tensorboard"]
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
    dry_run: bool = False
    tables: bool = True


# Without types: OmegaConf would convert 2 to true and 2.5 to 2. `problems` checks the types.
ConfigStore.instance().store(name="schema", node=dataclasses.asdict(RootOptions()))

NEEDED = (*AXES, "trainer", "paths", "seed", "precision", "debug", "retry", "force")
"""Keys that the identity or the folder of a run needs."""
