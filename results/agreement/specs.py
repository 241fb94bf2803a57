"""What ``PROTOCOL[:METRIC][@KEY=VALUE]`` names: a protocol's scores, on some variants of datasets.

``finetune@label_fraction=0.1`` are the scores of fine-tuning on 10 % of the labels. They bear the
names of the datasets without this key, so that they can be compared with scores on all labels.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from results.errors import ResultsError
from results.records.cells import choose
from results.records.defaults import LEFT_OUT
from results.records.reading import MissingRun, Results, Row

_DEFAULTS = LEFT_OUT["ssl_transfer.datasets"]
"""Values of keys that an identity leaves out; of all others it is null."""
_NULL = "null"


class NoVariant(ResultsError):
    """No run of a protocol has the named value of a key of its dataset."""


class Chosen(NamedTuple):
    """What a spec selects.

    Args:
        results: the results, with only those variants of datasets that the spec names.
        protocol: the protocol's label.
        metric: the metric; None for each run's primary one.
    """

    results: Results
    protocol: str
    metric: str | None


def chosen(results: Results, spec: str, others: Iterable[str] = ()) -> Chosen:
    """Return what a spec selects.

    Args:
        results: the results of all protocols.
        spec: ``PROTOCOL[:METRIC]``, followed by any number of ``@KEY=VALUE``: only runs whose
            dataset has this value, e.g. ``finetune@label_fraction=0.1``.
        others: further names that the message for an unknown protocol lists.

    Raises:
        ResultsError: if the protocol is unknown or ambiguous, or no run of it has such a value.
    """
    name, *pairs = spec.split("@")
    protocol, metric = choose(results, name, others)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.removeprefix("dataset.")
        if not (key and equals and value):
            raise ResultsError(
                f"what follows `@` must be KEY=VALUE, such as `label_fraction=0.1`, but is `{pair}`"
                "; correct it."
            )
        results = _with_value(results, protocol, key, value)
    return Chosen(results, protocol, metric)


def keys_of(spec: str) -> list[str]:
    """Return the keys of datasets that a spec names."""
    pairs = spec.split("@")[1:]
    return [pair.partition("=")[0].removeprefix("dataset.") for pair in pairs]


def target_spec(target: str, proxies: Sequence[str]) -> str:
    """Return the target on those variants of datasets that proxies are to predict.

    If proxies name a key of datasets and the target does not, the target is on the datasets where
    the key has its default: ``finetune@label_fraction=0.1`` predicts ``finetune`` on all labels.

    Raises:
        ResultsError: if a proxy is the target.
    """
    keys = [key for proxy in proxies for key in keys_of(proxy) if key not in keys_of(target)]
    for key in dict.fromkeys(keys):
        target += f"@{key}={_DEFAULTS.get(key, _NULL)}"
    if target in proxies:
        raise ResultsError(f"a proxy must differ from the target, but both are `{target}`.")
    return target


def _with_value(results: Results, protocol: str, key: str, value: str) -> Results:
    """Return only runs whose dataset has a value; labels of datasets lack the key.

    Raises:
        NoVariant: if no run of the protocol has it; the message lists the known values.
    """
    of_run = {run: _value(results, run, key) for run in _runs(results)}
    rows = [
        row._replace(dataset=without_key(row.dataset, key))
        for row in results.rows
        if _is(of_run[row.run_id], value)
    ]
    gaps = [
        gap._replace(dataset=without_key(gap.dataset, key))
        for gap in results.gaps
        if _is(of_run[gap.run_id], value)
    ]
    if not any(row.protocol == protocol for row in rows):
        values = {of_run[row.run_id] for row in results.rows if row.protocol == protocol}
        texts = ", ".join(sorted(_NULL if known is None else str(known) for known in values))
        raise NoVariant(
            f"`{protocol}@{key}={value}` must name runs of `{protocol}`, but those have "
            f"`dataset.{key}` {texts}; name one of these values."
        )
    return dataclasses.replace(results, rows=rows, gaps=gaps)


def _runs(results: Results) -> set[str]:
    entries: list[Row | MissingRun] = [*results.rows, *results.gaps]
    return {entry.run_id for entry in entries}


def _value(results: Results, run_id: str, key: str) -> Any:
    value = results.hyperparameter(run_id, f"dataset.{key}")
    return _DEFAULTS.get(key) if value is None else value


def _is(value: Any, text: str) -> bool:
    """Return whether a value is what a user wrote; numbers are equal as numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text == (
        _NULL if value is None else str(value).lower() if value is True or value is False else value
    )


def without_key(label: str, key: str) -> str:
    """Return a dataset's label without a key, which may be shown by its end only."""
    words = label.split(" ")
    shown = [f".{word.partition('=')[0]}" if "=" in word else "" for word in words]
    path = f".dataset.{key}"
    return " ".join(
        w for w, end in zip(words, shown, strict=True) if not (end and path.endswith(end))
    )
