"""What a measurement through Kafka sets up: topics of its own, a model, states, and a worker."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aiokafka import AIOKafkaProducer

from headrace.streams.bench.shop import Shop, states_of
from headrace.streams.child import Child
from headrace.streams.errors import StreamsError
from headrace.streams.guards import PauseGuard
from headrace.streams.kafka.broker import free_port, free_ports
from headrace.streams.kafka.clients import admin, outbox
from headrace.streams.kafka.security import client_options
from headrace.streams.kafka.topics import create_topics, users_changelog
from headrace.streams.learn.publisher import Publisher
from headrace.streams.settings import Settings
from headrace.streams.tools.scrape import FOR_THIS_MACHINE, Scrape, scrape, summed
from headrace.streams.up import child_environment
from headrace.streams.versions.publication import pack_delta

T = TypeVar("T")

ROLE = ("-m", "headrace.streams")
ADAPT_ROLE = (*ROLE, "adapt")
POLL_S = 0.02
RATE_POLL_S = 0.25  # while a rate is measured: to answer takes a worker as long as some events
LIMIT_S = 120.0  # for one run; a start with recovery takes some ten seconds
STOP_LIMIT_S = 30.0
DRAINED_AFTER = 1_000  # states: brokers refuse one that waits for long behind others (lease.py)


@contextmanager
def on_its_own(settings: Settings, *, has_topics: bool = True) -> Iterator[Settings]:
    """Yield settings with topics, a folder and a port that nothing else uses; then remove them.

    Without topics no broker is needed.
    """
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        own = settings.model_copy(
            update=FOR_THIS_MACHINE
            | {
                "topic_prefix": prefix,
                "group": prefix,
                "data_dir": Path(folder),
                "model_store": "",
                "session_timeout_s": 6.0,  # a new group of the embedded broker waits for half of it
                "adapt_port": free_port(),
                "log_level": "warning",
            }
        )
        try:
            yield own
        finally:
            if has_topics:
                _remove_topics(own)


def _remove_topics(settings: Settings) -> None:
    """Leave a broker as it was found; one that is gone has nothing left."""
    with suppress(StreamsError), admin(settings) as client:
        made = [name for name in client.list_topics() if name.startswith(settings.topic_prefix)]
        if made:
            client.delete_topics(made)


def announce(settings: Settings, shop: Shop) -> None:
    """Create the topics, and publish the model as the learn role does."""
    create_topics(settings)
    asyncio.run(_announce(settings, shop))


async def _announce(settings: Settings, shop: Shop) -> None:
    pack_delta(shop.learner.recommender, [])  # all that was counted so far comes with the version
    shop.learner.assortment.new_items = []
    producer = AIOKafkaProducer(**client_options(settings))

    async def send(topic: str, key: bytes | None, value: bytes) -> int:
        sent: Any = await producer.send_and_wait(topic, value, key, partition=0)
        return int(sent.offset)

    async with producer:
        with ThreadPoolExecutor(1) as thread:
            # Of no group: several that are compared follow it in turn.
            of_none = settings.model_copy(update={"group": ""})
            publisher = Publisher(of_none, shop.learner, thread, {})
            await publisher.publish_version(send, PauseGuard(LIMIT_S))


@contextmanager
def worker(
    settings: Settings, shop: Shop, arguments: Sequence[str] = ADAPT_ROLE
) -> Iterator["Workers"]:
    """Run one adapt worker, whose group starts with the shop's states in its changelog."""
    create_topics(settings)
    write_shop(settings, shop)
    with running(settings, arguments) as child:
        yield Workers([settings.adapt_port], [child])


def write_shop(settings: Settings, shop: Shop) -> None:
    """Write the states of the shop's users to the changelog of the group's adapt workers."""
    states = states_of(shop.learner).items()
    write_states(settings, ((user, state.encode()) for user, state in states))


def write_states(settings: Settings, states: Iterable[tuple[str, bytes]]) -> None:
    """Write users' encoded states to the changelog of the group's adapt workers."""
    with outbox(settings, users_changelog(settings)) as changelog:
        for number, (user, state) in enumerate(states):
            changelog.send(key=user, value=state)
            if number % DRAINED_AFTER == 0:
                changelog.drain()


