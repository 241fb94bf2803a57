"""What records are about: unique short labels of encoders, protocols and datasets."""

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from results.errors import unknown

_SHOWN_AT_MOST = 3
_UNKNOWN = "? "
_PRECISION = ("precision", "debug")


class Identity(NamedTuple):
    """What a run is about; ``encoder_id`` is the unit of tables, the others are labels."""

    encoder_id: str
    encoder: str
    protocol: str
    dataset: str


def identify(
    documents: Sequence[Mapping[str, Any]], mean_over: Collection[str] = ()
) -> list[Identity]:
    """Return the labels of records and failures, unique among all of them.

    Args:
        documents: what runs left.
        mean_over: keys such as ``dataset.split``: runs that differ in nothing else (and the seed)
            share their labels, and so one cell of a table.

    Raises:
        ResultsError: if a key of ``mean_over`` is none of any dataset or protocol.
    """
    ids = _encoder_ids(documents)
    encoders = _label_encoders(documents, ids)
    protocols, datasets = _label_variants(documents, ids, mean_over)
    rows = zip(ids, protocols, datasets, strict=True)
    return [Identity(one, encoders[one], protocol, dataset) for one, protocol, dataset in rows]


def distinguish(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each configuration the ``key=value`` pairs that set it apart, or ``""``.

    All keys that differ are shown if there are at most three, else just enough of them to tell
    the configurations apart; keys that one has not are left out. Equal ones get equal texts.
    """
    return _distinguish([_flat(config) for config in configs])


def _distinguish(flat: Sequence[Mapping[str, str]]) -> list[str]:
    keys = list(dict.fromkeys(key for one in flat for key in one))
    keys = _named([key for key in keys if len({one.get(key) for one in flat}) > 1], flat)
    if len(keys) > _SHOWN_AT_MOST:
        keys = _enough(flat, keys)
    names = {key: _short_name(key, keys) for key in keys}
    texts = {key: _texts({one[key] for one in flat if key in one}) for key in keys}
    return [" ".join(f"{names[k]}={texts[k][one[k]]}" for k in keys if k in one) for one in flat]


def natural(text: str) -> list[tuple[int, float, str]]:
    """Return a sorting key under which ``epochs=4`` comes before ``epochs=40``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(p), "") if p[:1].isdecimal() else (1, 0.0, p) for p in parts if p]


