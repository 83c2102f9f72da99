"""What the adapt role writes: lists, states, tombstones and dead letters, as bytes."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

from headrace.streams.compute import Computed
from headrace.streams.micro_batch import DeadLetter, MicroBatch, StateKey

LARGEST_DEAD_LETTER_BYTES = 1_000_000  # leaves room for headers below the broker's limit


class Writer:
    """Sends through the app's producer and waits for the broker's acknowledgement of each.

    Stock Faust only logs a failed delivery, and its flush can return early; both would let a
    commit pass what was never written. So every future is awaited here.
    """

    def __init__(self, producer: Any, *, lists: str, changelog: str, dead_letters: str) -> None:
        self._producer = producer
        self._lists = lists
        self._changelog = changelog
        self._dead_letters = dead_letters

    async def write(
        self, micro_batch: MicroBatch, computed: Computed, evicted: Iterable[StateKey]
    ) -> None:
        """Write everything a micro-batch led to.

        The partition is always that of the events, never a hash of the key: clients hash keys
        differently, and a state elsewhere than its events is lost at the next rebalance.

        Raises:
            aiokafka.errors.KafkaError: the broker did not take a record.
        """
        records = [
            *((self._lists, key, value) for key, value in computed.lists.items()),
            *((self._changelog, key, value) for key, value in computed.states.items()),
            *((self._changelog, key, None) for key in evicted),
        ]
        sent = [
            await self._send(topic, key, value, partition)
            for topic, (partition, key), value in records
        ]
        sent += [await self._send_dead_letter(letter) for letter in micro_batch.dead_letters]
        await asyncio.gather(*sent)

    async def _send(
        self, topic: str, key: bytes, value: bytes | None, partition: int
    ) -> Awaitable[object]:
        sent: Awaitable[object] = await self._producer.send(
            topic, key, value, partition, None, None
        )
        return sent

    async def _send_dead_letter(self, letter: DeadLetter) -> Awaitable[object]:
        value, headers = letter.value, letter.headers
        if len(value or b"") > LARGEST_DEAD_LETTER_BYTES:
            # The coordinates fit, the record with them would not, and the worker could never pass.
            value, headers = None, [*headers, ("headrace.omitted", b"value")]
        sent: Awaitable[object] = await self._producer.send(
            self._dead_letters, letter.key, value, None, None, headers
        )
        return sent
