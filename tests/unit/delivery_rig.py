"""A delivery between fakes of the consumer, the writer, the engine and the group."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import InvalidTimestampError
from faust.types.tuples import TP

from headrace.streams.adapt.compute import Computed
from headrace.streams.adapt.delivery import Delivery
from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.micro_batch import MicroBatch
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.errors import TopicMismatchError
from headrace.streams.guards import PauseGuard
from headrace.streams.kafka.batches import Receipt, RecordBatch
from headrace.streams.kafka.lease import Lease
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.state import StateKey, UserState
from headrace.streams.wire import encode

P0, P1 = TP("headrace.events", 0), TP("headrace.events", 1)
LIMIT_S = 60.0
NO_WAIT_S, LONG_WAIT_S = 0.0, 60.0


@dataclass
class FakeIntake:
    """Stands for the consumer: which epoch is current, and what was acknowledged."""

    epoch: int = 1
    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    end: int = 1_000

    async def require_end(self, tp: TP, read: int) -> None:
        if self.end < read:
            raise TopicMismatchError(f"{tp} ends at {self.end}, before {read}")

    def is_current(self, receipt: Receipt) -> bool:
        return receipt.epoch == self.epoch

    def acknowledge(self, receipt: Receipt) -> None:
        self.acknowledged.append((receipt.tp.partition, receipt.next_offset))


@dataclass
class FakeWriter:
    """Remembers the offsets of each write; ``gate`` holds writes back."""

    written: list[list[int]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    evicted: list[StateKey] = field(default_factory=list)
    error: Exception | None = None
    n_too_late: int = 0  # writes that the broker refuses yet, as on their way for too long
    stamps_ms: list[int] = field(default_factory=list)

    async def write(
        self,
        micro_batch: MicroBatch,
        computed: Computed,
        evicted: Iterable[StateKey],
        *,
        stamp_ms: int,
    ) -> None:
        self.stamps_ms.append(stamp_ms)
        self.begun.set()
        await self.gate.wait()
        if self.n_too_late:
            self.n_too_late -= 1
            raise InvalidTimestampError
        if self.error:
            raise self.error
        offsets = [o for arrivals in micro_batch.users.values() for o, _ in arrivals.events]
        self.written.append(sorted(offsets))
        self.evicted.extend(evicted)
        assert set(computed.states) == set(micro_batch.users)


@dataclass
class FakeCoordinator:
    """Stands for the group's: whether it counts us in, and which batches it was asked with."""

    is_member: bool = True
    asked_with: list[RecordBatch] = field(default_factory=list)

    async def ask(self, oldest: RecordBatch) -> bool:
        self.asked_with.append(oldest)
        return self.is_member


@dataclass
class Folding:
    """An engine that folds; ``gate`` holds the compute thread back."""

    gate: threading.Event = field(default_factory=threading.Event)
    threads: set[str] = field(default_factory=set)
    n_begun: int = 0
    n_calls: int = 0

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        self.n_begun += 1
        assert self.gate.wait(LIMIT_S)
        self.threads.add(threading.current_thread().name)
        self.n_calls += 1
        for user in work:
            for offset, event in user.events:
                user.state.apply(event, offset=offset, history_length=100)
        return [UserResult(user.state, None) for user in work]


@dataclass
class Rig:
    """A delivery between fakes, with its gates open."""

    delivery: Delivery
    intake: FakeIntake
    writer: FakeWriter
    engine: Folding
    serving: asyncio.Event
    table: OrderedDict[StateKey, bytes]
    ended: list[int]
    clock: list[float]
    coordinator: FakeCoordinator
    guard: PauseGuard
    _sequences: dict[tuple[int, TP], int] = field(default_factory=dict)

    def batch(
        self,
        *offsets: int,
        tp: TP = P0,
        user: str = "ann",
        epoch: int = 1,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> RecordBatch:
        """Return the next batch of a partition in an epoch."""
        sequence = self._sequences.get((epoch, tp), 0)
        self._sequences[epoch, tp] = sequence + 1
        records = [
            SimpleNamespace(
                **dict(zip(("topic", "partition"), tp, strict=True)),
                offset=offset,
                timestamp=1_000,
                key=None,
                value=encode(Event(user=user, item=f"i{offset}", time_ms=offset)),
                headers=headers,
            )
            for offset in offsets
        ]
        return RecordBatch(records, Receipt(tp, offsets[-1] + 1, epoch, sequence))

    async def until(self, is_met: Callable[[], bool]) -> None:
        """Let the pipeline run until a condition holds."""
        async with asyncio.timeout(LIMIT_S):
            while not is_met():
                await asyncio.sleep(0.001)

    def state(self, user: str, partition: int = 0) -> UserState:
        """Return what the table holds of a user."""
        return UserState.decode(self.table[partition, user.encode()])


def run(check: Callable[[Rig], Awaitable[None]], **changes: Any) -> None:
    """Run ``check`` beside a pipeline of four events a micro-batch."""

    async def main() -> None:
        settings = Settings(**{"micro_batch_events": 4, "micro_batch_wait_s": NO_WAIT_S} | changes)
        table: OrderedDict[StateKey, bytes] = OrderedDict()
        intake, writer, engine = FakeIntake(), FakeWriter(), Folding()
        serving, ended, clock = asyncio.Event(), [], [0.0]
        app: Any = SimpleNamespace(intake=intake, serving=serving)
        guard = PauseGuard(2.0, clock=lambda: clock[0], end=ended.append)
        states = UserStates(table, max_users=settings.max_users)
        anything: Any = writer
        coordinator = FakeCoordinator()
        lease = Lease(
            settings.session_timeout_s,
            ask=coordinator.ask,
            clock=lambda: clock[0],
            wall_clock=lambda: clock[0],
            end=ended.append,
        )
        delivery = Delivery(
            settings, app, engine, states=states, writer=anything, guard=guard, lease=lease
        )
        for gate in (serving, writer.gate, engine.gate):
            gate.set()
        rig = Rig(
            delivery, intake, writer, engine, serving, table, ended, clock, coordinator, guard
        )
        work = asyncio.gather(delivery.submit_forever(), delivery.finish_forever())
        try:
            checking = asyncio.ensure_future(check(rig))
            await asyncio.wait({checking, work}, return_when=asyncio.FIRST_COMPLETED)
            (work if work.done() else checking).result()
        finally:
            engine.gate.set()
            checking.cancel()
            work.cancel()
            await asyncio.gather(work, checking, return_exceptions=True)

    asyncio.run(main())