@contextmanager
def running(settings: Settings, arguments: Sequence[str] = ADAPT_ROLE) -> Iterator[Child]:
    """Run a program of ours with these settings."""
    child = Child([sys.executable, *arguments], env=child_environment(settings))
    try:
        yield child
    finally:
        child.stop(limit_s=STOP_LIMIT_S)


def measured(
    settings: Settings, what: str, arguments: Sequence[str], *, limit_s: float | None = None
) -> Any:
    """Return the JSON that a program of ours prints, in a process of its own.

    Raises:
        StreamsError: it ended in an error, or not in time; the text has its last lines.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=child_environment(settings),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise StreamsError(f"{what} could not be measured: it takes over {limit_s:g} s") from exc
    if done.returncode:
        raise StreamsError(f"{what} could not be measured: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


class Workers(NamedTuple):
    """Adapt workers of one group, or one process of a role."""

    ports: Sequence[int]
    children: Sequence[Child]

    def wait_for(
        self,
        least: float,
        *,
        of: str = "events_total",
        limit_s: float = LIMIT_S,
        poll_s: float = POLL_S,
    ) -> tuple[Scrape, float]:
        """Return the sums of their metrics, and when they were read, once one has grown so far.

        Raises:
            StreamsError: as ``wait_until``.
        """

        def probe() -> tuple[Scrape, float] | None:
            metrics = summed([scrape(port) for port in self.ports])
            return (metrics, time.monotonic()) if metrics.get(of) >= least else None

        return wait_until(probe, *self.children, limit_s=limit_s, poll_s=poll_s)

    def per_second(
        self, first: int, last: int, *names: str, limit_s: float = LIMIT_S
    ) -> list[float]:
        """Return how fast metrics grow while events are applied, from the first on to the last.

        Raises:
            StreamsError: as ``wait_until``; or there are too few events to be timed.
        """
        before, before_s = self.wait_for(first, limit_s=limit_s)
        after, after_s = self.wait_for(last, limit_s=limit_s, poll_s=RATE_POLL_S)
        if after.get("events_total") == before.get("events_total"):
            raise StreamsError(f"{last:,} events are too few to be timed here: ask for more")
        return [(after.get(name) - before.get(name)) / (after_s - before_s) for name in names]

    def wait_until_serving(self, *, partitions: int) -> None:
        """Wait until they share the partitions.

        Raises:
            StreamsError: as ``wait_until``.
        """

        def are_ready() -> bool | None:
            return are_serving([scrape(port) for port in self.ports], partitions=partitions) or None

        wait_until(are_ready, *self.children)


@contextmanager
def workers(settings: Settings, shop: Shop, n: int) -> Iterator[Workers]:
    """Run so many adapt workers, and wait until they share the partitions and the shop's states."""
    write_shop(settings, shop)
    ports = free_ports(n)
    with ExitStack() as stack:
        children = [
            stack.enter_context(running(settings.model_copy(update={"adapt_port": port})))
            for port in ports
        ]
        workers = Workers(ports, children)
        workers.wait_until_serving(partitions=settings.partitions)
        yield workers


def are_serving(scrapes: Sequence[Scrape], *, partitions: int) -> bool:
    """Return whether these workers are ready, and have shared all partitions out."""
    held = [
        [labels for name, labels in found.samples if name == "headrace_consumer_lag_events"]
        for found in scrapes
    ]
    return (
        all(found.get("ready") for found in scrapes)
        and all(held)
        and sum(map(len, held)) == len({*chain(*held)}) == partitions
    )


def wait_until(
    probe: Callable[[], T | None],
    *children: Child,
    limit_s: float = LIMIT_S,
    poll_s: float = POLL_S,
) -> T:
    """Return what ``probe`` finds, once it finds anything.

    Raises:
        StreamsError: it finds nothing, or a role ended; the text has the last lines of each.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and all(child.poll() is None for child in children):
        if (found := probe()) is not None:
            return found
        time.sleep(poll_s)
    tails = "\n".join(child.log_tail() for child in children)
    raise StreamsError(f"a role did not get through: {tails}")
