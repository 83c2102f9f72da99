"""Intake: record batches from Kafka, and a commit offset that never passes an unfinished one.

Stock Faust hands its agents one event at a time (70 us each) and guesses its commit offset from
the offsets acknowledged so far. Here one Faust event carries a batch of records of one partition
(2 us a record), and the commit offset is the end of the unbroken run of acknowledged batches.

An *epoch* is the time between two changes of position: every revocation, assignment and seek opens
a new one. A batch of an older epoch is stale: it will be delivered again, here or elsewhere.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from aiokafka.errors import CommitFailedError, IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

from headrace.streams.errors import TopicMismatchError
from headrace.streams.guards import end_process, tell_failure
from headrace.streams.kafka.batches import (
    BatchMessage,
    ChangelogMessage,
    Receipt,
    RecordBatch,
    Watermarks,
)
from headrace.streams.kafka.fetching import IntakeThread
from headrace.streams.kafka.missing import Missing

logger = logging.getLogger(__name__)

CHANGELOG_RECORDS = 512  # in one batch; one at a time, a million users recover in over a minute
UNCOMMITTED = (
    "no offset is committed in partition %d of %s, of which events have been read. If none ever"
    " was, or the group's have expired, nothing is lost. If the topic was made anew, its first"
    " events pass for replays: set another topic_prefix and group"
)
END_OFFSET_LIMIT_S = 15.0  # a fetch answers within its wait; the rest is for a slow broker
END_OFFSET_POLL_S = 0.02


async def _nothing_to_settle() -> None:
    """Stand in until a role says what must end before its partitions go."""


@dataclass(slots=True)
class IntakeOptions:
    """What a role asks of its intake."""

    topics: frozenset[str]
    batch_records: int
    position_of: Callable[[TP], int | None] = lambda _: None
    """The latest offset to start from at an assignment. An earlier committed offset wins; with
    ``None`` it alone decides."""
    has_read: Callable[[int], bool] = lambda _: False
    """Whether the role holds what it made of events of a partition."""
    settle: Callable[[], Awaitable[None]] = _nothing_to_settle
    """Awaited before partitions are given up: what is being written must have ended."""


class IntakeConsumer(driver.Consumer):
    """Faust's consumer, with record batches, watermarks and exact positions for some topics."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.options: IntakeOptions = self.transport.options
        self.epoch = 0
        self._fetch_epoch = 0
        self._positioned: set[TP] = set()
        self._missing = Missing(self._begin_of)
        self._is_revoking = False
        self._watermarks = Watermarks()
        self._fetched: Mapping[TP, Sequence[Any]] = {}  # and not all delivered

    def _new_consumer_thread(self) -> IntakeThread:
        return IntakeThread(self, loop=self.loop, beacon=self.beacon)

    # ---------------------------------------------------------------------------- for the roles

    def is_current(self, receipt: Receipt) -> bool:
        """Return whether the batch is of this epoch, so that its result may be written."""
        return receipt.epoch == self.epoch and not self._is_revoking

    def acknowledge(self, receipt: Receipt) -> None:
        """Say that the batch is done; harmless for a stale one."""
        receipt.acknowledged = True

    def is_connected(self) -> bool:
        """Return whether a coordinator of our group is known, and the topics.

        Without any broker none is.
        """
        consumer = self._thread._consumer
        has_group = consumer is not None and consumer._coordinator.coordinator_id is not None
        return has_group and all(map(self.is_there, self.options.topics))

    def is_there(self, topic: str) -> bool:
        """Return whether the brokers knew a topic when they were asked last."""
        consumer = self._thread._consumer
        return consumer is not None and bool(consumer.partitions_for_topic(topic))

    async def is_member(self, oldest: RecordBatch) -> bool:
        """Ask the coordinator whether it still counts us in: it takes commits from members only.

        The offset it is given is where the oldest batch in work begins, so nothing moves.
        """
        is_member: bool = await self._thread.call_thread(
            self._commit_again, oldest.tp, oldest.records[0].offset
        )
        return is_member

    async def _commit_again(self, tp: TP, offset: int) -> bool:
        consumer = self._thread._ensure_consumer()
        generation = consumer._coordinator.generation
        try:
            await consumer.commit({self._new_topicpartition(tp.topic, tp.partition): offset})
        except (CommitFailedError, IllegalStateError):
            return False
        # One that was expelled has no generation (-1), and an empty group takes its commit.
        return bool(0 <= generation == consumer._coordinator.generation)

    def ends(self) -> dict[TP, int]:
        """Return the end offset of each partition, as of its last fetch, where it is known."""
        ends = {}
        for tp in self._intake_partitions():
            with suppress(IllegalStateError):  # revoked in the consumer thread just now
                if (end := self.highwater(tp)) is not None:
                    ends[tp] = end
        return ends

    def lag(self) -> dict[int, int]:
        """Return end offset less committed offset by partition, where the end is known.

        Before the first commit, counted from where reading began: retention may have removed much.
        No lag where all is read and done: behind the last event there may be marks of transactions.
        """
        lag = {}
        for tp, end in self.ends().items():
            is_waiting = tp in self._fetched or self._watermarks.is_waiting(tp)
            is_done = not is_waiting and self._thread.is_read(tp, end)
            lag[tp.partition] = 0 if is_done else max(end - (self._committed_offset[tp] or 0), 0)
        return lag

    async def require_end(self, tp: TP, read: int) -> None:
        """Ask whether a partition reaches as far as the role has read: if so, a replay is one.

        A topic that is made anew begins at 0 again, and no event of a known user would count. Its
        committed offsets tell nothing: Kafka removes them together with the topic.

        Raises:
            TopicMismatchError: it ends before.
        """
        with suppress(IllegalStateError):  # revoked in the consumer thread just now
            end = self.highwater(tp)
            if end is None or end >= read:
                return
            # What a new leader tells with a fetch may be behind; ListOffsets waits until it is not.
            end = (await self.highwaters(tp))[tp]
            if end < read:
                raise TopicMismatchError(
                    f"the events of partition {tp.partition} of {tp.topic} end at {end}, before"
                    f" {read}, up to where they have been read: the topic was recreated, or lost"
                    " its end; use another topic_prefix, group and model_store, which start with"
                    " states and models of their own"
                )

    # ---------------------------------------------------------------------------- positions

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Give partitions up: 1. refuse new writes. 2. Let the running one end. 3. Commit."""
        self._is_revoking = True
        self._open_epoch()  # 1
        await self.options.settle()  # 2
        await self.commit()  # 3
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Take partitions over; they are positioned once recovery has ended."""
        n = self.app.conf.topic_partitions
        if beyond := [tp for tp in assigned if self._is_intake(tp) and tp.partition >= n]:
            exc = TopicMismatchError(
                f"partitions were added to {beyond[0].topic}, which had {n}: `headrace topics` says"
                " what to do"
            )
            end_process(tell_failure(exc, "partitions were added"))
        self._open_epoch()
        self._watermarks.forget()
        await super().on_partitions_assigned(assigned, generation_id)
        self._is_revoking = False

    async def perform_seek(self) -> None:
        """Position every intake partition exactly, and remember which ones are.

        aiokafka's ``seek_to_committed`` does nothing where the committed offset is ``None`` or 0,
        and Faust relies on it: records fetched and dropped by a rebalance before the first commit
        would be skipped for good. Stock Faust also goes on if its seek times out.
        """
        self._open_epoch()
        self._watermarks.forget()
        epoch = self.epoch
        wanted = {tp: self.options.position_of(tp) for tp in self._intake_partitions()}
        begun, committed = await self._thread.call_thread(self._position, wanted)
        if epoch != self.epoch:
            return  # overtaken by a rebalance or another seek, which positions again
        self._missing.start(
            {tp: committed[tp] if latest is None else latest for tp, latest in wanted.items()}
        )
        for tp in wanted:
            self._committed_offset[tp] = begun[tp]
            if committed[tp] is None and self.options.has_read(tp.partition):
                logger.warning(UNCOMMITTED, tp.partition, tp.topic)
        self._positioned.update(wanted)

    async def _position(
        self, wanted: Mapping[TP, int | None]
    ) -> tuple[dict[TP, int], dict[TP, int | None]]:
        """Seek in the consumer thread; return where lag is counted from, and what is committed."""
        # All at once: one by one, each waits for the fetch under way, a minute for 512 partitions.
        consumer = self._thread._ensure_consumer()
        theirs = {tp: self._new_topicpartition(tp.topic, tp.partition) for tp in wanted}
        told = await asyncio.gather(*map(consumer.committed, theirs.values()))
        found: dict[TP, int | None] = dict(zip(wanted, told, strict=True))
        unread = []
        for tp, latest in wanted.items():
            if offset := min((o for o in (found[tp], latest) if o is not None), default=0):
                consumer.seek(theirs[tp], offset)
            else:
                unread.append(theirs[tp])
        if unread:  # of none, aiokafka would take all
            await consumer.seek_to_beginning(*unread)
        begun = {tp: found[tp] or await consumer.position(theirs[tp]) for tp in wanted}
        return begun, found

    def _open_epoch(self) -> None:
        self.epoch += 1
        self._positioned.clear()

    def _is_intake(self, tp: TP) -> bool:
        return tp.topic in self.options.topics

    def _intake_partitions(self) -> list[TP]:
        return [tp for tp in self.assignment() if self._is_intake(tp)]

    # ---------------------------------------------------------------------------- delivery

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        # Stock Faust reads the generation after the fetch, so records fetched before a rebalance
        # can pass for records of the next generation. The epoch is taken before.
        self._fetch_epoch = self.epoch
        return await super()._getmany(active_partitions, timeout)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield batches, those of intake topics with a receipt to acknowledge."""
        records, active = await self._wait_next_records(timeout)
        if not records or self.should_stop:
            return
        fetched = {TP(*tp): batch for tp, batch in records.items()}
        if any(self._is_intake(tp) and tp not in self._positioned for tp in fetched):
            await self._unread(fetched)
            with suppress(IllegalStateError):  # revoked meanwhile: the next epoch seeks again
                await self.perform_seek()
            return
        wanted = {
            tp: batch
            for tp, batch in fetched.items()
            if active is None or tp in active or tp in self._buffered_partitions
        }
        self._fetched = fetched
        try:
            for tp, chunk in self._in_turns(wanted):
                n_missed = await self._missing.before(tp, chunk[0].offset)
                if not self.flow_active or self.epoch != self._fetch_epoch:
                    await self._unread(fetched)
                    return
                if self._is_intake(tp):
                    self._missing.deliver(tp, chunk, n_missed)
                    # Faust drops what is below the last offset it saw, even after a seek back.
                    self._read_offset[tp] = None
                yield tp, self._message(tp, chunk)
        finally:
            self._fetched = {}
        await self._unread({tp: batch for tp, batch in fetched.items() if tp not in wanted})

    async def _begin_of(self, tp: TP) -> int:
        begin: int = (await self.earliest_offsets(tp))[tp]
        return begin

    def _in_turns(self, records: Mapping[TP, Sequence[Any]]) -> Iterator[tuple[TP, Sequence[Any]]]:
        """Yield chunks of each partition in turn, so that none waits for a long neighbour."""
        chunks = []
        for tp, batch in records.items():
            size = self.options.batch_records if self._is_intake(tp) else CHANGELOG_RECORDS
            chunks.append([(tp, batch[i : i + size]) for i in range(0, len(batch), size)])
        for turn in zip_longest(*chunks):
            yield from filter(None, turn)

    def _message(self, tp: TP, records: Sequence[Any]) -> BatchMessage:
        next_offset, generation = records[-1].offset + 1, self.app.consumer_generation_id
        if self._is_intake(tp):
            receipt = self._watermarks.deliver(tp, next_offset, self.epoch)
            return BatchMessage(RecordBatch(records, receipt), generation)
        receipt = Receipt(tp, next_offset, self.epoch, sequence=0)
        return ChangelogMessage(RecordBatch(records, receipt), generation)

    async def _unread(self, records: Mapping[TP, Sequence[Any]]) -> None:
        """Rewind to records that were fetched and then not delivered.

        Stock Faust drops them and seeks to the committed offset, which changelogs do not have:
        recovery would miss them, or wait for them without end.
        """
        firsts = {tp: batch[0].offset for tp, batch in records.items() if batch}
        if firsts:
            await self._thread.call_thread(self._rewind, firsts)

    async def _rewind(self, firsts: Mapping[TP, int]) -> None:
        consumer = self._thread._ensure_consumer()
        for tp, first in firsts.items():
            aiokafka_tp = self._new_topicpartition(tp.topic, tp.partition)
            try:
                if await consumer.position(aiokafka_tp) > first:
                    consumer.seek(aiokafka_tp, first)
            except IllegalStateError:  # no longer assigned: the next owner reads it
                continue

    def on_buffer_full(self, tp: TP) -> None:
        """Let a full agent block the fetcher: leaving partitions out of fetches is not needed."""
        if not self._is_intake(tp):
            super().on_buffer_full(tp)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave out Faust's look for streams that stand still, every half second and partition.

        It only logs, which the lag in our metrics does better; and where a position is just being
        set, it raises, which ends the worker.
        """

    # ---------------------------------------------------------------------------- commits

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> list[TP]:
        return [
            tp
            for tp in self._watermarks.partitions()
            if topics is None or tp in topics or tp.topic in topics
        ]

    def _new_offset(self, tp: TP) -> int | None:
        # faust-streaming #606: stock Faust tolerates a gap of one between the committed and the
        # first acknowledged offset, and any gap before the first commit.
        return self._watermarks.take(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self._is_intake(tp):  # a watermark needs no list of gaps, which would grow forever
            await super()._add_gap(tp, offset_from, offset_to)

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        """Return end offsets, whichever of ListOffsets and Fetch knows the later one.

        Tansu 0.6 (the embedded broker) answers ListOffsets with the first offset of the last batch
        plus one, so recovery would end early and lose state. The end offset of a fetch is right
        on every broker, and each assigned partition is being fetched anyway.
        """
        listed = dict(await super().highwaters(*tps))
        ends: dict[TP, int] = await self._thread.call_thread(self._with_fetched_ends, listed)
        return ends

    async def _with_fetched_ends(self, listed: dict[TP, int]) -> dict[TP, int]:
        consumer = self._thread._ensure_consumer()
        missing = {tp: self._new_topicpartition(*tp) for tp, end in listed.items() if end}
        ends = dict(listed)
        async with asyncio.timeout(END_OFFSET_LIMIT_S):
            while missing:
                for tp, aiokafka_tp in list(missing.items()):
                    if (end := consumer.highwater(aiokafka_tp)) is not None:
                        ends[tp] = max(ends[tp], end)
                        del missing[tp]
                if missing:
                    await asyncio.sleep(END_OFFSET_POLL_S)  # aiokafka offers nothing to wait for
        return ends


class IntakeTransport(driver.Transport):
    """Faust's public hook: a transport with our consumer."""

    Consumer = IntakeConsumer

    def __init__(self, url: Any, app: Any, options: IntakeOptions) -> None:
        super().__init__(url, app)
        self.options = options
