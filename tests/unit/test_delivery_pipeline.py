"""The pipeline: filling, one micro-batch at a time, strictly ordered writes, the epoch barrier."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import InvalidTimestampError
from faust.types.tuples import TP

from headrace.streams.adapt.compute import Computed
from headrace.streams.adapt.delivery import ATTEMPTS, IN_FLIGHT, MICRO_BATCH_BYTES, Delivery
from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.micro_batch import MicroBatch
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.errors import TopicMismatchError
from headrace.streams.guards import PauseGuard
from headrace.streams.kafka.batches import LostBatchError, Receipt, RecordBatch
from headrace.streams.kafka.lease import Lease
from headrace.streams.settings import Settings
from headrace.streams.state import StateKey, UserState
from headrace.streams.wire import Event, encode

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


def test_a_full_micro_batch_merges_partitions_and_acknowledges_each_batch() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(5, 6, tp=P0))
        await rig.delivery.take(rig.batch(70, 71, tp=P1, user="bob"))
        await rig.until(lambda: len(rig.intake.acknowledged) == 2)
        assert rig.writer.written == [[5, 6, 70, 71]]
        assert rig.intake.acknowledged == [(0, 7), (1, 72)]
        assert rig.state("ann").items == ["i5", "i6"]
        assert rig.state("bob", partition=1).last_offset == 71

    run(check, micro_batch_wait_s=LONG_WAIT_S)


def test_events_of_a_topic_that_was_made_anew_are_not_acknowledged_as_if_they_were_replays() -> (
    None
):
    async def check(rig: Rig) -> None:
        rig.table[0, b"ann"] = UserState(last_offset=5_000, n_events=1).encode()
        await rig.delivery.take(rig.batch(0, 1))
        await rig.until(lambda: rig.intake.acknowledged != [])

    with pytest.raises(
        TopicMismatchError, match=r"events', partition=0\) ends at 1000, before 5001"
    ):
        run(check)


def test_a_micro_batch_of_many_bytes_is_full() -> None:
    async def check(rig: Rig) -> None:
        half = (("padding", bytes(MICRO_BATCH_BYTES // 2)),)
        await rig.delivery.take(rig.batch(5, headers=half))
        await rig.delivery.take(rig.batch(6, headers=half))
        await rig.until(lambda: rig.writer.written == [[5, 6]])

    run(check, micro_batch_wait_s=LONG_WAIT_S)


def test_a_micro_batch_goes_when_its_wait_is_over() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(5))
        await rig.until(lambda: rig.writer.written == [[5]])

    run(check, micro_batch_wait_s=0.01)


def test_micro_batches_are_computed_one_at_a_time_and_written_in_order() -> None:
    async def check(rig: Rig) -> None:
        for offset in range(0, 40, 4):
            await rig.delivery.take(rig.batch(*range(offset, offset + 4)))
        await rig.until(lambda: len(rig.intake.acknowledged) == 10)
        assert list(chain.from_iterable(rig.writer.written)) == list(range(40))
        assert rig.intake.acknowledged == [(0, end) for end in range(4, 44, 4)]
        assert len(rig.engine.threads) == 1
        assert rig.state("ann").n_events == 40

    run(check)


def test_a_slow_broker_holds_the_intake_back() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        in_flight = IN_FLIGHT + 1  # and the one being filled
        for number in range(in_flight):
            await rig.delivery.take(rig.batch(*range(4 * number, 4 * number + 4)))
        await rig.until(lambda: rig.engine.n_calls == IN_FLIGHT)
        held = asyncio.create_task(rig.delivery.take(rig.batch(98, 99)))
        done, _ = await asyncio.wait({held}, timeout=0.05)
        assert not done
        rig.writer.gate.set()
        await asyncio.wait_for(held, LIMIT_S)
        await rig.until(lambda: len(rig.intake.acknowledged) == in_flight + 1)

    run(check)


def test_a_micro_batch_goes_on_filling_while_no_slot_is_free() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        for number in range(IN_FLIGHT):
            await rig.delivery.take(rig.batch(4 * number, 4 * number + 1, 4 * number + 2))
            await rig.until(lambda n=number: rig.engine.n_calls == n + 1)
        await rig.delivery.take(rig.batch(90))
        await rig.delivery.take(rig.batch(91))
        rig.writer.gate.set()
        await rig.until(lambda: [90, 91] in rig.writer.written)

    run(check)


def test_what_comes_while_another_is_computed_is_one_micro_batch() -> None:
    async def check(rig: Rig) -> None:
        rig.engine.gate.clear()
        await rig.delivery.take(rig.batch(0))
        await rig.until(lambda: rig.engine.n_begun == 1)
        for offset in (1, 2):
            await rig.delivery.take(rig.batch(offset))
            for _ in range(10):  # turns in which it could go
                await asyncio.sleep(0)
        rig.engine.gate.set()
        await rig.until(lambda: len(rig.intake.acknowledged) == 3)
        assert rig.writer.written == [[0], [1, 2]]

    run(check)


def test_nothing_of_an_old_epoch_is_written_or_acknowledged() -> None:
    async def check(rig: Rig) -> None:
        rig.engine.gate.clear()
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.until(lambda: rig.engine.n_begun == 1)
        rig.intake.epoch = 2  # a rebalance, while the micro-batch is being computed
        taken = asyncio.create_task(rig.delivery.take(rig.batch(0, 1, epoch=2)))
        await asyncio.sleep(0)  # it waits at the barrier
        rig.engine.gate.set()
        await asyncio.wait_for(taken, LIMIT_S)
        await rig.until(lambda: bool(rig.intake.acknowledged))
        assert rig.writer.written == [[0, 1]]
        assert rig.intake.acknowledged == [(0, 2)]
        # Built on the table, not on what the dropped micro-batch had overlaid.
        assert rig.state("ann").items == ["i0", "i1"]

    run(check)


def test_a_new_epoch_waits_for_recovery_and_then_starts_from_the_table() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(0))
        await rig.until(lambda: len(rig.intake.acknowledged) == 1)
        rig.serving.clear()
        rig.intake.epoch = 2
        taken = asyncio.create_task(rig.delivery.take(rig.batch(8, epoch=2)))
        done, _ = await asyncio.wait({taken}, timeout=0.05)
        assert not done
        recovered = UserState(7, 8, 0, ["another worker's"], ["view"], [1_000])
        rig.table[0, b"ann"] = recovered.encode()
        rig.serving.set()
        await asyncio.wait_for(taken, LIMIT_S)
        await rig.until(lambda: len(rig.intake.acknowledged) == 2)
        assert rig.state("ann").items == ["another worker's", "i8"]

    run(check)


def test_what_was_filled_before_a_barrier_is_left_to_the_replay() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(0))
        rig.intake.epoch = 2
        await rig.delivery.take(rig.batch(0, 1, 2, 3, epoch=2))
        await rig.until(lambda: bool(rig.intake.acknowledged))
        assert rig.writer.written == [[0, 1, 2, 3]]

    run(check, micro_batch_wait_s=LONG_WAIT_S)


def test_a_batch_that_went_missing_ends_the_role() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(0))
        rig.batch(1)  # fetched, and lost on its way
        with pytest.raises(LostBatchError):
            await rig.delivery.take(rig.batch(2))

    run(check)


def test_a_failed_write_acknowledges_nothing_and_ends_the_role() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.error = OSError("the broker did not take a record")
        try:
            await rig.delivery.take(rig.batch(0, 1, 2, 3))
            await rig.until(lambda: False)
        finally:
            assert (rig.intake.acknowledged, dict(rig.table)) == ([], {})

    with pytest.raises(OSError, match="did not take"):
        run(check)


def test_a_paused_process_is_ended_before_it_writes() -> None:
    async def check(rig: Rig) -> None:
        rig.guard.tick()
        rig.clock[0] = 2.5
        rig.writer.gate.clear()
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()  # here, the end is only noted
        assert rig.ended == [75]

    run(check)


def test_a_worker_the_group_does_not_count_in_is_ended_before_it_writes() -> None:
    async def check(rig: Rig) -> None:
        rig.coordinator.is_member = False
        batch = rig.batch(0, 1, 2, 3)
        await rig.delivery.take(batch)
        await rig.until(lambda: bool(rig.writer.written))
        assert rig.ended == [75]
        assert rig.coordinator.asked_with == [batch]

    run(check)


def test_what_was_on_its_way_for_too_long_is_written_again_with_a_new_stamp() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        rig.writer.n_too_late = 1
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()
        rig.clock[0] = 1.5
        rig.writer.gate.set()
        await rig.until(lambda: bool(rig.intake.acknowledged))
        assert rig.writer.stamps_ms == [0, 1500]
        assert rig.writer.written == [[0, 1, 2, 3]]

    run(check)


def test_what_never_arrives_in_time_ends_the_role() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.n_too_late = ATTEMPTS
        started_s = time.monotonic()
        try:
            await rig.delivery.take(rig.batch(0, 1, 2, 3))
            await rig.until(lambda: False)
        finally:
            assert len(rig.writer.stamps_ms) == ATTEMPTS
            # Refused at once, as with clocks apart, they are not all used up by a step of a clock.
            assert time.monotonic() - started_s >= (ATTEMPTS - 1) * 0.4
            assert (rig.intake.acknowledged, dict(rig.table)) == ([], {})

    with pytest.raises(InvalidTimestampError):
        run(check)


def test_what_came_too_late_is_not_written_again_once_the_partitions_are_asked_for() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        rig.writer.n_too_late = 1
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()
        rig.intake.epoch = 2
        rig.writer.gate.set()
        await asyncio.wait_for(rig.delivery.settle(), LIMIT_S)
        assert len(rig.writer.stamps_ms) == 1
        assert (rig.intake.acknowledged, dict(rig.table)) == ([], {})

    run(check)


def test_partitions_are_given_up_after_the_running_write_only() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()
        settling = asyncio.create_task(rig.delivery.settle())
        done, _ = await asyncio.wait({settling}, timeout=0.05)
        assert not done
        rig.writer.gate.set()
        await asyncio.wait_for(settling, LIMIT_S)
        assert rig.intake.acknowledged == [(0, 4)]

    run(check)


def test_draining_finishes_what_is_in_flight_and_takes_nothing_more() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()
        draining = asyncio.create_task(rig.delivery.drain())
        await asyncio.sleep(0)  # it has begun
        await rig.delivery.take(rig.batch(4, 5, 6, 7))
        done, _ = await asyncio.wait({draining}, timeout=0.05)
        assert not done
        rig.writer.gate.set()
        await asyncio.wait_for(draining, LIMIT_S)
        assert rig.intake.acknowledged == [(0, 4)]

    run(check)


def test_what_is_being_filled_is_left_to_the_replay_when_it_drains() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(0))
        await rig.delivery.drain()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rig.delivery.submit_forever(), 0.3)  # its wait is over by then

    run(check, micro_batch_wait_s=0.1)


def test_users_beyond_the_limit_are_evicted_with_a_tombstone() -> None:
    async def check(rig: Rig) -> None:
        for offset, user in enumerate(("ann", "bob", "cem")):
            await rig.delivery.take(rig.batch(offset, user=user))
            await rig.until(lambda n=offset: len(rig.intake.acknowledged) == n + 1)
        assert rig.writer.evicted == [(0, b"ann")]
        assert set(rig.table) == {(0, b"bob"), (0, b"cem")}

    run(check, max_users=2)
