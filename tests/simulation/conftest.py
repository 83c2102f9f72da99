"""What every simulation needs: ends that can be told, small buffers, no logs."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulated_worker import EndedError
from simulated_world import World

from headrace.streams import faust_app, process
from headrace.streams.settings import Settings

BUFFERED_BATCHES = 3  # so that schedules of a dozen events fill the agent's buffer
TICK_S = 1.0  # between ticks nothing else happens, and each costs as much as a step


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a night play more schedules than a push."""
    parser.addoption("--orders", type=int, default=100, help="random schedules to play")
    parser.addoption("--first-seed", type=int, default=0, help="seed of the first of them")


@pytest.fixture(scope="module", autouse=True)
def _simulated() -> Iterator[None]:
    """Let a process end by an exception; leave out what only people read."""

    def end(code: int) -> None:
        raise EndedError(code)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faust_app, "end_process", end)
        patch.setattr(process, "end_process", end)
        patch.setattr(faust_app, "BUFFERED_BATCHES", BUFFERED_BATCHES)
        patch.setattr(process, "TICK_S", TICK_S)
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def new_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], World]:
    """Return what makes worlds with two partitions and three events in a micro-batch."""
    folder: Path = tmp_path_factory.mktemp("simulation")
    settings = Settings(data_dir=folder, micro_batch_events=3, partitions=2)
    return lambda: World(settings)
