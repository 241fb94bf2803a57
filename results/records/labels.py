"""Unique short labels of encoders, protocols and datasets in records.

Labels follow from descriptions, of which there are far fewer than runs.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from results.errors import unknown
from results.records.descriptions import Description, Parts, describe, hashed_part
from results.records.differences import distinguish, distinguish_flat, flattened, natural

__all__ = ["Identity", "distinguish", "hashed_part", "identify", "label", "natural"]

_UNKNOWN = "? "
_PRECISION = ("precision", "debug")


class Identity(NamedTuple):
    """The encoder's id, which is the unit of tables, and the labels of a run."""

    encoder_id: str
    encoder: str
    protocol: str
    dataset: str


def identify(
    documents: Sequence[Mapping[str, Any]], mean_over: Collection[str] = ()
) -> list[Identity]:
    """Return the labels of records and failures, as ``label`` does for their descriptions."""
    descriptions = [describe(document) for document in documents]
    identities = label(descriptions, mean_over)
    return [identities[description] for description in descriptions]


def label(
    descriptions: Sequence[Description],
    mean_over: Collection[str] = (),
    apart: Sequence[str] = (),
) -> dict[Description, Identity]:
    """Return the labels of each description, unique among all of them.

    Args:
        descriptions: those of all runs; repeated ones are considered once.
        mean_over: keys such as ``dataset.split``: runs that differ only in these keys and the seed
            have the same labels and belong to one cell of a table.
        apart: hyper-parameters, and ``model`` or ``method``, which a table shows beside labels.
            Labels lack their values: they are unique together with these.

    Raises:
        ResultsError: if no dataset or protocol has a key of ``mean_over``.
    """
    distinct = list(dict.fromkeys(descriptions))
    by_last = list(dict.fromkeys(reversed(descriptions)))[::-1]
    ids = _encoder_ids(distinct, by_last)
    encoders = _label_encoders(distinct, by_last, ids, apart)
    protocols, datasets = _label_variants(distinct, ids, mean_over, apart)
    return {
        one: Identity(encoder_id, encoders[encoder_id], protocol, dataset)
        for one, encoder_id, protocol, dataset in zip(
            distinct, ids, protocols, datasets, strict=True
        )
    }


class _Configurations:
    """Nested and flat forms of parts of identities, each computed once."""

    def __init__(self) -> None:
        self._nested: dict[Parts, dict[str, Any]] = {}
        self._flat: dict[Parts, dict[str, str]] = {}

    def nested(self, parts: Parts) -> dict[str, Any]:
        if parts not in self._nested:
            self._nested[parts] = {key: json.loads(text) for key, text in parts}
        return self._nested[parts]

    def flat(self, parts: Parts) -> dict[str, str]:
        if parts not in self._flat:
            self._flat[parts] = flattened(self.nested(parts))
        return self._flat[parts]


def _encoder_ids(descriptions: Sequence[Description], by_last: Sequence[Description]) -> list[str]:
    """Return for each description the identity of its encoder, which is usually the encoder's id.

    A run that ended before its weights were read may not know the id. If exactly one encoder has
    the same configuration (or label, without a configuration), the run gets the id of that encoder;
    otherwise the configuration or label is the identity.

    Args:
        descriptions: distinct descriptions.
        by_last: the same ones, in the order of their last runs.
    """
    described = _Described()
    ids = _apart(descriptions)
    unknown = {
        one.encoder_label for one, stated in zip(descriptions, ids, strict=True) if stated is None
    }
    known: dict[str, set[str]] = defaultdict(set)
    # One description per encoder suffices, preferably one with a configuration.
    id_of = dict(zip(descriptions, ids, strict=True))
    some = {(id_of[one], one.parts is not None): one for one in by_last}
    for (identifier, _), one in some.items():
        if identifier is not None and one.encoder_label in unknown:
            known[described[one]].add(identifier)
            known[one.encoder_label].add(identifier)
    identities = []
    for one, identifier in zip(descriptions, ids, strict=True):
        if identifier is None:
            text = described[one]
            same = known[text]
            identifier = next(iter(same)) if len(same) == 1 else f"{_UNKNOWN}{text}"
        identities.append(identifier)
    return identities


class _Described:
    """Texts that are equal for descriptions of the same encoder, as far as they show it."""

    def __init__(self) -> None:
        self._configurations = _Configurations()

    def __getitem__(self, description: Description) -> str:
        if description.parts is None:
            return description.encoder_label
        flat = self._configurations.flat(_encoder_parts(description))
        return f"{description.encoder_label} {json.dumps(flat, sort_keys=True)}"


