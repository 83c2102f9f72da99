"""What the simulations of the rules share: a log of one partition, what must become of it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types.tuples import TP

from headrace.streams import decoding
from headrace.streams.adapt import compute, delivery
from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.records import Event
from headrace.streams.wire import decode_event, encode

EVENTS = TP("headrace.events", 0)
N_RECORDS = 12
USERS = ("ann", "bob")

LOG = [
    SimpleNamespace(
        topic=EVENTS.topic,
        partition=0,
        offset=offset,
        timestamp=1_000,
        key=None,
        value=encode(Event(user=USERS[offset % 3 == 0], item=f"i{offset}", time_ms=offset)),
        headers=(),
    )
    for offset in range(N_RECORDS)
]
OFFSETS = {
    (0, user.encode()): [o for o in range(N_RECORDS) if USERS[o % 3 == 0] == user] for user in USERS
}
EXPECTED = {key: [f"i{offset}" for offset in offsets] for key, offsets in OFFSETS.items()}


class Folding:
    """An engine that folds events into states, and lists nothing."""

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        """Fold the new events in."""
        for user in work:
            for offset, event in user.events:
                user.state.apply(event, offset=offset, history_length=N_RECORDS)
        return [UserResult(user.state, None) for user in work]


def leave_out(patch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than all else here: clocks, metrics, decoding twelve records."""
    known: dict[bytes, Event] = {}

    def decode_once(value: bytes, **of_record: Any) -> Event:
        if value not in known:
            known[value] = decode_event(value, **of_record)
        return known[value]

    patch.setattr(decoding, "decode_event", decode_once)
    patch.setattr(compute, "time", SimpleNamespace(monotonic=float, thread_time=float))
    patch.setattr(delivery, "observe", lambda *_, **__: None)
