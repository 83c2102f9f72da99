"""Fetching: how long the broker may wait, and in which parts what it brought is taken."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record import MemoryRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types.tuples import TP
from mode import Service

from headrace.streams.kafka.faust_app import FETCHED_RECORDS, make_app
from headrace.streams.kafka.fetching import AT_ONCE, COMPANY_S, IN_COMPANY, BrokerWait, IntakeThread
from headrace.streams.kafka.intake import IntakeConsumer, IntakeOptions
from headrace.streams.logs import NOISY
from headrace.streams.settings import Settings

EVENTS = "headrace.events"
P0, P1 = TP(EVENTS, 0), TP(EVENTS, 1)


def new_thread(folder: Path) -> IntakeThread:
    """Return a consumer thread that is never started."""
    options = IntakeOptions(topics=frozenset({EVENTS}), batch_records=2)
    thread = make_app(Settings(data_dir=folder), "adapt", options).intake._thread
    thread.thread_loop.close()
    assert isinstance(thread, IntakeThread)
    return thread


def test_a_fetch_answers_sooner_and_with_less_than_faust_lets_it(tmp_path: Path) -> None:
    async def run() -> None:
        thread = new_thread(tmp_path)
        loop = asyncio.get_running_loop()
        stock = AIOKafkaConsumerThread._create_consumer(thread, loop)
        ours = thread._create_consumer(loop)
        assert stock._fetch_max_wait_ms > ours._fetch_max_wait_ms == AT_ONCE.longest_ms
        assert stock._fetch_min_bytes == ours._fetch_min_bytes == AT_ONCE.bytes
        assert ours._isolation_level == "read_committed"
        assert ours._max_poll_records == FETCHED_RECORDS
        stock._closed = ours._closed = True  # neither was started

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fetched", "silence_s", "wait"),
    [
        (True, COMPANY_S / 2, IN_COMPANY),
        (True, COMPANY_S * 2, AT_ONCE),
        (False, COMPANY_S / 2, AT_ONCE),
    ],
)
def test_in_a_stream_events_wait_in_the_broker_for_company(
    tmp_path: Path, fetched: bool, silence_s: float, wait: BrokerWait
) -> None:
    class Fetcher:
        """Stands for aiokafka's: what it fetched, and how long the next fetch may wait."""

        _closed = False
        _records: Mapping[TP, object] = {}
        _subscriptions = SimpleNamespace(fetch_context=nullcontext)

        async def fetched_records(self, *_: object, **__: object) -> Mapping[TP, object]:
            return {P0: [SimpleNamespace(offset=0)]} if fetched else {}

    async def run() -> None:
        thread = new_thread(tmp_path)
        kafka = SimpleNamespace(_closed=False, _fetcher=Fetcher())
        now_s = asyncio.get_running_loop().time()
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
        thread._fetched_s = now_s - silence_s
        await thread._fetch_records(kafka, None)
        found = kafka._fetcher._fetch_max_wait_ms, kafka._fetcher._fetch_min_bytes
        assert found == wait
        await thread._fetch_records(kafka, None)  # at the same moment
        is_stream = kafka._fetcher._fetch_max_wait_ms == IN_COMPANY.longest_ms
        assert is_stream == fetched

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(run())


def fetched(tp: TopicPartition, n: int) -> fetcher.FetchResult:
    """Return what aiokafka keeps of a fetch of so many records until it is taken."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**20)
    for place in range(n):
        builder.append(place, 1_000, None, b"", [])
    data = MemoryRecords(bytes(builder.build()))
    kept = fetcher.PartitionRecords(tp, data, None, 0, None, None, True, 0)
    state = SimpleNamespace(paused=False, position=0)
    state.consumed_to = lambda position: setattr(state, "position", position)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    return fetcher.FetchResult(tp, assignment=assignment, partition_records=kept, backoff=0)


def test_a_long_fetch_is_taken_in_parts_and_its_neighbours_in_between(tmp_path: Path) -> None:
    long, short = (TopicPartition(*tp) for tp in (P0, P1))

    async def run() -> None:
        thread = new_thread(tmp_path)
        thread.consumer.resume_flow()
        kept = SimpleNamespace(
            _closed=False,
            _records=OrderedDict({long: fetched(long, 11), short: fetched(short, 2)}),
            _subscriptions=SimpleNamespace(
                fetch_context=nullcontext, reassignment_in_progress=False
            ),
            _notify=lambda _: None,
            _wait_consume_future=None,
        )
        kept.fetched_records = partial(fetcher.Fetcher.fetched_records, kept)
        thread._consumer = SimpleNamespace(_closed=False, _fetcher=kept, _max_poll_records=4)
        thread.call_thread = lambda fun, *args, **named: fun(*args, **named)
        taken = []
        while kept._records:
            parts = await thread.getmany({long, short}, timeout=0)
            taken.append({tp.partition: [r.offset for r in part] for tp, part in parts.items()})
        assert taken == [{0: [0, 1, 2, 3]}, {1: [0, 1], 0: [4, 5]}, {0: [6, 7, 8, 9]}, {0: [10]}]

    asyncio.run(run())


def test_what_faust_logs_under_our_names_is_held_back_as_what_it_logs_under_its_own() -> None:
    def below(service: type) -> Iterator[type]:
        for one in service.__subclasses__():
            yield from (one, *below(one))

    ours = {one.logger.name for one in below(Service) if one.__module__.startswith("headrace.")}
    assert {IntakeThread.logger.name, IntakeConsumer.logger.name} <= ours <= set(NOISY)
