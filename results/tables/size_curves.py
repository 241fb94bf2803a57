"""Scores against the size of the encoder, for each construction of a representation.

The construction follows from the configuration of a run: which method joins which networks, and
which protocol judges them. Encoders that differ in nothing but the seeds of their pre-training are
repeats of one point.
"""

import copy
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from results.errors import ResultsError
from results.published import catalogue
from results.records.cells import Cell, cells
from results.records.encoder_facts import parameters_of
from results.records.labels import distinguish, hashed_part, natural
from results.records.reading import Results
from results.tables.rendering import Table, to_csv

CONSTRUCTIONS = {
    "single": "single",
    "wide": "wider or larger",
    "wide_sub": "wide, scores of parts averaged",
    "joint": "trained jointly",
    "distill": "distilled",
    "distill_snapshots": "distilled from snapshots",
    "cat": "CAT",
    "cat_snapshots": "CAT of snapshots",
    "cat_sub": "scores of members averaged",
    "init_cat": "CAT, tuned as one [init]",
    "two_stage": "CAT, tuned in two stages [2ft]",
    "other": "other",
}
"""Constructions and their names in pictures."""

AXES = {"parameters": "parameters of the encoder", "networks": "networks"}
"""Horizontal axes and their labels."""

SEVERAL = " | "
"""What stands between the labels of several encoders that are repeats of one point."""

_TWO_STAGES = "two_stage_finetune"
_BESIDE_FINE_TUNING = (_TWO_STAGES, "score_as_is")
_TUNED_WHOLE = (
    *("finetune", "bn_tune", "norm_tune", "bias_tune", "last_block"),
    "linear_probe_then_finetune",
)
_NUMBERED = re.compile(r"(run|seed)_?\d+")
_ENCODERS = ("members", "teachers", "teacher", "start_from")


class Point(NamedTuple):
    """One construction of one size on one dataset, over its repeats.

    ``mean`` and ``deviation`` are in the unit of the scores. The deviation is that of repeats with
    other pre-trainings or, if there is one encoder, of its evaluations; None of a single run.
    """

    protocol: str
    dataset: str
    construction: str
    family: str
    networks: int
    parameters: int
    metric: str
    unit: str
    mean: float
    deviation: float | None
    repeats: int
    encoders: str
    source: str

    @property
    def panel(self) -> tuple[str, str]:
        """Protocol and dataset of the panel.

        Fine-tuning in two stages is shown beside fine-tuning, and so are published networks with
        their own classifier (``score_as_is``).
        """
        name, *variant = self.protocol.split(" ")
        name = "finetune" if name in _BESIDE_FINE_TUNING else name
        return " ".join([name, *variant]), self.dataset

    @property
    def curve(self) -> tuple[str, str, str]:
        """What the points of one curve share."""
        return self.construction, self.family, self.source


class _Encoder(NamedTuple):
    """What a run's record says about its encoder."""

    construction: str
    networks: int
    parameters: int
    kind: dict[str, Any]
    """Its configuration without what differs between repeats."""
    recipe: dict[str, Any]
    """How its networks were trained, without their architecture."""


_Group = list[tuple[str, Cell, _Encoder]]
"""Label, scores and encoder of the repeats of one point."""


def points(results: Results, metric: str | None = None) -> tuple[list[Point], list[str]]:
    """Return a point per construction, size, protocol and dataset, and what was left out.

    Args:
        results: records, not published tables.
        metric: the metric (None: the primary metric of each protocol).

    Returns:
        The points, and a sentence for encoders whose number of parameters is unknown.
    """
    groups, unknown = _groups(results, metric)
    recipes = [group[0][2].recipe for group in groups.values()]
    families = dict(zip(groups, distinguish(recipes), strict=True))
    wide = _wide(groups, families)
    by_key, places = {}, defaultdict(list)
    for key, group in groups.items():
        construction = "wide" if key in wide else group[0][2].construction
        point = _point(key, group, construction, families[key])
        by_key[key] = point
        places[point.panel, point.curve, point.networks, point.parameters].append(key)
    for keys in places.values():  # one point per place of a curve
        texts = distinguish([groups[key][0][2].kind for key in keys])
        for key, text in zip(keys, texts, strict=True):
            family = " ".join(filter(None, (by_key[key].family, text)))
            by_key[key] = by_key[key]._replace(family=family)
    left_out = [
        f"{len(unknown)} encoders were left out, because their records are of earlier code and do "
        f"not state the number of parameters ({', '.join(sorted(unknown)[:3])}); force=true "
        "computes a run again."
    ] if unknown else []  # fmt: skip
    return in_order(by_key.values()), left_out


