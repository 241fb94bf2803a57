"""Encoder references: what they expand to, which runs they require, what is wrong with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import HydraException
from safetensors.torch import load_file
from tiny_runs import METHOD, run_all, tiny
from torch import nn

import launchers
from ssl_transfer import models, runs
from ssl_transfer.config import compose, plain
from ssl_transfer.config.hydra_errors import sentence
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods import Method
from ssl_transfer.models import Encoder
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.signature import problems

TEACHER = "method.teacher={model:small_resnet,method:simclr,seed:2,overrides:['model.width=8']}"
TINY = ["dataset@method.pretrain_on=digits", "method.pretrain_on.labels_per_class=4"]
TINY += ["method.pretrain_on.test_per_class=2", "method.batch_size=16", "method.epochs=1"]
TINY += ["method.warmup_epochs=0"]
SUPERVISED = ",".join(f"'{o}'" for o in (*METHOD[1:], "model.width=8"))
"""The overrides of a reference to a tiny pre-training."""


def composed(*overrides: str) -> dict[str, Any]:
    return plain(compose(list(overrides)))


def test_a_name_is_a_model_whose_weights_are_taken_as_they_are() -> None:
    teacher = composed("method=seed", "method.teacher=swav")["method"]["teacher"]
    whole = composed("model=swav")
    assert teacher == {"model": whole["model"], "method": whole["method"]}
    # An alias is its file.
    assert teacher != composed("method=seed", "method.teacher=moco")["method"]["teacher"]
    ids = {Run(composed("method=seed", f"method.teacher={n}")).id for n in ("moco", "moco_v2")}
    assert len(ids) == 1


def test_a_mapping_names_model_method_seed_and_overrides() -> None:
    teacher = composed("method=seed", TEACHER)["method"]["teacher"]
    alone = composed("model=small_resnet", "method=simclr", "method.seed=2", "model.width=8")
    assert teacher == {"model": alone["model"], "method": alone["method"]}
    # Left out, the model is the run's own, with what was changed about it.
    start = "method.start_from={method:byol}"
    config = composed("method=simclr", start, "model.width=24")
    assert config["method"]["start_from"]["model"] == config["model"]
    # Hydra can put options in the places, too.
    mounted = ["+method@method.start_from.method=byol", "method.start_from.method.seed=1"]
    same = composed("method=simclr", "method.start_from={method:byol,seed:1}")
    assert composed("method=simclr", *mounted) == same
    assert problems(same) == []


def test_references_may_hold_references() -> None:
    run = Run(
        composed("method=byol", "method.start_from={method:seed,overrides:['method.teacher=swav']}")
    )
    (own,) = run.requirements
    (student,) = own.requirements
    assert [r.names["method"] for r in (own, student)] == ["byol", "seed"]
    assert student.requirements == ()
    assert student.sources["teacher"].names["model"] == "swav"
    assert problems(run.config) == []


def test_a_teacher_that_a_method_trains_is_trained_first_and_once() -> None:
    asked = [
        Run(composed("method=seed", TEACHER, f"model.width={width}", f"seed={seed}"))
        for width in (12, 16)
        for seed in (0, 1)
    ]
    order = runs.graph(asked)
    assert [(r.names["method"], r.is_pretraining) for r in order] == [
        ("simclr", True),
        *[("seed", True), ("seed", False), ("seed", False)] * 2,
    ]
    # It is the very run that is asked for by itself.
    line = ["model.width=8", "method=simclr", "method.seed=2", "protocol=pretrain", "seed=5"]
    assert order[0].id == Run(composed(*line)).id
    assert order[0].folder == Run(composed(*line)).folder
    assert order[1].requirements[0].id == order[0].id


def test_a_teacher_as_it_is_requires_no_run_and_is_part_of_what_the_run_is() -> None:
    ids = set()
    for teacher in ("swav", "moco_v2", "{method:byol}", "{method:byol,seed:1}"):
        run = Run(composed("method=seed", f"method.teacher={teacher}", "protocol=pretrain"))
        assert len(run.requirements) == (teacher[0] == "{")
        ids.add(run.id)
    assert len(ids) == 4


def test_without_a_reference_a_run_is_what_it_was() -> None:
    config = composed("method=simclr")
    assert config["method"]["start_from"] is None
    before = {**config, "method": {k: v for k, v in config["method"].items() if k != "start_from"}}
    assert Run(config).id == Run(before).id
    started = composed("method=simclr", "method.start_from={method:byol}")
    assert Run(started).id != Run(config).id


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("swaf", "`method.start_from`: `model` must be one of .*; did you mean `swav`?"),
        ("{method:byoll}", "`method.start_from`: `method` must be one of .*did you mean `byol`?"),
        (
            "{model:swav,overrides:['model.widht=4']}",
            "`method.start_from`: `model.widht` is not a key of `model=swav`",
        ),
        (
            "{method:byol,overrides:['model.width=4']}",
            "must leave the model alone unless `method.start_from.model` is a name",
        ),
        (
            "runs/x.pt",
            "`method.start_from` must name an option of `model`, but is the file `runs/x.pt`; .*"
            """'method.start_from={model:NAME,overrides:["model.weights.path=runs/x.pt"]}'""",
        ),
        (
            "{modell:swav}",
            "`method.start_from` must have no keys but epoch, method, model, overrides, seed, but "
            "has `modell`; did you mean `model`?",
        ),
        ("{method:byol,epochs:3}", "but has `epochs`, .*overrides:[method.epochs=…]"),
        ("{model:swav.pth}", "must name an option of `model`, but is the file `swav.pth`"),
    ],
)
def test_names_that_there_are_not_are_told_with_their_place(reference: str, told: str) -> None:
    with pytest.raises(HydraException) as caught:
        composed("method=simclr", f"method.start_from={reference}")
    for part in told.split(".*"):
        assert part in sentence(caught.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["method=simclr", "method.start_from=3"], "`method.start_from` must be a mapping of keys"),
        (["method=simclr", "+method.teacher=swav"], "`method.teacher` is not a key of `method`"),
        (["method=seed", "method.teacher=null"], "`method.teacher` must be given"),
        (
            [
                *("method=byol", "model=swav"),
                "method.start_from={model:swav,method:byol,overrides:['model.weights.path=null']}",
            ],
            "`model.weights.path` must be null where `method.start_from` names another model's",
        ),
        (["method=seed"], "`method.teacher` must be given; add `method.teacher=…`"),
        (
            ["method=seed", "method.teacher={method:byol,overrides:['+method.momentun=1']}"],
            "`method.teacher.method.momentun` is not a key of `method.teacher.method`; did you "
            "mean `momentum`?",
        ),
    ],
)
def test_what_is_wrong_with_a_reference_is_told_before_any_work(line: list[str], told: str) -> None:
    config = composed(*line)
    assert Run(config).requirements  # the sweep's graph is built before problems are told
    assert any(problem.startswith(told) for problem in problems(config))


def test_a_sweep_takes_references_as_a_single_run_does() -> None:
    (deferred,) = launchers.defer_axis_keys(["-m", TEACHER])[1:]
    (line,) = launchers.restore_nulls([deferred])
    # Hydra's sweeper takes the one choice out of `choice(…)`.
    key, _, value = line.partition("=")
    meant = f"{key}={value.removeprefix('choice(').removesuffix(')')}"
    assert composed("method=seed", meant) == composed("method=seed", TEACHER)


# Carrying out


def test_a_student_and_what_starts_from_it_are_trained_after_their_requirements(
    tmp_path: Path,
) -> None:
    teacher = f"method.teacher={{model:small_resnet,method:supervised,overrides:[{SUPERVISED}]}}"
    distilled = [*TINY, "method.queue_size=16", "method.teacher_output=features", "method=seed",
                 teacher]  # fmt: skip
    student = tiny(tmp_path, *distilled, "protocol=knn", tuned=False)
    inner = ",".join(f'"{o}"' for o in (*distilled[:-1], teacher) if o != "method=seed")
    start = f"method.start_from={{method:seed,overrides:[{inner}]}}"
    still = "method.optimizer.lr=0.0"  # it leaves what it started from
    started = tiny(
        tmp_path, "method=byol", *TINY, still, start, "protocol=pretrain", tuned=False, data=False
    )
    outcome = run_all(student, started)
    assert (outcome.failures, outcome.computed) == ({}, 4)
    (distillation,) = student.requirements
    assert [r.id for r in started.requirements] == [distillation.id]
    record = distillation.record()
    assert record["requires"] == [distillation.requirements[0].id]
    assert record["encoder"]["id"] == distillation.id
    assert record["config"]["method"]["teacher"]["model"]["width"] == 8
    assert student.record()["encoder"]["id"] == distillation.id
    assert started.record()["requires"] == [distillation.id]
    weights, before = (load_file(r.folder / "encoder.safetensors") for r in (started, distillation))
    names = [name for name in weights if "running" not in name and "tracked" not in name]
    assert names
    assert all(torch.equal(weights[name], before[name]) for name in names)


def test_a_start_from_another_architecture_is_told_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    start = "method.start_from={model:small_resnet,method:simclr,overrides:['model.width=8']}"
    line = ["method=simclr", *TINY, start, "protocol=pretrain"]
    run = tiny(tmp_path, *line, tuned=False, data=False)
    told = preflight.check(run)
    assert told is not None
    assert told.startswith("`method.start_from` must have the architecture")
    assert "is [8, 3, 3, 3] and [4, 3, 3, 3]" in told
    fitting = tiny(tmp_path, *line[:-2], start.replace("width=8", "width=4"), line[-1],
                   tuned=False, data=False)  # fmt: skip
    assert preflight.check(fitting) is None


def test_missing_weights_of_a_teacher_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    line = ["method=seed", *TINY, "method.teacher=swav", f"paths.weights={tmp_path}"]
    told = preflight.check(tiny(tmp_path, *line, "protocol=pretrain", tuned=False, data=False))
    assert told is not None
    assert told.startswith("The weights of `swav` must exist")


def test_weights_trained_on_other_colours_are_no_start() -> None:
    node = composed("model.width=4")["model"]
    ours = models.build(node)
    theirs = models.build({**node, "preprocessing": {**node["preprocessing"], "mean": [0, 0, 0]}},
                          seed=1)  # fmt: skip
    with pytest.raises(ValueError, match=r"`preprocessing.mean` is \(0.0, 0.0, 0.0\) and"):
        models.copy_weights(ours, theirs)
    same = models.build(node, seed=1)
    assert models.fingerprint(ours) != models.fingerprint(same)
    models.copy_weights(ours, same)
    assert models.fingerprint(ours) == models.fingerprint(same)


class MeanOfTeachers(Method):
    """Lets the encoder give the mean of its teachers' features."""

    separable = True
    minimum_batch = 1
    num_views = 1

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        teachers: list[Encoder],
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.teachers = nn.ModuleList(teachers).requires_grad_(False)

    def forward(self, views: tuple[torch.Tensor, ...], targets: torch.Tensor) -> dict[str, Any]:
        wanted = torch.stack([teacher(views[0]) for teacher in self.teachers]).mean(0)
        return {"loss": (self.encoder(views[0]) - wanted).pow(2).mean()}


