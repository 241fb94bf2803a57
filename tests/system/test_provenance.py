"""What a record says about the code that computed it."""

import json
import platform
import site
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_transfer.system import provenance


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    def clear() -> None:
        for function in (provenance.code, provenance.fingerprint, provenance.versions):
            function.cache_clear()

    clear()
    yield
    clear()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of code that no repository has."""
    (tmp_path / "ssl_transfer").mkdir()
    (tmp_path / "ssl_transfer" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def commit(folder: Path) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)


def test_the_fingerprint_is_of_names_and_contents_of_the_source_files(copy: Path) -> None:
    def now() -> str:
        provenance.fingerprint.cache_clear()
        return provenance.fingerprint()

    first = now()
    assert len(first) == 16
    (copy / "README.md").write_text("changed")
    (copy / "ssl_transfer" / "notes.txt").write_text("changed")
    assert now() == first
    (copy / "ssl_transfer" / "a.py").rename(copy / "ssl_transfer" / "b.py")
    renamed = now()
    (copy / "ssl_transfer" / "b.py").write_text("x = 2\n")
    assert len({first, renamed, now()}) == 3


def test_code_in_no_repository_is_known_by_its_fingerprint_alone(copy: Path) -> None:
    assert provenance.code() == {
        "revision": None,
        "dirty": False,
        "fingerprint": provenance.fingerprint(),
    }


def test_a_commit_and_what_it_does_not_have_are_told(copy: Path) -> None:
    commit(copy)
    clean = provenance.code()
    assert len(clean["revision"]) == 40
    assert not clean["dirty"]
    (copy / "ssl_transfer" / "a.py").write_text("x = 2\n")
    provenance.code.cache_clear()
    assert provenance.code()["revision"] == clean["revision"]
    assert provenance.code()["dirty"]


def test_code_that_lies_untracked_in_another_repository_has_none_of_its_commits(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / ".gitignore").write_text("environment\n")
    commit(copy)
    inside = copy / "environment"
    (inside / "ssl_transfer").mkdir(parents=True)
    monkeypatch.setattr(provenance, "ROOT", inside)
    assert provenance.git("status") is None
    assert provenance.code()["revision"] is None


@pytest.mark.parametrize(
    ("origin", "revision"),
    [
        (None, "v1.2.3"),
        ({"url": "file:///code", "dir_info": {}}, "v1.2.3"),
        ({"url": "https://host/code", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, "abc"),
    ],
)
def test_an_installed_package_names_the_commit_that_pip_noted_or_its_version(
    copy: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, revision: str
) -> None:
    facts = copy / "ssl_transfer-1.2.3.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: ssl_transfer\nVersion: 1.2.3\n")
    if origin is not None:
        (facts / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(copy)
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(copy)])
    assert provenance.code()["revision"] == revision
    assert not provenance.code()["dirty"]


def test_other_processes_are_told_where_the_code_lies_unless_it_is_installed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "own")
    assert provenance.search_path() == f"{copy}:own"
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(copy)])
    assert provenance.search_path() == "own"
    assert provenance.search_path(copy / "snapshot") == f"{copy / 'snapshot'}:own"
    monkeypatch.delenv("PYTHONPATH")
    assert provenance.search_path() == ""


@pytest.mark.parametrize("edited", [False, True])
def test_code_that_changed_while_a_job_waited_is_told(
    copy: Path, monkeypatch: pytest.MonkeyPatch, edited: bool
) -> None:
    submitted = {"revision": "abc", "dirty": False, "fingerprint": provenance.fingerprint()}
    monkeypatch.setenv(provenance.SUBMITTED, json.dumps(submitted))
    if edited:
        (copy / "ssl_transfer" / "a.py").write_text("x = 2\n")
    provenance.fingerprint.cache_clear()
    state = provenance.code()
    assert state["changed_since_submission"] is edited
    # A snapshot of the code knows its commit from the submission.
    assert (state["revision"] == "abc") is not edited


def test_a_computer_without_git_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git("status") is None
    assert provenance.code()["revision"] is None


def test_the_versions_are_those_in_use() -> None:
    versions = provenance.versions()
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__.partition("+")[0] or (
        versions["torch"] == torch.__version__
    )


def test_the_code_is_where_this_test_was_taken_from() -> None:
    assert provenance.ROOT.samefile(Path(__file__).parents[2])
