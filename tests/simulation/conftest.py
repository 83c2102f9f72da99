"""What every simulation needs: ends that can be told, small buffers, no logs, no waste."""

import gc
import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.utils import terminal
from mode.utils.logging import CompositeLogger
from simulated_worker import EndedError
from simulated_world import World

from headrace.streams import process
from headrace.streams.kafka import faust_app
from headrace.streams.settings import Settings

BUFFERED_BATCHES = 3  # so that schedules of a dozen events fill the agent's buffer
TICK_S = 1.0  # between ticks nothing else happens, and each costs as much as a step
COLLECT_EVERY = 50  # worlds
RULES_PER_ORDER = 10  # schedules of the rules alone, for one with Faust: they are quicker


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a night play more schedules than a push."""
    parser.addoption("--orders", type=int, default=100, help="random schedules to play")
    parser.addoption("--first-seed", type=int, default=0, help="seed of the first of them")


@pytest.fixture(scope="module")
def rule_seeds(request: pytest.FixtureRequest) -> range:
    """Return the seeds of the schedules without Faust."""
    first, n_orders = (request.config.getoption(o) for o in ("--first-seed", "--orders"))
    return range(first, first + RULES_PER_ORDER * n_orders)


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
        _leave_out(patch)
        logging.disable(logging.CRITICAL)
        gc.collect()
        gc.freeze()
        gc.disable()  # new_world collects, so many worlds at once
        yield
        gc.enable()
        gc.unfreeze()
        logging.disable(logging.NOTSET)


def _leave_out(patch: pytest.MonkeyPatch) -> None:
    """Leave out of Faust what nobody reads here, and what is the same for every worker."""
    patch.setattr(terminal, "logtable", lambda *_, **__: "")
    for name in ("log", "dev", "debug", "info", "warn", "error", "exception"):
        patch.setattr(CompositeLogger, name, lambda *_, **__: None)  # it formats what is not logged
    load, known = faust.App._load_settings, dict[str, Any]()

    def load_once(app: faust.App, *, silent: bool = False) -> Any:
        options = repr(app._default_options)
        if options not in known:
            known[options] = load(app, silent=silent)
        return known[options]

    patch.setattr(faust.App, "_load_settings", load_once)


@pytest.fixture(scope="module")
def new_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], World]:
    """Return what makes worlds with two partitions and three events in a micro-batch."""
    folder: Path = tmp_path_factory.mktemp("simulation")
    settings = Settings(data_dir=folder, micro_batch_events=3, partitions=2)
    n_worlds = count(1)

    def new() -> World:
        if next(n_worlds) % COLLECT_EVERY == 0:
            gc.collect()
        return World(settings)

    return new
