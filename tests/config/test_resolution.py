"""Nodes resolved once for the same content; ``test_config`` compares with OmegaConf."""

from typing import Any

import pytest

from ssl_transfer.config import resolution, resolve
from ssl_transfer.config.resolution import missing_keys


def test_equal_nodes_are_resolved_once_and_no_copy_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together: list[list[str]] = []
    whole = resolution._resolve
    monkeypatch.setattr(resolution, "_resolve", lambda c: together.append(list(c)) or whole(c))
    resolution._resolved.cache_clear()
    nodes: dict[str, Any] = {"a": {"x": "${b.y}/1"}, "b": {"y": "p", "own": "${.y}"}}
    for seed in range(3):
        resolved = resolve({**nodes, "seed": seed})
        assert resolved == {"a": {"x": "p/1"}, "b": {"y": "p", "own": "p"}, "seed": seed}
        resolved["a"]["x"] = resolved["b"]["y"] = "changed"
    assert together == [["a", "b"], ["b"], ["seed"], ["seed"], ["seed"]]
    assert resolve({**nodes, "b": {"y": "q"}})["a"] == {"x": "q/1"}


def test_a_node_follows_the_nodes_behind_those_that_it_mentions() -> None:
    config = {"a": "${b.x}", "b": {"x": "${c}"}, "c": "${d}", "d": 1}
    assert resolve(config) == {"a": 1, "b": {"x": 1}, "c": 1, "d": 1}
    assert resolve({**config, "d": 2})["a"] == 2


def test_variables_and_the_home_folder_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"a": {"x": "${oc.env:OF_A_TEST,other}/y"}, "b": "${a.x}", "c": "~/z"}
    monkeypatch.delenv("OF_A_TEST", raising=False)
    assert resolve(config)["b"] == "other/y"
    for value in ("one", "two", "~"):
        monkeypatch.setenv("OF_A_TEST", value)
        for home in ("/first", "/second"):
            monkeypatch.setenv("HOME", home)
            place = f"{home if value == '~' else value}/y"
            assert resolve(config) == {"a": {"x": place}, "b": place, "c": f"{home}/z"}


def test_values_that_are_equal_but_of_another_type_are_told_apart() -> None:
    for value in (1, True, 1.0, "1"):
        assert repr(resolve({"a": {"x": value}})) == repr({"a": {"x": value}})
    assert repr(resolve({"a": (1, 2)})) == repr(resolve({"a": [1, 2]})) == "{'a': [1, 2]}"


def test_missing_keys_are_those_of_omegaconf() -> None:
    assert missing_keys({"a": {"x": 1}}) == []
    assert missing_keys({"b": {"y": {"z": "???"}}, "a": {"x": "???", "w": "${b.y}"}}) == [
        "a.x",
        "b.y.z",
    ]
