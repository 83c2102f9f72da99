"""From an event to its list, at a part of what a worker can carry.

Events are due at fixed times, whatever the worker does (open loop): one that is sent late, or waits
behind a slow one, has waited since it was due. Its list is there when the worker writes it, by the
time that the record of the list carries.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any, NamedTuple

import numpy as np
from aiokafka import AIOKafkaProducer

from headrace.streams.bench import stage
from headrace.streams.bench.measuring import Row
from headrace.streams.bench.shop import EVENTS_EACH, open_shop
from headrace.streams.errors import StreamsError
from headrace.streams.kafka.clients import reader
from headrace.streams.kafka.security import client_options
from headrace.streams.records import Event, Recommendation
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events
from headrace.streams.tools.scrape import Scrape
from headrace.streams.wire import decode_recommendation, encode

LOADS = (0.25, 0.5, 0.75, 0.9)  # of what the workers carry when events wait
WARM_EVENTS = 2_000  # a worker's first micro-batches take several times as long
TIMED_EVENTS = 5_500  # those before them included
CAPACITY_EVENTS = 6_000  # that wait: one of several workers has the last of them for itself
TICK_S = 0.004  # to send each event by itself takes a sixth of the machine, which others pay for
STAGES = ("queue", "compute", "write")


class Due(NamedTuple):
    """One event that was sent."""

    partition: int
    offset: int
    user: str
    due_ms: int


def measure(
    settings: Settings,
    *,
    n_workers: int,
    n_users: int,
    n_items: int,
    seconds: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """Return a row for each load; ``on_progress`` is called once for each, and for the capacity.

    In topics of their own (``topic_prefix``) of the broker that the settings name.

    Raises:
        StreamsError: a worker did not get through, or an event has no list.
    """
    settings = settings.model_copy(
        update={"partitions": max(settings.partitions, n_workers)}  # one for each at least
    )
    with stage.on_its_own(settings) as settings:
        shop = open_shop(settings, n_items=n_items, n_users=n_users, n_events=EVENTS_EACH * n_users)
        stage.announce(settings, shop)
        events = cycle(shop.events)
        sent: dict[float, list[Due]] = {}
        scrapes: dict[float, tuple[Scrape, Scrape]] = {}
        with stage.workers(settings, shop, n_workers) as workers:
            publish_events(settings, islice(events, CAPACITY_EVENTS))
            (capacity,) = workers.per_second(WARM_EVENTS, TIMED_EVENTS, "events_total")
            on_progress(1)
            after, _ = workers.wait_for(n_sent := CAPACITY_EVENTS)
            for load in LOADS:
                n = max(1, int(load * capacity * seconds))
                before = after
                with _no_collection():
                    sent[load] = asyncio.run(_publish(settings, islice(events, n), load * capacity))
                n_sent += n
                after, _ = workers.wait_for(n_sent)
                scrapes[load] = before, after
                on_progress(1)
        lists = _lists(settings)
    return [
        {
            "load": f"{load:.0%}",
            "events/s": load * capacity,
            **_percentiles(latencies_ms(sent[load], lists)),
            **_stages(*scrapes[load]),
        }
        for load in LOADS
    ]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no garbage among all that the shop is: what is due meanwhile would wait for it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _publish(settings: Settings, events: Iterable[Event], events_per_s: float) -> list[Due]:
    """Send what is due, tick by tick, without waiting for what was sent before."""
    sent: list[tuple[Event, int, Any]] = []
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        start_s = time.time()
        for position, event in enumerate(events):
            due_s = start_s + position / events_per_s
            while due_s > time.time():
                await asyncio.sleep(TICK_S)
            due_ms = int(due_s * 1000)
            answer = await producer.send(
                settings.topic("events"),
                encode(event),
                key=event.user.encode(),
                timestamp_ms=due_ms,
            )
            sent.append((event, due_ms, answer))
        return [
            Due(metadata.partition, metadata.offset, event.user, due_ms)
            for event, due_ms, answer in sent
            for metadata in [await answer]
        ]


def _lists(settings: Settings) -> list[tuple[int, Recommendation]]:
    """Return all lists in the order of their partitions, each with when it was written."""
    with reader(settings, settings.topic("recommendations")) as found:
        return [
            (record.timestamp, decode_recommendation(record.value)) for record in found.to_end()
        ]


def latencies_ms(sent: Iterable[Due], lists: Iterable[tuple[int, Recommendation]]) -> list[int]:
    """Return how long each event waited for the first list that knew of it.

    ``lists`` are (written_ms, list), in the order of each partition.

    Raises:
        StreamsError: an event has no list.
    """
    waiting: dict[tuple[int, str], deque[Due]] = {}
    for one in sorted(sent, key=lambda one: one.offset):
        waiting.setdefault((one.partition, one.user), deque()).append(one)
    found = []
    for written_ms, made in lists:
        queue = waiting.get((made.source.partition, made.user), deque())
        while queue and queue[0].offset <= made.source.offset:
            found.append(written_ms - queue.popleft().due_ms)
    n_left = sum(map(len, waiting.values()))
    if n_left:
        raise StreamsError(f"{n_left} events have no list: was the topic compacted meanwhile?")
    return found


def _percentiles(latencies: Sequence[int]) -> Mapping[str, float]:
    return {f"p{q} ms": float(np.percentile(latencies, q)) for q in (50, 95, 99)}


def _stages(before: Scrape, after: Scrape) -> dict[str, float]:
    """Return the mean milliseconds of a micro-batch in each stage, and its mean events."""

    def mean(name: str, *labels: str) -> float:
        total, n = (
            after.get(f"{name}_{part}", *labels) - before.get(f"{name}_{part}", *labels)
            for part in ("sum", "count")
        )
        return total / n if n else 0.0

    told = {f"{name} ms": 1000 * mean("stage_duration_seconds", name) for name in STAGES}
    return told | {"events a micro-batch": mean("micro_batch_events")}
