"""The writer: explicit partitions, dead letters as they came, and no unawaited send."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace.streams.compute import Computed
from headrace.streams.micro_batch import DeadLetter, MicroBatch
from headrace.streams.writer import LARGEST_DEAD_LETTER_BYTES, Writer


@dataclass
class FakeProducer:
    """Stands for Faust's producer: ``send`` returns a future of the broker's answer."""

    sent: list[tuple[Any, ...]] = field(default_factory=list)
    answers: list[asyncio.Future[None]] = field(default_factory=list)
    error: Exception | None = None

    async def send(self, *record: Any) -> asyncio.Future[None]:
        self.sent.append(record)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.error:
            answer.set_exception(self.error)
        else:
            answer.set_result(None)
        return answer


def write(producer: FakeProducer, letters: list[DeadLetter]) -> list[tuple[Any, ...]]:
    writer = Writer(producer, lists="lists", changelog="changelog", dead_letters="letters")
    computed = Computed(lists={(3, b"ann"): b"list"}, states={(3, b"ann"): b"state"})
    micro_batch = MicroBatch(opened_s=0.0, dead_letters=letters)
    asyncio.run(writer.write(micro_batch, computed, evicted=[(1, b"bob")]))
    return producer.sent


def letter(value: bytes) -> DeadLetter:
    return DeadLetter(reason="empty", key=b"k", value=value, headers=[("trace", None)])


def test_lists_states_and_tombstones_go_to_the_partition_of_the_events() -> None:
    assert write(FakeProducer(), [letter(b"v")]) == [
        ("lists", b"ann", b"list", 3, None, None),
        ("changelog", b"ann", b"state", 3, None, None),
        ("changelog", b"bob", None, 1, None, None),
        ("letters", b"k", b"v", None, None, [("trace", None)]),
    ]


def test_a_dead_letter_that_would_not_fit_goes_without_its_value() -> None:
    largest = b"x" * LARGEST_DEAD_LETTER_BYTES
    *_, fits, does_not = write(FakeProducer(), [letter(largest), letter(largest + b"x")])
    assert fits[2] == largest
    assert (does_not[2], does_not[5]) == (None, [("trace", None), ("headrace.omitted", b"value")])


def test_a_record_that_the_broker_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="refused"):
        write(FakeProducer(error=OSError("refused")), [])
