"""What protocols that choose among the points of a grid share."""

import logging
from collections.abc import Mapping, Sequence

from ssl_transfer import distributed

log = logging.getLogger(__name__)


def edges(points: Sequence[Mapping[str, float]], scores: Sequence[float | None]) -> list[str]:
    """Return the keys of which the best value lies at an end of the grid, and warn of them.

    A better value may lie beyond. An axis of fewer than three values is all ends and says nothing;
    neither does zero, below which there is nothing, nor a best score that is reached inside, too.

    Args:
        points: of the grid, all with the same keys.
        scores: of the points, larger is better (``None``: failed); at least one is a number.
    """
    best = max(score for score in scores if score is not None)
    winners = [point for point, score in zip(points, scores, strict=True) if score == best]
    found = []
    for key in points[0]:
        values = sorted({point[key] for point in points})
        ends = {value for value in (values[0], values[-1]) if value != 0}
        if len(values) > 2 and all(point[key] in ends for point in winners):
            found.append(key)
            if distributed.is_main():
                log.warning(
                    "the best `%s` lies at an end of its values, %g to %g; a better one may lie "
                    "beyond", key, values[0], values[-1]
                )  # fmt: skip
    return found
