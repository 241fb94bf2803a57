"""One sweep over options of which some lack a key."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode

from launchers import base
from launchers.applicable import compose_cells
from launchers.composition import Composition
from launchers.sweep import Outcome, SweepRefused
from ssl_transfer.config import plain
from ssl_transfer.config.composer import Composer
from ssl_transfer.config.composition import _loader, compose
from ssl_transfer.runs import Run


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(_loader(), compose)


def composed(composer: Composer, *cells: Sequence[str]) -> tuple[list[Composition], list[str]]:
    return compose_cells(cells, lambda overrides: plain(composer.compose(overrides)), composer)


def test_a_key_reaches_the_options_that_have_it_and_is_said_once(composer: Composer) -> None:
    cells = [
        (f"protocol={protocol}", "protocol.epochs=7", f"seed={seed}")
        for protocol in ("knn", "linear_probe", "logistic_regression")
        for seed in (0, 1)
    ]
    compositions, left_out = composed(composer, *cells)
    assert [c["protocol"].get("epochs") for c in compositions] == [None, None, 7, 7, None, None]
    assert [c["seed"] for c in compositions] == [0, 1] * 3
    assert left_out == [
        "`protocol.epochs` is not a key of `protocol=knn` and `protocol=logistic_regression`; it "
        "is left out there."
    ]


def test_every_cell_may_lack_another_key(composer: Composer) -> None:
    keys = ("protocol.k=9", "protocol.epochs=7")
    (voting, tuned), left_out = composed(
        composer, ("protocol=knn", *keys), ("protocol=linear_probe", *keys)
    )
    assert (voting["protocol"]["k"], tuned["protocol"]["epochs"]) == (9, 7)
    assert len(left_out) == 2


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("protocol.epoch=7", "did you mean `epochs`?"),  # of no cell
        ("protocol.tol=0.1", "`protocol.tol` is not a key of `protocol=linear_probe`"),
        ("protocol.preprocessing.size=9", "preprocessing"),  # below null, in each of them
        ("sed=1", "did you mean `seed`?"),
    ],
)
def test_what_is_no_key_of_any_cell_is_refused(
    composer: Composer, key: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SweepRefused):
        composed(composer, ("protocol=knn", key), ("protocol=linear_probe", key))
    assert message in capsys.readouterr().err


def test_an_optional_key_may_be_of_no_cell(composer: Composer) -> None:
    cells = [("protocol=knn", "protocol.epochs=7"), ("protocol=knn", "protocol.k=9")]
    compositions, left_out = compose_cells(
        cells, lambda overrides: plain(composer.compose(overrides)), composer, {"protocol.epochs"}
    )
    assert [c["protocol"]["k"] for c in compositions] == [200, 9]
    assert left_out == ["`protocol.epochs` is not a key of `protocol=knn`; it is left out there."]


def test_an_added_key_is_never_left_out(composer: Composer) -> None:
    compositions, left_out = composed(
        composer, ("protocol=knn", "+protocol.epochs=7"), ("protocol=linear_probe",)
    )
    assert compositions[0]["protocol"]["epochs"] == 7
    assert left_out == []


def test_the_choice_of_a_pretraining_set_reaches_the_methods_that_train(
    composer: Composer,
) -> None:
    keys = ("dataset@method.pretrain_on=textures", "method.pretrain_on.flip=false")
    (as_is, simclr), left_out = composed(
        composer, ("method=as_is", *keys), ("method=simclr", *keys)
    )
    assert "pretrain_on" not in as_is["method"]
    assert simclr["method"]["pretrain_on"]["name"] == "textures"
    assert simclr["method"]["pretrain_on"]["flip"] is False
    assert [line.partition(" is")[0] for line in left_out] == [
        "`dataset@method.pretrain_on`", "`method.pretrain_on.flip`"
    ]  # fmt: skip


class Recording(base.ProjectLauncher):
    """A launcher that records the runs it should execute."""

    def run_all(self, runs: Sequence[Run], outputs: Path) -> Outcome:
        self.asked = list(runs)
        return Outcome(list(runs))


def test_cells_that_differ_only_in_a_key_left_out_are_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "configure_log", lambda *_: None)  # it would change pytest's logging
    shared = [f"paths.outputs={tmp_path}"]
    master = _loader().load_configuration("config", shared, run_mode=RunMode.MULTIRUN)
    launcher = Recording()
    monkeypatch.setattr(base.ProjectLauncher, "last_outcome", None)
    context = SimpleNamespace(config_loader=_loader())
    launcher.setup(hydra_context=context, task_function=None, config=master)  # type: ignore[arg-type]
    cells = [
        (f"paths.outputs={tmp_path}", f"protocol={protocol}", f"protocol.epochs={epochs}")
        for protocol in ("knn", "linear_probe")
        for epochs in (5, 6)
    ]
    jobs = launcher.launch(cells, 0)
    assert len(jobs) == 4  # Hydra expects one result per cell
    asked = [
        (run.names["protocol"], run.config["protocol"].get("epochs")) for run in launcher.asked
    ]
    assert asked == [("knn", None), ("linear_probe", 5), ("linear_probe", 6)]
