"""Ranks as tables of texts and as CSV."""

from collections.abc import Sequence
from itertools import groupby
from string import ascii_letters

from results.agreement.ranks import OVERALL, Rank, Ranking
from results.tables.rendering import Table, to_csv


def to_tables(rankings: Sequence[Ranking]) -> list[Table]:
    """Return one table of texts per dataset, and one over all."""
    return [to_table(ranking) for ranking in rankings]


def to_table(ranking: Ranking) -> Table:
    """Return a ranking as a table of texts, the best encoder first."""
    known = any(rank.group for rank in ranking.ranks)
    decimals = 1 if ranking.dataset == OVERALL else 0
    header = ["encoder", "rank", "95 % interval", "group"] if known else ["encoder", "rank"]
    rows = [
        [rank.encoder, _number(rank.rank, decimals)]
        + ([_interval(rank, decimals), shortened(rank.group)] if known else [])
        for rank in ranking.ranks
    ]
    title = f"{ranking.dataset}: ranks by {ranking.target}"
    if ranking.dataset == OVERALL:
        title = f"Mean ranks over {OVERALL} by {ranking.target}"
    return Table(title, header, rows, notes(ranking))


def notes(ranking: Ranking) -> list[str]:
    """Return what explains a ranking: its intervals, its letters, and who is left out."""
    texts = [ranking.note] if ranking.note else []
    if any(rank.group for rank in ranking.ranks):
        texts.append(
            "encoders that share a letter cannot be told apart; all pairs are tested together, so "
            "that a single wrong difference has a probability of about 5 % at most"
        )
    if ranking.left_out:
        texts.append(f"left out, since a score is missing: {', '.join(ranking.left_out)}")
    return texts


def to_csv_long(rankings: Sequence[Ranking]) -> str:
    """Return all ranks as CSV, one line per dataset and encoder."""
    rows = [
        [ranking.target, ranking.dataset, one.encoder, one.rank, one.low, one.high, one.group]
        for ranking in rankings
        for one in ranking.ranks
    ]
    return to_csv(["target", "dataset", "encoder", "rank", "low", "high", "group"], rows)


def shortened(group: str) -> str:
    """Return letters with runs of three or more as a range.

    Example:
        >>> shortened("abcdfg")
        'a-d,fg'
    """
    if len(group) < 4 or not group.isalpha():
        return group
    places = enumerate(ascii_letters.index(letter) for letter in group)
    runs = [
        [place for _, place in run] for _, run in groupby(places, lambda pair: pair[1] - pair[0])
    ]
    texts = []
    for run in runs:
        first, last = ascii_letters[run[0]], ascii_letters[run[-1]]
        texts.append(f"{first}-{last}" if len(run) > 2 else group[group.index(first) :][: len(run)])
    return ",".join(texts)


def _interval(rank: Rank, decimals: int) -> str:
    if rank.low is None or rank.high is None:
        return "–"
    return f"{_number(rank.low, decimals)} to {_number(rank.high, decimals)}"


def _number(rank: float, decimals: int) -> str:
    """Return a rank with these decimals; a shared rank such as 2.5 has one in any case."""
    return f"{rank:.{decimals if rank == int(rank) else 1}f}"
