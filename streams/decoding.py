"""Decoding: what records of the events topic say, or why they say nothing."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from headrace.streams.errors import MalformedRecordError
from headrace.streams.records import Event
from headrace.streams.wire import decode_event, record_time_ms

Decoded = tuple[Any, int, Event | MalformedRecordError]  # a record, and when it was written

AT_A_STRETCH_S = 0.05


def decoded(records: Sequence[Any], *, now_ms: int) -> Iterator[Decoded]:
    """Yield records with their times and events; no time is later than ours.

    An event's time is judged by what its own record says. By a clock of ours that is days behind,
    all would be set aside as days ahead, where writing ends with the brokers' refusal.
    """
    for record in records:
        written_ms = record_time_ms(record.timestamp, now_ms=now_ms)
        said_ms = max(written_ms, record.timestamp or 0)  # later, if our clock is behind
        event: Event | MalformedRecordError
        try:
            event = decode_event(record.value, key=record.key, record_time_ms=said_ms)
            if event.time_ms > now_ms:
                event = replace(event, time_ms=now_ms)
        except MalformedRecordError as exc:
            event = exc
        yield record, written_ms, event


async def decode_in_turns(records: Sequence[Any]) -> list[Decoded]:
    """Return records that are ``decoded`` now, while the event loop goes on.

    Some hundred records that were made to be slow to read take seconds together, and a role that
    stands still for so long ends itself, at every start anew.
    """
    found, rested_s = [], time.monotonic()
    for each in decoded(records, now_ms=int(time.time() * 1000)):
        found.append(each)
        if time.monotonic() - rested_s > AT_A_STRETCH_S:
            await asyncio.sleep(0)
            rested_s = time.monotonic()
    return found
