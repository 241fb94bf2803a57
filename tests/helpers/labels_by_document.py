"""Labels of records as they were computed before descriptions: from whole documents, one by one.

Tests compare the labels of descriptions with these.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from results.records.descriptions import hashed_part
from results.records.differences import distinguish, distinguish_flat, flattened
from results.records.labels import Identity

_UNKNOWN = "? "
_PRECISION = ("precision", "debug")


def identify(
    documents: Sequence[Mapping[str, Any]], mean_over: Collection[str] = ()
) -> list[Identity]:
    """Return the labels of records and failures, unique among all of them.

    Args:
        documents: records and failures.
        mean_over: keys such as ``dataset.split``: runs that differ only in these keys and the seed
            have the same labels and belong to one cell of a table.

    Raises:
        ResultsError: if no dataset or protocol has a key of ``mean_over``.
    """
    ids = _encoder_ids(documents)
    encoders = _label_encoders(documents, ids)
    protocols, datasets = _label_variants(documents, ids, mean_over)
    rows = zip(ids, protocols, datasets, strict=True)
    return [
        Identity(encoder_id, encoders[encoder_id], protocol, dataset)
        for encoder_id, protocol, dataset in rows
    ]


def _encoder_ids(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each document the identity of its encoder, which is usually the encoder's id.

    A run that ended before its weights were read may not know the id. If exactly one encoder has
    the same configuration (or label, without a configuration), the run gets the id of that encoder;
    otherwise the configuration or label is the identity.
    """
    ids = _apart(documents, [_stated_id(document) for document in documents])
    unknown = {_label(d) for d, stated in zip(documents, ids, strict=True) if stated is None}
    known: dict[str, set[str]] = defaultdict(set)
    # One document per encoder suffices, preferably one with a configuration.
    some = {(stated, _is_known(d)): d for d, stated in zip(documents, ids, strict=True)}
    for (identifier, _), document in some.items():
        if identifier is not None and _label(document) in unknown:
            known[_description(document)].add(identifier)
            known[_label(document)].add(identifier)
    identities = []
    for document, identifier in zip(documents, ids, strict=True):
        if identifier is None:
            description = _description(document)
            same = known[description]
            identifier = next(iter(same)) if len(same) == 1 else f"{_UNKNOWN}{description}"
        identities.append(identifier)
    return identities


def _apart(documents: Sequence[Mapping[str, Any]], ids: Sequence[str | None]) -> list[str | None]:
    """Return ids that differ where equal weights receive differently prepared images.

    The id of an encoder that no run pre-trained is a hash of its weights alone. Where all its
    records have the same preprocessing, the id stays.
    """
    stated = [_preprocessing(document) for document in documents]
    written = [_written_preprocessing(document) for document in documents]
    known: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for identifier, text, config in zip(ids, stated, written, strict=True):
        if text is not None:
            known[identifier, config].add(text)
    texts = []  # records of earlier code have the configuration only
    for identifier, text, config in zip(ids, stated, written, strict=True):
        same = known[identifier, config]
        texts.append(text or (next(iter(same)) if len(same) == 1 else config))
    texts_of: dict[str | None, set[str]] = defaultdict(set)
    for identifier, text in zip(ids, texts, strict=True):
        texts_of[identifier].add(text)
    return [
        identifier
        if identifier is None or len(texts_of[identifier]) == 1
        else hashlib.sha256(f"{identifier} {text}".encode()).hexdigest()[:16]
        for identifier, text in zip(ids, texts, strict=True)
    ]


def _preprocessing(document: Mapping[str, Any]) -> str | None:
    """Return the preprocessing that a run's encoder had, as JSON; None if it is unknown."""
    stated = (document.get("encoder") or {}).get("preprocessing")
    return json.dumps(stated, sort_keys=True) if isinstance(stated, dict) else None


def _written_preprocessing(document: Mapping[str, Any]) -> str:
    """Return the preprocessing in a run's configuration, as JSON."""
    model = hashed_part(document, "model").get("model") if _is_known(document) else None
    return json.dumps(
        model.get("preprocessing") if isinstance(model, dict) else None, sort_keys=True
    )


def _is_known(document: Mapping[str, Any]) -> bool:
    """Return whether a document contains the run's configuration."""
    return any(isinstance(document.get(key), dict) for key in ("identity", "config"))


def _stated_id(document: Mapping[str, Any]) -> str | None:
    identifier = (document.get("encoder") or {}).get("id")
    if identifier == document["run_id"] and document["protocol"] != "pretrain":
        return None  # a placeholder from a run that did not read its weights
    return None if identifier is None else str(identifier)


