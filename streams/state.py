"""One user's state: what the adapt role keeps in its changelog and the learn role in memory.

The state is a fold over the user's events. Each user lives in one partition, so the offset of the
last event folded makes a replay harmless: an event at or below it is already in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgpack
import numpy as np

from headrace.model.arrays import Floats
from headrace.model.features import MAX_FEATURES, N_FEATURES, features_of
from headrace.streams import schema
from headrace.streams.actions import FORGET, NOT_ENGAGED, REFRESH
from headrace.streams.column import Column
from headrace.streams.fields import MAX_TIME_MS
from headrace.streams.records import Event

N_FIELDS_1 = 9  # of version 1
_HEADER = msgpack.Packer().pack_array_header(N_FIELDS_1 + 2)  # 2 added features, and events named
LARGEST_STATE_BYTES = 900_000  # fits a record; 1,700 interactions whose items have the longest ids
MOST_EVENTS = 2**53  # a count that no user reaches
NAMED_EVENTS = 32  # whose names are remembered: a publisher that tries again does so at once
NAME_BYTES = 8

# Shown, undone or asked for, not engaged with: the event is applied, but it is no interaction.


StateKey = tuple[int, bytes]
"""Partition of the events and key of the user: clients that hash keys differently can put one
user into two partitions, and offsets of two partitions must never be compared."""


class StateVersionError(ValueError):
    """The state is of a release whose states are not read. Operator action: in the message."""


class Recovered(bytes):
    """A state as it came from the changelog: whoever wrote it, nobody has looked into it yet."""


@dataclass(slots=True)
class UserState:
    """Bounded recent interactions of one user and the gradients of their judged events."""

    last_offset: int = -1
    n_events: int = 0  # interactions ever, beyond what is remembered
    n_repeats: int = 0  # of them, items the user already had
    items: Column[str] = field(default_factory=Column)  # oldest first, at most history_length
    actions: Column[str] = field(default_factory=Column)
    times_ms: Column[int] = field(default_factory=Column)
    gradients: Floats | None = None  # (decays, fast weights), decayed sums
    n_judged: Floats | None = None  # (decays,), decayed counts of the same
    features: list[int] = field(default_factory=list)  # of the latest context
    named: bytes = b""  # hashes of the latest events that had an event_id, oldest first

    def __post_init__(self) -> None:
        """Take lists too."""
        if not isinstance(self.items, Column):
            self.items, self.actions = Column.of(self.items), Column.of(self.actions)
            self.times_ms = Column.of(self.times_ms)

    def apply(self, event: Event, *, offset: int, history_length: int) -> bool:
        """Fold one event in; return False, changing nothing, if it is in already.

        One that was published twice, under one ``event_id``, is no interaction the second time.
        """
        if offset <= self.last_offset:
            return False
        self.last_offset = offset
        if event.action == REFRESH and event.context:  # where the user is now
            self.features = features_of(event.context)
        if event.action in NOT_ENGAGED or (event.event_id and not self._takes_name(event)):
            return True
        self.n_events += 1
        self.n_repeats += event.item in self.items
        self.items.append(event.item, limit=history_length)
        self.actions.append(event.action, limit=history_length)
        self.times_ms.append(event.time_ms, limit=history_length)
        self.features = features_of(event.context)
        return True

    def _takes_name(self, event: Event) -> bool:
        """Remember an event by its id, its action and its item; return False if it came before.

        An order's id may stand at each of its items.
        """
        named = f"{event.event_id}\0{event.action}\0{event.item}".encode(errors="surrogatepass")
        name = blake2b(named, digest_size=NAME_BYTES).digest()
        if name in self.named:
            return False
        self.named = (self.named + name)[-NAMED_EVENTS * NAME_BYTES :]
        return True

    def encode_to_fit(self) -> bytes:
        """Write the state, less the older half of its history as long as no record would hold it.

        A long history of long ids is larger than what a broker takes, and nothing else would end
        a worker for good.
        """
        while len(encoded := self.encode()) > LARGEST_STATE_BYTES and self.items:
            n = -(-len(self.items) // 2)
            self.items, self.actions = Column.of(self.items[n:]), Column.of(self.actions[n:])
            self.times_ms = Column.of(self.times_ms[n:])
        return encoded

    def encode(self) -> bytes:
        """Write the state for the changelog. The offset stands first: recovery compares it."""
        gradients = None if self.gradients is None else self.gradients.tobytes()
        n_judged = None if self.n_judged is None else self.n_judged.tobytes()
        return b"".join(
            (
                _HEADER,
                _in_a_row(self.last_offset, schema.STATE.version, self.n_events, self.n_repeats),
                self.items.array,
                self.actions.array,
                self.times_ms.array,
                _in_a_row(gradients, n_judged, self.features, self.named),
            )
        )

    @classmethod
    def decode(cls, value: bytes, *, is_ours: bool = False) -> "UserState":
        """Read a state back; one that this process wrote is ours, and its parts need no look.

        Raises:
            StateVersionError: it is of a version that is not read.
            ValueError: the bytes are not a state.
        """
        unpacker = _unpacker(value)
        unpack, skip, tell = unpacker.unpack, unpacker.skip, unpacker.tell
        try:
            n_fields = unpacker.read_array_header()
            offset, version = unpack(), unpack()
            if why := schema.STATE.refusal(version):
                is_version = type(version) is int and version > 0
                raise StateVersionError(why) if is_version else ValueError(why)
            n_events, n_repeats = unpack(), unpack()
            a, b, c, d = tell(), skip() or tell(), skip() or tell(), skip() or tell()
            gradients, n_judged = unpack(), unpack()
            later = [unpack() for _ in range(n_fields - N_FIELDS_1)]
            if tell() != len(value):
                raise ValueError("there is more behind it")
            state = cls(
                last_offset=offset,
                n_events=n_events,
                n_repeats=n_repeats,
                items=Column(value[a:b]),
                actions=Column(value[b:c]),
                times_ms=Column(value[c:d]),
                features=later[0] if later else [],
                named=later[1] if len(later) > 1 else b"",
            )
            if gradients is not None:
                state.n_judged = np.frombuffer(n_judged, np.float32).copy()  # can be written to
                state.gradients = (
                    np.frombuffer(gradients, np.float32).reshape(len(state.n_judged), -1).copy()
                )
            if not is_ours:
                state._check()
        except StateVersionError:
            raise
        except (TypeError, ValueError, msgpack.UnpackException) as exc:
            raise ValueError(f"not a user's state: {exc}") from exc
        return state

    def _check(self) -> None:
        """Refuse what would fail later, or leave the bounds of an array, in a compiled loop.

        Raises:
            ValueError: a part is not of its type or out of its bounds.
        """
        columns = [
            msgpack.unpackb(column.array) for column in (self.items, self.actions, self.times_ms)
        ]
        items, actions, times_ms = columns
        counts = (self.last_offset, self.n_events, self.n_repeats)
        sums = (self.gradients, self.n_judged)
        if not (
            {*map(type, counts)} == {int}
            and min(self.last_offset + 1, *counts[1:]) >= 0
            and max(counts) <= MOST_EVENTS
            and all(type(column) is list for column in (*columns, self.features))
            and len({len(column) for column in columns}) == 1
            and {*map(type, items), *map(type, actions)} <= {str}
            and {*map(type, times_ms), *map(type, self.features)} <= {int}
            and min(times_ms, default=0) >= 0
            and max(times_ms, default=0) <= MAX_TIME_MS
            and min(self.features, default=0) >= 0
            and max(self.features, default=0) < N_FEATURES
            and len(self.features) <= MAX_FEATURES
            and type(self.named) is bytes
            and len(self.named) <= NAMED_EVENTS * NAME_BYTES
            and all(array is None or np.isfinite(array).all() for array in sums)
        ):
            raise ValueError("a part is not of its type, or out of its bounds")


def since_forgotten(
    state: UserState, events: Sequence[tuple[int, Event]]
) -> tuple[UserState, Sequence[tuple[int, Event]]]:
    """Return a state and the (offset, event) pairs that are still to be applied to it.

    Those given, unless one of the events, which are new to the state and in order, asks to forget
    the user: then a new state that holds this event's offset only, and the events after it.
    """
    for at in reversed(range(len(events))):
        offset, event = events[at]
        if event.action == FORGET:
            return UserState(offset), events[at + 1 :]
    return state, events


def _in_a_row(*fields: Any) -> bytes:
    """Pack fields as they stand in an array, less its header."""
    packed: bytes = msgpack.packb(fields)
    return packed[1:]


def _unpacker(value: bytes) -> msgpack.Unpacker:
    """Return what reads the value part by part, and makes room for no more than it can hold."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(value))
    unpacker.feed(value)
    return unpacker


def offset_of(value: bytes) -> int:
    """Return the last offset of an encoded state without decoding the rest.

    Raises:
        ValueError: the bytes are not a state.
    """
    unpacker = _unpacker(value)
    try:
        unpacker.read_array_header()
        offset: int = unpacker.unpack()
        if not isinstance(offset, int):
            raise ValueError("it does not start with an offset")
    except (ValueError, msgpack.UnpackException) as exc:
        raise ValueError(f"not a user's state: {exc}") from exc
    return offset
