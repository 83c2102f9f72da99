"""Lease: a worker writes only while the group's coordinator is known to count it in.

A worker that is cut off from the brokers for longer than its session is replaced and does not hear
of it. What it has sent lies in the network, and arrives when that is whole again: old states and
lists behind its successor's newer ones, and compaction would keep the old. Two rules prevent it:

1. Brokers refuse a state or a list that is stamped more than ``STALE_AFTER_S`` before their clock,
   or ``CLOCKS_DIFFER_S`` after it (topics.py).
2. Nothing is stamped later than a session, less both times, after the coordinator was last asked;
   and it gives the partitions to nobody else before a session has passed since.

The exception is a static member that comes back under its name. It gets its partitions at once, so
it first waits until whatever its predecessor sent has arrived or been refused.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from headrace.streams.guards import EXIT_PAUSED, end_process, now_s

if TYPE_CHECKING:  # it imports Faust, and the tools that create topics do without
    from headrace.streams.kafka.batches import RecordBatch

logger = logging.getLogger(__name__)

STALE_AFTER_S = 3.0  # half the shortest session that the settings take
CLOCKS_DIFFER_S = 1.0  # at most, those of workers and brokers: far above what NTP leaves


class Lease:
    """Says with which time a write may be stamped; asks the coordinator when it must."""

    def __init__(
        self,
        session_s: float,
        *,
        is_static: bool = False,
        ask: "Callable[[RecordBatch], Awaitable[bool]]",
        clock: Callable[[], float] = now_s,
        wall_clock: Callable[[], float] = time.time,
        end: Callable[[int], object] = end_process,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Ask at least once a session; ``ask`` returns whether the group still counts us in."""
        self._limit_s = session_s - STALE_AFTER_S - CLOCKS_DIFFER_S
        self._ask = ask
        self._clock = clock
        self._wall_clock = wall_clock
        self._end = end
        self._sleep = sleep
        self._asked_s = -math.inf
        self._is_static = is_static
        self._first_s = clock() + STALE_AFTER_S + CLOCKS_DIFFER_S if is_static else -math.inf

    async def stamp_ms(self, oldest: "RecordBatch") -> int:
        """Return the time to stamp a write with, in Unix ms; end the process if it is replaced.

        ``oldest`` is the first batch that is not acknowledged yet. The answer to a question that
        took too long is out of date, and it is asked again.
        """
        if (wait_s := self._first_s - self._clock()) > 0:
            await self._sleep(wait_s)
        while True:
            stamp_ms, asked_s = int(self._wall_clock() * 1000), self._clock()
            if asked_s - self._asked_s <= self._limit_s:
                return stamp_ms
            if not await self._ask(oldest):
                shared = ", or another one has its group_instance_id" if self._is_static else ""
                logger.error(
                    "ended: the group has gone on without this worker, which was cut off%s", shared
                )
                self._end(EXIT_PAUSED)
            self._asked_s = asked_s
