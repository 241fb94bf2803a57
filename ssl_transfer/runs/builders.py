"""Builds what a run's configuration describes: data set, protocol, encoders, context."""

import contextlib
import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_transfer import datasets, models
from ssl_transfer.config import locate
from ssl_transfer.config.references import by_key, role
from ssl_transfer.config.roles import Role
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.decoded import Choice, decode_once
from ssl_transfer.models import Encoder
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.averaged_scores import AveragedScores
from ssl_transfer.protocols.base import EvaluationProtocol
from ssl_transfer.runs import products
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.run import Run
from ssl_transfer.system import inputs, staging

log = logging.getLogger(__name__)


def dataset_of(run: Run, *, stage: bool = False) -> Dataset:
    """Return the dataset that a run trains on, built once per process.

    Args:
        run: the run.
        stage: whether to prepare fast access first: copy the data to ``paths.stage`` if it is set,
            and decode the images once if ``trainer.decode_once`` says so. Otherwise the dataset may
            be checked but not computed with: with ``verify=off`` its fingerprint is not that of its
            files.

    Raises:
        ValueError: if the data do not fit their description.
        OSError: if the data cannot be copied.
    """
    config = run.resolved
    node = config["method"]["pretrain_on"] if run.is_pretraining else config["dataset"]
    folder = config["paths"].get("stage") if stage else None
    bar = bool(config["trainer"]["progress_bar"])
    # Configurations that were frozen by older code lack the key.
    choice = config["trainer"].get("decode_once", "auto")
    # Decoded pixels are stored beside the copy on the node's own disk, or else in the outputs.
    near = f"{folder}/ssl_transfer" if folder else config["paths"]["outputs"]
    text = json.dumps(node, sort_keys=True)
    if not stage:
        return read(text, folder, bar, names_only=node.get("verify") == "off")
    # The launcher has checked the contents of the source; only this node knows the copy.
    with inputs.doubting() if config["force"] and folder else contextlib.nullcontext():
        read(text, folder, bar)
    return _decoded(text, folder, bar, str(Path(near).expanduser().absolute() / "decoded"), choice)


@functools.lru_cache(maxsize=16)
def _decoded(
    node: str, stage: str | None, progress_bar: bool, folder: str, choice: Choice
) -> Dataset:
    dataset = read(node, stage, progress_bar)
    return decode_once(dataset, Path(folder), choice, progress_bar=progress_bar)


@functools.lru_cache(maxsize=16)
def read(node: str, stage: str | None, progress_bar: bool, *, names_only: bool = False) -> Dataset:
    """Return the dataset of a node.

    Args:
        node: the node in JSON.
        stage: folder for a copy to read from (``None``: the data are read in their place).
        progress_bar: whether to draw a progress bar while data are copied.
        names_only: whether the dataset is only checked, so that its images need not be looked at.
    """
    source: dict[str, Any] = json.loads(node)
    if names_only:
        with inputs.naming():
            return datasets.build(source)
    if stage is not None:
        doubt = inputs.is_doubting()
        copy = staging.staged(source, stage, progress_bar=progress_bar, doubt=doubt)
        try:
            return datasets.build(copy)
        except ValueError as error:
            if copy == source:
                raise
            # Either the source is wrong, too, and the message should name it, or the data refer to
            # files outside of their root, such as `images: ../photos`.
            dataset = datasets.build(source)
            log.warning(
                "`%s` is read from its original folder, because its copy cannot be used: %s",
                dataset.name,
                error,
            )
            return dataset
    return datasets.build(source)


def protocol_of(node: Mapping[str, Any]) -> EvaluationProtocol:
    """Return the protocol that a resolved node of the configuration describes."""
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    protocol: EvaluationProtocol = locate(node["_target_"])(**keys)
    return protocol


def evaluation_of(run: Run) -> EvaluationProtocol:
    """Return what a run measures: its protocol, or the average of its members' class scores."""
    config = run.resolved
    protocol = protocol_of(config["protocol"])
    if run.averages_scores:
        return AveragedScores(protocol, config["method"]["average"])
    return protocol


def arguments_of(run: Run) -> dict[str, Encoder | list[Encoder]]:
    """Return the encoders that a method's constructor receives as arguments, by key."""
    encoders = {}
    for path, source in run.sources.items():
        if role(path) is Role.ARGUMENT:
            encoders[path] = _built(source)
            encoders[path].projector = trained_projector(
                source.resolved["model"], source.encoder_folder
            )
    return by_key(encoders)


