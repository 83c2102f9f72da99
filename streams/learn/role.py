"""The learn role: events in, deltas and model versions out. Single writer.

    take -> decode -> wait for the compute thread -> learn        publish: deltas, versions

An event is learned exactly once in effect: the state that is saved with a version names the
offsets it belongs to, a restart goes on from there, and Kafka's committed offsets only follow, so
that lag can be seen. What lies between is read again and passed over. Undecodable records are left
to the adapt role, which sets them aside.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from faust.types.tuples import TP

from headrace.streams import metrics
from headrace.streams.compiling import told_of_compiling
from headrace.streams.decoding import decode_in_turns
from headrace.streams.errors import MalformedRecordError
from headrace.streams.guards import (
    EXIT_FAILED,
    EXIT_PAUSED,
    EXIT_WRONG,
    PauseGuard,
    Watchdog,
    end_process,
)
from headrace.streams.kafka.batches import GapCheck, Receipt, RecordBatch
from headrace.streams.kafka.faust_app import IntakeApp, make_app
from headrace.streams.kafka.follower import Follower
from headrace.streams.kafka.intake import IntakeOptions
from headrace.streams.learn.catalogue_reader import CatalogueReader
from headrace.streams.learn.learner import Learned, Learner
from headrace.streams.learn.learner_state import Positions
from headrace.streams.learn.processes import processes_of
from headrace.streams.learn.publisher import Publisher, Send
from headrace.streams.process import Readiness, Role, observe_intake, run_role
from headrace.streams.records import Event
from headrace.streams.settings import Settings

logger = logging.getLogger(__name__)

WAITING_CHUNKS = 4  # of micro_batch_events; then the intake waits
LOOK_EVERY_S = 10.0  # at whether more comes than is learned; long enough that a burst is none
LAST_VERSION_LIMIT_S = 15.0  # at a stop; what it would hold is else learned anew
SETTLE_S = 1.0  # while a rebalance begins, nothing is anybody's
SECOND = (
    "ended: another learn role is in group %s-learn, and this one has published nothing: the role"
    " is a single writer, stop one of the two; what runs on many machines is `headrace adapt`"
)
JOINED = (
    "ended: another learn role has joined group %s-learn: the role is a single writer, stop one of"
    " the two; started again, this one goes on from its last checkpoint"
)


@dataclass(slots=True)
class Chunk:
    """Decoded events of one batch, and where the batch ends."""

    tp: TP
    next_offset: int
    receipt: Receipt
    events: list[tuple[str, int, Event]] = field(default_factory=list)


class Backlog:
    """Says whether to learn from less because events come faster than they are learned from.

    A backlog that does not grow is learned from whole. Once it has grown, it is to shrink to half
    of what it was before.
    """

    def __init__(self) -> None:
        self._is_to_shrink = False
        self._n_before = self._n_enough = 0
        self._looked_s = -math.inf

    def is_to_shrink(self, n_unread: int) -> bool:
        """Return whether it is, asked whenever as much waits as may."""
        now_s = time.monotonic()
        since_s = now_s - self._looked_s
        if since_s < LOOK_EVERY_S:
            return self._is_to_shrink
        if since_s > 2 * LOOK_EVERY_S:  # there was room meanwhile
            self._is_to_shrink = False
        elif self._is_to_shrink:
            self._is_to_shrink = n_unread > self._n_enough
        else:
            self._is_to_shrink, self._n_enough = n_unread > self._n_before, self._n_before // 2
        self._n_before, self._looked_s = n_unread, now_s
        return self._is_to_shrink


class Learning:
    """The pipeline between the intake and the learner. All but ``_learn`` is on the event loop."""

    def __init__(
        self,
        settings: Settings,
        app: IntakeApp,
        learner: Learner,
        thread: Executor,
        positions: Positions,
    ) -> None:
        self._settings = settings
        self._app = app
        self._learner = learner
        self._thread = thread
        self._chunks: asyncio.Queue[Chunk] = asyncio.Queue(WAITING_CHUNKS)
        self._taken = dict(positions)  # offsets below are learned or waiting to be
        self._positions = positions  # offsets below are learned; the compute thread's
        self._saved = dict(positions)  # offsets below are in a version
        self._unsaved: list[Receipt] = []
        self._gaps = GapCheck()
        self._backlog = Backlog()
        self._is_writer = False

    def position_of(self, tp: TP) -> int:
        """Return where to read on at the latest: a later offset may be committed than is learned.

        From an earlier one we read again, or it would stay behind until the next event comes.
        """
        return self._taken.get(tp.partition, 0)

    async def take(self, batch: RecordBatch) -> None:
        """Decode what is new of a batch and let it wait for the compute thread.

        Raises:
            LostBatchError: a batch before it did not come, and what it holds would not be learned.
            TopicMismatchError: what would be passed over is not learned: the topic was made anew.
        """
        self._gaps.check(batch.receipt)
        partition = batch.tp.partition
        first = self._taken.get(partition, 0)
        if batch.records[0].offset < first:
            await self._app.intake.require_end(batch.tp, first)
        records = [record for record in batch.records if record.offset >= first]
        chunk = Chunk(batch.tp, batch.receipt.next_offset, batch.receipt)
        for record, _, event in await decode_in_turns(records):
            if not isinstance(event, MalformedRecordError):  # the adapt role sets that aside
                # A user's offsets count within a partition: one who is in two is learned as two.
                chunk.events.append((f"{partition}/{event.user}", record.offset, event))
        await self._chunks.put(chunk)
        self._taken[partition] = max(first, batch.receipt.next_offset)

    async def learn_forever(self) -> None:
        """Learn from what waits, several batches at once when they are small."""
        loop = asyncio.get_running_loop()
        while True:
            is_behind = self._chunks.full() and self._backlog.is_to_shrink(self._n_unread())
            chunks = [await self._chunks.get()]
            while not self._chunks.empty() and _size(chunks) < self._settings.micro_batch_events:
                chunks.append(self._chunks.get_nowait())
            metrics.LEARNED_SHARE.set(self._settings.behind_share if is_behind else 1)
            learned = await loop.run_in_executor(self._thread, self._learn, chunks, is_behind)
            self._unsaved += self._acknowledged([chunk.receipt for chunk in chunks])
            self._observe(learned)

    def _n_unread(self) -> int:
        """Return how many events wait in Kafka."""
        ends = self._app.intake.ends()
        return sum(max(0, end - self._taken.get(tp.partition, 0)) for tp, end in ends.items())

    def _learn(self, chunks: list[Chunk], is_behind: bool) -> Learned:
        started_s = time.perf_counter()
        events = [event for chunk in chunks for event in chunk.events]
        learned = self._learner.learn(events, is_behind=is_behind)
        for chunk in chunks:
            learned_to = self._positions.get(chunk.tp.partition, 0)
            self._positions[chunk.tp.partition] = max(learned_to, chunk.next_offset)
        metrics.OUTER_LOOP_SECONDS.observe(time.perf_counter() - started_s)
        return learned

    async def publish(self, publisher: Publisher, guard: PauseGuard) -> None:
        """Publish from when the role serves on.

        Beside another learn role nothing is announced under its numbers: the process ends, and is
        not to be started again, or it would end the other one each time.
        """
        await self._app.serving.wait()
        if not self._owns_all():
            await asyncio.sleep(SETTLE_S)
            await self._app.serving.wait()
        self._end_unless_alone(SECOND, EXIT_WRONG)
        self._is_writer = True
        await publisher.publish_forever(_sender(self._app), guard, self.acknowledge)

    async def publish_last(self, publisher: Publisher, guard: PauseGuard) -> None:
        """Publish a version with all that was learned, as the role stops, if none else writes."""
        if self._app.serving.is_set() and self._owns_all():
            self.acknowledge(await publisher.publish_version(_sender(self._app), guard))
        else:
            logger.warning("stopped without a last version: not every partition is this role's")

    def update_gauges(self) -> None:
        """Set the gauges, come events or not; end the process if there are two learn roles."""
        observe_intake(self._app.intake, n_users=len(self._learner.users))
        metrics.ITEMS.set(self._learner.vocabulary.n_items)
        metrics.REPLAY_TASKS.set(self._learner.outer_loop.n_rehearsed)
        if self._is_writer:
            self._end_unless_alone(JOINED, EXIT_PAUSED)

    def _end_unless_alone(self, told: str, status: int) -> None:
        events = self._settings.topic("events")
        if not self._app.intake.is_there(events):
            logger.error("ended: topic %s is gone: `headrace topics` says what to do", events)
            end_process(EXIT_FAILED)
        if not self._owns_all():
            logger.error(told, self._settings.group)
            end_process(status)

    def _owns_all(self) -> bool:
        events = self._settings.topic("events")
        owned = [tp for tp in self._app.intake.assignment() if tp.topic == events]
        return len(owned) >= self._settings.partitions

    def acknowledge(self, positions: Positions) -> None:
        """Acknowledge the batches below offsets that are saved."""
        self._saved = positions
        self._unsaved = self._acknowledged(self._unsaved)

    def _acknowledged(self, receipts: Iterable[Receipt]) -> list[Receipt]:
        """Acknowledge what is saved; return the rest."""
        unsaved: list[Receipt] = []
        for receipt in receipts:
            if receipt.next_offset <= self._saved.get(receipt.tp.partition, 0):
                self._app.intake.acknowledge(receipt)
            else:
                unsaved.append(receipt)
        return unsaved

    def _observe(self, learned: Learned) -> None:
        metrics.EVENTS.inc(learned.n_events)
        metrics.TASKS.inc(learned.n_tasks)
        metrics.FORGOTTEN.inc(learned.n_forgotten)
        if learned.n_tasks and learned.query_loss == learned.query_loss:  # not NaN
            metrics.QUERY_LOSS.set(learned.query_loss)


def _size(chunks: list[Chunk]) -> int:
    return sum(len(chunk.events) for chunk in chunks)


def run(settings: Settings, *, readiness: Readiness | None = None, anew: bool = False) -> None:
    """Run the role until SIGTERM or SIGINT, ``anew`` from nothing. The topics must exist.

    A failure ends the process with a code of guards.py; start it again.
    """
    asyncio.run(_run(settings, readiness or Readiness(), anew=anew))


async def _run(settings: Settings, readiness: Readiness, *, anew: bool) -> None:
    options = IntakeOptions(
        topics=frozenset({settings.topic("events")}), batch_records=settings.micro_batch_events
    )
    app = make_app(settings, "learn", options)
    positions = Positions()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="compute") as thread,
        processes_of(settings) as processes,
    ):
        learner = Learner(settings, processes=processes)
        publisher = Publisher(settings, learner, thread, positions)
        publisher.restore(anew=anew)
        with told_of_compiling(logger.info):
            learner.warm_up()
        learning = Learning(settings, app, learner, thread, positions)
        options.position_of = learning.position_of
        options.has_read = lambda partition: positions.get(partition, 0) > 0
        app.take_batches(settings.topic("events"), learning.take)
        readiness.is_model_ready = lambda: publisher.is_announced
        catalogue = CatalogueReader(learner, thread)
        follower = Follower(settings, {settings.topic("items"): catalogue})
        follower.start()

        # Restoring is no pause: it counts from here on.
        guard = PauseGuard(settings.pause_limit_s)
        await run_role(
            Role(
                app=app,
                work=[learning.learn_forever(), learning.publish(publisher, guard)],
                drain=lambda: learning.publish_last(publisher, guard),
                update_gauges=learning.update_gauges,
                guard=guard,
                watchdog=Watchdog(settings.rebalance_limit_s),
                readiness=readiness,
                drain_limit_s=LAST_VERSION_LIMIT_S,
            )
        )
        catalogue.close()
        follower.close()


def _sender(app: IntakeApp) -> Send:
    async def send(topic: str, key: bytes | None, value: bytes) -> int:
        sent: Awaitable[Any] = await app.producer.send(topic, key, value, 0, None, None)
        return int((await sent).offset)

    return send
