"""The figure of ranks: each encoder's rank with its interval, and the groups of ties as letters."""

from collections.abc import Sequence

from results.agreement.analysis import Analysis
from results.agreement.ranks import OVERALL, Rank, Ranking
from results.figures.axes import BELOW, Panel, Scale
from results.figures.drawing import Box, Drawing, NotDrawn
from results.figures.rows import ROW
from results.figures.text import shortened, width
from results.figures.theme import LABEL, TITLE, Theme

_WIDTH, _NAMES, _ABOVE = 380.0, 280.0, 30.0


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the figure of an analysis.

    Raises:
        NotDrawn: if fewer than two encoders have scores.
    """
    return draw(analysis.ranks, analysis.target.name, theme)


def draw(rankings: Sequence[Ranking], target: str, theme: Theme) -> Drawing:
    """Return the figure of the ranking over all datasets, with the ranks on each as small ticks.

    Args:
        rankings: one per dataset, and one over all of them if there are several.
        target: name of the target.
        theme: the colours.

    Raises:
        NotDrawn: if no ranking has two encoders.
    """
    long_enough = [ranking for ranking in rankings if len(ranking.ranks) > 1]
    if not long_enough:
        raise NotDrawn("the figure of ranks needs two encoders with scores on the same datasets.")
    main = next((one for one in long_enough if one.dataset == OVERALL), long_enough[0])
    encoders = [rank.encoder for rank in main.ranks]
    names = min(max(width(encoder, LABEL) for encoder in encoders), _NAMES) + 14
    letters = max(width(rank.group, LABEL) for rank in main.ranks) + 16
    height = len(encoders) * ROW
    overall = main.dataset == OVERALL
    drawing = Drawing(
        names + _WIDTH + letters, _ABOVE + height + BELOW, theme,
        f"Ranks by {target}", _caption(main, overall=overall),
    )  # fmt: skip
    box = Box(names, _ABOVE, names + _WIDTH, _ABOVE + height)
    scale = Scale(0.5, len(encoders) + 0.5, box.left, box.right, whole=True)
    panel = Panel(box, scale, Scale(0, 1, box.top, box.bottom))
    kind = "mean rank over datasets" if overall else "rank"
    panel.draw(drawing, x_title=f"{kind} by {target} (1: best)", y_text=None)
    drawing.text(
        (box.left - 12, box.top - 10), shortened(main.dataset, TITLE, _WIDTH), TITLE, bold=True
    )
    each = {} if not overall else _each(rankings, set(encoders))
    for number, rank in enumerate(main.ranks):
        _draw_row(drawing, panel, rank, box.top + (number + 0.5) * ROW, each.get(rank.encoder, []))
    return drawing


def _draw_row(drawing: Drawing, panel: Panel, rank: Rank, y: float, each: Sequence[float]) -> None:
    """Draw name, ranks on the datasets, interval, rank and letters of an encoder."""
    theme = drawing.theme
    interval = "" if rank.low is None else f" [{rank.low:.3g}, {rank.high:.3g}]"
    with drawing.encoder(rank.encoder, f"rank {rank.rank:.3g}{interval} {rank.group}".rstrip()):
        name = shortened(rank.encoder, LABEL, _NAMES)
        drawing.text((panel.box.left - 8, y + LABEL / 3), name, LABEL, anchor="end")
        for one in sorted(set(each)):
            drawing.line((panel.x(one), y - 3.5), (panel.x(one), y + 3.5), theme.muted, 0.7)
        if rank.low is not None and rank.high is not None:
            ends = panel.x(rank.low), panel.x(rank.high)
            drawing.line((ends[0], y), (ends[1], y), theme.accent, 2)
        drawing.circle((panel.x(rank.rank), y), 3.5, theme.accent)
        drawing.text((panel.box.right + 10, y + LABEL / 3), rank.group, LABEL)


def _each(rankings: Sequence[Ranking], encoders: set[str]) -> dict[str, list[float]]:
    """Return the ranks of each encoder on those datasets on which all of them have one."""
    by_encoder: dict[str, list[float]] = {encoder: [] for encoder in encoders}
    for ranking in rankings:
        if ranking.dataset != OVERALL and {rank.encoder for rank in ranking.ranks} == encoders:
            for rank in ranking.ranks:
                by_encoder[rank.encoder].append(rank.rank)
    return by_encoder


def _caption(ranking: Ranking, *, overall: bool) -> str:
    sentences = []
    if any(rank.low is not None for rank in ranking.ranks):
        sentences.append("Thick lines are 95 % intervals.")
    if overall:
        sentences.append("Small ticks are the ranks on the single datasets.")
    if any(rank.group for rank in ranking.ranks):
        sentences.append("Encoders that share a letter cannot be told apart.")
    if ranking.left_out:
        sentences.append(f"{len(ranking.left_out)} encoders without all scores are left out.")
    if ranking.note:
        sentences.append(f"{ranking.note[0].upper()}{ranking.note[1:].rstrip('.')}.")
    return " ".join(sentences)
