"""A SLURM for the tests of this folder, which `make test-slurm` alone runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accounting", action="store_true", help="a cluster on which sacct works")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    without = not config.getoption("accounting")
    return True if without and collection_path.name == "test_accounting.py" else None


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """Two nodes, ``n1`` and ``n2``, of two GPUs each; the session's commands talk to them."""
    with (
        Cluster(accounting=pytestconfig.getoption("accounting"), max_array_size=12) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(autouse=True)
def _nothing_left_to_the_next_test(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.restore()
