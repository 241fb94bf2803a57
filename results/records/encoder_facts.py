"""Facts about encoders that need no evaluation: sizes, published accuracy and family."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class EncoderFacts(NamedTuple):
    """What is known about an encoder; None is unknown.

    Args:
        parameters: number of its parameters, without a classifier.
        feature_dim: number of features per image.
        imagenet_top1: top-1 accuracy on ImageNet as published, in (0, 1].
        family: what closely related encoders share, see ``family_of``.
    """

    parameters: int | None = None
    feature_dim: int | None = None
    imagenet_top1: float | None = None
    family: str | None = None


_ARCHITECTURE = re.compile(
    r"[-_ ](r\d|(?:wide_?)?resnet|resnext|regnet|densenet|(?:b|d)eit|vit|swin|convnext|mobilenet|"
    r"efficientnet)"
)
_NUMBER = re.compile(r"[-_ ]?(?:(?<!n)v)?\d.*")  # the v of `conv4` belongs to the name
_SIZE = re.compile(r"(?<=\w)_(?:tiny|small|base|large|huge|giant)$")
_BEFORE_ARCHITECTURE = frozenset({"tiny", "small", "base", "large", "two", "four"})


def family_of(name: str) -> str:
    """Return the family that the name of a model or method states.

    It is the name in lower case up to an architecture that follows it, and up to its first number
    or version, without a size at its end: ``moco_v1`` and ``moco_v2`` are of one family, and so are
    ``resnet34`` and ``resnet50``, or ``swav`` and ``swav_400ep_resnet50w2``.

    Example:
        >>> [family_of(name) for name in ("PCL-v2", "resnet50w2", "mae_vit_base", "small_resnet")]
        ['pcl', 'resnet', 'mae', 'small_resnet']
    """
    name = name.lower().replace("-", "_")
    architecture = _ARCHITECTURE.search(name)
    if architecture and name[: architecture.start()] not in _BEFORE_ARCHITECTURE:
        name = name[: architecture.start()]
    return _SIZE.sub("", _NUMBER.sub("", name)) or name


def facts_of(
    own: Iterable[Mapping[str, Any]], documents: Mapping[str, Mapping[str, Any]]
) -> EncoderFacts:
    """Return what an encoder's records say about it; later ones complete earlier ones.

    An encoder that a run trained has the family of its method, and no published accuracy, even if
    its training began from published weights.

    Args:
        own: records of runs that evaluated the encoder.
        documents: run id -> record, for the runs that these required.
    """
    facts = EncoderFacts()
    for document in own:
        more = _stated(document, documents)._asdict()
        facts = facts._replace(
            **{key: more[key] for key, value in facts._asdict().items() if value is None}
        )
        if None not in facts[:2]:
            break
    return facts


def _stated(
    document: Mapping[str, Any], documents: Mapping[str, Mapping[str, Any]]
) -> EncoderFacts:
    encoder = document.get("encoder") or {}
    model = (document.get("config") or {}).get("model")
    published = (model.get("facts") if isinstance(model, Mapping) else None) or {}
    released = document["method"] == "as_is"
    family = (published.get("family") if released else None) or family_of(
        str(document["model"] if released else document["method"])
    )
    top1 = published.get("imagenet_top1") if released else None
    width = encoder.get("feature_dim")
    return EncoderFacts(
        parameters=parameters_of(document, documents),
        feature_dim=width if isinstance(width, int) and width > 0 else None,
        imagenet_top1=top1 if isinstance(top1, float) and 0 < top1 <= 1 else None,
        family=str(family),
    )


def parameters_of(
    document: Mapping[str, Any], documents: Mapping[str, Mapping[str, Any]]
) -> int | None:
    """Return the number of an encoder's parameters, for averaged scores that of all members.

    None if no record states it, as in records of earlier code.

    Args:
        document: the record of a run.
        documents: run id -> record, for the runs that it required.
    """
    stated = (document.get("encoder") or {}).get("parameters")
    stated = stated or (document.get("trainable") or {}).get("encoder_parameters")
    if isinstance(stated, int):
        return stated
    required = [documents.get(run) for run in document.get("requires") or ()]
    judged = [one for one in required if one is not None and one["protocol"] != "pretrain"]
    counts = [parameters_of(one, {}) for one in judged]
    return sum(filter(None, counts)) if counts and None not in counts else None
