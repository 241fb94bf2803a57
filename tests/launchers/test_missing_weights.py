"""A sweep of which no run can be executed, because weights are missing, is refused at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from launchers import sweep
from ssl_transfer import models
from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run
from ssl_transfer.runs.failure import fail

MISSING = {
    "a file": ["model.weights.path=nowhere.pth"],
    "a file of the user's below the home folder": ["model.weights.path='~/nowhere.pth'"],
    "a file to be fetched": ["model=moco_v2"],
    "a file with terms": ["model=dinov3_vit_small"],
    "a network on the hub": ["model=timm", "model.arch=hf-hub:timm/nothing"],
    "a folder of the hub": ["model=timm", "model.arch=local-dir:nowhere"],
}

REFUSED = """
import sys
from launchers import sweep
from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run
for line in sys.argv[1:]:
    outcome, todo = sweep.prepare([Run(plain(compose(line.split())))])
    print(len(outcome.failures), len(todo), *outcome.failures.values())
assert "torch" not in sys.modules
"""


def run_of(*overrides: str, outputs: Path) -> Run:
    return Run(plain(compose([*overrides, "protocol=knn", f"paths.outputs={outputs}"])))


@pytest.mark.parametrize("kind", MISSING)
def test_the_sentence_is_that_of_the_attempt_to_load_the_weights(kind: str, tmp_path: Path) -> None:
    run = run_of(*MISSING[kind], outputs=tmp_path)
    check = sweep._check_of_hopeless([run])
    assert check is not None
    with pytest.raises(ValueError) as caught:
        models.build(run.resolved["model"])
    assert check(run) == str(caught.value)


def test_a_folder_of_the_hub_is_named_by_the_key_that_was_typed(tmp_path: Path) -> None:
    run = run_of(*MISSING["a folder of the hub"], outputs=tmp_path)
    with pytest.raises(ValueError, match=r"correct `model\.arch`\.$"):
        models.build(run.resolved["model"])


def test_every_kind_of_missing_weights_is_told_without_torch(tmp_path: Path) -> None:
    lines = [" ".join(["protocol=knn", *overrides]) for overrides in MISSING.values()]
    cat = "protocol=knn method=cat method.members=[small_resnet,moco_v2,vicreg]"
    started = "protocol=knn method=simclr method.start_from=moco_v2"
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *lines, cat, started],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    *told, of_cat, of_student = done.stdout.splitlines()
    assert len(told) == len(MISSING)
    assert all(text.startswith(("1 1 The weights of", "1 1 The network of")) for text in told)
    assert of_cat.startswith("1 1 The weights of `moco_v2` must exist, but")
    # The pre-training fails, and its evaluation is not tried.
    assert of_student.startswith("1 2 The weights of `moco_v2` must exist, but")


def test_a_run_that_requires_a_failed_one_is_not_checked_either(tmp_path: Path) -> None:
    run = run_of("method=simclr", outputs=tmp_path)
    (pretraining,) = run.requirements
    assert sweep._check_of_hopeless([pretraining, run]) is None
    fail(pretraining, "the loss must stay finite, but is nan.", trace="", stage="work")
    check = sweep._check_of_hopeless([pretraining, run])
    assert check is not None
    assert [check(one) for one in (pretraining, run)] == [None, None]


def test_one_run_that_may_succeed_is_checked_with_the_others(tmp_path: Path) -> None:
    fine, missing = (run_of(*line, outputs=tmp_path) for line in ([], ["model=moco_v2"]))
    assert sweep._check_of_hopeless([missing, fine]) is None
    downloaded = run_of("model=moco_v2", "model.weights.download=true", outputs=tmp_path)
    assert sweep._check_of_hopeless([downloaded]) is None
    unresolved = run_of("model.weights.path='${nowhere}'", outputs=tmp_path)
    assert sweep._check_of_hopeless([unresolved]) is None
