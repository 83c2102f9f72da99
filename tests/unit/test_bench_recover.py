"""When a worker serves, and serves again, told from what it says and from its lists."""

import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.streams.bench import recover, stage
from headrace.streams.child import Child
from headrace.streams.errors import StreamsError
from headrace.streams.settings import Settings
from headrace.streams.tools.scrape import Scrape

LIMIT_S = 30.0


def worker(*partitions: int, is_ready: bool = True) -> Scrape:
    """Return what a worker with these partitions says."""
    lags = {("headrace_consumer_lag_events", (str(number),)): 0.0 for number in partitions}
    return Scrape(lags | {("headrace_ready", ()): float(is_ready)})


@pytest.mark.parametrize(
    ("scrapes", "expected"),
    [
        ([worker(0, 1), worker(2, 3)], True),
        ([worker(0, 1), worker(2)], False),  # nobody has the fourth yet
        ([worker(0, 1, 2, 3), worker()], False),
        ([worker(0, 1, 2, 3), worker(2, 3)], False),  # the first has not said yet what it gave up
        ([worker(0, 1), worker(2, 3, is_ready=False)], False),
        ([worker(0, 1), Scrape()], False),  # it does not answer
    ],
)
def test_two_workers_serve_once_they_share_all_partitions(
    scrapes: list[Scrape], *, expected: bool
) -> None:
    assert stage.are_serving(scrapes, partitions=4) is expected


class Polled:
    """A reader whose polls return what is given, and then nothing."""

    def __init__(self, *polls: list[tuple[int, int]]) -> None:
        self._polls: Iterator[list[tuple[int, int]]] = iter(polls)

    def poll(self) -> list[Any]:
        """Return the next records: partition and time, in milliseconds."""
        return [
            SimpleNamespace(partition=partition, timestamp=at_ms)
            for partition, at_ms in next(self._polls, [])
        ]


def test_all_is_served_again_with_the_first_list_of_the_last_partition() -> None:
    lists = Polled([(0, 90), (1, 99)], [], [(0, 150), (0, 900)], [(1, 120), (0, 950)])
    settings = Settings(partitions=2)
    assert recover.until_listed(settings, lists, 100) == 150  # type: ignore[arg-type] - a stand-in


def test_sizes_start_with_no_state_and_end_with_what_was_asked_for() -> None:
    assert recover.sizes(50_000) == [0, 10_000, 50_000]
    assert recover.sizes(500) == [0, 500]


def test_a_role_that_ends_is_told_with_its_last_words() -> None:
    child = Child([sys.executable, "-c", "print('no luck')"], env=os.environ)
    try:
        with pytest.raises(StreamsError, match="no luck"):
            stage.wait_until(lambda: None, child)
    finally:
        child.stop(limit_s=LIMIT_S)