def _encoder_ids(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each document what identifies its encoder: almost always the encoder's id.

    A run that ended before its weights were read may not know the id. It then belongs to the one
    encoder with the same configuration, or label if it left no configuration; failing that, it
    is identified by these.
    """
    ids = [_stated_id(document) for document in documents]
    unknown = {_label(d) for d, one in zip(documents, ids, strict=True) if one is None}
    known: dict[str, set[str]] = defaultdict(set)
    # One document of each encoder is enough, but only a record knows the configuration.
    some = {(one, _is_known(d)): d for d, one in zip(documents, ids, strict=True)}
    for (identifier, _), document in some.items():
        if identifier is not None and _label(document) in unknown:
            known[_description(document)].add(identifier)
            known[_label(document)].add(identifier)
    found = []
    for document, identifier in zip(documents, ids, strict=True):
        if identifier is None:
            description = _description(document)
            same = known[description]
            identifier = next(iter(same)) if len(same) == 1 else f"{_UNKNOWN}{description}"
        found.append(identifier)
    return found


def _is_known(document: Mapping[str, Any]) -> bool:
    """Return whether a document says how its run was configured."""
    return any(isinstance(document.get(key), dict) for key in ("identity", "config"))


def _stated_id(document: Mapping[str, Any]) -> str | None:
    identifier = (document.get("encoder") or {}).get("id")
    if identifier == document["run_id"] and document["protocol"] != "pretrain":
        return None  # a stand-in, written by a run that never saw its weights
    return None if identifier is None else str(identifier)


def _label(document: Mapping[str, Any]) -> str:
    label = (document.get("encoder") or {}).get("label")
    return str(label or f"{document['model']}-{document['method']}")


def _description(document: Mapping[str, Any]) -> str:
    """Return a text that documents of one encoder share, as far as they can tell."""
    if not _is_known(document):
        return _label(document)
    return f"{_label(document)} {json.dumps(_flat(_encoder_config(document)), sort_keys=True)}"


def _encoder_config(document: Mapping[str, Any]) -> dict[str, Any]:
    # Precision and debug are the encoder's only where it was pre-trained here.
    return _part(document, "model", "method", *_PRECISION[: 2 * bool(document.get("requires"))])


def _part(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return keys of what a run's id is a hash of.

    A record of earlier code has only the configuration.
    """
    identity = document.get("identity")
    if not isinstance(identity, dict):
        identity = _as_hashed(document["config"])
    return {key: identity[key] for key in keys if key in identity}


_MADE_NO_ID = frozenset({"resources", "download", "sizes", "keep_encoder"})
"""Keys that no id was a hash of when records did not say what was hashed, nulls aside."""


def _as_hashed(config: Any) -> Any:
    """Return what a record of earlier code may have been identified by."""
    if isinstance(config, list):
        return [_as_hashed(item) for item in config]
    if isinstance(config, dict):
        return {
            key: _as_hashed(value)
            for key, value in config.items()
            if value is not None and key not in _MADE_NO_ID
        }
    return config


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
        configured = [one for one in members if _is_known(documents_of[one])]
        texts = distinguish([_encoder_config(documents_of[one]) for one in configured])
        counts = Counter(texts)
        for one, text in zip(configured, texts, strict=True):
            parts = [label, text, _mark(one) if counts[text] > 1 else ""]
            labels[one] = " ".join(part for part in parts if part)
        for one in set(members) - set(configured):
            labels[one] = f"{label} {_mark(one)}" if configured else label
    return labels


def _mark(identifier: str) -> str:
    unknown = identifier.startswith(_UNKNOWN)
    return "(which one is unknown)" if unknown else identifier[:8]


def _label_variants(
    documents: Sequence[Mapping[str, Any]], ids: Sequence[str], mean_over: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return labels of protocols and datasets under which only seeds share a table's cell.

    (And, if asked for, values of the keys ``mean_over``.)

    A protocol may be configured differently for each dataset or encoder without being another
    one. But where one cell (encoder, dataset, protocol) holds runs of different configurations,
    they are variants and are told apart by the keys that differ.
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
    _check_mean_over(mean_over, documents, differing)
    for (labels, part), keys in zip(axes, differing, strict=True):
        kept = {name: found.difference(mean_over) for name, found in keys.items()}
        for number, text in _variants(documents, labels, part, kept).items():
            labels[number] = f"{labels[number]} {text}"
    return protocols, datasets


def _check_mean_over(
    mean_over: Collection[str],
    documents: Sequence[Mapping[str, Any]],
    differing: Sequence[Mapping[str, set[str]]],
) -> None:
    """Refuse keys that no run has, listing those in which runs of one cell differ."""
    if missing := [key for key in mean_over if not any(_has(one, key) for one in documents)]:
        useful = sorted({key for by_name in differing for keys in by_name.values() for key in keys})
        raise unknown("`--mean-over`", missing[0], useful)


def _has(document: Mapping[str, Any], key: str) -> bool:
    node: Any = _part(document, "dataset", "protocol") if _is_known(document) else {}
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node is not None and not isinstance(node, dict)


def _protocol_config(document: Mapping[str, Any]) -> dict[str, Any]:
    return _part(document, "protocol", *_PRECISION)


def _dataset_config(document: Mapping[str, Any]) -> dict[str, Any]:
    return _part(document, "dataset")


def _differing(
    documents: Sequence[Mapping[str, Any]],
    cells: Mapping[tuple[str, ...], Sequence[int]],
    names: Sequence[str],
    part: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> dict[str, set[str]]:
    """Return by name the keys in which runs of one cell differ."""
    found: dict[str, set[str]] = defaultdict(set)
    for members in cells.values():
        first = part(documents[members[0]])
        for number in members[1:]:
            if (other := part(documents[number])) != first:
                one, two = _flat(first), _flat(other)
                keys = {key for key in one.keys() | two if one.get(key) != two.get(key)}
                found[names[number]] |= keys
    return found


def _variants(
    documents: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    part: Callable[[Mapping[str, Any]], dict[str, Any]],
    differing: Mapping[str, set[str]],
) -> dict[int, str]:
    """Return the text that sets a document apart from others of the same name, where needed."""
    texts: dict[int, str] = {}
    for name, keys in differing.items():
        members = [n for n, d in enumerate(documents) if names[n] == name and _is_known(d)]
        flat = [_flat(part(documents[number])) for number in members]
        kept = [{key: value for key, value in one.items() if key in keys} for one in flat]
        texts |= {n: t for n, t in zip(members, _distinguish(kept), strict=True) if t}
    return texts


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a nested configuration as dotted keys, with values as Python writes them."""
    return dict(_leaves(config, ""))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, list) and any(isinstance(item, dict) for item in node):  # e.g. views
        node = {str(place): item for place, item in enumerate(node)}
    if isinstance(node, dict) and (node or not path):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, repr(node)


def _separated(flat: Sequence[Mapping[str, str]], keys: Sequence[str]) -> int:
    """Return how many configurations are told apart by some keys."""
    return len({tuple(one.get(key) for key in keys) for one in flat})


def _named(keys: list[str], flat: Sequence[Mapping[str, str]]) -> list[str]:
    """Leave out what a node's name already tells, such as the reader of another data set."""
    nodes = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    rest = [key for key in keys if key.endswith(".name") or not key.startswith(nodes)]
    return rest if _separated(flat, rest) == _separated(flat, keys) else keys


def _enough(flat: Sequence[Mapping[str, str]], keys: Sequence[str]) -> list[str]:
    """Return few keys that separate as much as all do, the shallow ones first."""
    candidates = sorted(keys, key=lambda key: key.count("."))
    chosen: list[str] = []
    while _separated(flat, chosen) < _separated(flat, keys):
        chosen.append(max(candidates, key=lambda key: _separated(flat, [*chosen, key])))
    return chosen


def _short_name(key: str, keys: Sequence[str]) -> str:
    """Return the shortest end of a dotted key that no other key shares; a name is its node's."""
    key = key.removesuffix(".name")
    parts = key.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if not any(other != key and f".{other}".endswith(f".{end}") for other in keys):
            return end
    return key


def _texts(values: Collection[str]) -> dict[str, str]:
    """Return for each value of a key a short text that no other value has.

    Of a path it is the last part, and as many folders before it as tell it from the others.
    """
    shorter = {value: _shorter(value) for value in values}
    length = dict.fromkeys(values, 0)
    while True:
        texts = {value: shorter[value][length[value]] for value in values}
        times = Counter(texts.values())
        longer = [v for v in values if times[texts[v]] > 1 and length[v] + 1 < len(shorter[v])]
        if not longer:
            return texts
        for value in longer:
            length[value] += 1


def _shorter(value: str) -> list[str]:
    """Return texts for a value of ``_flat``, the shortest first, the value itself last."""
    if value[:1] not in ("'", '"'):
        return ["null" if value == "None" else value, value]
    text = str(ast.literal_eval(value))
    parts = text.rstrip("/").split("/")
    ends = ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]
    return [*(end for end in ends if end), text, value]
