"""Evaluations that other evaluations require: shared, ordered, and named where they fail."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import DATA, MODEL, pretend_finished, run_all, tiny

from launchers import dry_run, leftovers
from launchers.currency import complaints
from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run
from ssl_transfer.runs.run import graph
from ssl_transfer.runs.signature import problems

MEMBERS = "method.members=[{method:as_is},{method:as_is,seed:1}]"
TRAINED = ["epochs=1", "batch_size=20", "optimizer.weight_decay=0.01", "grid.lr=[0.1]"]
FIRST = [f"protocol.first_stage.{key}" for key in TRAINED]
TWO_STAGE = ["method=cat", MEMBERS, "protocol=two_stage_finetune", "protocol.batch_size=20", *FIRST]
OWN = ["protocol=finetune", *(f"protocol.{key}" for key in TRAINED)]
SUB = ["method=cat_sub", MEMBERS]


def run(outputs: Path, *overrides: str) -> Run:
    return tiny(outputs, *overrides, tuned=False)


def predictions(one: Run) -> Any:
    return np.load(one.folder / "test_predictions.npz")["scores"].astype(np.float64)


# ---- the graph ----------------------------------------------------------------------------------


def test_the_first_stage_of_a_member_is_its_own_fine_tuning(tmp_path: Path) -> None:
    two_stage = run(tmp_path, *TWO_STAGE, "seed=3")
    own = [run(tmp_path, *OWN, "seed=3", f"method.seed={seed}") for seed in (0, 1)]
    assert [one.id for one in two_stage.requirements] == [one.id for one in own]
    assert [one.place for one in two_stage.requirements] == [one.place for one in own]
    assert list(two_stage.evaluations) == ["first_stage[0]", "first_stage[1]"]
    kept = run(tmp_path, *TWO_STAGE, "seed=3", "protocol.first_stage.keep_encoder=true")
    other = run(tmp_path, *TWO_STAGE, "seed=3", "protocol.first_stage.epochs=2")
    assert (kept.id == two_stage.id, other.id == two_stage.id) == (True, False)


def test_pretrainings_come_before_evaluations_and_each_run_comes_once(tmp_path: Path) -> None:
    members = "method.members=[{method:supervised,seed:0},{method:supervised,seed:1}]"
    asked = [
        run(tmp_path, "method=cat", members, *TWO_STAGE[2:]),
        run(tmp_path, "method=cat_sub", members, *OWN),
        run(tmp_path, "method=supervised", *OWN),
    ]
    ordered = graph(asked)
    names = [one.names["protocol"] for one in ordered]
    assert names == [*["pretrain"] * 2, *["finetune"] * 2, "two_stage_finetune", "finetune"]
    assert ordered[-1] is asked[1]
    assert asked[2].id == ordered[2].id
    # A run that nothing but its own command asks for need not keep its encoder.
    assert [one.keeps_encoder for one in ordered] == [True] * 4 + [False] * 2
    assert problems(asked[0].config) == problems(asked[1].config) == []


def test_an_average_is_another_encoder_than_the_concatenation_and_has_its_own_ids(
    tmp_path: Path,
) -> None:
    probabilities, logits, cat = (
        run(tmp_path, *overrides, *OWN)
        for overrides in (SUB, [*SUB, "method.average=logits"], ["method=cat", MEMBERS])
    )
    assert len({probabilities.id, logits.id, cat.id}) == 3
    required = [[one.id for one in of.requirements] for of in (probabilities, logits)]
    assert required[0] == required[1] == [run(tmp_path, *OWN, f"method.seed={seed}").id
                                          for seed in (0, 1)]  # fmt: skip
    assert probabilities.label == "cat_sub(2x-small_resnet)"


def test_a_protocol_without_class_scores_requires_nothing_and_is_not_applicable(
    tmp_path: Path,
) -> None:
    one = run(tmp_path, *SUB, "protocol=alignment_uniformity")
    assert one.requirements == ()
    assert run_all(one).failures == {}
    assert one.record()["reason"].endswith(
        "averages class scores of test images, but AlignmentUniformity gives none."
    )


def test_a_single_encoder_has_no_two_stages(tmp_path: Path) -> None:
    one = run(tmp_path, *TWO_STAGE[2:])
    assert one.requirements == ()
    assert run_all(one).failures == {}
    assert "needs the members of method=cat, but" in one.record()["reason"]


# ---- sharing ------------------------------------------------------------------------------------


def test_one_sweep_fine_tunes_each_member_once_for_all_that_need_it(tmp_path: Path) -> None:
    own = [run(tmp_path, *OWN, f"method.seed={seed}") for seed in (0, 1)]
    two_stage, sub = run(tmp_path, *TWO_STAGE), run(tmp_path, *SUB, *OWN)
    outcome = run_all(*own, two_stage, sub)
    assert (outcome.failures, outcome.computed) == ({}, 4)
    assert all((one.folder / "encoder.safetensors").is_file() for one in own)
    assert two_stage.record()["requires"] == sub.record()["requires"] == [one.id for one in own]
    assert two_stage.record()["first_stage"] == [one.id for one in own]
    assert run_all(*own).computed == 0
    assert run_all(two_stage, sub).computed == 0
    ids = {one.record()["encoder"]["id"] for one in (*own, two_stage, sub)}
    assert len(ids) == 4
    # Everything that names these weights stays: nothing of the store is left over.
    assert leftovers.survey(tmp_path).leftovers == []


def test_a_member_that_did_not_keep_its_encoder_is_fine_tuned_again(tmp_path: Path) -> None:
    own = run(tmp_path, *OWN)
    run_all(own)
    before = predictions(own)
    two_stage = run(tmp_path, *TWO_STAGE)
    assert run_all(two_stage).computed == 3
    assert np.array_equal(predictions(own), before)


def test_without_a_step_the_class_scores_are_the_average_of_the_members(tmp_path: Path) -> None:
    two_stage = run(tmp_path, *TWO_STAGE, "protocol.optimizer.lr=0", "precision=fp64")
    sub = run(tmp_path, *SUB, *OWN, "method.average=logits", "precision=fp64")
    assert run_all(two_stage, sub).failures == {}
    members = [predictions(one) for one in sub.requirements]
    np.testing.assert_allclose(predictions(sub), np.mean(members, axis=0), rtol=0, atol=1e-7)
    np.testing.assert_allclose(predictions(two_stage), predictions(sub), rtol=0, atol=1e-7)
    scores = [{s["metric"]: s["value"] for s in one.record()["scores"]} for one in (two_stage, sub)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("protocol", ["linear_probe", "logistic_regression", "knn"])
def test_class_scores_of_every_kind_are_averaged(tmp_path: Path, protocol: str) -> None:
    few = {"linear_probe": ["protocol.epochs=1", "protocol.batch_size=20"],
           "logistic_regression": ["protocol.C=1"], "knn": ["protocol.k=5"]}  # fmt: skip
    sub = run(tmp_path, *SUB, f"protocol={protocol}", *few[protocol])
    assert run_all(sub).failures == {}
    members = [predictions(one) for one in sub.requirements]
    assert len(members) == 2
    shares = [m if protocol == "knn" else _softmax(m) for m in members]
    ours = predictions(sub) if protocol == "knn" else _softmax(predictions(sub))
    np.testing.assert_allclose(ours, np.mean(shares, axis=0), rtol=1e-5, atol=1e-6)


def _softmax(scores: Any) -> Any:
    powers = np.exp(scores)
    return powers / powers.sum(axis=1, keepdims=True)


# ---- failures -----------------------------------------------------------------------------------


def test_what_requires_a_failed_evaluation_names_it_and_the_rest_goes_on(tmp_path: Path) -> None:
    broken = ["protocol.first_stage.grid.lr=[1e30]"]
    asked = [run(tmp_path, *TWO_STAGE, *broken), run(tmp_path, *OWN)]
    outcome = run_all(*asked)
    first, second = asked[0].requirements
    assert set(outcome.failures) == {first.id, second.id, asked[0].id}
    reason = outcome.failures[asked[0].id]
    assert reason.startswith(f"requires {first.describe()}, which failed: the loss must")
    assert not asked[0].folder.exists()
    assert asked[1].is_finished


def test_what_requires_an_evaluation_without_a_result_names_it(tmp_path: Path) -> None:
    one = run(tmp_path, *TWO_STAGE)
    _, second = one.requirements
    pretend_finished(second, status="not_applicable", reason="it has no such layers.")
    said = f"requires {second.describe()}, which is not applicable: it has no such layers."
    assert run_all(one).failures == {one.id: said}


def test_an_encoder_that_is_missing_is_named(tmp_path: Path) -> None:
    from launchers.sweep import blocked

    one = run(tmp_path, *TWO_STAGE)
    for required in one.requirements:
        pretend_finished(required)
    said = "did not keep its encoder; the same command computes it again"
    assert blocked(one) == f"requires {one.requirements[0].describe()}, which {said}"


def test_damaged_predictions_are_refused(tmp_path: Path) -> None:
    sub = run(tmp_path, *SUB, "protocol=knn", "protocol.k=5")
    run_all(*sub.requirements)
    member = sub.requirements[0]
    path = member.folder / "test_predictions.npz"
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "files": arrays["files"][::-1]})
    (reason,) = run_all(sub).failures.values()
    assert "must be the file that the run's record names" in reason


# ---- what launchers tell ------------------------------------------------------------------------


def test_a_dry_run_lists_the_stages_and_estimates_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = run(tmp_path, *TWO_STAGE)
    pretend_finished(
        one.requirements[0], duration_s=3600.0, config=one.requirements[0].config, device="cpu"
    )
    (one.requirements[0].folder / "encoder.safetensors").touch()
    dry_run.show([one], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    new = [line.split()[1] for line in lines if line.startswith("new")]
    assert new == ["finetune", "two_stage_finetune"]
    assert "device time   1 h, estimated for 1 of 2 runs" in lines


def test_a_second_stage_is_outdated_when_a_member_is_computed_again(tmp_path: Path) -> None:
    one = run(tmp_path, *TWO_STAGE)
    assert run_all(one).failures == {}
    assert complaints([run(tmp_path, *TWO_STAGE)]) == []
    weights = one.requirements[1].folder / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    one = run(tmp_path, *TWO_STAGE)
    assert one.is_finished
    (said,) = complaints([one])
    assert said.startswith("weights changed since two_stage_finetune of 2x-small_resnet on digits")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*TWO_STAGE, "protocol.first_stage.epocs=1"], "`protocol.first_stage.epocs` is not a key"),
        ([*TWO_STAGE, "protocol.first_stage.epochs=0"], "`protocol.first_stage.epochs` must"),
        ([*TWO_STAGE, "protocol.first_stage.head=mlp"], "`first_stage.head` must be one of linear"),
        ([*TWO_STAGE, "protocol.head=cosine"], "`head` must be one of linear, bn_linear"),
        ([*TWO_STAGE, "protocol.head_init=torch"], "`head_init` must be null for `head_start=ave"),
        ([*SUB, "protocol=knn", "method.average=votes"], "`method.average` must be"),
        (["protocol=linear_probe_then_finetune", "protocol.head=mlp"], "`head` must be linear and"),
        (
            ["protocol=linear_probe_then_finetune", "protocol.head_from.head=cosine"],
            "`head_from.head` must be one of linear, bn_linear, bn_affine_linear, but is cosine",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_any_work(overrides: list[str], said: str) -> None:
    added = [f"+{one}" if "epocs" in one else one for one in overrides]
    sentences = problems(plain(compose([*added, *DATA, *MODEL])))
    assert len(sentences) == 1
    assert said in sentences[0]


def test_files_of_fine_tuned_members_with_their_heads_are_a_first_stage_without_training(
    tmp_path: Path,
) -> None:
    tuned = [run(tmp_path, *OWN, f"method.seed={seed}", "protocol.keep_encoder=true")
             for seed in (0, 1)]  # fmt: skip
    run_all(*tuned)
    files = [f"{{model:small_resnet,overrides:[{','.join(_quoted(one))}]}}" for one in tuned]
    joint = run(
        tmp_path, "method=cat", f"method.members=[{','.join(files)}]",
        "protocol=two_stage_finetune", "protocol@protocol.first_stage=score_as_is",
        "protocol.optimizer.lr=0", "protocol.batch_size=20",
    )  # fmt: skip
    assert joint.resolved["protocol"]["optimizer"]["weight_decay"] == 0.0001
    assert run_all(joint).failures == {}
    assert [one.names["protocol"] for one in joint.requirements] == ["score_as_is"] * 2
    mean = np.mean([predictions(one) for one in tuned], axis=0)
    np.testing.assert_allclose(predictions(joint), mean, rtol=0, atol=1e-6)


def _quoted(tuned: Run) -> list[str]:
    return [f"'{key}'" for key in (*MODEL, f"model.weights.path={tuned.folder}")]


def test_the_second_stage_takes_the_weight_decay_of_the_first(tmp_path: Path) -> None:
    assert run(tmp_path, *TWO_STAGE).resolved["protocol"]["optimizer"]["weight_decay"] == 0.01
    grid = ["protocol.first_stage.grid.weight_decay=[0.1]",
            "protocol.first_stage.optimizer.weight_decay=null"]  # fmt: skip
    assert problems(run(tmp_path, *TWO_STAGE, *grid).config) != []
    assert (
        problems(run(tmp_path, *TWO_STAGE, *grid, "protocol.optimizer.weight_decay=0").config) == []
    )
