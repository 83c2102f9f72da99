"""Events a second from broker to acknowledged lists and states, against other ways of reading.

All contenders read the same events from the same broker, in turn, each as a group of its own. The
two that are Headrace recover the users' states first; the clock runs from a tenth of the events to
the last one asked for.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
from aiokafka import AIOKafkaProducer

from headrace.streams.bench import contenders
from headrace.streams.bench.contenders import STATES_FILE
from headrace.streams.bench.measuring import Figure
from headrace.streams.bench.shop import Shop, open_shop, states_of
from headrace.streams.broker import free_port
from headrace.streams.child import Child
from headrace.streams.clients import outbox
from headrace.streams.errors import StreamsError
from headrace.streams.guards import PauseGuard
from headrace.streams.produce import publish_events
from headrace.streams.publication import pack_delta
from headrace.streams.publisher import Publisher
from headrace.streams.scrape import Scrape, scrape
from headrace.streams.settings import Settings
from headrace.streams.topics import create_topics, users_changelog
from headrace.streams.up import child_environment

POLL_S = 0.02
LIMIT_S = 120.0  # for one run; a start with recovery takes some ten seconds
STOP_LIMIT_S = 30.0


class Contender(NamedTuple):
    """One way of doing the job."""

    name: str
    arguments: tuple[str, ...]  # of the interpreter
    share: float  # of the events; slow ones need fewer to be measured
    is_headrace: bool


def _program(name: str) -> tuple[str, ...]:
    return ("-m", contenders.__name__, name)


CONTENDERS = (
    Contender("no-op model", _program("no_op"), 1.0, is_headrace=True),
    Contender("stock Faust, take(512), only reads", _program("stock_reader"), 1.0, False),
    Contender("bare aiokafka, only reads", _program("bare_consumer"), 1.0, False),
    Contender("real model", ("-m", "headrace.streams", "adapt"), 0.25, is_headrace=True),
    Contender("textbook Faust, real model", _program("textbook"), 0.02, False),
)


class Speed(NamedTuple):
    """What one run reached."""

    events_per_s: float
    lists_per_s: float


def measure(
    settings: Settings,
    *,
    n_events: int,
    n_users: int,
    n_items: int,
    repeats: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Figure | float | str]]:
    """Return a row for each contender; ``on_progress`` is called once for each run.

    In topics of their own (``topic_prefix``) of the broker that the settings name.

    Raises:
        StreamsError: a contender did not get through; the text has its last lines.
    """
    speeds: dict[str, list[Speed]] = {each.name: [] for each in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"bench-{uuid.uuid4().hex[:8]}"
        settings = settings.model_copy(
            update={
                "topic_prefix": prefix,
                "data_dir": Path(folder),
                "model_store": "",
                "session_timeout_s": 6.0,  # a new group of the embedded broker waits for half of it
                "adapt_port": free_port(),
                "log_level": "warning",
            }
        )
        shop = open_shop(settings, n_items=n_items, n_users=n_users, n_events=n_events)
        _furnish(settings, shop)
        for repeat in range(repeats):
            for number, each in enumerate(CONTENDERS):
                own = settings.model_copy(update={"group": f"{prefix}-{repeat}-{number}"})
                asked = max(10, int(each.share * n_events))
                run = _run_headrace if each.is_headrace else _run_other
                speeds[each.name].append(run(own, each, shop, asked))
                on_progress(1)
    return [
        {
            "job": name,
            "events/s": Figure.of([speed.events_per_s for speed in found]),
            "lists/s": Figure.of([speed.lists_per_s for speed in found]),
        }
        for name, found in speeds.items()
    ]


def _furnish(settings: Settings, shop: Shop) -> None:
    """Put the events, a model version and the states to start with where they are looked for."""
    create_topics(settings)
    publish_events(settings, shop.events)
    asyncio.run(_announce(settings, shop))
    states = {user: state.encode() for user, state in states_of(shop.learner).items()}
    Path(settings.data_dir, STATES_FILE).write_bytes(msgpack.packb(states))


async def _announce(settings: Settings, shop: Shop) -> None:
    """Publish the model as the learn role does."""
    pack_delta(shop.learner.recommender, [])  # all that was counted so far comes with the version
    shop.learner.new_items = []
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap)

    async def send(topic: str, key: bytes | None, value: bytes) -> int:
        sent: Any = await producer.send_and_wait(topic, value, key, partition=0)
        return int(sent.offset)

    async with producer:
        with ThreadPoolExecutor(1) as thread:
            publisher = Publisher(settings, shop.learner, thread, {})
            await publisher.publish_version(send, PauseGuard(LIMIT_S))


def _run_headrace(settings: Settings, job: Contender, shop: Shop, n_events: int) -> Speed:
    """Run an adapt worker that recovers the states, and read its own metrics."""
    create_topics(settings)
    with outbox(settings.bootstrap, users_changelog(settings)) as changelog:
        for user, state in states_of(shop.learner).items():
            changelog.send(key=user, value=state.encode())
    worker = _start(settings, job, n_events)
    try:
        before, before_s = _wait_for(settings, worker, n_events // 10)
        after, after_s = _wait_for(settings, worker, n_events)
    finally:
        worker.stop(limit_s=STOP_LIMIT_S)
    rates = (
        (after.get(name) - before.get(name)) / (after_s - before_s)
        for name in ("events_total", "lists_total")
    )
    return Speed(*rates)


def _wait_for(settings: Settings, worker: Child, n_events: int) -> tuple[Scrape, float]:
    """Return the worker's metrics, and when they were read, once it has applied so many events."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and worker.poll() is None:
        metrics = scrape(settings.adapt_port)
        if metrics.get("events_total") >= n_events:
            return metrics, time.monotonic()
        time.sleep(POLL_S)
    raise StreamsError(f"an adapt worker did not get through: {worker.log_tail()}")


def _run_other(settings: Settings, job: Contender, shop: Shop, n_events: int) -> Speed:  # noqa: ARG001
    """Run a contender that tells its rate itself."""
    done = subprocess.run(
        [sys.executable, *job.arguments, str(n_events)],
        env=child_environment(settings),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise StreamsError(f"{job.name} did not get through: {done.stderr[-2000:]}")
    rate = json.loads(done.stdout)["events_per_s"]
    return Speed(rate, rate if job.name.startswith("textbook") else 0.0)


def _start(settings: Settings, job: Contender, n_events: int) -> Child:
    is_program = job.arguments[1] == contenders.__name__
    arguments = (*job.arguments, str(n_events)) if is_program else job.arguments
    return Child([sys.executable, *arguments], env=child_environment(settings))
