"""A target of another source than the proxies: encoders and datasets are matched by their names."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from results.agreement.scores import Scores, scores
from results.errors import ResultsError, unknown
from results.published.catalogue import names, other_names, read_published
from results.records.cells import ordered
from results.records.reading import Results, read

Aliases = Mapping[str, Sequence[str]]
"""Name of an encoder -> further names of the same encoder."""


def read_source(source: str) -> Results:
    """Return the results of a published table, or those below a folder that runs write to.

    Raises:
        ResultsError: if it is neither; the message lists the published tables.
    """
    if source in names():
        return read_published([source])
    if Path(source).is_dir():
        return read([Path(source)])
    raise unknown("the second source", source, [*names(), "a folder that runs write to"])


def target_from(
    source: str, target: str, results: Results, tables: Sequence[str] = ()
) -> tuple[Scores, list[str]]:
    """Return the target's scores in another source under the names that the results have.

    Args:
        source: a published table, or a folder that runs write to.
        target: ``PROTOCOL[:METRIC]`` in that source.
        results: the results whose names apply.
        tables: the published tables that they are, if any; tables state further names of encoders.

    Returns:
        The scores, and a sentence about the encoders without a counterpart.

    Raises:
        ResultsError: if there is no such source or protocol, or nothing has a counterpart.
    """
    aliases: dict[str, list[str]] = defaultdict(list)
    for table in {*tables, source} & set(names()):
        for encoder, others in other_names(table).items():
            aliases[encoder] += others
    theirs = scores(read_source(source), target)
    encoders = matching(
        ordered(encoder for column in theirs.raw.values() for encoder in column),
        results.scored("encoder"),
        aliases,
    )
    datasets = matching(theirs.raw, ["", *results.scored("dataset")], {})
    if not encoders or not datasets:
        axis = "dataset" if encoders else "encoder"
        raise ResultsError(
            f"both sources must share {'a' if encoders else 'an'} {axis}, but none of `{source}` "
            f"is known ({', '.join(f'`{name}`' for name in results.scored(axis)[:5])}, …)."
        )
    renamed = Scores(f"{target} of {source}", negated=theirs.negated)
    for dataset, label in datasets.items():
        for mine, column in ((renamed.raw, theirs.raw), (renamed.logits, theirs.logits)):
            values = column[dataset]
            mine[label] = {encoders[e]: v for e, v in values.items() if e in encoders}
        if dataset in theirs.bounded:
            renamed.bounded.add(label)
    missing = ordered({e for column in theirs.raw.values() for e in column} - encoders.keys())
    told = [f"without a counterpart in the results: {', '.join(f'`{e}`' for e in missing)} of "
            f"`{source}`"]  # fmt: skip
    return renamed, told if missing else []


def matching(
    theirs: Iterable[str], own: Sequence[str], aliases: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Return their name -> own label, for names that stand for exactly one label and one name.

    Names are equal if one of their aliases is. A label with further parts (``moco_v2 size=96``)
    has the name before its first space, unless several labels do.

    Example:
        >>> matching(["swav", "pirl"], ["swav size=96", "pirl", "x"], {})
        {'swav': 'swav size=96', 'pirl': 'pirl'}
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for label in own:
        for name in (label, *aliases.get(label, ())):
            labels[name].add(label)
    short: dict[str, set[str]] = defaultdict(set)
    for label in own:
        short[label.split(" ")[0]].add(label)
    matched: dict[str, str] = {}
    for name in theirs:
        candidates = next(
            (
                known[one]
                for known in (labels, short)
                for one in (name, *aliases.get(name, ()))
                if one in known
            ),
            set[str](),
        )
        if len(candidates) == 1:
            matched[name] = next(iter(candidates))
    used = list(matched.values())
    return {name: label for name, label in matched.items() if used.count(label) == 1}
