"""Several encoders as one that a run has kept, built again from its folder."""

from pathlib import Path
from typing import Any, get_args

from ssl_transfer.config.trust import foreign_targets
from ssl_transfer.models.factory import build
from ssl_transfer.models.facts import plain_preprocessing, read_yaml
from ssl_transfer.models.fusion import Fuse, FusedEncoder
from ssl_transfer.models.reading import read_state
from ssl_transfer.models.weights import FACTS_FILE, WEIGHTS_FILE
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import inputs


def saved_fusion(folder: str) -> FusedEncoder:
    """Return the encoder that a run of several members left, e.g. their fine-tuned concatenation.

    Args:
        folder: folder of the run, with ``encoder.safetensors`` and ``encoder.yaml``. The latter
            names the members' architectures.

    Raises:
        ValueError: if the files are missing, damaged, of a single encoder, or if an architecture
            is code from outside of this project, torchvision and timm.
    """
    root = Path(folder)
    facts = _facts(root / FACTS_FILE)
    nodes = [member["model"] for member in facts["members"]]
    if problems := foreign_targets({"members": nodes}, str(root / FACTS_FILE)):
        raise ValueError(problems[0])
    encoder = FusedEncoder([build(node) for node in nodes], facts["fuse"])
    encoder.prepare_each(_preprocessings(facts, root / FACTS_FILE))
    try:
        encoder.backbone.load_state_dict(read_state(root / WEIGHTS_FILE))
    except RuntimeError as error:
        raise ValueError(
            f"`{root / WEIGHTS_FILE}` must fit the architectures in {FACTS_FILE}, but does not: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    return encoder


def saved_preprocessings(folder: Path) -> list[Preprocessing]:
    """Return the preprocessing of each member of an encoder that a run has kept.

    Raises:
        ValueError: if ``encoder.yaml`` is missing, damaged or of a single encoder.
    """
    return _preprocessings(_facts(folder / FACTS_FILE), folder / FACTS_FILE)


def _preprocessings(facts: dict[str, Any], path: Path) -> list[Preprocessing]:
    return [plain_preprocessing(member.get("preprocessing"), path) for member in facts["members"]]


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = read_yaml(path)
    except OSError as error:
        raise ValueError(
            f"`model.folder` must be the folder of a run that kept its encoder, but `{path}` "
            f"cannot be read ({error.strerror}); repeat the run with protocol.keep_encoder=true."
        ) from error
    inputs.note_file(path)
    members = facts.get("members") if isinstance(facts, dict) else None
    whole = isinstance(members, list) and all(
        isinstance(member, dict) and isinstance(member.get("model"), dict) for member in members
    )
    if not (whole and members and facts.get("fuse") in get_args(Fuse)):
        raise ValueError(
            f"`{path}` must name the members of several encoders as one, but names none; load a "
            "single encoder by `model.weights.path` with the option of its architecture."
        )
    return dict(facts)