def initial_encoder(run: Run) -> Encoder:
    """Return the encoder with the weights that the run starts from.

    An evaluation starts from the weights of its pre-training. A pre-training starts from the
    encoder that its method names, or else from the model's own weights. A fused encoder has the
    weights of its members.
    """
    config = run.resolved
    if run.is_fused:
        members = [_built(source) for source in run.sources.values()]
        return FusedEncoder(members, config["method"].get("fuse", "concatenate"))
    encoder = models.build(config["model"], seed=config["method"]["seed"])
    for path, source in run.sources.items():
        if path == "encoder":
            load_product(encoder, source)
        elif role(path) is Role.INITIAL_WEIGHTS:
            models.copy_weights(encoder, _built(source))
    if config["protocol"].get("representation") == "embeddings":
        trained = run.sources.get("encoder")
        folder = trained.encoder_folder if trained else None
        encoder.projector = trained_projector(config["model"], folder)
    return encoder


def final_preprocessing(run: Run, encoder: Encoder) -> Preprocessing:
    """Prepare an encoder for an evaluation's images, and return its preprocessing of them."""
    keys = run.resolved["protocol"]
    encoder.prepare(keys.get("image_size"), keys.get("preprocessing"))
    return encoder.preprocessing


def _built(source: Run) -> Encoder:
    """Return the encoder of a pre-training, or its untrained model if the method is ``as_is``."""
    encoder = models.build(source.resolved["model"], seed=source.seed)
    if source.trains:
        load_product(encoder, source)
    return encoder


def load_product(encoder: Encoder, source: Run) -> None:
    """Load the encoder of a finished pre-training and compare it with the record.

    Raises:
        DamagedProduct: if the weights differ from those that the record names.
    """
    record = source.record()
    products.verify(source.folder, record, source.snapshot)
    models.load_encoder(encoder, products.encoder_folder(source.folder, source.snapshot))
    if source.snapshot is not None:
        return
    stated = record["weights_sha256"]  # the only checksum in records of older code
    if (loaded := models.fingerprint(encoder)) != stated:
        raise products.DamagedProduct(
            f"`{source.folder / products.ENCODER}` must hold the weights that the run's record "
            f"names (sha256 {stated[:16]}…), but holds {loaded[:16]}…: it was damaged or replaced. "
            "Restore it, or remove it, and the same command computes it again."
        )


def trained_projector(model: Mapping[str, Any], folder: Path | None) -> torch.nn.Module | None:
    """Return the projector that an encoder was trained with; None if it is not available.

    Args:
        model: the encoder's resolved node.
        folder: the pre-training's folder (``None``: the model's weights are used untrained).
    """
    path = folder or models.place_of_weights(model)
    layout = "auto" if folder else (model.get("weights") or {}).get("layout", "auto")
    return None if path is None else models.load_projector(path, layout)


def make_context(
    run: Run, device: torch.device, folder: Path | None = None, started_from: str | None = None
) -> Context:
    """Return the context that a run's configuration describes.

    Args:
        run: the run.
        device: the device to compute on.
        folder: the folder to work in (``None``: the run's own).
        started_from: identifies the data and weights that the run starts from (``None``: unknown).
    """
    config = run.resolved
    trainer = config["trainer"]
    require_precision(run, device)
    return Context(
        folder=folder or run.folder,
        run_id=run.id,
        inputs=started_from,
        features=Path(config["paths"]["features"]).absolute(),
        device=device,
        seed=run.seed,
        precision=config["precision"],
        workers=trainer["workers"],
        batch_size_eval=trainer["batch_size_eval"],
        checkpoint_every_steps=trainer["checkpoint_every_steps"],
        checkpoint_every_minutes=trainer["checkpoint_every_minutes"],
        accumulate=trainer["accumulate"],
        max_steps=2 if config["debug"] else None,
        progress_bar=trainer["progress_bar"],
        # Configurations that were frozen by older code lack the key.
        monitor=trainer.get("monitor"),
        compile=trainer["compile"],
        channels_last=trainer.get("channels_last", False),
        doubt=bool(config["force"]),
    )


def require_precision(run: Run, device: torch.device) -> None:
    """Raise ValueError if the device does not support the configured precision."""
    if run.config["precision"] == "fp16" and device.type == "cpu":
        raise ValueError(
            "`precision=fp16` must have a GPU, but there is none; use `precision=bf16`, or fp32."
        )
