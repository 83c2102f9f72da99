"""Delivery of the adapt role: from record batches to written lists, nothing lost or doubled.

    take -> fill a micro-batch -> compute, one at a time -> finish, strictly first in, first out

A crash anywhere replays from the last commit; events that a state holds already are skipped.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from aiokafka.errors import InvalidTimestampError
from faust.types.tuples import TP

from headrace.streams import metrics
from headrace.streams.adapt.compute import Computed, compute
from headrace.streams.adapt.engine import Engine
from headrace.streams.adapt.micro_batch import MicroBatch
from headrace.streams.adapt.observe import observe
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.adapt.writer import Writer
from headrace.streams.decoding import decode_in_turns
from headrace.streams.guards import PauseGuard
from headrace.streams.kafka.batches import GapCheck, RecordBatch
from headrace.streams.kafka.faust_app import IntakeApp
from headrace.streams.kafka.lease import STALE_AFTER_S, Lease
from headrace.streams.settings import Settings
from headrace.streams.state import StateKey

logger = logging.getLogger(__name__)

ATTEMPTS = 6  # each fails after STALE_AFTER_S: together they outlast a leader's election
ATTEMPT_S = 0.5  # takes at least each: with clocks apart it fails at once, and they may be set anew
MICRO_BATCH_BYTES = 2**24  # of records, which are held until it is written: few may be large
IN_FLIGHT = 3  # one being computed, one being written, one to spare: more only adds latency


@dataclass(slots=True)
class Job:
    """A micro-batch on its way through the compute thread."""

    micro_batch: MicroBatch
    computation: asyncio.Future[Computed]


class Delivery:
    """The pipeline between the intake and the writer. All but ``compute`` is on the event loop."""

    def __init__(
        self,
        settings: Settings,
        app: IntakeApp,
        engine: Engine,
        *,
        states: UserStates,
        writer: Writer,
        guard: PauseGuard,
        lease: Lease,
    ) -> None:
        self._settings = settings
        self._app = app
        self._states = states
        self._writer = writer
        self._guard = guard
        self._lease = lease
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="part")
        self._compute = partial(compute, engine, states, pool=self._pool, threads=settings.threads)
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._slots = asyncio.Semaphore(IN_FLIGHT)  # the back-pressure
        self._computing = asyncio.Semaphore(1)
        self._writing = asyncio.Lock()
        self._epoch = -1
        self._gaps = GapCheck()
        self._is_draining = False
        self._filling: MicroBatch | None = None
        self._has_opened, self._is_full = asyncio.Event(), asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    # ------------------------------------------------------------------------------- filling

    async def take(self, batch: RecordBatch) -> None:
        """Add a batch to the micro-batch being filled; wait while that is full.

        A stale batch is left out: it will be delivered again, here or elsewhere.
        """
        is_current = self._app.intake.is_current
        if batch.receipt.epoch != self._epoch and is_current(batch.receipt):
            await self._enter_epoch(batch.receipt.epoch)
        if not is_current(batch.receipt):
            return
        self._gaps.check(batch.receipt)
        decoded = await decode_in_turns(batch.records)
        await self._has_room.wait()
        if self._is_draining or not is_current(batch.receipt):
            return
        if self._filling is None:
            self._filling = MicroBatch(time.monotonic())
            self._has_opened.set()
        self._filling.add(batch, decoded)
        if (
            self._filling.n_records >= self._settings.micro_batch_events
            or self._filling.n_bytes >= MICRO_BATCH_BYTES
        ):
            self._has_room.clear()
            self._is_full.set()

    async def _enter_epoch(self, epoch: int) -> None:
        """Pass the barrier between two epochs.

        1. Let everything in flight finish or be dropped, which empties the overlay. 2. Wait for
        the rebalance and recovery to end. Batches of the new epoch arrive before that: without the
        barrier they would be applied to states of the epoch before.
        """
        self._empty()
        await self._jobs.join()  # 1
        await self._app.serving.wait()  # 2
        self._states.partitions_moved()
        self._epoch = epoch

    def _empty(self) -> MicroBatch | None:
        """Take the micro-batch being filled away and make room for the next."""
        filled, self._filling = self._filling, None
        self._has_opened.clear()
        self._is_full.clear()
        self._has_room.set()
        return filled

    # ------------------------------------------------------------------------------ computing

    async def submit_forever(self) -> None:
        """Submit each micro-batch when it is full or its wait is over, and a slot is free.

        What comes while another is computed joins this one: queued behind it, a micro-batch would
        wait as long, and be smaller.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._has_opened.wait()
            try:
                async with asyncio.timeout(self._settings.micro_batch_wait_s):
                    await self._is_full.wait()
            except TimeoutError:
                pass
            await self._slots.acquire()
            await self._computing.acquire()  # until then it goes on filling
            micro_batch = self._empty()
            if micro_batch is None:  # dropped at a barrier meanwhile
                self._computing.release()
                self._slots.release()
                continue
            computation = loop.run_in_executor(self._thread, self._compute, micro_batch)
            computation.add_done_callback(lambda _: self._computing.release())
            self._jobs.put_nowait(Job(micro_batch, computation))

    # ------------------------------------------------------------------------------ finishing

    async def finish_forever(self) -> None:
        """Finish micro-batches in the order they were submitted."""
        while True:
            job = await self._jobs.get()
            await self._finish(job.micro_batch, await job.computation)
            self._jobs.task_done()
            self._slots.release()

    async def _finish(self, micro_batch: MicroBatch, computed: Computed) -> None:
        """Write a computed micro-batch, then acknowledge it.

        1. Send lists, states, tombstones and dead letters, and await the broker. 2. Take the states
        over into the table. 3. Acknowledge. Revocation waits for the lock, so no write is under
        way when the next owner starts to recover.

        Raises:
            TopicMismatchError: what was skipped is no replay, but of a topic made anew.
        """
        for partition, offset in computed.read_to.items():
            tp = TP(self._settings.topic("events"), partition)
            await self._app.intake.require_end(tp, offset)
        async with self._writing:
            evicted = self._states.overflow(computed.states)
            if await self._write(micro_batch, computed, evicted):  # 1
                self._states.write(computed.states, evicted)  # 2
                metrics.EVICTED.inc(len(evicted))
                for batch in micro_batch.batches:  # 3
                    self._app.intake.acknowledge(batch.receipt)
                observe(micro_batch, computed, now_s=time.monotonic(), now_ms=time.time() * 1000)
            else:
                logger.info("dropped a stale micro-batch of %d records", micro_batch.n_records)
            self._states.release(micro_batch, computed.states)

    async def _write(
        self, micro_batch: MicroBatch, computed: Computed, evicted: Sequence[StateKey]
    ) -> bool:
        """Write, and return True; what was on its way for too long is written again.

        1. Return False if this worker does not own the partitions any more, in this epoch. 2. End
        the process if it was paused, or if the group has gone on without it. 3. Write.

        Raises:
            KafkaError: the broker did not take a record, or found every attempt too old.
        """
        n_left, now_s = ATTEMPTS, asyncio.get_running_loop().time
        while self._owns(micro_batch):  # 1
            self._guard.check()  # 2
            stamp_ms = await self._lease.stamp_ms(micro_batch.batches[0])
            next_s = now_s() + ATTEMPT_S
            try:
                await self._writer.write(micro_batch, computed, evicted, stamp_ms=stamp_ms)  # 3
                return True
            except InvalidTimestampError:
                n_left -= 1
                if not n_left:
                    raise
                logger.warning(
                    "writing again: it took the brokers %g s, or their clocks differ from ours",
                    STALE_AFTER_S,
                )
                await asyncio.sleep(next_s - now_s())
        return False

    def _owns(self, micro_batch: MicroBatch) -> bool:
        return all(self._app.intake.is_current(batch.receipt) for batch in micro_batch.batches)

    # ------------------------------------------------------------------------------- stopping

    async def settle(self) -> None:
        """Wait for the write that is under way, if any."""
        async with self._writing:
            pass

    async def drain(self) -> None:
        """Take nothing more and wait until what was submitted is finished."""
        self._is_draining = True
        self._empty()
        await self._jobs.join()
        for threads in (self._thread, self._pool):
            threads.shutdown(wait=False)
