"""``run.py`` as a user meets it: what is wrong is said in one sentence, before anything starts."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_py
from tiny_runs import run_all, tiny

import launchers
from launchers import main, sweep
from ssl_transfer import config
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.protocols.knn import KNN
from ssl_transfer.runs import builders, execution
from ssl_transfer.runs.signature import signature_problems

QUICK = ["model.width=4", "model.preprocessing.size=16", "dataset.labels_per_class=4"]
QUICK += ["dataset.test_per_class=2", "trainer.device=cpu"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of ten images in class folders; verdicts on files are remembered elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builders.read.cache_clear()
    root = tmp_path / "photos"
    chance = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            pixels = chance.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


# ---- one sweep ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A sweep of two models, the weights of one of which are no weights."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "wrong.pt").write_bytes(b"this is not a checkpoint")
    # The flag stands among the overrides, where users put it.
    return folder, run_py(
        folder, "protocol=knn", "-m", "model.weights.path=null,wrong.pt", "seed=0,1", *QUICK
    )


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failure_and_ends_with_1(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = swept
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert len(list((folder / "out" / "knn").glob("*/record.json"))) == 2
    assert len(list((folder / "out" / "knn").glob("*/failure.json"))) == 2


def test_the_summary_of_a_sweep_names_what_failed_and_why(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = swept
    assert "4 runs: 2 finished, 2 failed or missing" in done.stdout
    assert "wrong.pt` is none" in done.stdout
    (kept,) = (folder / "out" / "sweeps").glob("*/sweep.json")
    remembered = json.loads(kept.read_text())
    assert len(remembered["runs"]) == 4
    assert len(remembered["failures"]) == 2
    assert remembered["computed"] == 2
    assert "knn: top1 in %" in done.stdout


def test_nothing_is_left_in_the_folder_where_a_user_stands(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert sorted(path.name for path in swept[0].iterdir()) == ["out", "wrong.pt"]


# ---- mistakes on the command line ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "protocol=knn,linear_prob"], "is `linear_prob`; did you mean `linear_probe`?"),
        (
            ["protocol.epoch=3"],
            "`protocol.epoch` is not a key of `protocol=linear_probe`; did you mean `epochs`?",
        ),
        (
            ["-m", "seed=0,1", "experiment=demo,demo_measures"],
            "since each has a grid of its own, but is `demo,demo_measures`; send one command for "
            "each.",
        ),
        (["experiment=bn_tuning_many_shot"], "; use `experiment=bn_tuning/many_shot`."),
        (
            ["-m", "experiment=moco/linear_eval", "recipe=null,moco_linear"],
            "`recipe=moco_linear` has another name now; use `recipe=moco/linear`.",
        ),
    ],
)
def test_a_misspelt_command_line_is_one_sentence_and_starts_nothing(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = run_py(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: `")
    assert line.endswith(said)
    assert not list(tmp_path.rglob("record.json"))


def test_a_current_folder_that_was_deleted_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    with monkeypatch.context() as patched:
        patched.setattr(os, "getcwd", gone)
        with pytest.raises(SystemExit):
            main._refuse_deleted_folder()
    assert "the current folder must exist" in capsys.readouterr().err


def test_a_number_where_a_text_belongs_is_answered_with_how_to_type_it() -> None:
    def image_folder(root: str) -> None:
        """Stand for a reader."""

    (told,) = signature_problems("dataset", image_folder, {"root": 2024}, supplied=frozenset())
    assert told.startswith("`dataset.root` must be str, but is 2024; ")
    assert told.endswith("""quote a text that looks like a number, as in 'dataset.root="2024"'.""")


def test_help_names_every_group_and_every_option() -> None:
    lines = main.help_text().splitlines()
    for group in (*config.groups(), "hydra/launcher", "recipe"):
        (line,) = (text for text in lines if text.startswith(f"  {group} "))
        assert line.split()[1:] == ", ".join(config.options(group)).split()


def test_help_names_the_options_of_a_folder_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "my_network.yaml").touch()
    for flags in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        monkeypatch.setattr("sys.argv", ["run.py", *flags, "--help"])
        main.main()
        text = capsys.readouterr().out
        assert "my_network" in text
        assert "small_resnet" in text


def test_no_recipe_may_be_asked_for_as_null() -> None:
    asked = ("recipe=null", "recipe=null,ssl_sota/knn,null", "seed=0", "dataset.root=null")
    assert [main.with_recipe(argument) for argument in asked] == [
        "recipe=none", "recipe=none,ssl_sota/knn,none", "seed=0", "dataset.root=null",
    ]  # fmt: skip


def test_flags_and_overrides_may_stand_in_any_order() -> None:
    line = ["protocol=knn,finetune", "-m", "seed=1", "--cfg", "job"]
    ordered = ["-m", "protocol=knn,finetune", "seed=1", "--cfg", "job"]
    assert launchers.flags_first(line) == ordered
    assert launchers.flags_first(line[:1]) == line[:1]


def test_a_wrong_sweep_is_refused_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = tiny(tmp_path, "protocol=knn", tuned=False), tiny(tmp_path, "+protocol.kk=3")
    with pytest.raises(SystemExit) as caught:
        run_all(right, wrong, tiny(tmp_path, "+dataset.rot=3"))
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "error: `protocol.kk` is not a key" in told
    assert "error: `dataset.rot` is not a key" in told
    assert told.endswith("2 problems; nothing was started.\n")
    assert not list(tmp_path.rglob("*.json"))


# ---- data and weights that are not what they should be ------------------------------------------


def no_work(*arguments: object) -> None:
    raise AssertionError("a run was started")


def refused(run: sweep.Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the sentence of a run that must not start."""
    monkeypatch.setattr(execution, "_work", no_work)
    outcome = run_all(run)
    assert outcome.exit_code == 1
    with pytest.raises(SystemExit) as caught:
        sweep.conclude(outcome)
    assert caught.value.code == 1
    (told,) = outcome.failures.values()
    assert "\n" not in told
    assert "Traceback" not in told
    failure = run.failure()
    assert failure is not None
    assert failure["stage"] == "check"
    return told


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: root.rename(root.with_name("moved")), "photos` does not exist"),
    (lambda root: [p.unlink() for p in (root / "dog").iterdir()], "photos/dog` has none"),
    (lambda root: write(root / "cat" / "3.png", b"oops"), "cat/3.png (not an image"),
    (
        lambda root: write(root / "cat" / "4.png", (root / "cat" / "4.png").read_bytes()[:300]),
        "photos/cat/4.png (",
    ),
    (lambda root: os.link(root / "cat" / "1.png", root / "dog" / "x.png"), "are the same file"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_damaged_image_folders_are_refused_before_work(
    photos: Path,
    damage: Callable[[Path], object],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(photos)
    run = tiny(tmp_path, "dataset=image_folder", f"dataset.root={photos}", data=False)
    assert said in refused(run, monkeypatch)


def test_corrupt_images_are_skipped_and_counted_where_asked(photos: Path, tmp_path: Path) -> None:
    write(photos / "cat" / "3.png", b"oops")
    run = tiny(
        tmp_path, "dataset=image_folder", "protocol=knn", f"dataset.root={photos}",
        "dataset.on_corrupt=skip", data=False, tuned=False,
    )  # fmt: skip
    assert run_all(run).failures == {}
    assert run.record()["data"]["corrupt"] == 1
    assert run.record()["data"]["corrupt_names"] == ["cat/3.png"]


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("cat/0.png 0\ndog/0.png", "cat/1.png 0", "train.txt:2: no class number at the end of"),
        ("cat/0.png 0\ndog/0.png 1", "cat/1.png 7", "test.txt:1: class number 7 is out of range"),
        ("cat/0.png 0\ndog/0.png 1", "cat/0.png 0", "test.txt:1: `cat/0.png` is named in"),
        ("cat/0.png 0\ndog/x.png 1", "cat/1.png 0", "train.txt:2: there is no file"),
        ("cat/0.png 0\ndog/0.png 1", "", "test.txt: no lines"),
    ],
)
def test_wrong_annotations_are_refused_by_file_and_line(
    photos: Path,
    train: str,
    test: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (photos / "train.txt").write_text(train)
    (photos / "test.txt").write_text(test)
    run = tiny(tmp_path, "dataset=image_list", f"dataset.root={photos}", data=False)
    assert said in refused(run, monkeypatch)


class Executes:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("executed",)


def _weights(path: Path, kind: str) -> list[str]:
    """Write wrong weights; return the overrides that ask for them."""
    state = small_resnet(width=4).state_dict()
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    if kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "executing":
        torch.save({"state_dict": Executes()}, path)
    elif kind == "other architecture":
        other = small_resnet(width=8).state_dict()
        torch.save({name.removeprefix("backbone."): t for name, t in other.items()}, path)
    elif kind == "other prefix":
        torch.save({f"net.{name}": tensor for name, tensor in state.items()}, path)
    elif kind == "other sum":
        torch.save(state, path)
        return ["model.weights.sha256=0123456789abcdef"]
    return []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "weights.pt` does not"),
        ("truncated", "weights.pt"),
        ("executing", "mkdir"),
        ("other architecture", "shapes differ (another architecture?)"),
        ("other prefix", "use `model.weights.prefix=net.`."),
        ("other sum", "must be 0123456789abcdef, but is"),
    ],
)
def test_wrong_weights_are_refused_before_work_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    extra = _weights(path, kind)
    run = tiny(tmp_path, f"model.weights.path={path}", *extra)
    assert said in refused(run, monkeypatch)
    assert not (tmp_path / "executed").exists()


