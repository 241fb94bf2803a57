"""Sweeps over several encoders as one: a member that cannot be had stops its own cell only."""

from pathlib import Path

import odd_runs
import pytest
from tiny_runs import METHOD, run_all, tiny

from launchers import local, sweep
from ssl_transfer.runs import Run

PRETRAINED = ",".join(f"'{override}'" for override in METHOD[1:])
DIVERGING = f"{PRETRAINED},'method.optimizer.lr=1e30','method.epochs=3'"
MEMBERS = {
    "good": f"{{method:supervised,seeds:[0,1],overrides:[{PRETRAINED}]}}",
    "missing": f"[{{method:supervised,overrides:[{PRETRAINED}]}},swav]",
    "twice": f"{{method:supervised,seeds:[0,1,0],overrides:[{PRETRAINED}]}}",
    "failed": f"[{{method:supervised,overrides:[{PRETRAINED}]}},"
    f"{{method:supervised,seed:7,overrides:[{DIVERGING}]}}]",
}


def cells(folder: Path) -> dict[str, Run]:
    shared = ["method=cat", "protocol=knn", f"paths.weights={folder / 'weights'}"]
    return {
        name: tiny(folder, *shared, f"method.members={members}", tuned=False)
        for name, members in MEMBERS.items()
    }


def check(runs: dict[str, Run], outcome: sweep.Outcome) -> None:
    reasons = {name: outcome.failures.get(run.id) for name, run in runs.items()}
    assert reasons["good"] is None
    assert runs["good"].is_finished
    assert str(reasons["missing"]).startswith("The weights of `swav` must exist, but `")
    assert str(reasons["twice"]).startswith(
        "`method.members` must name distinct encoders, but `members[2]` is an exact copy of "
        "`members[0]` (small_resnet-supervised); "
    )
    bad = runs["failed"].requirements[1]
    assert str(reasons["failed"]).startswith(f"requires {bad.describe()}, which failed: the loss ")
    assert all("\n" not in str(reason) for reason in reasons.values())
    assert outcome.failures.keys() == {
        bad.id, *(run.id for name, run in runs.items() if name != "good")
    }  # fmt: skip
    assert outcome.computed == 3  # two members, which all cells share, and the good cell


def test_a_member_that_cannot_be_had_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    runs = cells(tmp_path)
    check(runs, run_all(*runs.values()))


def test_what_only_a_refused_cell_requires_is_not_computed(tmp_path: Path) -> None:
    refused = cells(tmp_path)["twice"]
    outcome = run_all(refused)
    assert (outcome.failures.keys(), outcome.computed) == ({refused.id}, 0)
    assert not any(required.is_finished for required in refused.requirements)


@pytest.mark.slow
def test_the_same_in_processes_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", odd_runs.ENVIRONMENT["PYTHONPATH"])
    runs = cells(tmp_path)
    options = {"n_jobs": 2, "runs_per_gpu": 1, "threads": 1}
    check(runs, local.send(list(runs.values()), tmp_path, options))
