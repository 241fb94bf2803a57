"""Dependencies point one way, and cheap commands stay cheap."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ssl_transfer", "launchers", "results")
CODE = [*sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py")), ROOT / "run.py"]
TEXT = [*CODE, *(ROOT / "conf").rglob("*.yaml"), *(ROOT / "tests").rglob("*.py")]
TEXT += [*(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *ROOT.glob("*.md")]


def imported(path: Path) -> Iterator[str]:
    """Yield the first part of every import, wherever it stands in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").partition(".")[0]


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after ``statement``."""
    code = f"{statement}\nimport sys\nprint('LOADED', *{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        ("ssl_transfer", {"launchers", "results", "run"}),
        ("results", {"launchers", "ssl_transfer", "run", "torch", "torchvision", "timm", "hydra"}),
        ("launchers", {"results", "run"}),
    ],
)
def test_no_file_imports_what_depends_on_it(package: str, foreign: set[str]) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not foreign & set(imported(path)), path


def test_the_command_that_analyses_results_loads_neither_torch_nor_the_library() -> None:
    assert not {"torch", "ssl_transfer", "launchers", "hydra"} & loaded_by("import results.cli")


def test_help_is_there_before_torch_could_be_loaded() -> None:
    loaded = loaded_by("import sys, run\nsys.argv[1:] = ['--help']\nrun.main()")
    assert not {"torch", "torchvision", "timm", "sklearn", "pandas"} & loaded


def test_the_package_and_composition_load_no_torch() -> None:
    loaded = loaded_by("import ssl_transfer\nfrom ssl_transfer.config import compose\ncompose()")
    assert not {"torch", "torchvision", "timm"} & loaded


def test_a_file_is_one_idea() -> None:
    long = {str(p.relative_to(ROOT)): n for p in CODE if (n := len(lines(p))) > 500}
    assert long == {}


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_every_module_says_what_it_is() -> None:
    for path in CODE:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_no_file_knows_a_path_of_somebodys_computer() -> None:
    # Put together here, so that this file does not contain them.
    private = [f"/{folder}/" for folder in ("home", "work", "root", "scratch", "mnt", "Users")]
    for path in TEXT:
        found = [part for part in private if part in path.read_text(encoding="utf-8")]
        assert not found, f"{path}: {found}"


def test_every_target_of_the_configuration_lies_in_the_package_of_its_group() -> None:
    packages = {"model": "models", "method": "methods", "dataset": "datasets"}
    packages["protocol"] = "protocols"
    for group, package in packages.items():
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            for line in lines(path):
                if line.startswith("_target_: ") and line.split()[1] not in ("???", "null"):
                    assert line.split()[1].startswith(f"ssl_transfer.{package}."), path
