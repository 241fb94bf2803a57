"""The package as `pip install` leaves it: everything works from any folder, without a clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("conf", "launchers", "results", "ssl_transfer")
SOURCES = ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")
QUICK = ["model.width=4", "model.preprocessing.size=16", "trainer.device=cpu"]
QUICK += ["dataset.labels_per_class=4", "dataset.test_per_class=2", "trainer.progress_bar=false"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands' folder of an environment with the wheel and the dependencies of the tests.

    The dependencies come from the environment of the tests by a ``.pth`` file, whose folder is
    searched for packages only: an editable installation in it is not followed to the clone.
    """
    folder = tmp_path_factory.mktemp("installation")
    source = folder / "source"  # building leaves files beside the code
    for name in PARTS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)],
        cwd=source, check=True,
    )  # fmt: skip
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    new = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(new)], check=True)
    commands = new / "bin"
    subprocess.run(
        [*pip, "--python", str(commands / "python"), "install", "--no-deps", "--no-index",
         str(wheel)],
        check=True,
    )  # fmt: skip
    (packages,) = new.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder that the commands run in, one after another."""
    return tmp_path_factory.mktemp("elsewhere")


def said(program: Path, folder: Path, *arguments: str) -> str:
    """Return what a command prints; it must succeed."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SSL_"))}
    done = subprocess.run(
        [str(program), *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=200,
        env={**variables, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_code_that_runs_is_the_installed_one(environment: Path, folder: Path) -> None:
    code = "import launchers, results, ssl_transfer as s; print(launchers, results, s)"
    printed = said(environment / "python", folder, "-c", code)
    assert printed.count(str(environment.parent)) == 3


def test_every_file_of_the_configuration_and_every_published_table_is_installed(
    environment: Path,
) -> None:
    (packages,) = environment.parent.glob("lib/python*/site-packages")

    def names(place: Path, pattern: str) -> set[Path]:
        return {path.relative_to(place) for path in place.rglob(pattern)}

    assert names(packages / "ssl_transfer" / "conf", "*.yaml") == names(ROOT / "conf", "*.yaml")
    for pattern in ("*.csv", "page.*"):
        assert names(packages / "results", pattern) == names(ROOT / "results", pattern)
    for part in ("launchers", "results", "ssl_transfer"):
        assert names(packages / part, "*.py") == names(ROOT / part, "*.py")


def test_help_names_the_command_and_the_options(environment: Path, folder: Path) -> None:
    printed = said(environment / "ssl-transfer", folder, "--help")
    assert "usage: ssl-transfer [-m]" in printed
    assert "barlow_twins" in printed
    assert "retry" in said(environment / "python", folder, "-m", "launchers", "--help")
    assert "transfer_2021" in said(environment / "python", folder, "-m", "results", "published")


def test_runs_write_below_the_current_folder_and_tables_find_them(
    environment: Path, folder: Path
) -> None:
    said(environment / "ssl-transfer", folder, "protocol=knn", *QUICK)
    (path,) = folder.glob("outputs/knn/*/record.json")
    record = json.loads(path.read_text())
    assert record["code"]["revision"].startswith("v")
    assert not record["code"]["dirty"]
    assert "small_resnet" in said(environment / "python", folder, "-m", "results", "table")


@pytest.mark.parametrize("launcher", ["in_process", "local"])
def test_a_sweep_ends_with_its_tables(environment: Path, folder: Path, launcher: str) -> None:
    command = ["-m", f"hydra/launcher={launcher}", "protocol=knn", "model.name=1,2", *QUICK]
    command += ["hydra.launcher.n_jobs=1"] if launcher == "local" else []
    printed = said(environment / "ssl-transfer", folder, *command, f"paths.outputs={launcher}")
    assert "2 runs: 2 finished, none failed" in printed
    (about,) = folder.glob(f"{launcher}/sweeps/*/sweep.json")
    assert json.loads(about.read_text())["command"].startswith("ssl-transfer -m hydra/launcher=")
    outputs = ["--outputs", launcher]
    listed = said(environment / "python", folder, "-m", "launchers", "status", *outputs)
    assert listed.count("done") == 3


def test_scripts_evaluate_their_own_encoders(environment: Path, folder: Path) -> None:
    (folder / "script.py").write_text(
        "import ssl_transfer, torch\n"
        "from ssl_transfer.preprocessing import Preprocessing\n"
        "encoder = torch.nn.Flatten()\n"
        "keys = ['dataset.labels_per_class=4', 'dataset.test_per_class=2']\n"
        "print(ssl_transfer.evaluate(encoder, 'digits', 'knn', overrides=keys,\n"
        "      preprocessing=Preprocessing(size=8)))\n"
    )
    assert "top1" in said(environment / "python", folder, "script.py")


ENCODER = """
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.models import build, sources

encoder = build(resolve(plain(compose()))["model"])
print(sources.network(encoder.backbone, type(encoder), encoder.maker))
"""


def test_stored_features_are_those_of_the_same_code_in_a_clone_and_in_an_installation(
    environment: Path, folder: Path
) -> None:
    (folder / "encoder.py").write_text(ENCODER)
    here = subprocess.run(
        [sys.executable, str(folder / "encoder.py")], env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said(environment / "python", folder, "encoder.py") == here.stdout


JOB = """
import submitit
from launchers.job import Job
from ssl_transfer.config import compose, plain

config = plain(compose(["protocol=knn", "paths.outputs=submitted", *{quick}]))
submitit.LocalExecutor("jobs").submit(Job([config])).result()
"""


def test_a_job_that_submitit_pickles_finds_the_installed_code(
    environment: Path, folder: Path
) -> None:
    code = "from ssl_transfer.system.provenance import search_path; print([search_path()])"
    assert said(environment / "python", folder, "-c", code) == "['']\n"
    (folder / "submit.py").write_text(JOB.replace("{quick}", repr(QUICK)))
    said(environment / "python", folder, "-P", "submit.py")
    assert list(folder.glob("submitted/knn/*/record.json"))
