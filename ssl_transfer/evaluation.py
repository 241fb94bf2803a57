"""``evaluate``: runs any protocol on any encoder from a user's own script."""

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from torch import nn

from ssl_transfer import datasets, models, randomness
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.config.hydra_errors import sentence
from ssl_transfer.datasets import Dataset
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import EvaluationProtocol, require
from ssl_transfer.runs import Run
from ssl_transfer.runs.builders import make_context, protocol_of
from ssl_transfer.runs.identity import digest
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import distributed


@randomness.preserved()
def evaluate(
    encoder: nn.Module,
    dataset: object = "digits",
    protocol: str | EvaluationProtocol = "linear_probe",
    *,
    overrides: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> dict[str, float]:
    """Return the scores of ``encoder`` on ``dataset`` by ``protocol``.

    Neither the encoder nor the global random generators of Python, numpy and torch are changed, so
    a user's training loop may call this after every epoch.

    Args:
        encoder: a module from images ``[B, 3, H, W]`` to features ``[B, D]``.
        dataset: an option of ``conf/dataset``; a ``Dataset``; pixels and labels ``(images uint8
            [N, H, W, 3], labels)``; a torch dataset of ``(Pillow image, label)``; or a mapping of
            ``train``, ``test`` and perhaps ``val`` to one of these two (``datasets.in_memory``,
            whose defaults are used).
        protocol: an option of ``conf/protocol``, or an object with its hyper-parameters.
        overrides: as on the command line, e.g. ``["protocol.epochs=5"]``.
        preprocessing: the preprocessing of the encoder's images (``None``: the encoder's attribute
            ``preprocessing``).
        seed: seed of the evaluation.
        folder: folder for checkpoints, predictions and the encoder of ``protocol.keep_encoder``; an
            interrupted call can be resumed from it (``None``: a temporary folder).

    Returns:
        Metric -> value; bounded scores are fractions in ``[0, 1]``.

    Raises:
        ValueError: in one sentence, if the arguments do not fit together.
    """
    if not isinstance(dataset, str):
        _refuse_keys_of_dataset(overrides)
    if not (isinstance(protocol, str) or callable(getattr(protocol, "run", None))):
        raise ValueError(
            "`protocol` must be an option's name or an object with its hyper-parameters, but is a "
            f"{type(protocol).__name__}."
        )
    names = [f"{axis}={choice}" for axis, choice in (("dataset", dataset), ("protocol", protocol))
             if isinstance(choice, str)]  # fmt: skip
    try:
        config = plain(compose([*names, f"seed={seed}", *overrides]))
    except HydraException as error:
        raise ValueError(sentence(error)) from error
    sentences = problems(config, processes=distributed.world_size())
    if sentences:
        raise ValueError(" ".join(sentences))
    resolved = resolve(config)
    evaluated = models.wrap(copy.deepcopy(encoder), preprocessing)
    if isinstance(dataset, str):
        dataset = datasets.build(resolved["dataset"])
    elif not isinstance(dataset, Dataset):
        dataset = datasets.in_memory(dataset)
    if isinstance(protocol, str):
        protocol = protocol_of(resolved["protocol"])
    require(protocol, dataset)
    device = distributed.start(resolved["trainer"]["device"])
    with tempfile.TemporaryDirectory() as temporary, randomness.preserved(device):
        # For encoders that draw random numbers in eval mode; all other code seeds its own draws.
        randomness.seed_torch(randomness.derive(seed, "evaluate"), device)
        place = folder or Path(temporary)
        context = make_context(Run(config), device)
        context.folder, context.features = place, place / "features"
        if folder is not None:  # it may have files of another encoder or data set
            context.run_id = digest(
                context.run_id, models.fingerprint(evaluated), dataset.fingerprint
            )
        place.mkdir(parents=True, exist_ok=True)
        scores = {score.metric: score.value for score in protocol.run(evaluated, dataset, context)}
        if getattr(protocol, "keep_encoder", False) and distributed.is_main():
            models.save_encoder(evaluated, place, config={}, parents=[])
        return scores


def _refuse_keys_of_dataset(overrides: Sequence[str]) -> None:
    """Refuse choices for an option of ``conf/dataset`` where a dataset is given instead."""
    for override in overrides:
        if override.lstrip("+~").startswith(("dataset=", "dataset.")):
            raise ValueError(
                f"`{override}` must be left out, because the dataset is given as an object; "
                "`ssl_transfer.datasets.in_memory` takes its options."
            )