def _apart(descriptions: Sequence[Description]) -> list[str | None]:
    """Return ids that differ where equal weights receive differently prepared images.

    The id of an encoder that no run pre-trained is a hash of its weights alone. Where all its
    records have the same preprocessing, the id stays.
    """
    written = _written_preprocessings(descriptions)
    known: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for one, config in zip(descriptions, written, strict=True):
        if one.preprocessing is not None:
            known[one.encoder_id, config].add(one.preprocessing)
    texts = []  # records of earlier code have the configuration only
    for one, config in zip(descriptions, written, strict=True):
        same = known[one.encoder_id, config]
        texts.append(one.preprocessing or (next(iter(same)) if len(same) == 1 else config))
    texts_of: dict[str | None, set[str]] = defaultdict(set)
    for one, text in zip(descriptions, texts, strict=True):
        texts_of[one.encoder_id].add(text)
    return [
        one.encoder_id
        if one.encoder_id is None or len(texts_of[one.encoder_id]) == 1
        else hashlib.sha256(f"{one.encoder_id} {text}".encode()).hexdigest()[:16]
        for one, text in zip(descriptions, texts, strict=True)
    ]


def _written_preprocessings(descriptions: Sequence[Description]) -> list[str]:
    """Return the preprocessing in each configuration, as JSON."""
    models = [dict(one.parts or ()).get("model", "null") for one in descriptions]
    texts = {}
    for text in set(models):
        model = json.loads(text)
        node = model.get("preprocessing") if isinstance(model, dict) else None
        texts[text] = json.dumps(node, sort_keys=True)
    return [texts[text] for text in models]


def _encoder_parts(description: Description) -> Parts:
    # Precision and debug identify an encoder only if it was pre-trained by a run.
    return description.part("model", "method", *_PRECISION[: 2 * description.requires])


def _label_encoders(
    descriptions: Sequence[Description],
    by_last: Sequence[Description],
    ids: Sequence[str],
    apart: Sequence[str],
) -> dict[str, str]:
    """Return a label for every encoder id, unique together with the values of ``apart``."""
    # The first description with a configuration shows what an encoder is, else the last one.
    id_of = dict(zip(descriptions, ids, strict=True))
    shown = {id_of[one]: one for one in by_last if one.parts is None}
    shown |= {id_of[one]: one for one in reversed(descriptions) if one.parts is not None}
    description_of = {identifier: shown[identifier] for identifier in ids}
    groups: dict[str, list[str]] = defaultdict(list)
    for identifier, one in description_of.items():
        groups[one.encoder_label].append(identifier)
    configurations, labels, short = _Configurations(), {}, {}
    values: dict[str, tuple[str | None, ...]] = {}
    for name, members in groups.items():
        configured = [member for member in members if description_of[member].parts is not None]
        flat = [configurations.flat(_encoder_parts(description_of[one])) for one in configured]
        values |= {m: tuple(map(one.get, apart)) for m, one in zip(configured, flat, strict=True)}
        texts = distinguish_flat(
            [{key: value for key, value in one.items() if key not in apart} for one in flat]
        )
        counts = Counter(zip(texts, map(values.get, configured), strict=True))
        for member, text in zip(configured, texts, strict=True):
            mark = _mark(member) if counts[text, values[member]] > 1 else ""
            labels[member] = _joined(name, text, mark)
            short[member] = _joined(_unshown_name(description_of[member], apart), text, mark)
        for member in set(members) - set(configured):
            labels[member] = _joined(name, _mark(member) if configured else "")
    return labels | _unique(short, values, description_of, apart)


def _unshown_name(description: Description, apart: Collection[str]) -> str:
    """Return the part of an encoder's label that neither its model nor its method shows."""
    if "model" in apart:
        return "" if "method" in apart else description.method
    return description.model if "method" in apart else description.encoder_label


def _unique(
    short: Mapping[str, str],
    values: Mapping[str, tuple[str | None, ...]],
    description_of: Mapping[str, Description],
    apart: Collection[str],
) -> dict[str, str]:
    """Return those short labels that are unique together with the values of ``apart``."""
    places = {
        member: (
            text,
            values[member],
            description_of[member].model if "model" in apart else "",
            description_of[member].method if "method" in apart else "",
        )
        for member, text in short.items()
    }
    counts = Counter(places.values())
    return {member: short[member] for member, place in places.items() if counts[place] == 1}


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _mark(identifier: str) -> str:
    unknown = identifier.startswith(_UNKNOWN)
    return "(which one is unknown)" if unknown else identifier[:8]


