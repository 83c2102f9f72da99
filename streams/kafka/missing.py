"""What is missing: events that were removed before the role came to read them."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from faust.types.tuples import TP

from headrace.streams import metrics

logger = logging.getLogger(__name__)

MISSED = (
    "%d events of partition %d of %s were removed before they were read: its retention is shorter"
    " than the role was away, or behind"
)
MARKS = 16  # offsets that are no records, at most, between two batches: of transactions


class Missing:
    """Follows what comes next in each partition, and counts what is missing before it."""

    def __init__(self, begin_of: Callable[[TP], Awaitable[int]]) -> None:
        """Ask ``begin_of`` for the offset where a partition begins."""
        self._begin_of = begin_of
        self._expected: dict[TP, tuple[int, int]] = {}  # next offset; a gap that says nothing

    def start(self, read_to: Mapping[TP, int | None]) -> None:
        """Begin behind what has been read; where nothing was, there is nothing to miss."""
        self._expected = {tp: (read, 0) for tp, read in read_to.items() if read}

    async def before(self, tp: TP, first: int) -> int:
        """Return how many events were removed before ``first``, which comes next, was read."""
        expected, says_nothing = self._expected.get(tp, (first, 0))
        if first - expected <= says_nothing:
            return 0
        begin = await self._begin_of(tp)  # before it, what is missing was there
        return max(0, min(begin, first) - expected)

    def deliver(self, tp: TP, records: Sequence[Any], n_missed: int) -> None:
        """Go on behind records, and tell how many were missing before them."""
        if n_missed:
            metrics.MISSED.inc(n_missed)
            logger.error(MISSED, n_missed, tp.partition, tp.topic)
        self._expected[tp] = records[-1].offset + 1, MARKS
