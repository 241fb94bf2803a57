"""What the pages name exists: files, links, options of the command line, experiments."""

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssl_transfer.config import AXES, CONF

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN = {
    "two_layers",
    "align_uniform",
    "stripes",
    "class_means",
    "ClassMeans",
    "NAME",
}  # of docs/extending.md
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


def options(group: str) -> set[str]:
    folder = CONF / group
    return {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}


@pages
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pages
def test_every_source_file_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`([\w/]+/[\w/]*\w\.(?:py|sh|yaml))\b", page.read_text()):
        assert any((ROOT / part / name).exists() for part in ("", "ssl_transfer")), name


@pages
def test_every_option_that_is_named_exists(page: Path) -> None:
    group = "|".join(
        (*AXES, "experiment", "recipe", r"views@method", r"dataset@method\.pretrain_on")
    )
    for axis, names in re.findall(rf"(?<![\w./@])({group})=([\w,/]+)", page.read_text()):
        for name in filter(None, names.split(",")):
            known = options(axis.partition("@")[0]) | OWN
            assert name in known, f"{axis}={name}"


def experiments() -> Iterator[str]:
    """Yield the names in the tables of experiments, in which ``*`` stands for any letters."""
    text = (ROOT / "docs" / "reproducing-papers.md").read_text().partition("## Published")[0]
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row.split("|")[2]):
            start, _, rest = name.removeprefix("recipe=").partition("{")
            choices, _, end = rest.partition("}")
            yield from (start + choice + end for choice in choices.split(","))


def test_every_experiment_that_the_tables_name_exists_and_none_is_left_out() -> None:
    names = list(experiments())
    known = options("experiment") | options("recipe")
    for name in names:
        assert fnmatch.filter(known, name), name
    public = {name for name in options("experiment") if not name.rpartition("/")[2].startswith("_")}
    listed = {known for name in names for known in fnmatch.filter(public, name)}
    assert {name for name in public - listed if "demo" not in name} == set()
