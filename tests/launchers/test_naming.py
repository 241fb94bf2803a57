"""The lines of a sweep tell its runs apart."""

import copy
from typing import Any

import pytest

from launchers.naming import descriptions
from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run, graph


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return plain(compose(["method=simclr", "protocol=knn"]))


def variants(config: dict[str, Any], *changes: dict[str, Any]) -> list[Run]:
    """Return a run per set of changes of dotted keys."""
    runs = []
    for change in changes:
        one = copy.deepcopy(config)
        for path, value in change.items():
            axis, _, key = path.partition(".")
            if key:
                one[axis][key] = value
            else:
                one[axis] = value
        runs.append(Run(one))
    return runs


def test_runs_that_differ_in_one_key_show_it(config: dict[str, Any]) -> None:
    runs = variants(config, {"model.width": 8}, {"model.width": 16})
    every = graph(runs)  # and what they require
    lines = descriptions(every)
    assert [lines[run.id] for run in every] == [
        f"pretrain of small_resnet-simclr, seed 0, model.width=8 [{every[0].id[:8]}]",
        f"knn of small_resnet-simclr on digits, seed 0, model.width=8 [{every[1].id[:8]}]",
        f"pretrain of small_resnet-simclr, seed 0, model.width=16 [{every[2].id[:8]}]",
        f"knn of small_resnet-simclr on digits, seed 0, model.width=16 [{every[3].id[:8]}]",
    ]


def test_runs_that_their_names_tell_apart_show_no_more(config: dict[str, Any]) -> None:
    runs = variants(config, {"seed": 0}, {"seed": 1, "protocol.k": 3})
    assert descriptions(runs) == {run.id: run.describe() for run in runs}


def test_as_many_keys_are_shown_as_are_needed(config: dict[str, Any]) -> None:
    runs = variants(config, *({"protocol.k": k, "model.width": w, "method.epochs": 100 * w}
                              for k in (1, 2) for w in (8, 16)))  # fmt: skip
    texts = [line.rpartition(" [")[0] for line in descriptions(runs).values()]
    assert len(set(texts)) == 4
    assert all(text.count("=") == 2 for text in texts)


def test_whole_paths_are_shown(config: dict[str, Any]) -> None:
    runs = variants(config, {"dataset.root": "/a/1/images"}, {"dataset.root": "/a/2/images"})
    first, second = descriptions(runs).values()
    assert "dataset.root=/a/1/images" in first
    assert "dataset.root=/a/2/images" in second


def test_one_run_twice_is_one_line(config: dict[str, Any]) -> None:
    (run, again) = variants(config, {"seed": 0}, {"seed": 0})
    assert descriptions([run, again]) == {run.id: run.describe()}
