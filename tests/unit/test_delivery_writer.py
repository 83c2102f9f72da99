"""The writer: explicit partitions, dead letters as they came, and no unawaited send."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from headrace.streams.adapt.compute import Computed
from headrace.streams.adapt.micro_batch import MicroBatch
from headrace.streams.adapt.writer import Writer
from headrace.streams.errors import LONGEST_DETAIL, MalformedRecordError
from headrace.streams.kafka.dead_letters import (
    HEADER_BYTES,
    ROOM_BYTES,
    ROOM_HEADERS,
    DeadLetter,
    dead_letter_of,
    fitting,
)
from headrace.streams.kafka.record_batches import MAX_HEADERS, VALUE_LIMIT_BYTES, Unreadable
from headrace.streams.kafka.topics import LEAST_LIMIT_BYTES

STAMP_MS = 1_700_000_000_123


@dataclass
class FakeBatch:
    """Stands for aiokafka's builder of batches; the first record always fits."""

    room: int
    records: list[tuple[bytes, bytes | None]] = field(default_factory=list)

    def append(self, *, timestamp: int, key: bytes, value: bytes | None) -> object:
        if len(self.records) >= self.room:
            return None
        assert timestamp == STAMP_MS
        self.records.append((key, value))
        return object()


@dataclass
class FakeProducer:
    """Stands for aiokafka's producer: sending returns a future of the broker's answer."""

    sent: list[tuple[Any, ...]] = field(default_factory=list)
    errors: dict[str, Exception] = field(default_factory=dict)  # by topic
    room: int = 100
    slow_topic: str | None = None
    n_late: int = 0

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self.room)

    async def send_batch(
        self, batch: FakeBatch, topic: str, *, partition: int
    ) -> asyncio.Future[None]:
        return self._sent((topic, partition, *batch.records))

    async def send(self, topic: str, **record: Any) -> asyncio.Future[None]:
        assert (record["key"], record["value"]) != (None, None), "Need at least one: key or value"
        return self._sent((topic, *record.values()))

    def _sent(self, record: tuple[Any, ...]) -> asyncio.Future[None]:
        self.sent.append(record)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if record[0] in self.errors:
            answer.set_exception(self.errors[record[0]])
        elif self.slow_topic == record[0]:
            asyncio.get_running_loop().call_soon(self._answer_late, answer)
        else:
            answer.set_result(None)
        return answer

    def _answer_late(self, answer: asyncio.Future[None]) -> None:
        self.n_late += 1
        answer.set_result(None)


def write(producer: FakeProducer, letters: list[DeadLetter]) -> list[tuple[Any, ...]]:
    writer = Writer(lambda: producer, lists="lists", changelog="changelog", dead_letters="letters")
    users = {(3, b"ann"): b"1", (0, b"cid"): b"2", (3, b"dee"): b"3"}
    computed = Computed(lists=users, states=dict.fromkeys(users, b"state"))
    micro_batch = MicroBatch(opened_s=0.0, dead_letters=letters)
    asyncio.run(writer.write(micro_batch, computed, evicted=[(1, b"bob")], stamp_ms=STAMP_MS))
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
    beside = len(b"k") + len("trace") + HEADER_BYTES
    largest = b"x" * (VALUE_LIMIT_BYTES - ROOM_BYTES - beside)
    *_, fits, does_not = write(FakeProducer(), [letter(largest), letter(largest + b"x")])
    assert fits[2] == largest
    assert does_not[2:] == (None, [("trace", None), ("headrace.omitted", b"value")])


@pytest.mark.parametrize("n_key", [1, 2_000_000])
def test_a_value_left_out_when_it_was_read_is_named_as_if_it_were_here(n_key: int) -> None:
    def fitted(value: bytes) -> object:
        return fitting(DeadLetter(reason="too_large", key=bytes(n_key), value=value, headers=[]))

    whole = bytes(VALUE_LIMIT_BYTES + 1)
    left_out = Unreadable.of("too_large", "", n_left_out=len(whole))
    assert fitted(left_out) == fitted(whole)


def test_a_dead_letter_keeps_its_coordinates_whatever_else_does_not_fit() -> None:
    huge = b"x" * VALUE_LIMIT_BYTES
    key, value, headers = fitting(
        DeadLetter(
            reason="empty",
            key=huge + b"x",
            value=b"v",
            headers=[("trace", huge)],
            coordinates=[("headrace.offset", b"7")],
        )
    )
    assert (key, value) == (None, b"v")
    assert headers == [
        ("headrace.offset", b"7"),
        ("headrace.omitted", b"headers"),
        ("headrace.omitted", b"key"),
    ]


@pytest.mark.parametrize("n_headers", [0, 1, MAX_HEADERS - ROOM_HEADERS])
@pytest.mark.parametrize("n_left", [0, 1])
def test_a_dead_letter_of_the_largest_parts_fits_and_can_be_read_back(
    n_headers: int, n_left: int
) -> None:
    trace = [("t", None)] * n_headers
    room = VALUE_LIMIT_BYTES - ROOM_BYTES - n_headers * (HEADER_BYTES + 1)
    record = SimpleNamespace(
        topic="t" * 249, partition=2**31 - 1, offset=2**63 - 1, timestamp=2**63 - 1,
        key=None, value=bytes(room - n_left), headers=trace,
    )  # fmt: skip
    why = MalformedRecordError("unknown_schema", "\U0001f375" * LONGEST_DETAIL)
    key, value, headers = fitting(dead_letter_of(record, why))
    batch = DefaultRecordBatchBuilder(2, 0, is_transactional=False, producer_id=-1,
        producer_epoch=-1, base_sequence=-1, batch_size=2**21)  # fmt: skip
    batch.append(0, timestamp=2**62, key=key, value=value, headers=headers)
    assert len(value or b"") == room - n_left
    assert len(batch.build()) <= LEAST_LIMIT_BYTES
    assert len(headers) <= MAX_HEADERS


def test_a_dead_letter_of_too_many_headers_goes_without_them() -> None:
    many = [("t", None)] * (MAX_HEADERS - ROOM_HEADERS + 1)
    coordinates = [("headrace.offset", b"7")]
    full = DeadLetter(reason="empty", key=b"k", value=b"v", headers=many, coordinates=coordinates)
    omitted = [("headrace.omitted", b"headers")]
    assert fitting(full) == (b"k", b"v", [*coordinates, *omitted])


@pytest.mark.parametrize("value", [None, bytes(VALUE_LIMIT_BYTES + 1)])
def test_a_dead_letter_without_key_and_value_can_be_sent(value: bytes | None) -> None:
    (*_, sent) = write(
        FakeProducer(), [DeadLetter(reason="empty", key=None, value=value, headers=[])]
    )
    assert sent[1:3] == (None, b"")


def test_a_record_that_the_broker_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="refused"):
        write(FakeProducer(errors={"changelog": OSError("refused")}), [])


def test_a_write_that_failed_in_part_ends_when_all_of_it_is_answered() -> None:
    producer = FakeProducer(errors={"lists": OSError("refused")}, slow_topic="changelog")
    with pytest.raises(OSError, match="refused"):
        write(producer, [])
    assert producer.n_late == 3
