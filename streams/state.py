"""One user's state: what the adapt role keeps in its changelog and the learn role in memory.

The state is a fold over the user's events. Each user lives in one partition, so the offset of the
last event folded makes a replay harmless: an event at or below it is already in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgpack
import numpy as np
import numpy.typing as npt

from headrace.model.features import features_of
from headrace.streams import schema
from headrace.streams.wire import FORGET, Event

# Shown or undone, not engaged with: the event is applied, but it is no interaction.
NOT_ENGAGED = frozenset({"impression", "return", FORGET})


@dataclass(slots=True)
class UserState:
    """Bounded recent interactions of one user and the gradients of their judged events."""

    last_offset: int = -1
    n_events: int = 0  # interactions ever, beyond what is remembered
    n_repeats: int = 0  # of them, items the user already had
    items: list[str] = field(default_factory=list)  # oldest first, at most history_length
    actions: list[str] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    gradients: npt.NDArray[np.float32] | None = None  # (decays, fast weights), decayed sums
    n_judged: npt.NDArray[np.float32] | None = None  # (decays,), decayed counts of the same
    features: list[int] = field(default_factory=list)  # of the latest interaction

    def apply(self, event: Event, *, offset: int, history_length: int) -> bool:
        """Fold one event in; return False, changing nothing, if it is in already."""
        if offset <= self.last_offset:
            return False
        self.last_offset = offset
        if event.action in NOT_ENGAGED:
            return True
        self.n_events += 1
        self.n_repeats += event.item in self.items
        self.items.append(event.item)
        self.actions.append(event.action)
        self.times_ms.append(event.time_ms)
        self.features = features_of(event.context)
        if len(self.items) > history_length:
            for column in (self.items, self.actions, self.times_ms):
                del column[0]
        return True

    def encode(self) -> bytes:
        """Write the state for the changelog. The offset stands first: recovery compares it."""
        packed: bytes = msgpack.packb(
            [
                self.last_offset,
                schema.STATE.version,
                self.n_events,
                self.n_repeats,
                self.items,
                self.actions,
                self.times_ms,
                None if self.gradients is None else self.gradients.tobytes(),
                None if self.n_judged is None else self.n_judged.tobytes(),
                self.features,
            ]
        )
        return packed

    @classmethod
    def decode(cls, value: bytes) -> "UserState":
        """Read a state back.

        Raises:
            ValueError: the bytes are not a state, or of a version that is not read.
        """
        try:
            offset, version, *fields = msgpack.unpackb(value)
            if why := schema.STATE.refusal(version):
                raise ValueError(why)
            n_events, n_repeats, items, actions, times_ms, gradients, n_judged, *later = fields
        except (TypeError, ValueError, msgpack.UnpackException) as exc:
            raise ValueError(f"not a user's state: {exc}") from exc
        state = cls(offset, n_events, n_repeats, items, actions, times_ms)
        state.features = later[0] if later else []
        if gradients is not None:
            state.n_judged = np.frombuffer(n_judged, np.float32).copy()
            state.gradients = (
                np.frombuffer(gradients, np.float32).reshape(len(state.n_judged), -1).copy()
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
