"""Replay recorded events as they happened, faster, or at a steady rate.

Pace is kept against the start, not from event to event: a slow moment is caught up, and the mean
rate is what was asked for.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from headrace.streams.records import Event

LONGEST_WAIT_S = 86_400.0  # at once; a system takes no more than some centuries


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as an argument: tests set it."""

    now_s: Callable[[], float] = time.monotonic  # no step of the wall clock is waited for
    wait_s: Callable[[float], None] = time.sleep
    wall_s: Callable[[], float] = time.time


def at_rate(events: Iterable[Event], *, events_per_s: float) -> Iterator[tuple[float, Event]]:
    """Yield each event with the seconds from the start at which it is due, evenly spaced."""
    for position, event in enumerate(events):
        yield position / events_per_s, event


def at_speed(events: Iterable[Event], *, speed: float) -> Iterator[tuple[float, Event]]:
    """Yield each event with its due seconds: recorded time, ``speed`` times as fast."""
    first_ms: int | None = None
    for event in events:
        first_ms = event.time_ms if first_ms is None else first_ms
        yield (event.time_ms - first_ms) / 1000 / speed, event


def paced(
    scheduled: Iterable[tuple[float, Event]], *, restamp: bool = False, clock: Clock = Clock()
) -> Iterator[Event]:
    """Yield each event when it is due; ``restamp`` makes that moment its event time."""
    start_s = clock.now_s()
    for due_s, event in scheduled:
        while (early_s := start_s + due_s - clock.now_s()) > 0:
            clock.wait_s(min(early_s, LONGEST_WAIT_S))
        yield (dataclasses.replace(event, time_ms=int(clock.wall_s() * 1000)) if restamp else event)