def _label(document: Mapping[str, Any]) -> str:
    label = (document.get("encoder") or {}).get("label")
    return str(label or f"{document['model']}-{document['method']}")


def _description(document: Mapping[str, Any]) -> str:
    """Return a text that is equal for documents of the same encoder, as far as they show it."""
    if not _is_known(document):
        return _label(document)
    return f"{_label(document)} {json.dumps(flattened(_encoder_config(document)), sort_keys=True)}"


def _encoder_config(document: Mapping[str, Any]) -> dict[str, Any]:
    # Precision and debug identify an encoder only if it was pre-trained by a run.
    return hashed_part(
        document, "model", "method", *_PRECISION[: 2 * bool(document.get("requires"))]
    )


def _label_encoders(documents: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> dict[str, str]:
    """Return a unique label for every encoder id."""
    documents_of: dict[str, Mapping[str, Any]] = {}
    for identifier, document in zip(ids, documents, strict=True):
        if identifier not in documents_of or not _is_known(documents_of[identifier]):
            documents_of[identifier] = document
    groups: dict[str, list[str]] = defaultdict(list)
    for identifier, document in documents_of.items():
        groups[_label(document)].append(identifier)
    labels = {}
    for label, members in groups.items():
        configured = [member for member in members if _is_known(documents_of[member])]
        texts = distinguish([_encoder_config(documents_of[member]) for member in configured])
        counts = Counter(texts)
        for member, text in zip(configured, texts, strict=True):
            parts = [label, text, _mark(member) if counts[text] > 1 else ""]
            labels[member] = " ".join(part for part in parts if part)
        for member in set(members) - set(configured):
            labels[member] = f"{label} {_mark(member)}" if configured else label
    return labels


def _mark(identifier: str) -> str:
    unknown = identifier.startswith(_UNKNOWN)
    return "(which one is unknown)" if unknown else identifier[:8]


def _label_variants(
    documents: Sequence[Mapping[str, Any]], ids: Sequence[str], mean_over: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return labels of protocols and datasets such that runs in a cell differ only in the seed.

    Runs in a cell may also differ in the keys ``mean_over``.

    A protocol may have different configurations for different datasets or encoders without being a
    variant. But if runs of the same encoder, dataset and protocol have different configurations,
    these are variants, and their labels show the keys that differ.
    """
    cells: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, (document, identifier) in enumerate(zip(documents, ids, strict=True)):
        if _is_known(document):
            name = (identifier, document["protocol"], str(document.get("dataset")))
            cells[name].append(number)
    protocols = [str(document["protocol"]) for document in documents]
    datasets = [str(document.get("dataset") or "") for document in documents]
    axes = ((protocols, _protocol_config), (datasets, _dataset_config))
    differing = [_differing(documents, cells, labels, part) for labels, part in axes]
    for (labels, part), keys in zip(axes, differing, strict=True):
        shown = {name: key_set.difference(mean_over) for name, key_set in keys.items()}
        for number, text in _variants(documents, labels, part, shown).items():
            labels[number] = f"{labels[number]} {text}"
    return protocols, datasets


def _protocol_config(document: Mapping[str, Any]) -> dict[str, Any]:
    return hashed_part(document, "protocol", *_PRECISION)


def _dataset_config(document: Mapping[str, Any]) -> dict[str, Any]:
    return hashed_part(document, "dataset")


def _differing(
    documents: Sequence[Mapping[str, Any]],
    cells: Mapping[tuple[str, ...], Sequence[int]],
    names: Sequence[str],
    part: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> dict[str, set[str]]:
    """Return name -> keys in which runs of one cell differ."""
    keys_of: dict[str, set[str]] = defaultdict(set)
    for members in cells.values():
        first = part(documents[members[0]])
        for number in members[1:]:
            if (other := part(documents[number])) != first:
                values, others = flattened(first), flattened(other)
                keys = {key for key in values.keys() | others if values.get(key) != others.get(key)}
                keys_of[names[number]] |= keys
    return keys_of


def _variants(
    documents: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    part: Callable[[Mapping[str, Any]], dict[str, Any]],
    differing: Mapping[str, set[str]],
) -> dict[int, str]:
    """Return number of a document -> text that distinguishes it from others of the same name."""
    texts: dict[int, str] = {}
    for name, keys in differing.items():
        members = [n for n, d in enumerate(documents) if names[n] == name and _is_known(d)]
        flat = [flattened(part(documents[number])) for number in members]
        shown = [{key: value for key, value in config.items() if key in keys} for config in flat]
        texts |= {n: t for n, t in zip(members, distinguish_flat(shown), strict=True) if t}
    return texts
