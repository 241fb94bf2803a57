"""Dependencies point one way, and cheap commands stay cheap."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ssl_transfer", "launchers", "results")
CODE = [*sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py")), ROOT / "run.py"]
TEXT = [*CODE, *(ROOT / "conf").rglob("*.yaml"), *(ROOT / "tests").rglob("*.py")]
TEXT += [*(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *ROOT.glob("*.md")]
TEXT += (ROOT / "docs").glob("*.md")


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Return all nodes of a file, in the order of ``ast.walk``: the module is the first."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported(path: Path) -> Iterator[str]:
    """Yield the first part of every import, wherever it stands in the file."""
    for node in nodes(path):
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


# Rooms of ssl_transfer, lowest first; those of one line do not import each other.
ORDER = (
    ("randomness", "errors"),
    ("system",),
    ("config",),
    ("preprocessing", "context"),
    ("metrics",),
    ("estimators",),
    ("models", "datasets"),
    ("training",),
    ("features",),
    ("methods",),
    ("protocols",),
    ("runs",),
    ("analysis",),
    ("classifier", "evaluation", "preview", "static_views"),
    ("export",),
)
# Rooms of results, lowest first.
RESULTS_ORDER = (
    ("errors", "plain_text"),
    ("statistics",),
    ("records",),
    ("published",),
    ("tables",),
    ("agreement",),
    ("figures",),
    ("runs",),
    ("report",),
    ("commands",),
    ("__main__",),
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in CODE}


def imports(name: str) -> set[str]:
    """Return the project's modules that a module imports, also in functions and for types alone.

    What a package's ``__init__`` takes from its own modules is left out: it exports them.
    """
    path = MODULES[name]
    modules = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {one if one in MODULES else str(node.module) for one in names}
    if path.name == "__init__.py":
        modules = {module for module in modules if not module.startswith(f"{name}.")}
    return (modules & MODULES.keys()) - {name}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize(
    ("package", "order"), [("ssl_transfer", ORDER), ("results", RESULTS_ORDER)]
)
def test_rooms_import_only_what_comes_before_them(
    package: str, order: Sequence[Sequence[str]]
) -> None:
    levels = {one: level for level, rooms in enumerate(order) for one in rooms}
    inside = {name for name in MODULES if name.startswith(f"{package}.")}
    assert {room(name) for name in inside} == levels.keys()
    upwards = {
        f"{name} imports {imported}"
        for name in inside
        for imported in imports(name) & inside
        if room(imported) != room(name) and levels[room(imported)] >= levels[room(name)]
    }
    assert upwards == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    remaining = {name: imports(name) for name in MODULES}
    while free := {name for name, needed in remaining.items() if not needed & remaining.keys()}:
        for name in free:
            del remaining[name]
    assert remaining == {}


def test_few_modules_lie_loose() -> None:
    assert len(list((ROOT / "ssl_transfer").glob("*.py"))) <= 10


def test_the_command_that_analyses_results_loads_neither_torch_nor_the_library() -> None:
    assert not {"torch", "ssl_transfer", "launchers", "hydra"} & loaded_by(
        "import results.commands.main"
    )


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
        assert ast.get_docstring(nodes(path)[0]), path


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


def test_files_of_tests_have_different_names() -> None:
    """Pytest imports them by their names alone."""
    paths: dict[str, Path] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert paths.setdefault(path.name, path) == path
