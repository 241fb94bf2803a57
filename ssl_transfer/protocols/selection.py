"""Selection of a point of a grid, shared by protocols."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_transfer.system import distributed
from ssl_transfer.training.trainer import NonFiniteLoss

log = logging.getLogger(__name__)


def best(
    points: Sequence[Mapping[str, float]], scores: Sequence[float | None], *, remedy: str
) -> int:
    """Return the index of the best point of a grid, and warn of points without a score.

    If several points are equally good, the first one wins.

    Args:
        points: points of the grid, for messages.
        scores: scores of the points, larger is better (``None``: the training diverged).
        remedy: advice for the message if no point has a score.

    Raises:
        NonFiniteLoss: if no point has a score; the message names the grid.
    """
    left_out = [dict(point) for point, score in zip(points, scores, strict=True) if score is None]
    if len(left_out) == len(points):
        raise NonFiniteLoss(
            "at least one point of the grid must give finite scores, but none of "
            f"{left_out} does; {remedy}."
        )
    if left_out and distributed.is_main():
        log.warning(
            "%d of %d points of the grid are left out, because their training diverged: %s",
            len(left_out), len(points), left_out,
        )  # fmt: skip
    ranked = [-math.inf if score is None else score for score in scores]
    return ranked.index(max(ranked))


def selection_facts(
    split: str,
    points: Sequence[Mapping[str, float]],
    scores: Sequence[float | None],
    winner: int,
) -> dict[str, Any]:
    """Return the record's facts about the selection of a point.

    Args:
        split: the data that the scores are of.
        points: see ``best``.
        scores: see ``best``; empty if the only point was given, so that nothing was selected.
        winner: index of the selected point.
    """
    return {
        "split": split if scores else None,
        "chosen": points[winner],
        "scores": [
            {**point, "value": score} for point, score in zip(points, scores, strict=bool(scores))
        ],
        "at_edge": edges(points, scores) if scores else [],
    }


def edges(points: Sequence[Mapping[str, float]], scores: Sequence[float | None]) -> list[str]:
    """Return the keys whose best value lies at an end of the grid, and warn of them.

    Args:
        points: see ``edge_keys``.
        scores: see ``edge_keys``.
    """
    keys = edge_keys(points, scores)
    for key in keys if distributed.is_main() else []:
        values = [point[key] for point in points]
        log.warning(
            "the best `%s` lies at an end of its values, %g to %g; a better one may lie beyond",
            key, min(values), max(values),
        )  # fmt: skip
    return keys


def edge_keys(points: Sequence[Mapping[str, float]], scores: Sequence[float | None]) -> list[str]:
    """Return the keys whose best value lies at an end of the grid.

    A better value may lie beyond the end. A key is not reported if it has fewer than three values,
    if its best value is zero (no smaller value exists), or if a value inside of the grid also
    reaches the best score.

    Args:
        points: points of the grid, all with the same keys.
        scores: scores of the points, larger is better (``None``: failed); at least one is a number.
    """
    best = max(score for score in scores if score is not None)
    winners = [point for point, score in zip(points, scores, strict=True) if score == best]
    keys = []
    for key in points[0]:
        values = sorted({point[key] for point in points})
        ends = {value for value in (values[0], values[-1]) if value != 0}
        if len(values) > 2 and all(point[key] in ends for point in winners):
            keys.append(key)
    return keys
