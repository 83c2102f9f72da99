"""The jobs that `headrace bench pipeline` compares, each a process of its own.

    python -m headrace.streams.bench.contenders NAME EVENTS

Reads the settings from the environment. All but ``no_op`` print, as JSON, how many events a second
they took, from a tenth of EVENTS to the last.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import faust
import msgpack
from aiokafka import AIOKafkaConsumer

from headrace.streams import http
from headrace.streams.adapt import role as adapt
from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.serving import Serving
from headrace.streams.guards import end_process
from headrace.streams.kafka.faust_app import broker_options
from headrace.streams.kafka.security import client_options
from headrace.streams.learn.publisher import announcements
from headrace.streams.model_settings import pick_device
from headrace.streams.process import Readiness
from headrace.streams.records import Recommendation, Source, rec_id_of
from headrace.streams.settings import Settings, load
from headrace.streams.state import UserState
from headrace.streams.wire import decode_event, encode

TAKEN_AT_ONCE = 512  # records, by stock Faust and by the bare consumer
TIMES_READ = 25  # by the bare consumer
STATES_FILE = "states.msgpack"  # in the data folder: the users' states to start with


class Meter:
    """Counts events and tells the rate from a tenth of them to the last."""

    def __init__(self, n_events: int) -> None:
        self.is_done = asyncio.Event()
        self._n_events = n_events
        self._n = self._first = 0
        self._started_s = 0.0

    def count(self, n: int) -> None:
        """Note that some events are done; print and be done once all are."""
        self._n += n
        if not self._started_s and self._n >= self._n_events // 10:
            self._first, self._started_s = self._n, time.monotonic()
        if self._n >= self._n_events and not self.is_done.is_set():
            rate = (self._n - self._first) / (time.monotonic() - self._started_s)
            print(json.dumps({"events_per_s": rate}), flush=True)
            self.is_done.set()


class NoOp:
    """Applies events and answers with the user's last items: all but the model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        """Return one result for each user."""
        for one in work:
            for offset, event in one.events:
                one.state.apply(event, offset=offset, history_length=self._settings.history_length)
        return [UserResult(one.state, self._list(one)) for one in work]

    def forget(self, work: Sequence[UserWork]) -> None:
        """Hold nothing of anybody."""

    def _list(self, one: UserWork) -> Recommendation:
        items = tuple(one.state.items[-self._settings.list_length :])
        return Recommendation(
            user=one.user,
            rec_id=rec_id_of(one.user, one.source),
            items=items,
            scores=(1.0,) * len(items),
            reasons=(),
            model_version=1,
            source=one.source,
            generated_ms=0,
        )


def no_op(settings: Settings, n_events: int) -> None:  # noqa: ARG001 - all are called alike
    """Run the adapt role with the no-op in the model's place."""
    readiness = Readiness()
    http.serve(
        settings.http_host, settings.adapt_port, is_live=readiness.is_live, is_ready=readiness
    )
    adapt.run(settings, NoOp(settings), readiness=readiness)


def stock_reader(settings: Settings, n_events: int) -> None:
    """Read with a stock Faust agent, and do nothing else."""

    async def read(app: faust.App, meter: Meter) -> None:
        async def take(stream: Any) -> None:
            async for batch in stream.take(TAKEN_AT_ONCE, within=0.05):
                meter.count(len(batch))

        app.agent(_events(app, settings), name="take")(take)

    _run_faust(settings, n_events, read)


def textbook(settings: Settings, n_events: int) -> None:
    """Do what the adapt role does as Faust's own guide does: a table, one event at a time."""
    serving = Serving(settings, device=pick_device(settings))
    serving.serve(announcements(settings)[0])
    first = {
        user.encode(): state
        for user, state in msgpack.unpackb(
            Path(settings.data_dir, STATES_FILE).read_bytes()
        ).items()
    }

    async def build(app: faust.App, meter: Meter) -> None:
        users = app.Table("users", key_type=bytes, value_type=bytes)
        lists = app.topic(settings.topic("recommendations"), key_type=bytes, value_type=bytes)

        async def recommend(stream: Any) -> None:
            async for record in stream.events():
                message = record.message
                record_ms = int(message.timestamp * 1000)
                event = decode_event(record.value, key=record.key, record_time_ms=record_ms)
                state = UserState.decode(users.get(record.key) or first[record.key])
                source = Source(
                    topic=message.topic,
                    partition=message.partition,
                    offset=message.offset,
                    time_ms=event.time_ms,
                )
                (made,) = serving.process(
                    [UserWork(event.user, state, [(message.offset, event)], source)]
                )
                users[record.key] = made.state.encode()
                if made.recommendation:
                    await lists.send(key=record.key, value=encode(made.recommendation))
                meter.count(1)

        app.agent(_events(app, settings), name="recommend")(recommend)

    _run_faust(settings, n_events, build)


def bare_consumer(settings: Settings, n_events: int) -> None:
    """Read with aiokafka, and do nothing else, again and again: one fetch brings them all."""

    async def read() -> None:
        meter, n_left = Meter(TIMES_READ * n_events), n_events
        consumer = AIOKafkaConsumer(
            settings.topic("events"),
            **client_options(settings),
            group_id=settings.group,
            auto_offset_reset="earliest",
            session_timeout_ms=int(settings.session_timeout_s * 1000),
        )
        async with consumer:
            while not meter.is_done.is_set():
                found = await consumer.getmany(timeout_ms=200, max_records=TAKEN_AT_ONCE)
                n_read = sum(map(len, found.values()))
                meter.count(n_read)
                n_left -= n_read
                if n_left <= 0:
                    n_left = n_events
                    await consumer.seek_to_beginning()

    asyncio.run(read())


def _events(app: faust.App, settings: Settings) -> Any:
    return app.topic(settings.topic("events"), key_type=bytes, value_type=bytes)


def _run_faust(
    settings: Settings, n_events: int, build: Callable[[faust.App, Meter], Awaitable[None]]
) -> None:
    """Run a stock Faust app, with its defaults wherever they work, until all events are done."""

    async def run() -> None:
        app = faust.App(
            settings.group,
            **broker_options(settings),
            datadir=str(settings.data_dir / settings.group),
            store="memory://",
            id_format="{id}",
            key_serializer="raw",
            value_serializer="raw",
            topic_partitions=settings.partitions,
            topic_replication_factor=settings.replication,
            topic_disable_leader=True,
            table_standby_replicas=0,
            broker_session_timeout=settings.session_timeout_s,
            broker_heartbeat_interval=settings.session_timeout_s / 5,
            web_enabled=False,
        )
        meter = Meter(n_events)
        await build(app, meter)
        await app.start()
        await meter.is_done.wait()
        end_process(0)  # stock Faust takes its time to stop, and nothing of it is needed any more

    asyncio.run(run())


PROGRAMS: dict[str, Callable[[Settings, int], None]] = {
    each.__name__: each for each in (no_op, stock_reader, bare_consumer, textbook)
}


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](load(), int(sys.argv[2]))
