"""An IntakeConsumer on a fake consumer thread, without a broker."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from faust.types.tuples import TP

from headrace.streams.kafka.faust_app import make_app
from headrace.streams.kafka.intake import IntakeConsumer, IntakeOptions
from headrace.streams.settings import Settings

EVENTS = "headrace.events"
P0, P1 = TP(EVENTS, 0), TP(EVENTS, 1)
CHANGELOG = TP("headrace-adapt-users-changelog", 0)


@dataclass(slots=True)
class Record:
    """The fields of aiokafka's ConsumerRecord that the intake looks at."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None = 1_000
    timestamp_type: int = 0
    headers: tuple[()] = ()
    key: bytes = b"ann"
    value: bytes = b"{}"
    checksum: None = None
    serialized_key_size: int = 3
    serialized_value_size: int = 2


def records(tp: TP, *offsets: int) -> list[Record]:
    return [Record(tp.topic, tp.partition, offset) for offset in offsets]


@dataclass
class FakeKafka:
    """Stands for aiokafka's consumer: positions, commits and end offsets, no broker."""

    commits: dict[TP, int] = field(default_factory=dict)
    positions: dict[TP, int] = field(default_factory=dict)
    fetched_ends: dict[TP, int] = field(default_factory=dict)
    beginning: int = 0
    n_resets: int = 0
    generation: int = 7
    refusal: Exception | None = None
    generation_after: int = 7  # a commit: the heartbeats go on meanwhile

    @property
    def _coordinator(self) -> "FakeKafka":
        return self

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if self.refusal:
            raise self.refusal
        self.commits |= {TP(*tp): offset for tp, offset in offsets.items()}
        self.generation = self.generation_after

    async def committed(self, tp: TopicPartition) -> int | None:
        return self.commits.get(TP(*tp))

    async def position(self, tp: TopicPartition) -> int:
        return self.positions[TP(*tp)]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.positions[TP(*tp)] = offset

    async def seek_to_beginning(self, *tps: TopicPartition) -> None:
        self.n_resets += 1
        self.positions |= {TP(*tp): self.beginning for tp in tps or self.positions}

    def highwater(self, tp: TopicPartition) -> int | None:
        return self.fetched_ends.get(TP(*tp))


@dataclass
class FakeThread:
    """Stands for the consumer thread; ``fetches`` are what the next fetches return."""

    kafka: FakeKafka
    assigned: set[TP]
    fetches: list[Mapping[TP, Sequence[Record]]] = field(default_factory=list)
    while_fetching: Callable[[], None] = lambda: None
    while_asking: Callable[[], None] = lambda: None
    listed_ends: dict[TP, int] = field(default_factory=dict)
    committed: dict[TP, int] = field(default_factory=dict)
    _consumer: Any = None

    def assignment(self) -> set[TP]:
        return self.assigned

    def _ensure_consumer(self) -> FakeKafka:
        return self.kafka

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await fun(*args)

    def is_read(self, tp: TP, end: int) -> bool:
        return self.kafka.positions[tp] >= end

    async def getmany(self, active: set[TP] | None, timeout: float) -> Mapping[TP, Any]:  # noqa: ARG002
        self.while_fetching()
        return self.fetches.pop(0)

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        return {tp: self.listed_ends[tp] for tp in tps}

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        self.while_asking()
        return dict.fromkeys(tps, self.kafka.beginning)

    def verify_event_path(self, now: float, tp: TP) -> None:
        raise AssertionError(f"at {now} {tp} had no position yet")  # aiokafka's own, now and then


@dataclass
class Rig:
    """A consumer on a fake thread."""

    consumer: IntakeConsumer
    thread: FakeThread
    kafka: FakeKafka

    async def poll(self, fetched: Mapping[TP, Sequence[Record]]) -> list[Any]:
        """Return what one fetch delivers."""
        self.kafka.positions |= {tp: batch[-1].offset + 1 for tp, batch in fetched.items()}
        self.thread.fetches.append(fetched)
        return [message async for _, message in self.consumer.getmany(timeout=1.0)]

    def to_commit(self) -> dict[TP, int]:
        """Return what stock Faust's commit would commit now."""
        pending = self.consumer._filter_tps_with_pending_acks()
        offsets: dict[TP, int] = self.consumer._filter_committable_offsets(pending)
        return offsets


def with_rig(
    folder: Path,
    check: Callable[[Rig], Awaitable[None]],
    *,
    commits: dict[TP, int] | None = None,
    position_of: Callable[[TP], int | None] = lambda _: None,
    has_read: Callable[[int], bool] = lambda _: False,
) -> None:
    """Run ``check`` with two event partitions and a changelog, two records a batch."""

    async def run() -> None:
        options = IntakeOptions(
            topics=frozenset({EVENTS}),
            batch_records=2,
            position_of=position_of,
            has_read=has_read,
        )
        app = make_app(Settings(data_dir=folder), "adapt", options)
        consumer = app.intake
        consumer._thread.thread_loop.close()  # made at once, and never started here
        kafka = FakeKafka(commits=commits or {})
        thread = FakeThread(kafka, {P0, P1, CHANGELOG})
        consumer._thread = thread
        consumer._set_active_tps(thread.assigned)
        await check(Rig(consumer, thread, kafka))

    asyncio.run(run())


def offsets_of(messages: list[Any]) -> list[tuple[int, list[int]]]:
    return [(m.partition, [r.offset for r in m.batch.records]) for m in messages]
