"""Seconds until a worker serves again: after its own start, and after another one's end.

A start recovers the states that stand in the changelog. After a ``kill -9`` the broker first has to
notice, or the worker has to be back.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import cycle
from typing import NamedTuple

from headrace.streams.bench import stage
from headrace.streams.bench.measuring import Figure, Row, resident_bytes, sizes_up_to
from headrace.streams.bench.shop import Shop, open_shop, states_of
from headrace.streams.child import Child
from headrace.streams.kafka.broker import free_ports
from headrace.streams.kafka.clients import Reader, reader
from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events

SIZES = (10_000, 100_000)  # states, below the largest asked for
STATE_BYTES = 5_000  # of one, in the worker's memory and in the embedded broker's
SHOP_ITEMS = 300
USERS_A_PARTITION = 25  # in the shop, whose states stand for all others'; none stays without users
LIMIT_S = 600.0  # for one start


class Start(NamedTuple):
    """One start of a worker."""

    ready_s: float  # since the process was started
    resident_mb: float  # with all states


class Failover(NamedTuple):
    """What follows when one of two workers was killed."""

    name: str
    is_restarted: bool  # at once
    is_static: bool  # both are static members of the group


FAILOVERS = (
    Failover("not restarted", is_restarted=False, is_static=False),
    Failover("restarted, a new member", is_restarted=True, is_static=False),
    Failover("restarted, a static member", is_restarted=True, is_static=True),
)


def sizes(up_to: int) -> list[int]:
    """Return how many states are recovered, up to the most asked for."""
    return [0, *sizes_up_to(up_to, SIZES)]


def measure(
    settings: Settings,
    *,
    sizes: Sequence[int],
    failovers: Sequence[Failover],
    repeats: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Row]]:
    """Return a table of starts, by the number of states, and one of failovers.

    Workers that fail over have the second of the sizes. ``on_progress`` is called once for each
    size when its states are written, for each start and for each failover. In topics of their own
    (``topic_prefix``) of the broker that the settings name.

    Raises:
        StreamsError: a worker did not get ready, or has not all states.
    """
    session_s = settings.session_timeout_s
    starts: dict[int, list[Start]] = {size: [] for size in sizes}
    outages_s: dict[str, list[float]] = {failover.name: [] for failover in failovers}
    with stage.on_its_own(settings) as settings:
        n_users = USERS_A_PARTITION * settings.partitions
        shop = open_shop(settings, n_items=SHOP_ITEMS, n_users=n_users, n_events=n_users)
        stage.announce(settings, shop)
        groups = {}
        for size in sizes:
            groups[size] = _with_states(settings, shop, size, name=str(size))
            on_progress(1)
        for _ in range(repeats):
            for size, own in groups.items():
                starts[size].append(_start(own, size))
                on_progress(1)
        settings = settings.model_copy(update={"session_timeout_s": session_s})
        for repeat in range(repeats):
            for number, failover in enumerate(failovers):
                own = _with_states(settings, shop, sizes[1], name=f"{repeat}-{number}")
                outages_s[failover.name].append(_fail_over(own, shop, failover))
                on_progress(1)
    return {
        "start": [
            {
                "states": f"{size:,}",
                "s until ready": Figure.of([start.ready_s for start in found]),
                "worker MB": Figure.of([start.resident_mb for start in found]),
            }
            for size, found in starts.items()
        ],
        "failover": [
            {"one of two killed": name, "s until served again": Figure.of(found)}
            for name, found in outages_s.items()
        ],
    }


def _with_states(settings: Settings, shop: Shop, n_states: int, *, name: str) -> Settings:
    """Return settings of a group of its own with so many states in its changelog."""
    settings = settings.model_copy(
        update={
            "group": f"{settings.group}-{name}",
            "max_users": max(n_states, settings.max_users),
            "rebalance_limit_s": LIMIT_S,  # a long recovery is to be measured, not ended
        }
    )
    create_topics(settings)
    encoded = cycle(state.encode() for state in states_of(shop.learner).values())
    users = (f"u{number}" for number in range(n_states))
    stage.write_states(settings, zip(users, encoded, strict=False))
    return settings


# --------------------------------------------------------------------------------------- a start


def _start(settings: Settings, n_states: int) -> Start:
    """Start a worker, and end it once it is ready and has all states."""
    started_s = time.monotonic()
    with stage.running(settings) as child:
        worker = stage.Workers([settings.adapt_port], [child])
        _, ready_s = worker.wait_for(1, of="ready", limit_s=LIMIT_S)
        worker.wait_for(n_states, of="users")
        return Start(ready_s - started_s, resident_bytes(child.pid) / 1e6)


# ------------------------------------------------------------------------------------ a failover


def _fail_over(settings: Settings, shop: Shop, failover: Failover) -> float:
    """Return the seconds from the end of one of two workers until every partition is served.

    1. Start both. 2. Let every partition have a list. 3. Kill one. 4. Let every one have another.
    """
    ports = free_ports(2)
    with (
        ExitStack() as stack,
        reader(settings, settings.topic("recommendations")) as lists,
    ):

        def start(number: int) -> Child:
            name = f"worker-{number}" if failover.is_static else ""
            changes = {"adapt_port": ports[number], "group_instance_id": name}
            return stack.enter_context(stage.running(settings.model_copy(update=changes)))

        other, killed = start(0), start(1)  # 1
        stage.Workers(ports, [other, killed]).wait_until_serving(partitions=settings.partitions)
        lists.skip_to_end()
        publish_events(settings, shop.events)
        until_listed(settings, lists, 0, other, killed)  # 2
        os.kill(killed.pid, signal.SIGKILL)  # 3
        killed.wait()
        killed_ms = int(time.time() * 1000)
        alive = [other, start(1)] if failover.is_restarted else [other]
        publish_events(settings, shop.events)
        return (until_listed(settings, lists, killed_ms + 1, *alive) - killed_ms) / 1000  # 4


def until_listed(settings: Settings, lists: Reader, since_ms: int, *alive: Child) -> int:
    """Return when the last partition got its first list since then, Unix time in milliseconds."""
    first_ms: dict[int, int] = {}

    def probe() -> int | None:
        for record in lists.poll():
            if record.timestamp >= since_ms:
                first_ms.setdefault(record.partition, record.timestamp)
        return max(first_ms.values()) if len(first_ms) == settings.partitions else None

    return stage.wait_until(probe, *alive, limit_s=LIMIT_S)
