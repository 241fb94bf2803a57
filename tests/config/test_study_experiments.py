"""The project's own study on small images: its encoders, sets and protocols."""

import collections

import pytest
from hydra._internal.hydra import Hydra
from test_experiments import Sweep, axes, hydra, stated_runs

from ssl_transfer.config import plain
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

__all__ = ["hydra"]  # a fixture

STUDY = "study/small_images"
SETS = ["dtd", "omniglot", "digits", "tiny_imagenet"]
# Protocols by the number of runs of one encoder on one set.
RUNS = {
    "finetune": 3 + 1,  # three seeds, and a tenth of the labels
    "synthetic_invariance": 2,  # two transforms
    **dict.fromkeys(
        [
            "linear_probe",
            "bn_tune",
            "norm_tune",
            "bias_tune",
            "knn",
            "logistic_regression",
            "few_shot",
            "alignment_uniformity",
            "instance_discrimination",
            "transferability",
        ],
        1,
    ),
}


@pytest.fixture(scope="module")
def study(hydra: Hydra) -> Sweep:
    return Sweep(hydra, STUDY)


def test_every_encoder_meets_every_set_and_every_protocol(study: Sweep) -> None:
    cells = [axes(line) for line in study.lines()]
    assert len(cells) == stated_runs(STUDY)
    encoders = collections.Counter(
        (cell["method"], cell.get("model.width"), cell.get("method.epochs")) for cell in cells
    )
    assert len(encoders) == 9 * 2 + 2 + 2 + 1 + 1
    assert set(encoders.values()) == {len(SETS) * sum(RUNS.values())}
    for dataset in SETS:
        protocols = collections.Counter(c["protocol"] for c in cells if c["dataset"] == dataset)
        assert protocols == {name: len(encoders) * count for name, count in RUNS.items()}
    seeds = {cell.get("seed") for cell in cells if cell["protocol"] == "finetune"}
    assert seeds == {None, "0", "1", "2"}  # None: on a tenth of the labels


@pytest.mark.slow
def test_members_and_teachers_are_encoders_of_the_study(study: Sweep) -> None:
    by_method = collections.defaultdict(list)
    for line in study.lines("dataset=digits", "protocol=norm_tune"):
        # Keys that an option lacks are left out of its cells (launchers/applicable.py).
        kept = [text for text in line if text not in study.composer.lacking(line)]
        config = plain(study.composer.compose(kept))
        assert problems(config) == []
        run = Run(config)
        by_method[run.names["method"]].append(run)
    (cat,), (distill,) = by_method["cat"], by_method["distill"]
    singles = {
        needed.id
        for method, found in by_method.items()
        if method not in ("cat", "distill")
        for run in found
        for needed in run.requirements
    }
    members = {needed.id for needed in cat.requirements}
    teachers = {needed.id for student in distill.requirements for needed in student.requirements}
    assert members == teachers
    assert len(members) == 5
    assert members <= singles
    assert len(singles) == 9 * 2 + 2
