"""Snapshots: encoders after earlier epochs of one pre-training."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import METHOD, run_all, tiny

from ssl_transfer import models
from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run, execution, preflight, products
from ssl_transfer.runs.builders import initial_encoder
from ssl_transfer.runs.run import graph
from ssl_transfer.runs.signature import problems
from ssl_transfer.training import trainer

SUPERVISED = [*METHOD, "method.epochs=3", "method.batch_size=8"]
OVERRIDES = ",".join(f"'{override}'" for override in SUPERVISED[1:])


def pretraining(folder: Path, *overrides: str) -> Run:
    return tiny(folder, *SUPERVISED, "protocol=pretrain", *overrides, tuned=False, data=False)


def evaluation(folder: Path, *overrides: str) -> Run:
    return tiny(folder, *SUPERVISED, "protocol=knn", *overrides, tuned=False)


def joined(folder: Path, epochs: list[int]) -> Run:
    member = f"{{method:supervised,epochs:{epochs},overrides:[{OVERRIDES}]}}"
    return tiny(folder, "method=cat", f"method.members={member}", "protocol=knn", tuned=False)


def weights(run: Run, epoch: int | None = None) -> dict[str, torch.Tensor]:
    return load_file(products.encoder_folder(run.folder, epoch) / "encoder.safetensors")


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Killed(BaseException):
    """Ends a process where it stands; nothing may catch it."""


def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch, *runs: Run) -> None:
    """Execute runs until a step of a training, whose checkpoint is saved after every step."""
    save = trainer.Checkpointer.save

    def then_killed(checkpointer: Any, step: int) -> None:
        save(checkpointer, step)
        if step == steps:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Checkpointer, "save", then_killed)
        with pytest.raises(Killed):
            run_all(*runs)
    shutil.rmtree(runs[0].folder / ".claim", ignore_errors=True)


def test_snapshots_change_neither_the_id_nor_the_final_encoder(tmp_path: Path) -> None:
    plainly, keeping = (
        pretraining(tmp_path / "a"),
        pretraining(tmp_path / "b", "method.snapshots=[2,1]"),
    )
    assert plainly.id == keeping.id
    assert run_all(plainly).failures == run_all(keeping).failures == {}
    assert are_equal(weights(plainly), weights(keeping))
    record = keeping.record()
    assert [name for name in record["files"] if "snapshots" in name and "/encoder." in name] == [
        f"snapshots/epoch_{epoch}/encoder.{end}"
        for epoch in (1, 2)
        for end in ("safetensors", "yaml")
    ]
    assert not are_equal(weights(keeping, 1), weights(keeping, 2))
    # A snapshot is an encoder like any other: its folder is a weights file.
    node = {
        **keeping.resolved["model"],
        "weights": {"path": str(keeping.folder / "snapshots/epoch_2")},
    }
    assert are_equal(models.build(node).backbone.state_dict(), weights(keeping, 2))


def test_a_snapshot_is_the_encoder_of_a_training_that_ends_there(tmp_path: Path) -> None:
    constant = ["method.schedule=constant", "method.snapshots=[2]"]
    long = pretraining(tmp_path, *constant)
    short = pretraining(tmp_path, *constant, "method.epochs=2", "method.snapshots=null")
    assert run_all(long, short).failures == {}
    assert are_equal(weights(long, 2), weights(short))


@pytest.mark.parametrize("steps", [2, 4])
def test_snapshots_survive_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    keys = ["method.snapshots=[1,2]", "trainer.checkpoint_every_steps=1"]
    calm, disturbed = (pretraining(tmp_path / name, *keys) for name in ("calm", "disturbed"))
    assert run_all(calm).failures == {}
    killed_after(steps, monkeypatch, disturbed)
    assert run_all(disturbed).failures == {}
    assert disturbed.record()["resumed_at"] == [["pretrain", steps]]
    for epoch in (None, 1, 2):
        assert are_equal(weights(calm, epoch), weights(disturbed, epoch))


def test_a_snapshot_that_is_wanted_after_a_kill_starts_the_training_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    every = "trainer.checkpoint_every_steps=1"
    killed_after(4, monkeypatch, pretraining(tmp_path, every))
    wanted = pretraining(tmp_path, "method.snapshots=[1]", every)
    assert run_all(wanted).failures == {}
    assert "the encoder after epoch 1 is wanted and was not kept" in caplog.text
    assert "resumed_at" not in wanted.record()
    assert products.encoder_folder(wanted.folder, 1).is_dir()


def test_a_finished_run_that_lacks_a_snapshot_is_computed_again_and_keeps_those_it_had(
    tmp_path: Path,
) -> None:
    first, second = (pretraining(tmp_path, f"method.snapshots=[{epoch}]") for epoch in (1, 2))
    assert run_all(first).computed == 1
    before = {epoch: weights(first, epoch) for epoch in (None, 1)}
    assert first.is_finished
    assert not second.is_finished
    assert run_all(second).computed == 1
    assert first.is_finished
    assert second.is_finished
    assert not (second.folder / "anew").exists()
    assert all(are_equal(before[epoch], weights(second, epoch)) for epoch in before)
    assert run_all(first, second).computed == 0
    # Data that are read no more do not count: one that lost its file is computed again.
    (products.encoder_folder(first.folder, 1) / "encoder.safetensors").unlink()
    assert (first.is_finished, second.is_finished) == (False, True)


def test_members_that_are_snapshots_make_their_pretraining_keep_them(tmp_path: Path) -> None:
    one, two = joined(tmp_path, [1, 2]), joined(tmp_path, [2, 3])
    assert one.id != two.id
    (required,) = one.requirements
    assert (required.snapshots, required.snapshot) == ([1, 2], None)
    single = evaluation(tmp_path, "method.snapshot=1")
    ordered = graph([one, two, pretraining(tmp_path), single])
    assert [run.names["protocol"] for run in ordered] == ["pretrain", "knn", "knn", "knn"]
    assert ordered[0].snapshots == [1, 2, 3]
    assert ordered[0].id == pretraining(tmp_path).id
    outcome = run_all(one, two, single)
    assert (outcome.failures, outcome.computed) == ({}, 4)
    (required,) = one.requirements
    expected = [weights(required, epoch) for epoch in (1, 2)]
    members = initial_encoder(one).encoders  # type: ignore[attr-defined]
    assert all(
        are_equal(m.backbone.state_dict(), w) for m, w in zip(members, expected, strict=True)
    )
    assert one.label == "small_resnet-supervised-epoch1+small_resnet-supervised-epoch2"
    assert len(one.record()["members_sha256"]) == 2


def test_one_snapshot_alone_is_another_encoder_with_a_label_of_its_own(tmp_path: Path) -> None:
    final, first = evaluation(tmp_path), evaluation(tmp_path, "method.snapshot=1")
    assert final.id != first.id
    assert (final.label, first.label) == (
        "small_resnet-supervised",
        "small_resnet-supervised-epoch1",
    )
    (one,), (other,) = final.requirements, first.requirements
    assert (one.id, one.folder) == (other.id, other.folder)
    ids = {execution.encoder_id(run) for run in (final, first, one)}
    assert ids == {one.id, first.sources["encoder"].encoder_id}
    assert len(ids) == 2
    assert run_all(first).failures == {}
    assert are_equal(initial_encoder(first).backbone.state_dict(), weights(one, 1))
    assert first.record()["encoder"]["id"] == first.sources["encoder"].encoder_id
    # A pre-training itself uses none.
    assert pretraining(tmp_path, "method.snapshot=1").id == one.id


def test_a_damaged_snapshot_is_told_and_the_final_encoder_is_not_concerned(tmp_path: Path) -> None:
    final, first = evaluation(tmp_path), evaluation(tmp_path, "method.snapshot=1")
    (required,) = first.requirements
    assert run_all(required).failures == {}
    with (products.encoder_folder(required.folder, 1) / "encoder.safetensors").open("ab") as file:
        file.write(b"x")
    outcome = run_all(final, first)
    assert list(outcome.failures) == [first.id]
    assert (
        "epoch_1/encoder.safetensors` must be the file that the run's record names"
        in (outcome.failures[first.id])
    )


def test_two_batches_of_debugging_leave_all_snapshots(tmp_path: Path) -> None:
    run = evaluation(tmp_path, "method.snapshot=2", "debug=true", "protocol.k=3")
    assert run_all(run).failures == {}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["method.snapshots=[1,4]"],
            "`method`: `snapshots` must lie in the 3 epochs of the pre-tr",
        ),
        (["method.snapshot=4"], "which keeps no later encoder, but names 4; lower it, or raise"),
        (["method.snapshots=[0]"], "every item of `method.snapshots` must be at least 1"),
        (["method.snapshots=3"], "`method.snapshots` must be"),
        (["method.snapshot=last"], "`method.snapshot` must be"),
    ],
)
def test_an_epoch_that_is_not_kept_is_one_sentence(overrides: list[str], told: str) -> None:
    line = [*SUPERVISED, *overrides, "protocol=knn"]
    (sentence,) = problems(plain(compose(line)))
    assert told in sentence


def test_an_epoch_behind_the_end_names_its_member() -> None:
    member = f"method.members={{method:supervised,epochs:[3,4],overrides:[{OVERRIDES}]}}"
    (sentence,) = problems(plain(compose(["method=cat", member, "protocol=knn"])))
    assert sentence.startswith("`method.members[1].method`: `snapshot` must lie in the 3 epochs")


def test_an_epoch_behind_the_steps_of_a_training_is_told_before_work(tmp_path: Path) -> None:
    run = pretraining(tmp_path, "+method.steps=4", "method.snapshots=[2]")
    told = preflight.check(run)
    assert told is not None
    assert told.startswith("`snapshots` must lie in the 1.33 epochs of the pre-training")
