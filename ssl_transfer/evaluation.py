"""``evaluate``: any protocol on any encoder, from one's own script."""

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
    dataset: str | Dataset = "digits",
    protocol: str | EvaluationProtocol = "linear_probe",
    *,
    overrides: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> dict[str, float]:
    """Return the scores of ``encoder``, which stays as it is, on ``dataset`` by ``protocol``.

    The global random generators of Python, numpy and torch stay as they are, too, so that a loop
    of one's own may evaluate after every epoch.

    Args:
        encoder: a module from images ``[B, 3, H, W]`` to features ``[B, D]``.
        dataset: an option of ``conf/dataset``, or a dataset.
        protocol: an option of ``conf/protocol``, or an object with its hyper-parameters.
        overrides: as on the command line, e.g. ``["protocol.epochs=5"]``.
        preprocessing: what the encoder expects of its images (``None``: its own attribute).
        seed: of the evaluation.
        folder: keeps checkpoints and predictions, so that an interrupted call goes on, and what
            ``protocol.keep_encoder`` leaves (``None``: a temporary one).

    Returns:
        Metric -> value; bounded scores are fractions in ``[0, 1]``.

    Raises:
        ValueError: in one sentence, for whatever does not fit together.
    """
    if not isinstance(dataset, str | Dataset):
        raise ValueError(
            f"`dataset` must be an option's name or a Dataset, but is a {type(dataset).__name__}."
        )
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
    found = problems(config, processes=distributed.world_size())
    if found:
        raise ValueError(" ".join(found))
    resolved = resolve(config)
    judged = models.wrap(copy.deepcopy(encoder), preprocessing)
    if isinstance(dataset, str):
        dataset = datasets.build(resolved["dataset"])
    if isinstance(protocol, str):
        protocol = protocol_of(resolved["protocol"])
    require(protocol, dataset)
    device = distributed.start(resolved["trainer"]["device"])
    with tempfile.TemporaryDirectory() as temporary, randomness.preserved(device):
        # For an encoder that draws in eval mode; everything else seeds what it draws itself.
        randomness.seed_torch(randomness.derive(seed, "evaluate"), device)
        place = folder or Path(temporary)
        context = make_context(Run(config), device)
        context.folder, context.features = place, place / "features"
        if folder is not None:  # what lies there may be of another encoder, or of other images
            context.run_id = digest(context.run_id, models.fingerprint(judged), dataset.fingerprint)
        place.mkdir(parents=True, exist_ok=True)
        scores = {score.metric: score.value for score in protocol.run(judged, dataset, context)}
        if getattr(protocol, "keep_encoder", False) and distributed.is_main():
            models.save_encoder(judged, place, config={}, parents=[])
        return scores