def test_a_method_may_have_several_teachers_of_which_each_is_trained_once(tmp_path: Path) -> None:
    line = ["method=supervised", *METHOD[1:], "protocol=pretrain"]
    config = tiny(tmp_path, *line, tuned=False, data=False).config
    other = "{model:small_resnet,method:supervised,seed:%d,overrides:[{}]}".replace(
        "{}", ",".join(f"'{o}'" for o in (*METHOD[1:], "model.width=4"))
    )
    asked = composed("method=seed", f"+method.teachers=[{other % 1},{other % 2},small_resnet]")
    teachers = asked["method"]["teachers"]
    assert [t["method"]["name"] for t in teachers] == ["supervised", "supervised", "as_is"]
    node = {**config["method"], "_target_": f"{__name__}.MeanOfTeachers", "name": "mean"}
    for key in ("label_smoothing", "head", "scale"):
        del node[key]
    for teacher in teachers:
        teacher["model"] = config["model"]
    run = Run({**config, "method": {**node, "teachers": teachers}})
    assert problems(run.config) == []
    assert [*run.sources] == ["teachers[0]", "teachers[1]", "teachers[2]"]
    assert [r.seed for r in run.requirements] == [1, 2]
    outcome = run_all(run)
    assert (outcome.failures, outcome.computed) == ({}, 3)
    assert run.record()["requires"] == [r.id for r in run.requirements]
    # The order of teachers is part of the run, and each of them is needed.
    assert Run({**config, "method": {**node, "teachers": teachers[::-1]}}).id != run.id
    alone = problems({**config, "method": {**node, "teachers": teachers[0]}})
    assert "`method.teachers`: there must be a list of encoders" in alone[0]
    several = problems({**config, "method": {**node, "teachers": teachers, "teacher": teachers}})
    assert any("`method.teacher`" in problem for problem in several)
