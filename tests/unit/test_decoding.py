"""Decoding: times by each record's own account, and an event loop that goes on meanwhile."""

import asyncio
import time
from dataclasses import dataclass

import pytest

from headrace.streams import decoding
from headrace.streams.decoding import decode_in_turns, decoded
from headrace.streams.errors import MalformedRecordError
from headrace.streams.fields import MAX_AHEAD_MS
from headrace.streams.records import Event
from headrace.streams.wire import encode

NOW_MS = 1_700_000_000_000


@dataclass(slots=True)
class Record:
    """The fields of aiokafka's ConsumerRecord that decoding looks at."""

    value: bytes | None
    timestamp: int | None
    key: bytes | None = None


def click(time_ms: int, *, written_ms: int | None) -> Record:
    return Record(encode(Event(user="ann", item="tea", time_ms=time_ms)), written_ms)


def one(record: Record, *, now_ms: int = NOW_MS) -> tuple[int, Event | MalformedRecordError]:
    ((_, written_ms, event),) = decoded([record], now_ms=now_ms)
    return written_ms, event


@pytest.mark.parametrize("behind_ms", [1, 2 * MAX_AHEAD_MS])
def test_a_clock_of_ours_that_is_behind_sets_nothing_aside(behind_ms: int) -> None:
    ours_ms = NOW_MS - behind_ms
    written_ms, event = one(click(NOW_MS, written_ms=NOW_MS), now_ms=ours_ms)
    assert isinstance(event, Event)
    assert (written_ms, event.time_ms) == (ours_ms, ours_ms)


@pytest.mark.parametrize("written_ms", [None, 0, -1, NOW_MS - 1, NOW_MS])
def test_an_event_days_after_its_record_is_none(written_ms: int | None) -> None:
    _, refusal = one(click(NOW_MS + MAX_AHEAD_MS + 1, written_ms=written_ms))
    assert isinstance(refusal, MalformedRecordError)
    assert refusal.reason == "out_of_range"


def test_every_record_is_given_with_its_event_or_why_it_has_none() -> None:
    records = [click(NOW_MS - 5, written_ms=NOW_MS), Record(b"nonsense", NOW_MS)]
    found = asyncio.run(decode_in_turns(records))
    assert [(record, written_ms) for record, written_ms, _ in found] == [
        (record, NOW_MS) for record in records
    ]
    assert [type(event) for *_, event in found] == [Event, MalformedRecordError]


def test_no_time_is_later_than_now() -> None:
    before_ms = time.time_ns() // 1_000_000
    past, ahead = before_ms - 1_000, before_ms + 60_000
    records = [click(past, written_ms=before_ms), click(ahead, written_ms=ahead)]
    (_, _, known), (_, written_ms, capped) = asyncio.run(decode_in_turns(records))
    after_ms = time.time_ns() // 1_000_000
    assert isinstance(known, Event)
    assert isinstance(capped, Event)
    assert known.time_ms == past
    assert before_ms <= written_ms <= after_ms
    assert before_ms <= capped.time_ms <= after_ms


def test_the_event_loop_goes_on_while_records_are_decoded_that_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "AT_A_STRETCH_S", -1.0)
    records = [click(NOW_MS, written_ms=NOW_MS)] * 8
    n_turns = 0

    async def count_turns() -> None:
        nonlocal n_turns
        while True:
            await asyncio.sleep(0)
            n_turns += 1

    async def take() -> None:
        others = asyncio.create_task(count_turns())
        await decode_in_turns(records)
        others.cancel()

    asyncio.run(take())
    assert n_turns >= len(records) - 1
