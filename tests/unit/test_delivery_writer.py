"""The writer: explicit partitions, dead letters as they came, and no unawaited send."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace.streams.compute import Computed
from headrace.streams.micro_batch import DeadLetter, MicroBatch
from headrace.streams.writer import LARGEST_DEAD_LETTER_BYTES, Writer


@dataclass
class FakeBatch:
    """Stands for aiokafka's builder of batches; the first record always fits."""

    room: int
    records: list[tuple[bytes, bytes | None]] = field(default_factory=list)

    def append(self, *, timestamp: int, key: bytes, value: bytes | None) -> object:
        if len(self.records) >= self.room:
            return None
        assert abs(timestamp / 1000 - time.time()) < 60
        self.records.append((key, value))
        return object()


@dataclass
class FakeProducer:
    """Stands for aiokafka's producer: sending returns a future of the broker's answer."""

    sent: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    room: int = 100

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self.room)

    async def send_batch(
        self, batch: FakeBatch, topic: str, *, partition: int
    ) -> asyncio.Future[None]:
        return self._sent((topic, partition, *batch.records))

    async def send(self, topic: str, **record: Any) -> asyncio.Future[None]:
        return self._sent((topic, *record.values()))

    def _sent(self, record: tuple[Any, ...]) -> asyncio.Future[None]:
        self.sent.append(record)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.error:
            answer.set_exception(self.error)
        else:
            answer.set_result(None)
        return answer


def write(producer: FakeProducer, letters: list[DeadLetter]) -> list[tuple[Any, ...]]:
    writer = Writer(lambda: producer, lists="lists", changelog="changelog", dead_letters="letters")
    users = {(3, b"ann"): b"1", (0, b"cid"): b"2", (3, b"dee"): b"3"}
    computed = Computed(lists=users, states=dict.fromkeys(users, b"state"))
    micro_batch = MicroBatch(opened_s=0.0, dead_letters=letters)
    asyncio.run(writer.write(micro_batch, computed, evicted=[(1, b"bob")]))
    return producer.sent


def letter(value: bytes) -> DeadLetter:
    return DeadLetter(reason="empty", key=b"k", value=value, headers=[("trace", None)])


def test_lists_states_and_tombstones_go_to_the_partition_of_the_events() -> None:
    assert write(FakeProducer(), [letter(b"v")]) == [
        ("lists", 3, (b"ann", b"1"), (b"dee", b"3")),
        ("lists", 0, (b"cid", b"2")),
        ("changelog", 3, (b"ann", b"state"), (b"dee", b"state")),
        ("changelog", 0, (b"cid", b"state")),
        ("changelog", 1, (b"bob", None)),
        ("letters", b"k", b"v", [("trace", None)]),
    ]


def test_what_does_not_fit_into_a_batch_goes_with_the_next_in_order() -> None:
    sent = write(FakeProducer(room=1), [])
    assert [record for topic, partition, record in sent if (topic, partition) == ("lists", 3)] == [
        (b"ann", b"1"),
        (b"dee", b"3"),
    ]
    assert len(sent) == 7


def test_a_dead_letter_that_would_not_fit_goes_without_its_value() -> None:
    largest = b"x" * LARGEST_DEAD_LETTER_BYTES
    *_, fits, does_not = write(FakeProducer(), [letter(largest), letter(largest + b"x")])
    assert fits[2] == largest
    assert does_not[2:] == (None, [("trace", None), ("headrace.omitted", b"value")])


def test_a_record_that_the_broker_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="refused"):
        write(FakeProducer(error=OSError("refused")), [])
