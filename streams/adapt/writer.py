"""What the adapt role writes: lists, states, tombstones and dead letters, as bytes."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from headrace.streams.adapt.compute import Computed
from headrace.streams.adapt.micro_batch import MicroBatch
from headrace.streams.kafka.dead_letters import DeadLetter, fitting
from headrace.streams.state import StateKey

Record = tuple[bytes, bytes | None]


class Writer:
    """Sends through the app's producer and waits for the broker's acknowledgement of all.

    Stock Faust only logs a failed delivery, and its flush can return early; both would let a
    commit pass what was never written. So every future is awaited here.
    """

    def __init__(
        self, producer_of: Callable[[], Any], *, lists: str, changelog: str, dead_letters: str
    ) -> None:
        """Write to these topics; ``producer_of`` returns aiokafka's producer, once started."""
        self._producer_of = producer_of
        self._lists = lists
        self._changelog = changelog
        self._dead_letters = dead_letters

    @property
    def _producer(self) -> Any:
        return self._producer_of()

    async def write(
        self,
        micro_batch: MicroBatch,
        computed: Computed,
        evicted: Iterable[StateKey],
        *,
        stamp_ms: int,
    ) -> None:
        """Write everything a micro-batch led to, as of ``stamp_ms`` (Unix).

        The partition is always that of the events, never a hash of the key: clients hash keys
        differently, and a state elsewhere than its events is lost at the next rebalance.

        Raises:
            InvalidTimestampError: it reached the broker too late; it may be written again.
            KafkaError: the broker did not take a record.
        """
        records: dict[tuple[str, int], list[Record]] = defaultdict(list)
        for (partition, key), value in computed.lists.items():
            records[self._lists, partition].append((key, value))
        for (partition, key), value in computed.states.items():
            records[self._changelog, partition].append((key, value))
        for partition, key in evicted:
            records[self._changelog, partition].append((key, None))
        sent = [
            await self._producer.send_batch(batch, topic, partition=partition)
            for (topic, partition), rows in records.items()
            for batch in self._batches(rows, stamp_ms)
        ]
        sent += [await self._send_dead_letter(letter) for letter in micro_batch.dead_letters]
        # Of all: one that is still on its way when another has failed could overtake the next try.
        for answer in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    def _batches(self, records: list[Record], stamp_ms: int) -> Iterator[Any]:
        """Pack one partition's records: sent one by one, each takes five times as long."""
        batch = self._producer.create_batch()
        for key, value in records:
            if batch.append(timestamp=stamp_ms, key=key, value=value) is None:  # full
                yield batch
                batch = self._producer.create_batch()
                batch.append(timestamp=stamp_ms, key=key, value=value)  # the first always fits
        yield batch

    async def _send_dead_letter(self, letter: DeadLetter) -> Awaitable[object]:
        key, value, headers = fitting(letter)
        sent: Awaitable[object] = await self._producer.send(
            self._dead_letters, key=key, value=value, headers=headers
        )
        return sent