def test_a_protocol_is_given_only_the_kind_of_target_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KNN, "targets", frozenset({"views"}))
    told = refused(tiny(tmp_path, "protocol=knn", tuned=False), monkeypatch)
    assert told == (
        "`knn` must be given a dataset whose target is one of ['views'], but `digits` has `class`."
    )


def test_what_was_refused_by_a_check_is_tried_again_once_it_is_put_right(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny(tmp_path, "dataset=image_folder", "protocol=knn", f"dataset.root={photos}",
               data=False, tuned=False)  # fmt: skip
    photos.rename(tmp_path / "moved")
    with monkeypatch.context() as patch:
        refused(run, patch)
    (tmp_path / "moved").rename(photos)
    assert run_all(run).failures == {}
    assert run.failure() is None


# ---- default datasets ---------------------------------------------------------------------------

SEEN_ELSEWHERE = """
defaults:
  - knn
  - _self_
  - override /dataset@_global_.dataset: textures
name: seen_elsewhere
"""


def test_protocols_may_have_a_dataset_of_their_own_unless_they_are_compared(tmp_path: Path) -> None:
    (tmp_path / "conf" / "protocol").mkdir(parents=True)
    (tmp_path / "conf" / "protocol" / "seen_elsewhere.yaml").write_text(SEEN_ELSEWHERE)
    own = f"--config-dir={tmp_path / 'conf'}"
    shown = run_py(tmp_path, own, "protocol=seen_elsewhere", "--cfg", "job", "--package", "dataset")
    assert "name: textures" in shown.stdout
    chosen = ["dataset=photos", "protocol=seen_elsewhere"]  # the command line wins
    shown = run_py(tmp_path, own, *chosen, "--cfg", "job", "--package", "dataset")
    assert "name: photos" in shown.stdout
    done = run_py(tmp_path, own, "-m", "protocol=knn,seen_elsewhere")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: a sweep over protocols with different default datasets must name its datasets, but "
        "`knn` has `digits` and `seen_elsewhere` has `textures`; add `dataset=digits,textures`, or "
        "the sets that you mean, or send one command for each protocol if no set suits all."
    )
    assert not (tmp_path / "out" / "knn").exists()
