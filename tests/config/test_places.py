"""``~`` is the home folder in every path, and no path is empty."""

from pathlib import Path
from typing import Any

import pytest

from launchers import sweep
from ssl_transfer.config import compose, places, plain, resolve
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return plain(compose(["dataset=image_list", "method=byol", "dataset.root=data"]))


def test_every_path_is_expanded_in_the_resolved_configuration(
    config: dict[str, Any], home: Path
) -> None:
    nodes = {
        "model": {**config["model"], "weights": {"path": "~/w.pth"}},
        "method": {**config["method"], "teacher": {"model": {"weights": {"path": "~/t"}}}},
        "dataset": {**config["dataset"], "root": "~", "train": "~/lists/train.txt"},
        "paths": {**config["paths"], "outputs": "~/out", "stage": "~/near"},
    }
    run = Run({**config, **nodes})
    assert run.resolved["model"]["weights"]["path"] == f"{home}/w.pth"
    assert run.resolved["method"]["teacher"]["model"]["weights"]["path"] == f"{home}/t"
    assert run.resolved["dataset"]["root"] == str(home)
    assert run.resolved["dataset"]["train"] == f"{home}/lists/train.txt"
    assert run.resolved["paths"]["stage"] == f"{home}/near"
    assert run.resolved["paths"]["features"] == f"{home}/out/features"
    assert run.folder == home / "out" / run.place


def test_a_variable_may_name_the_home_folder(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("SSL_TRANSFER_OUTPUTS", "~/out")
    paths = {"outputs": "${oc.env:SSL_TRANSFER_OUTPUTS,outputs}"}
    assert resolve({"paths": paths})["paths"]["outputs"] == f"{home}/out"


@pytest.mark.parametrize("text", ["~x", "a/~/b", "~x:y", ""])
def test_other_texts_stay(text: str) -> None:
    assert places.at_home(text) == text


@pytest.mark.parametrize(
    ("argument", "passed"),
    [
        ("dataset.root=~/birds", 'dataset.root="~/birds"'),
        ("dataset.root=~/a b,~/ü", 'dataset.root="~/a b","~/ü"'),
        ("x={root:~/a,n:1}", 'x={root:"~/a",n:1}'),
        ("x=[~/a,~]", 'x=["~/a","~"]'),
        ("dataset.root='~/a'", "dataset.root='~/a'"),
        ("~model.width", "~model.width"),
        ("model.width=3", "model.width=3"),
        ("x=a~/b", "x=a~/b"),
    ],
)
def test_hydra_is_given_a_path_at_home_in_quotes(argument: str, passed: str) -> None:
    assert places.quoted(argument) == passed


def test_a_quoted_path_composes() -> None:
    config = plain(compose(["dataset=image_folder", places.quoted("dataset.root=~/birds")]))
    assert config["dataset"]["root"] == "~/birds"


@pytest.mark.parametrize("value", ["", " ", "~nobody_of_this_name/x"])
@pytest.mark.parametrize(
    "path",
    ["paths.outputs", "paths.data", "paths.stage", "model.weights.path", "dataset.root",
     "dataset.train", "method.teacher.model.weights.path", "method.pretrain_on.root"],
)  # fmt: skip
def test_what_can_be_no_path_is_refused(config: dict[str, Any], path: str, value: str) -> None:
    axis, *rest, key = path.split(".")
    node: dict[str, Any] = {key: value}
    for part in reversed(rest):
        inner = config[axis].get(part)
        node = {part: {**inner, **node} if isinstance(inner, dict) else node}
    changed = {**config, axis: {**config[axis], **node}}
    (problem,) = places.problems(changed)
    assert f"`{path}` must" in problem
    assert problem in problems(changed)


def test_empty_texts_that_are_no_paths_are_let_pass(config: dict[str, Any]) -> None:
    model = {"_target_": "mine.make", "suffix": "", "weights": {"path": None, "prefix": ""}}
    dataset = {"_target_": "mine.photos", "tag": ""}
    assert places.problems({**config, "model": model, "dataset": dataset}) == []


def test_nothing_is_sought_in_the_working_folder_for_an_empty_path(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        sweep.refuse_paths({"paths": {"outputs": ""}})
    assert "`paths.outputs` must be the path of a file or folder" in capsys.readouterr().err