def _groups(
    results: Results, metric: str | None
) -> tuple[dict[tuple[str, str, str], _Group], set[str]]:
    """Return repeats by protocol, dataset and kind, and labels of encoders of unknown size."""
    groups: dict[tuple[str, str, str], _Group] = defaultdict(list)
    unknown = set()
    for protocol in sorted({row.protocol for row in results.rows if row.dataset}, key=natural):
        if metric is not None and not _has(results, protocol, metric):
            continue
        for (label, dataset), cell in cells(results, protocol, metric).items():
            if not cell.values or not dataset:
                continue
            _, run = next(iter(cell.values))
            encoder = _described(results.documents[run], results.documents)
            if encoder is None:
                unknown.add(label)
            else:
                kind = json.dumps(encoder.kind, sort_keys=True)
                groups[protocol, dataset, kind].append((label, cell, encoder))
    return groups, unknown


def _has(results: Results, protocol: str, metric: str) -> bool:
    return any((row.protocol, row.metric) == (protocol, metric) for row in results.rows)


def _wide(
    groups: Mapping[tuple[str, str, str], _Group], families: Mapping[tuple[str, str, str], str]
) -> set[tuple[str, str, str]]:
    """Return the single networks that are larger than the smallest one of panel and family."""
    sizes: dict[tuple[str, str, str], dict[tuple[str, str, str], int]] = defaultdict(dict)
    for key, group in groups.items():
        if group[0][2].construction == "single":
            sizes[key[0], key[1], families[key]][key] = group[0][2].parameters
    return {
        key
        for by_key in sizes.values()
        for key, parameters in by_key.items()
        if parameters > min(by_key.values())
    }


def published_points(
    tables: Sequence[str], protocols: Iterable[str] = (), datasets: Iterable[str] = ()
) -> list[Point]:
    """Return the points of published tables that state constructions and parameters.

    Args:
        tables: names of published tables.
        protocols: only these, with or without the parts behind the first space (empty: all).
        datasets: only these (empty: all).

    Raises:
        ResultsError: if a table is unknown, or states no constructions.
    """
    stated = []
    for name in tables:
        for line in catalogue.lines(name):
            if not line.get("construction"):
                raise ResultsError(
                    f"a published table beside a curve must state constructions and parameters, "
                    f"but `{name}` does not; name one of those that begin with "
                    "`rich_representations`."
                )
            protocol, dataset = line["protocol"], line["dataset"]
            if line["parameters"] and (
                (not protocols or {protocol, protocol.split(" ")[0]} & set(protocols))
                and (not datasets or dataset in set(datasets))
            ):
                stated.append(_published_point(line, name))
    return stated


def _published_point(line: Mapping[str, str], table: str) -> Point:
    """Return a line of a published table, whose scores are in percent, as a point."""
    joined = line["construction"] == "cat"
    return Point(
        protocol=line["protocol"],
        dataset=line["dataset"],
        construction=_joined(line["protocol"]) if joined else line["construction"],
        family="",
        networks=int(line["networks"]),
        parameters=int(line["parameters"]),
        metric=line["metric"],
        unit="fraction",
        mean=float(line["score"]) / 100,
        deviation=float(line["deviation"]) / 100 if line["deviation"] else None,
        repeats=1,
        encoders=line["model"],
        source=table,
    )


def _described(
    document: Mapping[str, Any], documents: Mapping[str, Mapping[str, Any]]
) -> _Encoder | None:
    """Return the facts about a run's encoder; None if its number of parameters is unknown."""
    parameters = parameters_of(document, documents)
    if parameters is None:
        return None
    nodes = hashed_part(document, "model", "method")
    stated = document.get("config") or {}
    construction, networks = _construction(nodes, str(document["protocol"]))
    kind = _reduced(nodes["method"]) if nodes["method"].get("members") else _network(nodes)
    trained = [_recipe(*pair) for pair in _networks(nodes, stated)]
    same = all(recipe == trained[0] for recipe in trained)
    recipe = trained[0] if same else {"networks": trained}
    return _Encoder(construction, networks, parameters, kind, recipe)


