"""What goes over the wire: events, catalogue records and lists, as Python has them.

Records are not to be changed once made. What comes by the thousand is not frozen all the same: to
make a frozen one takes nearly three times as long.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Event:
    """One interaction: a user did something to an item. Or one asks for something of the user's."""

    user: str
    item: str  # empty with ``FORGET`` and ``REFRESH``
    time_ms: int
    action: str = "click"
    event_id: str | None = None
    rec_id: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One catalogue record. ``active=False`` withdraws the item from every later list."""

    item: str
    title: str = ""
    categories: tuple[str, ...] = ()  # from the widest to the finest
    price: float | None = None
    text: str = ""
    vectors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    active: bool = True


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Source:
    """The record a list answers to."""

    topic: str
    partition: int
    offset: int
    time_ms: int


class Reason(TypedDict):
    """Why an item is in a list: the signal with the largest share of its score.

    ``because`` is the item of the user's own history that spoke loudest for it, if one did. A map
    as it is written: of twenty to a list, objects take three times as long to make and to write.
    """

    signal: str
    share: float
    because: str | None


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Recommendation:
    """One refreshed list. ``rec_id`` is the same when a replay emits the list again."""

    user: str
    rec_id: str
    items: tuple[str, ...]
    scores: tuple[float, ...]
    reasons: tuple[Reason, ...]
    model_version: int
    source: Source
    generated_ms: int
    judged: Mapping[str, int] = field(default_factory=dict)
    """Where the event's item had stood beforehand: contender to 1-based rank, if it was ranked."""


def rec_id_of(user: str, source: Source) -> str:
    """Return the list's id: the same user, partition and offset give the same id."""
    return f"{user}-{source.partition}-{source.offset}"
