"""The folder of a sweep: found again by name, holding the runs as they were asked for."""

import json
import subprocess
from pathlib import Path

import pytest
from tiny_runs import METHOD, tiny

from launchers import sweep_folder
from launchers.sweep import Outcome, SweepRefused
from launchers.sweep_folder import SweepFolder
from ssl_transfer.system import provenance

IN_PROCESS = {"name": "in_process"}
EMPTY = {"runs": [], "folders": [], "launcher": IN_PROCESS}


def test_a_sweep_is_found_again_as_it_was_asked_for(tmp_path: Path) -> None:
    runs = [tiny(tmp_path, *METHOD, "protocol=knn", f"seed={s}", tuned=False) for s in (1, 0)]
    (parent,) = runs[0].requirements
    launcher = {"name": "local", "n_jobs": 2}
    made = SweepFolder.create([*runs, runs[0]], tmp_path, launcher)
    assert made.folder.parent == tmp_path / "sweeps"
    assert made.outputs == tmp_path
    found = SweepFolder.find(tmp_path)
    assert found.about == made.about
    assert found.about["launcher"] == launcher
    assert found.about["code"] == provenance.code()
    assert found.about["runs"] == [run.id for run in runs]
    assert found.about["required"] == {parent.id: parent.place}
    assert list(found.places().items()) == [(run.id, run.place) for run in (parent, *runs)]
    again = found.runs()
    assert [run.config for run in again] == [run.config for run in (parent, *runs)]
    assert [run.id for run in again] == [parent.id, *(run.id for run in runs)]


def test_how_a_sweep_went_is_noted(tmp_path: Path) -> None:
    made = SweepFolder.create([tiny(tmp_path, "protocol=knn", tuned=False)], tmp_path, IN_PROCESS)
    outcome = Outcome([], failures={"3f": "why"}, computed=4)
    made.note(outcome)
    assert outcome.folder == made.folder
    kept = json.loads((made.folder / "sweep.json").read_text())
    assert (kept["failures"], kept["computed"]) == ({"3f": "why"}, 4)


def write(outputs: Path, *names: str) -> None:
    for name in names:
        folder = outputs / "sweeps" / name
        folder.mkdir(parents=True)
        (folder / "sweep.json").write_text(json.dumps({**EMPTY, "name": name}))


def test_a_sweep_is_named_by_its_folder_or_is_the_latest(tmp_path: Path) -> None:
    write(tmp_path, "2026-01-02_00-00-00_aaaaaa", "2026-01-10_00-00-00_bbbbbb")
    (tmp_path / "sweeps" / "2026-02-01_00-00-00_begun").mkdir()
    assert SweepFolder.find(tmp_path).about["name"] == "2026-01-10_00-00-00_bbbbbb"
    named = SweepFolder.find(tmp_path, "2026-01-02_00-00-00_aaaaaa")
    assert named.about["name"] == "2026-01-02_00-00-00_aaaaaa"
    assert SweepFolder.find(Path("elsewhere"), str(named.folder)).folder == named.folder


def test_an_unknown_sweep_is_answered_with_the_newest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SweepRefused):
        SweepFolder.find(tmp_path)
    assert capsys.readouterr().err == (
        f"error: `--sweep` must name a sweep below `{tmp_path}/sweeps`, but is `latest`, but "
        "there is none.\n"
    )
    write(tmp_path, *"abcdefg")
    with pytest.raises(SweepRefused):
        SweepFolder.find(tmp_path, "x")
    assert capsys.readouterr().err.endswith("but is `x`; known: g, f, e, d, c.\n")


def test_a_folder_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    (tmp_path / "sweeps").touch()
    with pytest.raises(SweepRefused) as caught:
        SweepFolder.create([run], tmp_path, IN_PROCESS)
    assert caught.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "must be writable with space left on its disk" in told


def test_a_snapshot_holds_the_tracked_files_as_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "code"
    (code / "package").mkdir(parents=True)
    (code / "package" / "a.py").write_text("first")
    (code / "gone.py").touch()
    monkeypatch.setattr(provenance, "ROOT", code)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    write(tmp_path, "sweep")
    made = SweepFolder.find(tmp_path)
    with pytest.raises(SweepRefused):
        made.snapshot()
    assert "needs the code in a git repository" in capsys.readouterr().err
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", "-C", str(code), *command], check=True)
    (code / "package" / "a.py").write_text("edited")
    (code / "gone.py").unlink()
    (code / "untracked.py").touch()
    copy = made.snapshot()
    files = [str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()]
    assert files == ["package/a.py"]
    assert (copy / "package" / "a.py").read_text() == "edited"


def test_a_user_without_a_name_has_a_sweep_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(sweep_folder.slurm.getpass, "getuser", unknown)
    made = SweepFolder.create([tiny(tmp_path, "protocol=knn", tuned=False)], tmp_path, IN_PROCESS)
    assert made.about["user"].isdigit()


def test_two_sweeps_of_one_second_get_two_folders(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    made = [SweepFolder.create([run], tmp_path, IN_PROCESS) for _ in range(5)]
    assert len({sweep_folder.folder for sweep_folder in made}) == 5
    assert [SweepFolder(sweep_folder.folder).runs()[0].id for sweep_folder in made] == [run.id] * 5


ODD = [
    "", "{", "null", "5", "[]", "{}", '{"runs": 5}', '{"runs": [1], "folders": [2]}',
    '{"runs": ["a"], "folders": []}', '{"runs": [], "folders": [], "launcher": {}}',
    '{"runs": [], "folders": [], "required": {"a": 1}, "launcher": {"name": "local"}}',
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_a_damaged_sweep_is_a_sentence(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweeps" / "2026-01-01_00-00-00_abcdef"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(text)
    with pytest.raises(SweepRefused):
        SweepFolder.find(tmp_path)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: `{folder / 'sweep.json'}` ")
    assert told.endswith("send the sweep's command again, or name another by --sweep=….")


def test_a_flipped_byte_of_a_sweep_is_a_sentence_and_so_are_another_sweeps_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tiny(tmp_path, "protocol=knn", f"seed={n}", tuned=False) for n in (0, 1)]
    one, other = (SweepFolder.create([run], tmp_path, IN_PROCESS) for run in runs)
    path = one.folder / "sweep.json"
    whole = path.read_text()
    path.write_text(whole.replace('"computed": 0', '"computed": 1'))
    with pytest.raises(SweepRefused):
        SweepFolder(one.folder)
    assert "was damaged or changed" in capsys.readouterr().err
    path.write_text(whole)
    packed = (one.folder / "runs.jsonl.gz").read_bytes()
    for content in (b"", packed[:-9], packed[:40] + bytes([packed[40] ^ 1]) + packed[41:], b"{}"):
        (one.folder / "runs.jsonl.gz").write_bytes(content)
        with pytest.raises(SweepRefused):
            one.runs()
        assert "runs.jsonl.gz` must hold the " in capsys.readouterr().err
    (one.folder / "runs.jsonl.gz").write_bytes((other.folder / "runs.jsonl.gz").read_bytes())
    with pytest.raises(SweepRefused):
        one.runs()
    assert "it belongs to another sweep or another version" in capsys.readouterr().err