def _networks(
    nodes: Mapping[str, Any], stated: Mapping[str, Any]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return the nodes of members or teachers, else of the encoder, each as hashed and stated."""
    for key in ("members", "teachers"):
        hashed = nodes["method"].get(key)
        if hashed:
            whole = (stated.get("method") or {}).get(key) or hashed
            return list(zip(hashed, whole, strict=True))
    return [(nodes, stated)]


def _construction(nodes: Mapping[str, Any], protocol: str) -> tuple[str, int]:
    """Return the construction of an encoder, and of how many networks it is."""
    model, method = nodes.get("model") or {}, nodes["method"]
    members, teachers = method.get("members") or [], method.get("teachers") or []
    if method.get("name") == "cat_sub":
        sliced = all((member["model"] or {}).get("columns") for member in members)
        return ("wide_sub" if sliced else "cat_sub"), len(members)
    if members:
        joined = _joined(protocol)
        snapshots = joined == "cat" and _are_snapshots(members)
        return ("cat_snapshots" if snapshots else joined), len(members)
    if teachers:
        snapshots = _are_snapshots(teachers)
        return ("distill_snapshots" if snapshots else "distill"), len(teachers)
    if model.get("networks"):
        return "joint", int(model["networks"])
    return "single", 1


def _joined(protocol: str) -> str:
    """Return the construction of joined networks that a protocol judges."""
    name = protocol.split(" ")[0]
    return "two_stage" if name == _TWO_STAGES else "init_cat" if name in _TUNED_WHOLE else "cat"


def _are_snapshots(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether networks are several epochs of one pre-training."""
    without = [json.dumps(_without(part, "snapshot"), sort_keys=True) for part in parts]
    return len(parts) > 1 and len(set(without)) == 1


def _without(node: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        return {name: _without(value, key) for name, value in node.items() if name != key}
    return node


def _network(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes of a network without what tells repeats apart: seeds, numbers of files."""
    model = copy.deepcopy(dict(nodes["model"]))
    weights = dict(model.get("weights") or {})
    for node, key in ((model, "name"), (weights, "path")):
        if isinstance(node.get(key), str):
            node[key] = _NUMBERED.sub(r"\1", node[key])
    for checksum in ("sha256", "md5"):
        weights.pop(checksum, None)
    return {"model": {**model, "weights": weights}, "method": _reduced(nodes["method"])}


def _reduced(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's node without its seed, and with its encoders in an order of their own."""
    reduced = {key: value for key, value in method.items() if key != "seed"}
    for key in _ENCODERS:
        value = reduced.get(key) or []
        several: list[Any] = value if isinstance(value, list) else [value]
        if several and all(isinstance(one, Mapping) for one in several):
            networks = [_network(one) for one in several]
            reduced[key] = sorted(networks, key=lambda one: json.dumps(one, sort_keys=True))
    return reduced


def _recipe(nodes: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a network was trained: its method, or what is known about published weights."""
    method = _reduced(nodes["method"])
    for key in (*_ENCODERS, "snapshot", "snapshots"):
        method.pop(key, None)
    weights = nodes["model"].get("weights") or {}
    if not weights.get("path"):
        return {"method": method}
    facts = (stated.get("model") or {}).get("facts") or {}
    return {"method": method, "layout": weights.get("layout"), "on": facts.get("trained_on")}


def _point(key: tuple[str, str, str], group: _Group, construction: str, family: str) -> Point:
    """Return the point of encoders that differ in the seeds of their pre-training only."""
    protocol, dataset, _ = key
    _, cell, encoder = group[0]
    means = [one.mean for _, one, _ in group]
    row = cell.row
    assert row is not None
    return Point(
        protocol=protocol,
        dataset=dataset,
        construction=construction,
        family=family,
        networks=encoder.networks,
        parameters=encoder.parameters,
        metric=row.metric,
        unit=row.unit,
        mean=statistics.fmean(means),
        deviation=statistics.stdev(means) if len(means) > 1 else cell.spread,
        repeats=len(means) if len(means) > 1 else len(cell.values),
        encoders=SEVERAL.join(sorted((label for label, _, _ in group), key=natural)),
        source="",
    )


def in_order(points: Iterable[Point]) -> list[Point]:
    """Return points by panel, published ones after own ones, construction and size."""
    names = list(CONSTRUCTIONS)
    return sorted(
        points,
        key=lambda point: (
            natural(point.panel[0]),
            natural(point.dataset),
            point.source,
            names.index(point.construction),
            natural(point.family),
            point.parameters,
            point.networks,
        ),
    )


def to_table(points: Sequence[Point]) -> Table:
    """Return the points as a table of texts, with fractions in percent."""
    families = any(point.family for point in points)
    rows = [
        [
            point.protocol,
            point.dataset,
            point.construction,
            *([point.family] if families else []),
            str(point.networks),
            f"{point.parameters:,}",
            _shown(point),
            "published" if point.source else str(point.repeats),
        ]
        for point in points
    ]
    header = ["protocol", "dataset", "construction", *(["networks as"] if families else [])]
    notes = [
        "n: repeats, which differ in the seeds of pre-training (or, of one encoder, of its "
        "evaluations); ± is their sample standard deviation",
        "; ".join(
            f"{name}: {text}"
            for name, text in CONSTRUCTIONS.items()
            if any(point.construction == name for point in points) and name != text
        ),
    ]
    return Table(
        "Scores by construction and size (fractions in %)",
        [*header, "networks", "parameters", "score", "n"],
        rows,
        [note for note in notes if note],
        3 + families,
    )


def _shown(point: Point) -> str:
    scale = 100 if point.unit == "fraction" else 1
    text = f"{scale * point.mean:.2f}"
    return text if point.deviation is None else f"{text} ± {scale * point.deviation:.2f}"


def to_csv_points(points: Sequence[Point]) -> str:
    """Return CSV with one row per point; scores are in the unit that is stated."""
    return to_csv(Point._fields, points)
