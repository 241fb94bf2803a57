"""Finished runs read from their folders, as data that may come from anybody."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_transfer import models, randomness
from ssl_transfer.config.trust import foreign_targets, without_downloads
from ssl_transfer.models import Encoder
from ssl_transfer.models.facts import read_preprocessing
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.reading import read_state
from ssl_transfer.models.saved_fusion import saved_preprocessings
from ssl_transfer.models.weights import FACTS_FILE, WEIGHTS_FILE
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import products
from ssl_transfer.runs.builders import final_preprocessing, initial_encoder
from ssl_transfer.runs.run import Run
from ssl_transfer.system.files import Unreadable


def read_finished(folder: Path, *, trust_targets: bool = False) -> tuple[Run, dict[str, Any]]:
    """Return a finished run and its record.

    The run's outputs are those that surround the folder, which may have been moved since together
    with the runs that it required.

    Args:
        folder: folder of the run.
        trust_targets: whether any code that the record names may be called, and files downloaded.

    Raises:
        ValueError: if it is not the folder of a finished run, or its record names unknown code
            (``ssl_transfer.config.trust``).
    """
    record = _record(folder)
    config = record["config"]
    if not trust_targets:
        if problems := foreign_targets(config, str(folder / products.RECORD)):
            raise ValueError(problems[0])
        config = without_downloads(config)
    outputs = str(folder.resolve().parents[1])
    run = Run({**config, "paths": {**config["paths"], "outputs": outputs}})
    return run, {**record, "config": config}


def only_run(folders: Sequence[Path]) -> Path:
    """Return the one folder that a command line names.

    Raises:
        ValueError: if it names several, as a shell's pattern that fits several runs does.
    """
    first, *others = folders
    if others:
        raise ValueError(
            f"one run must be named, but {len(folders)} are, as by a pattern that fits several; "
            f"name one of them: {first}, {others[0]}, …"
        )
    return first


def _record(folder: Path) -> dict[str, Any]:
    path = folder / products.RECORD
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"the folder must be that of a finished run, but `{path}` does not exist; name the "
            "folder that holds it."
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"`{path}` must be a run's record, but is not ({error}).") from error
    if record.get("status") != "finished":
        raise ValueError(
            f"the run must have finished, but `{folder}` is `{record.get('status')}` "
            f"({record.get('reason')})."
        )
    config = record.get("config")
    parts = config if isinstance(config, dict) else {}
    if not all(
        isinstance(parts.get(part), dict) for part in ("model", "method", "protocol", "paths")
    ):
        raise ValueError(f"`{path}` must be a run's record, but its configuration is damaged.")
    return record


@randomness.preserved()
def starting_encoder(run: Run, record: dict[str, Any]) -> Encoder:
    """Return the encoder with the weights that a finished run started from.

    Raises:
        ValueError: if they cannot be built any more, or are other ones today.
    """
    try:
        encoder = initial_encoder(run)
    except Unreadable as error:
        raise ValueError(
            "the run must lie beside the pre-training that it started from, but that cannot be "
            f"read ({error}); copy its folder, too."
        ) from error
    actual = models.fingerprint(encoder)
    if actual != record["weights_sha256"]:
        raise ValueError(
            "the encoder must have the weights that the run began with (sha256 "
            f"{record['weights_sha256'][:16]}…), but those of its configuration are {actual[:16]}… "
            "now; restore the file of weights."
        )
    return encoder


@randomness.preserved()
def untrained_encoder(run: Run) -> Encoder:
    """Return an encoder of a run's architecture, without reading any weights."""
    config = run.resolved
    if run.is_fused:
        members = [
            models.build({**source.resolved["model"], "weights": {}}, seed=source.seed)
            for source in run.sources.values()
        ]
        return FusedEncoder(members, config["method"].get("fuse", "concatenate"))
    return models.build({**config["model"], "weights": {}}, seed=config["method"]["seed"])


def final_encoder(run: Run, record: dict[str, Any], folder: Path) -> Encoder:
    """Return the encoder that a finished evaluation ended with, with its images' preprocessing.

    It is the one in the folder, or else the one that the run started from, if nothing trained it.

    Raises:
        ValueError: if it cannot be built or read.
    """
    if (folder / WEIGHTS_FILE).is_file():
        encoder, preprocessing = kept_encoder(untrained_encoder(run), folder)
    else:
        encoder = starting_encoder(run, record)
        preprocessing = final_preprocessing(run, encoder)
    encoder.preprocessing = preprocessing
    return encoder


def kept_encoder(architecture: Encoder, folder: Path) -> tuple[Encoder, Preprocessing]:
    """Return the encoder that a run saved, and the preprocessing of its images.

    Args:
        architecture: an encoder of the run's architecture, which is not changed.
        folder: folder of the run.

    Raises:
        ValueError: if the files are missing, damaged or of another architecture.
    """
    encoder = copy.deepcopy(architecture)
    try:
        state = read_state(folder / WEIGHTS_FILE)
        types = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
        encoder.to(types[0] if types else torch.float32).backbone.load_state_dict(state)
        if isinstance(encoder, FusedEncoder):
            encoder.prepare_each(saved_preprocessings(folder))
            return encoder, encoder.preprocessing
        return encoder, read_preprocessing(folder / FACTS_FILE)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"`{folder}` must hold the encoder of the run in {WEIGHTS_FILE} and {FACTS_FILE}, but "
            f"reading them failed ({reason}); run it again with protocol.keep_encoder=true."
        ) from error
