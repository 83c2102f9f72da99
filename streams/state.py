"""One user's state: what the adapt role keeps in its changelog and the learn role in memory.

The state is a fold over the user's events. Each user lives in one partition, so the offset of the
last event folded makes a replay harmless: an event at or below it is already in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from headrace.model.features import features_of
from headrace.streams import schema
from headrace.streams.column import Column
from headrace.streams.wire import FORGET, Event

N_FIELDS_1 = 9  # of version 1
_HEADER = msgpack.Packer().pack_array_header(N_FIELDS_1 + 1)  # 2 added the features

# Shown or undone, not engaged with: the event is applied, but it is no interaction.
NOT_ENGAGED = frozenset({"impression", "return", FORGET})


@dataclass(slots=True)
class UserState:
    """Bounded recent interactions of one user and the gradients of their judged events."""

    last_offset: int = -1
    n_events: int = 0  # interactions ever, beyond what is remembered
    n_repeats: int = 0  # of them, items the user already had
    items: Column[str] = field(default_factory=Column)  # oldest first, at most history_length
    actions: Column[str] = field(default_factory=Column)
    times_ms: Column[int] = field(default_factory=Column)
    gradients: npt.NDArray[np.float32] | None = None  # (decays, fast weights), decayed sums
    n_judged: npt.NDArray[np.float32] | None = None  # (decays,), decayed counts of the same
    features: list[int] = field(default_factory=list)  # of the latest interaction

    def __post_init__(self) -> None:
        """Take lists too."""
        if not isinstance(self.items, Column):
            self.items, self.actions = Column.of(self.items), Column.of(self.actions)
            self.times_ms = Column.of(self.times_ms)

    def apply(self, event: Event, *, offset: int, history_length: int) -> bool:
        """Fold one event in; return False, changing nothing, if it is in already."""
        if offset <= self.last_offset:
            return False
        self.last_offset = offset
        if event.action in NOT_ENGAGED:
            return True
        self.n_events += 1
        self.n_repeats += event.item in self.items
        self.items.append(event.item, limit=history_length)
        self.actions.append(event.action, limit=history_length)
        self.times_ms.append(event.time_ms, limit=history_length)
        self.features = features_of(event.context)
        return True

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
                _in_a_row(gradients, n_judged, self.features),
            )
        )

    @classmethod
    def decode(cls, value: bytes) -> "UserState":
        """Read a state back.

        Raises:
            ValueError: the bytes are not a state, or of a version that is not read.
        """
        unpacker = msgpack.Unpacker()
        unpacker.feed(value)
        unpack, skip, tell = unpacker.unpack, unpacker.skip, unpacker.tell
        try:
            n_fields = unpacker.read_array_header()
            offset, version = unpack(), unpack()
            if why := schema.STATE.refusal(version):
                raise ValueError(why)
            n_events, n_repeats = unpack(), unpack()
            a, b, c, d = tell(), skip() or tell(), skip() or tell(), skip() or tell()
            gradients, n_judged = unpack(), unpack()
            later = [unpack() for _ in range(n_fields - N_FIELDS_1)]
            if tell() != len(value):
                raise ValueError("there is more behind it")
        except (TypeError, ValueError, msgpack.UnpackException) as exc:
            raise ValueError(f"not a user's state: {exc}") from exc
        state = cls(
            last_offset=offset,
            n_events=n_events,
            n_repeats=n_repeats,
            items=Column(value[a:b]),
            actions=Column(value[b:c]),
            times_ms=Column(value[c:d]),
            features=later[0] if later else [],
        )
        if gradients is not None:
            state.n_judged = np.frombuffer(bytearray(n_judged), np.float32)  # can be written to
            state.gradients = np.frombuffer(bytearray(gradients), np.float32).reshape(
                len(state.n_judged), -1
            )
        return state


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


def offset_of(value: bytes) -> int:
    """Return the last offset of an encoded state without decoding the rest.

    Raises:
        ValueError: the bytes are not a state.
    """
    unpacker = msgpack.Unpacker()
    unpacker.feed(value)
    try:
        unpacker.read_array_header()
        offset: int = unpacker.unpack()
        if not isinstance(offset, int):
            raise ValueError("it does not start with an offset")
    except (ValueError, msgpack.UnpackException) as exc:
        raise ValueError(f"not a user's state: {exc}") from exc
    return offset
