"""The figures of invariances: bars by transform, and invariance against the target's score.

Transforms of synthetic images and sets of real views are grouped into spatial and appearance
changes as in Ericsson et al. 2021 (https://arxiv.org/abs/2111.11398).
"""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from results.agreement.analysis import Analysis
from results.agreement.correlations import correlate_scores
from results.agreement.scores import Scores
from results.figures import agreement
from results.figures.drawing import Drawing, NotDrawn
from results.figures.rows import RowPanel, draw_rows
from results.figures.theme import Theme
from results.records.cells import Cell, cells, ordered
from results.records.reading import Results
from results.records.score_intervals import Interval

SPATIAL, APPEARANCE = "spatial", "appearance"
GROUPS = (SPATIAL, APPEARANCE)
"""Both groups, in the order of the figures; a group's place is its colour."""

TRANSFORMS = {
    SPATIAL: (
        "rotation", "translation", "scale", "shear", "resized_crop", "h_flip", "v_flip", "deform",
        "stereo_patches", "flickr1024", "coil100", "aloi", "alot", "dali",
    ),
    APPEARANCE: (
        "grayscale", "brightness", "contrast", "saturation", "hue", "blur", "sharpness", "invert",
        "equalize", "posterize", "aloi_illumination", "alot_illumination", "aloi_temperature",
        "alot_temperature", "exposure_errors", "realblur",
    ),
}  # fmt: skip
"""Synthetic transforms, then sets of real views, by group."""

_SYNTHETIC, _REAL = "synthetic_invariance", "real_world_invariance"
_NEEDS = (
    "the figure of invariances needs finished runs of `synthetic_invariance` or "
    "`real_world_invariance`, but there are none."
)


class Invariance(NamedTuple):
    """The invariance of encoders to one transform or in one set of views.

    Args:
        group: ``spatial`` or ``appearance``; empty for sets of views of one's own.
        name: the transform or the dataset, with what tells several measurements of it apart.
        metric: name of the metric; higher is more invariant.
        values: the invariance of each encoder.
    """

    group: str
    name: str
    metric: str
    values: Mapping[str, float]

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.values.values()), max(self.values.values())


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the bars of all measured invariances, one panel each.

    Raises:
        NotDrawn: if none was measured.
    """
    measured = invariances(analysis.results)
    if not measured:
        raise NotDrawn(_NEEDS)
    panels = [
        RowPanel(
            title=one.name,
            axis=f"{one.metric} ({one.group})" if one.group else one.metric,
            values=one.values,
            bars=True,
            color=GROUPS.index(one.group) if one.group else len(GROUPS),
            span=[v for other in measured if other.metric == one.metric for v in other.ends],
        )
        for one in measured
    ]
    encoders = ordered(encoder for one in measured for encoder in one.values)
    caption = (
        "A longer bar is a more invariant encoder. Spatial changes come first, then those of "
        "appearance."
    )
    return draw_rows(panels, encoders, theme, "Invariances", caption)


def chart_with_scores(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the mean invariance to each group of changes against the target's scores.

    Raises:
        NotDrawn: if no encoder has a score of the target and all invariances of a group.
    """
    measured = invariances(analysis.results)
    if not measured:
        raise NotDrawn(_NEEDS)
    means = [mean_invariance(measured, group) for group in GROUPS]
    known = [scores for scores in means if scores.raw]
    correlations = correlate_scores(analysis.target, known) if known else []

    def intervals(scores: Scores, dataset: str, encoder: str) -> Interval | None:
        own = scores is analysis.target  # means of invariances have no interval
        return analysis.interval(scores, dataset, encoder) if own else None

    drawing = agreement.draw(analysis.target, known, correlations, theme, intervals)
    drawing.title = f"Invariance against {analysis.target.name}"
    drawing.caption = (
        "Invariance is the mean over all measured changes of a group, for encoders with all of "
        f"them. {drawing.caption}"
    )
    return drawing


def mean_invariance(measured: Sequence[Invariance], group: str) -> Scores:
    """Return each encoder's mean invariance to a group, for encoders with all of its values."""
    columns = [one.values for one in measured if one.group == group]
    complete = set.intersection(*(set(column) for column in columns)) if columns else set()
    means = {e: statistics.fmean(column[e] for column in columns) for e in complete}
    values = {"": means} if means else {}
    return Scores(f"{group} invariance", values, values)


def invariances(results: Results) -> list[Invariance]:
    """Return all measured invariances in the order of ``TRANSFORMS``, then those of own sets."""
    found = list(_measured(results))
    names = Counter(name for _, name, _, _ in found)
    by_place = []
    for group, name, variant, column in found:
        values = {encoder: cell.mean for encoder, cell in column.items()}
        shown = f"{name} {variant}".strip() if names[name] > 1 else name
        row = next(iter(column.values())).row
        assert row is not None  # cells with values have one
        place = TRANSFORMS[group].index(name) if group else 0
        order = GROUPS.index(group) if group else len(GROUPS)
        by_place.append((order, place, shown, Invariance(group, shown, row.metric, values)))
    return [one for *_, one in sorted(by_place, key=lambda entry: entry[:3])]


def _measured(results: Results) -> Iterator[tuple[str, str, str, dict[str, Cell]]]:
    """Yield group, name, variant and cells by encoder of each measurement."""
    for protocol in results.known("protocol"):
        kind, _, settings = protocol.partition(" ")
        if kind not in (_SYNTHETIC, _REAL):
            continue
        by_name: dict[tuple[str, str], dict[str, Cell]] = {}
        for (encoder, dataset), cell in cells(results, protocol).items():
            if cell.values and cell.row is not None:
                name = dataset
                if kind == _SYNTHETIC:
                    name = _transform(results.documents.get(cell.row.run_id) or {}, settings)
                by_name.setdefault((name, dataset), {})[encoder] = cell
        for (name, dataset), column in by_name.items():
            group = next((g for g, names in TRANSFORMS.items() if name in names), "")
            yield group, name, dataset if kind == _SYNTHETIC else settings, column


def _transform(document: Mapping[str, Any], settings: str) -> str:
    """Return the transform of a run, from its configuration or from its protocol's label."""
    stated = ((document.get("config") or {}).get("protocol") or {}).get("transform")
    labels = dict(part.split("=", 1) for part in settings.split() if "=" in part)
    return str(stated or labels.get("transform") or settings)
