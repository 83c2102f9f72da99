"""Both roles for a long time under a steady load: what each holds must not grow without bound.

Ever new users take ever newer items, so that the bounds on both are reached early and are at work
from then on. The embedded broker keeps all topics in memory: it is sampled too, but grows.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headrace.model.arrays import Bools, Doubles
from headrace.streams.bench import stage
from headrace.streams.bench.measuring import Row, resident_bytes
from headrace.streams.child import Child
from headrace.streams.errors import StreamsError
from headrace.streams.kafka.broker import free_port
from headrace.streams.kafka.topics import create_topics
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events
from headrace.streams.tools.replay import at_rate, paced
from headrace.streams.tools.scrape import scrape
from headrace.streams.up import ROLES

SAMPLES = 360  # every 5 s of half an hour
NEW = 0.1  # users and items for each event
REGULARS = 20  # users who make half of all events: their histories fill up
BOUNDED_AFTER = 1 / 6  # of the events, new users and new items have reached the bounds
AT_BOUND = 0.95  # of a bound: a version makes room for so many new items
VERSIONS = 180

Samples = dict[str, list[float]]  # what was sampled to its values, one for each time


class Soak(NamedTuple):
    """What was sampled."""

    rows: list[Row]
    bounded_s: float  # when users and items had reached their bounds, in both roles
    samples: Samples


def measure(
    settings: Settings,
    *,
    minutes: float,
    events_per_s: float,
    broker: Child | None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Soak:
    """Return what was sampled ``SAMPLES`` times; ``on_progress`` is called once for each.

    In topics of their own (``topic_prefix``) of the broker that the settings name.

    Raises:
        StreamsError: a role ended, or the bounds were not reached.
    """
    seconds = 60 * minutes
    n_events = int(seconds * events_per_s)
    bound = max(16, int(NEW * BOUNDED_AFTER * n_events))
    with stage.on_its_own(settings) as settings, ExitStack() as stack:
        settings = settings.model_copy(
            update={
                "learn_port": free_port(),
                "max_users": bound,
                "learn_users": bound,
                "max_items": bound,
                "version_interval_s": seconds / VERSIONS,
            }
        )
        create_topics(settings)
        roles = {
            role: stack.enter_context(stage.running(settings, (*stage.ROLE, role)))
            for role in ROLES
        }
        ports = {"learn": settings.learn_port, "adapt": settings.adapt_port}
        for role, child in roles.items():
            stage.Workers([ports[role]], [child]).wait_for(1, of="ready")
        samples: Samples = {}

        def sample(at_s: float) -> None:
            found = {"seconds": round(at_s, 1)}
            for role, child in roles.items():
                found |= _prefixed(role, held(child) | _told(ports[role]))
            if broker:
                found |= _prefixed("broker", held(broker))
            for name, value in found.items():
                samples.setdefault(name, []).append(value)
            on_progress(1)

        events = itertools.islice(visitors(bound, seed=settings.seed), n_events)
        on_time = paced(at_rate(events, events_per_s=events_per_s), restamp=True)
        publish_events(settings, sampled(on_time, sample, every_s=seconds / SAMPLES))
    return summed_up(samples, bound=bound)


def visitors(bound: int, *, seed: int) -> Iterator[Event]:
    """Yield events without end; most are of users and items that came lately.

    Within the latest ``bound`` of either, so that no bound takes away what is in use.
    """
    random = np.random.default_rng(seed)
    for n in itertools.count():
        age = random.exponential(bound / 4, 2)
        user, item = np.maximum(0, (NEW * n - age).astype(int))
        is_regular = random.random() < 0.5
        name = f"regular{random.integers(REGULARS)}" if is_regular else f"u{user}"
        yield Event(user=name, item=f"i{item}", time_ms=0)


def sampled(
    events: Iterator[Event], sample: Callable[[float], None], *, every_s: float
) -> Iterator[Event]:
    """Pass events on, and sample between two of them when it is time."""
    start_s, due_s = time.monotonic(), 0.0
    for event in events:
        yield event
        if (now_s := time.monotonic() - start_s) >= due_s:
            sample(now_s)
            due_s += every_s


def held(child: Child) -> dict[str, float]:
    """Return what a process holds of the system.

    Raises:
        StreamsError: it has ended.
    """
    if child.poll() is not None:
        raise StreamsError(f"a process ended with {child.poll()}: {child.log_tail()}")
    process = Path(f"/proc/{child.pid}")
    return {
        "resident MB": resident_bytes(child.pid) / 1e6,
        "file descriptors": len(os.listdir(process / "fd")),
        "threads": len(os.listdir(process / "task")),
    }


def _told(port: int) -> dict[str, float]:
    """Return what a role says of itself."""
    metrics = scrape(port)
    return {
        "events": metrics.get("events_total"),
        "lag events": metrics.total("consumer_lag_events"),
        "users": metrics.get("users"),
        "items": metrics.get("items"),
    }


def _prefixed(name: str, found: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}: {what}": round(value, 2) for what, value in found.items()}


def summed_up(samples: Samples, *, bound: int) -> Soak:
    """Return a row for everything sampled: its first and last third, and its slope when bounded.

    Raises:
        StreamsError: users or items did not reach their bound.
    """
    seconds = np.array(samples["seconds"])
    at_bound = np.min(
        [samples[f"{role}: {what}"] for role in ROLES for what in ("users", "items")], axis=0
    )
    is_bounded = np.maximum.accumulate(at_bound >= AT_BOUND * bound)
    if is_bounded.sum() < 2:
        raise StreamsError(
            f"{at_bound[-1]:.0f} of {bound} users or items after {seconds[-1]:.0f} s: the roles do"
            " not keep up, ask for fewer events a second"
        )
    third = -(-len(seconds) // 3)
    rows: list[Row] = []
    for name, values in samples.items():
        if name != "seconds" and not name.endswith(": events"):
            rows.append(
                {
                    "held": name,
                    "first third": statistics.median(values[:third]),
                    "last third": statistics.median(values[-third:]),
                    "highest": max(values),
                    "an hour, when bounded": _an_hour(seconds, values, is_bounded),
                    "an hour, second half": _an_hour(seconds, values, seconds > seconds[-1] / 2),
                }
            )
    return Soak(rows, float(seconds[is_bounded][0]), samples)


def _an_hour(seconds: Doubles, values: list[float], which: Bools) -> float:
    """Return the least-squares slope of some samples."""
    slope = np.polyfit(seconds[which], np.array(values)[which], 1)[0]
    return round(float(slope) * 3600, 1) + 0.0  # no -0.0
