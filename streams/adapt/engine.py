"""What the adapt role asks of the model, so that delivery and model can be tested apart.

Compute threads call it at once, each with other users; micro-batches come one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.streams.records import Event, Recommendation, Source
from headrace.streams.state import UserState


@dataclass(slots=True)
class UserWork:
    """One user of a micro-batch: coalesced, so each user appears once."""

    user: str
    state: UserState  # before ``events``; owned by the engine until it returns
    events: list[tuple[int, Event]]  # (offset, event), new to the state, in offset order
    source: Source  # the user's last record in the micro-batch; new to the state or not


@dataclass(slots=True)
class UserResult:
    """What to write for one user: the state after the events and the refreshed list."""

    state: UserState
    recommendation: Recommendation | None  # None while no model version is there


class Engine(Protocol):
    """Judges, adapts and ranks users of one micro-batch."""

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        """Return one result for each user, in order."""
        ...

    def forget(self, work: Sequence[UserWork]) -> None:
        """Let go of what is held of users who asked to be forgotten and did nothing since."""
        ...