def _label_variants(
    descriptions: Sequence[Description],
    ids: Sequence[str],
    mean_over: Collection[str],
    apart: Collection[str],
) -> tuple[list[str], list[str]]:
    """Return labels of protocols and datasets such that runs in a cell differ only in the seed.

    Runs in a cell may also differ in the keys ``mean_over``, and those of a label in ``apart``.

    A protocol may have different configurations for different datasets or encoders without being a
    variant. But if runs of the same encoder, dataset and protocol have different configurations,
    these are variants, and their labels show the keys that differ.
    """
    cells: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, (one, identifier) in enumerate(zip(descriptions, ids, strict=True)):
        if one.parts is not None:
            cells[identifier, one.protocol, str(one.dataset)].append(number)
    axes = [
        _Axis([one.protocol for one in descriptions], descriptions, ("protocol", *_PRECISION)),
        _Axis([one.dataset or "" for one in descriptions], descriptions, ("dataset",)),
    ]
    differing = [axis.differing(list(cells.values())) for axis in axes]
    _check_mean_over(mean_over, descriptions, differing)
    for axis, keys in zip(axes, differing, strict=True):
        axis.lengthen({name: some.difference(mean_over, apart) for name, some in keys.items()})
    return axes[0].labels, axes[1].labels


class _Axis:
    """The labels of protocols, or of datasets, and the configurations that distinguish them.

    Args:
        labels: the name in each description; ``lengthen`` makes them unique.
        descriptions: the descriptions.
        keys: keys of the identity that belong to the axis.
    """

    def __init__(
        self, labels: list[str], descriptions: Sequence[Description], keys: Sequence[str]
    ) -> None:
        self.labels = labels
        self._known = [one.parts is not None for one in descriptions]
        self._parts = [one.part(*keys) for one in descriptions]
        self._configurations = _Configurations()

    def differing(self, cells: Sequence[Sequence[int]]) -> dict[str, set[str]]:
        """Return name -> keys in which runs of one cell differ."""
        pairs: dict[str, dict[tuple[Parts, Parts], None]] = defaultdict(dict)
        for members in cells:
            first = self._parts[members[0]]
            for number in members[1:]:
                if self._parts[number] != first:
                    pairs[self.labels[number]][first, self._parts[number]] = None
        keys = {name: [self._keys(*pair) for pair in some] for name, some in pairs.items()}
        return {
            name: set().union(*(one for one in some if one is not None))
            for name, some in keys.items()
            if any(one is not None for one in some)
        }

    def _keys(self, first: Parts, other: Parts) -> set[str] | None:
        """Return the keys in which two configurations differ; None if they are equal."""
        nested = self._configurations.nested
        if nested(first) == nested(other):
            return None
        values, others = self._configurations.flat(first), self._configurations.flat(other)
        return {key for key in values.keys() | others if values.get(key) != others.get(key)}

    def lengthen(self, shown: Mapping[str, Collection[str]]) -> None:
        """Append to each label the values of the keys that its name needs to be distinguished."""
        names = list(self.labels)
        for name, keys in shown.items():
            members = [n for n, one in enumerate(names) if one == name and self._known[n]]
            distinct = list(dict.fromkeys(self._parts[n] for n in members))
            flat = [self._configurations.flat(parts) for parts in distinct]
            kept = [{key: value for key, value in one.items() if key in keys} for one in flat]
            texts = dict(zip(distinct, distinguish_flat(kept), strict=True))
            for number in members:
                if text := texts[self._parts[number]]:
                    self.labels[number] = f"{name} {text}"


def _check_mean_over(
    mean_over: Collection[str],
    descriptions: Sequence[Description],
    differing: Sequence[Mapping[str, set[str]]],
) -> None:
    """Raise an error for a key that no run has; it lists keys in which runs of a cell differ."""
    if not mean_over:
        return
    known = set(_stated_keys(descriptions))
    if missing := [key for key in mean_over if key not in known]:
        useful = sorted({key for by_name in differing for keys in by_name.values() for key in keys})
        raise unknown("`--mean-over`", missing[0], useful)


def _stated_keys(descriptions: Sequence[Description]) -> Iterator[str]:
    """Yield the dotted keys of datasets and protocols with a value that is neither null nor {}."""
    for parts in {one.part("dataset", "protocol") for one in descriptions}:
        nodes: list[tuple[str, Any]] = [(key, json.loads(text)) for key, text in parts]
        while nodes:
            path, node = nodes.pop()
            if isinstance(node, dict):
                nodes += [(f"{path}.{key}", value) for key, value in node.items()]
            elif node is not None:
                yield path
