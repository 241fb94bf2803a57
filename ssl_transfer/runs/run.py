"""The class ``Run``: identity, requirements and folder of a run.

A run is defined by its configuration. The same configuration gives the same id and the same folder,
so a finished run is not computed again and an interrupted one is resumed.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.config import locate, references, resolve
from ssl_transfer.config.stages import Subject, stages_of
from ssl_transfer.runs import products
from ssl_transfer.runs.identity import digest, identity_of, settled
from ssl_transfer.runs.record import SCHEMA, read_failure, read_record
from ssl_transfer.runs.stated import with_stated
from ssl_transfer.system.files import Unreadable

PRETRAIN = {"name": "pretrain", "_target_": None}


@dataclasses.dataclass(frozen=True, eq=False)  # compare ids: configurations are large
class Run:
    """One cell of the product of the axes.

    Args:
        config: the whole composed configuration, plain. Interpolations of paths and of keys of the
            same node stay unresolved. It must not be changed after the first use. What files beside
            weights state of images is added to it (see ``stated``).
        snapshot: epoch of a pre-training whose encoder another run takes (``None``: the final one).
    """

    config: dict[str, Any] = dataclasses.field(hash=False)
    snapshot: int | None = None

    def __post_init__(self) -> None:
        config = with_stated(settled(self.config))
        if isinstance(config["protocol"], dict) and config["protocol"]["name"] == PRETRAIN["name"]:
            config = _keeping(config)  # the snapshot that its method names
        object.__setattr__(self, "config", config)

    @property
    def is_pretraining(self) -> bool:
        """Whether the run only pre-trains and evaluates nothing."""
        return bool(self.config["protocol"]["name"] == PRETRAIN["name"])

    @property
    def trains(self) -> bool:
        """Whether the method trains the model; ``as_is`` uses its weights unchanged."""
        return self.config["method"].get("_target_") is not None

    @property
    def is_fused(self) -> bool:
        """Whether the encoder consists of the members that its method names."""
        return "members" in self.config["method"]

    @property
    def averages_scores(self) -> bool:
        """Whether the members are evaluated for themselves, and their class scores are averaged."""
        return self.is_fused and "average" in self.config["method"]

    @property
    def keeps_encoder(self) -> bool:
        """Whether the run leaves an encoder."""
        return self.is_pretraining or bool(self.config["protocol"].get("keep_encoder"))

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """The configuration with interpolations resolved on this computer."""
        return resolve(self.config)

    @functools.cached_property
    def requirements(self) -> tuple["Run", ...]:
        """The distinct runs whose products this one needs: pre-trainings before evaluations."""
        trained = (run for run in self.sources.values() if run.trains)
        return tuple(distinct([*trained, *self.evaluations.values()]).values())

    @functools.cached_property
    def sources(self) -> dict[str, "Run"]:
        """The pre-training of each encoder that this run uses but does not train itself.

        The key is the encoder's role: ``encoder`` for that of an evaluation, and the
        paths of the method's references for a pre-training (``teacher``, ``teachers[0]``) or for
        an evaluation of several encoders as one (``members[0]``). A pre-training with ``as_is`` is
        never executed; it represents unchanged weights.
        """
        if not self.is_pretraining and self.trains:
            return {"encoder": pretraining_of(self.config)}
        nodes_of = references.whole(self.config["method"])
        return {path: pretraining_of({**self.config, **nodes}) for path, nodes in nodes_of.items()}

    @property
    def untrained_models(self) -> list[Any]:
        """The resolved nodes of the models whose weights the run takes as they are."""
        nodes = [one.resolved["model"] for one in self.sources.values() if not one.trains]
        own = "encoder" not in self.sources and not self.is_fused
        return [*nodes, self.resolved["model"]] if own else nodes

    @functools.cached_property
    def evaluations(self) -> dict[str, "Run"]:
        """The evaluations that this run needs, on its own data set with its own seed, by role.

        A protocol of several stages needs an evaluation of the run's own encoder (``head_from``)
        or of each member of it (``first_stage[0]``) by the protocol of the earlier stage; they
        leave their encoders. A method that averages class scores needs the evaluation of each
        member by the run's own protocol (``members[0]``), if that gives class scores.
        """
        if self.is_pretraining:
            return {}
        if self.averages_scores:
            protocol = self.config["protocol"]
            return self._of_members("members", protocol) if _gives_class_scores(protocol) else {}
        evaluations: dict[str, Run] = {}
        for key, subject, node in stages_of(self.config["protocol"]):
            kept = {**node, "keep_encoder": True} if "keep_encoder" in node else node
            if subject is Subject.ENCODER:
                evaluations[key] = Run({**self.config, "protocol": kept})
            elif self.is_fused:
                evaluations |= self._of_members(key, kept)
        return evaluations

    def _of_members(self, key: str, protocol: Mapping[str, Any]) -> dict[str, "Run"]:
        """Return each member's own evaluation by a protocol."""
        members = references.whole(self.config["method"]).values()
        return {
            f"{key}[{number}]": Run({**self.config, **nodes, "protocol": dict(protocol)})
            for number, nodes in enumerate(members)
        }

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The part of the configuration that the id is a hash of, with the ids of required runs."""
        config = self.config
        identity: dict[str, Any] = {
            axis: identity_of(axis, config[axis]) for axis in references.AXES
        }
        if self.is_fused:  # the members name their own models
            identity["model"] = None
        identity["precision"] = config["precision"]
        if config.get("debug"):
            identity["debug"] = True
        if self.is_pretraining:
            # The method holds the pre-training set and the seed; no downstream task counts.
            return identity | {"protocol": {"name": PRETRAIN["name"]}}
        downstream = {axis: identity_of(axis, config[axis]) for axis in ("dataset", "protocol")}
        return identity | downstream | {"seed": config["seed"]}

    @functools.cached_property
    def encoder_id(self) -> str:
        """The id of the encoder that another run takes from this pre-training."""
        return self.id if self.snapshot is None else digest(self.id, self.snapshot)

    @property
    def encoder_folder(self) -> Path | None:
        """The folder of that encoder; None if nothing was trained."""
        return products.encoder_folder(self.folder, self.snapshot) if self.trains else None

    @property
    def snapshots(self) -> list[int]:
        """The epochs after which a pre-training leaves its encoder, too."""
        return _epochs(self.config, "snapshots")

    @functools.cached_property
    def id(self) -> str:
        """16 hex digits: a hash of the run's identity and of the runs that it requires."""
        return digest(self.identity, [required.id for required in self.requirements])

    @functools.cached_property
    def names(self) -> dict[str, Any]:
        """The four names, as tables show them; a pre-training has no dataset."""
        names: dict[str, Any] = {axis: self._name(axis) for axis in ("model", "method", "protocol")}
        if self.is_fused:
            names["model"] = joined([source.names["model"] for source in self.sources.values()])
        names["dataset"] = None if self.is_pretraining else self._name("dataset")
        return names

    def _name(self, axis: str) -> str:
        name = str(self.config[axis]["name"])
        # Resolving a whole configuration takes 20 ms, too long for 10,000 finished runs.
        return str(self.resolved[axis]["name"]) if "${" in name else name

    @property
    def seed(self) -> int:
        """The evaluation's seed, or the method's for a pre-training."""
        owner = self.config["method"] if self.is_pretraining else self.config
        return int(owner["seed"])

    @property
    def label(self) -> str:
        """The encoder's short name; ``results`` distinguishes encoders that share one."""
        if self.is_fused:
            members = joined([source.label for source in self.sources.values()])
            if self.averages_scores:
                return f"{self.names['method']}({members})"
            fuse = self.resolved["method"].get("fuse", "concatenate")
            return members if fuse == "concatenate" else f"{fuse}({members})"
        snapshots = _epochs(self.config, "snapshot") if self.snapshot is None else [self.snapshot]
        return "-".join([self._trained_label, *(f"epoch{epoch}" for epoch in snapshots)])

    @property
    def _trained_label(self) -> str:
        """The label of the final encoder; several teachers are a part of it."""
        model, method = self.names["model"], self.names["method"]
        nodes_of = references.whole(self.config["method"])
        teachers = [
            pretraining_of({**self.config, **nodes}).label
            for path, nodes in nodes_of.items()
            if path.startswith("teachers[")
        ]
        label = model if method == "as_is" else f"{model}-{method}"
        return f"{label}({joined(teachers)})" if teachers else label

    @functools.cached_property
    def place(self) -> str:
        """The folder's path below ``paths.outputs``."""
        # A pre-training has one folder, whichever snapshot is taken from it.
        label = self._trained_label if self.is_pretraining else self.label
        parts = [label, self.names["dataset"], self.id[:8]]
        name = "_".join(_filename(part) for part in parts if part)
        return f"{_filename(self.names['protocol'])}/{name}"

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of all files of the run."""
        return outputs_folder(*self.config["paths"].items()) / self.place

    def describe(self) -> str:
        """Return one line for logs."""
        dataset = self.names["dataset"]
        target = f" on {dataset}" if dataset else ""
        return f"{self.names['protocol']} of {self.label}{target}, seed {self.seed} [{self.id[:8]}]"

    @property
    def is_finished(self) -> bool:
        """Whether the record exists, and the encoders that are kept; the record is written last.

        If ``keep_encoder`` or a snapshot was set after the run had finished, it is computed again.
        """
        record = self.readable_record()
        if record is None or products.is_half_replaced(self.folder):
            return False
        if not self.keeps_encoder or record["status"] != "finished":
            return True
        epochs = [None, *(self.snapshots if self.is_pretraining else [])]
        folders = (products.encoder_folder(self.folder, epoch) for epoch in epochs)
        return all((folder / products.ENCODER).is_file() for folder in folders)

    def readable_record(self) -> dict[str, Any] | None:
        """Return the record; None if it is missing, or unusable, which is logged."""
        record = read_record(self.folder / products.RECORD, self.id)
        # Only the part that the launchers compare is cached, because there may be 10,000 records.
        vars(self)["recorded_inputs"] = (record or {}).get("inputs")
        return record

    @functools.cached_property
    def recorded_inputs(self) -> Any:
        """The lists of input files that the record named when it was last read."""
        return (self.readable_record() or {}).get("inputs")

    def record(self) -> dict[str, Any]:
        """Return a finished run's record.

        Raises:
            Unreadable: if the record is missing or cannot be read.
        """
        record = self.readable_record()
        if record is None:
            raise Unreadable(f"`{self.folder / products.RECORD}` must be the run's record")
        return record

    def failure(self) -> dict[str, Any] | None:
        """Return what ``fail`` wrote; None if it is missing, or unusable, which is logged."""
        return read_failure(self.folder / "failure.json", self.id)

    def identify(self) -> dict[str, Any]:
        """Return the head that records and failures share."""
        return {
            "schema": SCHEMA,
            "run_id": self.id,
            **self.names,
            "seed": self.seed,
            "precision": self.config["precision"],
            "identity": self.identity,
        }


@functools.lru_cache(maxsize=16)
def outputs_folder(*paths: tuple[str, Any]) -> Path:
    """Return the absolute folder of all runs, from the keys and values of the node ``paths``."""
    return Path(resolve({"paths": dict(paths)})["paths"]["outputs"]).absolute()


def pretraining_of(config: Mapping[str, Any]) -> Run:
    """Return the run that pre-trains the encoder that ``config`` evaluates.

    It depends only on the model and the method, so all datasets, protocols and seeds share it.
    """
    rest = {key: value for key, value in config.items() if key != "dataset"}
    snapshot = next(iter(_epochs(config, "snapshot")), None)
    return Run({**rest, "dataset": None, "protocol": dict(PRETRAIN)}, snapshot)


def _epochs(config: Mapping[str, Any], key: str) -> list[int]:
    """Return the epochs in a method's key ``snapshots`` or ``snapshot``, ascending.

    A value of another type is left out: ``config.problems`` reports it.
    """
    method = config["method"]
    value = method.get(key) if isinstance(method, Mapping) else None
    if "${" in str(value):
        value = resolve(config)["method"][key]
    epochs = value if isinstance(value, list | tuple) else [value]
    return sorted({epoch for epoch in epochs if type(epoch) is int})


def _keeping(config: dict[str, Any], *further: int) -> dict[str, Any]:
    """Return the configuration of a pre-training that keeps the snapshots of further epochs.

    A pre-training uses no snapshot itself: the one that its method names is among those it keeps.
    """
    named, kept = _epochs(config, "snapshot"), _epochs(config, "snapshots")
    if not named and {*further} <= {*kept}:
        return config
    changes = {
        "snapshots": sorted({*kept, *named, *further}),
        **({"snapshot": None} if named else {}),
    }
    return {**config, "method": {**config["method"], **changes}}


def distinct(runs: Iterable[Run]) -> dict[str, Run]:
    """Return runs by id; each keeps the encoders that any run of its id keeps."""
    by_id: dict[str, Run] = {}
    for run in runs:
        by_id[run.id] = together(by_id.get(run.id, run), run)
    return by_id


def together(one: Run, other: Run) -> Run:
    """Return one of two runs with the same id, which keeps the encoder or snapshots of both."""
    if not one.is_pretraining:
        return other if other.keeps_encoder and not one.keeps_encoder else one
    if one.snapshot is None and {*other.snapshots} <= {*one.snapshots}:
        return one
    return Run(_keeping(one.config, *other.snapshots))


def graph(runs: Iterable[Run]) -> list[Run]:
    """Return every distinct run after the runs that it requires, otherwise in the given order."""
    ordered: dict[str, Run] = {}

    def visit(run: Run) -> None:
        for required in run.requirements:
            visit(required)
        ordered[run.id] = together(ordered.get(run.id, run), run)

    for run in runs:
        visit(run)
    return list(ordered.values())


def _gives_class_scores(protocol: Mapping[str, Any]) -> bool:
    """Return whether a protocol's node names a class that gives each test image class scores."""
    try:
        return hasattr(locate(protocol["_target_"]), "class_scores")
    except (ValueError, AttributeError):
        return False  # the check of the target reports the error


def joined(labels: Iterable[str]) -> str:
    """Return the label of several encoders as one; equal neighbours are counted.

    Example:
        >>> joined(["swav", "simclr", "simclr"])
        'swav+2x-simclr'
    """
    counted = [(label, len(list(same))) for label, same in itertools.groupby(labels)]
    return "+".join(label if count == 1 else f"{count}x-{label}" for label, count in counted)


@functools.lru_cache(maxsize=1024)
def _filename(text: str) -> str:
    """Return ``text`` as a file name, without characters that file systems may reject."""
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-.")[:60] or "unnamed"
