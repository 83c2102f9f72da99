"""Records to micro-batches: set bad records aside, coalesce per user. No Kafka in here."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from headrace.streams.decoding import Decoded
from headrace.streams.errors import MalformedRecordError
from headrace.streams.kafka.batches import RecordBatch
from headrace.streams.kafka.dead_letters import DeadLetter, dead_letter_of
from headrace.streams.records import Event, Source
from headrace.streams.state import StateKey


@dataclass(slots=True, kw_only=True)
class Arrivals:
    """What one user did in a micro-batch."""

    user: str
    events: list[tuple[int, Event]]  # (offset, event), in offset order
    source: Source  # the last record
    oldest_record_ms: int  # record time of the first, from which freshness counts


@dataclass(slots=True)
class MicroBatch:
    """Record batches that are computed, written and acknowledged together."""

    opened_s: float  # when its first batch arrived
    batches: list[RecordBatch] = field(default_factory=list)
    users: dict[StateKey, Arrivals] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    n_records: int = 0
    n_bytes: int = 0

    def add(self, batch: RecordBatch, decoded: Iterable[Decoded]) -> None:
        """Take over a batch: its events with those of the same users, other records set aside."""
        self.batches.append(batch)
        self.n_records += len(batch.records)
        self.n_bytes += batch.n_bytes
        for record, record_ms, event in decoded:
            if isinstance(event, MalformedRecordError):
                self.dead_letters.append(dead_letter_of(record, event))
            else:
                self._coalesce(record, record_ms, event)

    def _coalesce(self, record: Any, record_ms: int, event: Event) -> None:
        source = Source(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            time_ms=event.time_ms,
        )
        key: StateKey = (record.partition, event.user.encode())
        arrivals = self.users.get(key)
        if arrivals is None:
            self.users[key] = Arrivals(
                user=event.user,
                events=[(record.offset, event)],
                source=source,
                oldest_record_ms=record_ms,
            )
        else:
            arrivals.events.append((record.offset, event))
            arrivals.source = source


def in_rounds(keys: Iterable[StateKey]) -> list[list[StateKey]]:
    """Split ``keys`` so that no round holds one user twice, in the order given.

    A user has two states if clients that hash keys differently wrote to two partitions.
    """
    rounds: list[dict[bytes, StateKey]] = []
    for key in keys:
        for taken in rounds:
            if key[1] not in taken:
                taken[key[1]] = key
                break
        else:
            rounds.append({key[1]: key})
    return [list(taken.values()) for taken in rounds]
