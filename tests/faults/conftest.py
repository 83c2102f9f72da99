"""Apache Kafka in three nodes behind a network that can be cut, for all schedules of a run."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from network import Network

STORE_BYTES = 64 * 1024 * 1024  # some fifty versions of the small model; then the disk is full


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add how many schedules, from which seed on, how long, and where to write what was seen."""
    parser.addoption("--schedules", type=int, default=3, help="schedules to play (default 3)")
    parser.addoption("--seed", type=int, default=19, help="seed of the first one (default 19)")
    parser.addoption("--seconds", type=float, default=20.0, help="of each schedule (default 20)")
    parser.addoption("--seen", type=Path, help="append a line of JSON for each schedule here")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each seed, so that a failing one can be named."""
    if "seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("--seed")
        metafunc.parametrize("seed", range(first, first + metafunc.config.getoption("--schedules")))


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Run the proxies."""
    with Network() as network:
        yield network


@pytest.fixture(scope="session")
def cluster(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run the brokers."""
    with Cluster(tmp_path_factory.mktemp("kafka"), network) as cluster:
        yield cluster


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk of its own for checkpoints, which can be filled."""
    folder = tmp_path / "models"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "none", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, f"run this by `make test-faults`, which may mount: {mounted}"
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
