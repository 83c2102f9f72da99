"""Fetching: what aiokafka is told, and how what it brings is checked."""

import asyncio
from typing import Any, NamedTuple

from aiokafka.consumer import fetcher
from aiokafka.record import MemoryRecords
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP

from headrace.streams.kafka.record_batches import checked

# aiokafka's only seam between what was fetched and what is made of it.
fetcher.MemoryRecords = checked(MemoryRecords)


class BrokerWait(NamedTuple):
    """How long the broker may hold a fetch that has fewer bytes to bring."""

    longest_ms: int
    bytes: int


# What comes after silence is fetched at once. The embedded broker lets it wait, whatever comes.
AT_ONCE = BrokerWait(50, 1)
# What comes in a stream waits for company: a fetch for each event keeps Python's lock from the
# threads that compute, which the next events wait for.
IN_COMPANY = BrokerWait(10, 65_536)
COMPANY_S = 0.02  # events that come closer than this are a stream


class IntakeThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread, with fetches that answer soon: Faust lets them wait for 1.5 s."""

    _fetched_s = float("-inf")

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> Any:
        consumer = super()._create_consumer(loop)
        consumer._fetch_max_wait_ms, consumer._fetch_min_bytes = AT_ONCE
        consumer._isolation_level = "read_committed"  # Faust has it with transactions of its own
        return consumer

    def is_read(self, tp: TP, end: int) -> bool:
        """Return whether a partition has been fetched up to its end, whatever lay before it."""
        subscription = self._ensure_consumer()._subscription.subscription
        try:
            return bool(subscription.assignment.state_value(tp).position >= end)
        except (AttributeError, AssertionError):  # not assigned any more, or not positioned
            return False

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        kept = consumer._fetcher._records
        for tp in records.keys() & kept.keys():  # there is more than may be taken at once:
            kept.move_to_end(tp)  # its neighbours are next
        now_s = asyncio.get_running_loop().time()
        is_stream = records and now_s - self._fetched_s < COMPANY_S
        if records:
            self._fetched_s = now_s
        wait = IN_COMPANY if is_stream else AT_ONCE
        consumer._fetcher._fetch_max_wait_ms, consumer._fetcher._fetch_min_bytes = wait
        return records
