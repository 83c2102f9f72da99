"""Publisher: the learn role's deltas every second or so, and its model versions."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

from headrace.streams import metrics
from headrace.streams.errors import CheckpointError, MalformedRecordError, UnreadableError
from headrace.streams.guards import PauseGuard
from headrace.streams.kafka import clients
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import Positions, pack_learner, restore
from headrace.streams.learn.transfer import inherit, start_from
from headrace.streams.settings import Settings
from headrace.streams.versions.publication import (
    ANNOUNCEMENT_KEY,
    Announcement,
    pack_delta,
    pack_model,
    pack_weights,
    split,
)
from headrace.streams.versions.store import WHICH_STORE, ModelStore, StoredFile

logger = logging.getLogger(__name__)

# Of the time, at most this much goes into checkpoints: a large one comes with some versions only.
CHECKPOINT_SHARE = 0.05

# Between two versions, even if nothing came. A worker that begins needs all deltas since the newest
# checkpoint: they are kept for six hours, and what the catalogue alone changed is nowhere else.
LONGEST_S = 3_600.0

# Topic, key, value: sends to partition 0, waits for the broker, returns the record's offset.
Send = Callable[[str, bytes | None, bytes], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """Where the newest is, and what comes on top of it."""

    version: int  # that it came with
    model: StoredFile
    learner: StoredFile
    positions: Positions
    delta_offset: int
    delta_sequence: int


class _Packed(NamedTuple):
    """A version as of one moment."""

    weights: memoryview
    positions: Positions
    n_events: int
    delta_sequence: int  # of the last delta before it
    checkpoint: tuple[memoryview, memoryview] | None = None  # model and learner
    seconds: float = 0.0  # that it took the thread that learns


class Publisher:
    """Publishes what a learner learned. ``positions`` are those of the thread that learns.

    One version comes after the other: the last, which a stop asks for, waits for the one that is
    being published then. Two at once would take one number and write over each other's files.
    Deltas go on while the files of a version are written.
    """

    def __init__(
        self, settings: Settings, learner: Learner, thread: Executor, positions: Positions
    ) -> None:
        self.version = 0
        self.is_announced = False
        self._settings = settings
        self._learner = learner
        self._thread = thread
        self._positions = positions
        self._store = ModelStore(settings.store_url, keep=settings.versions_kept)
        self._known_version = 0  # the newest announced before this role
        self._epoch = 0
        self._sequence = 0
        self._publishing = asyncio.Lock()  # a version
        self._sending = asyncio.Lock()  # a delta
        self._checkpoint: _Checkpoint | None = None
        self._next_checkpoint_s = -math.inf  # not before
        self._published_events = -1
        self._published_positions = Positions()
        self._published_at_s = time.monotonic()

    def restore(self, *, anew: bool = False) -> None:
        """Go on from the newest version announced that can be read, if any was announced.

        Or ``anew``, from nothing and the first event there is. A damaged version is passed over,
        logged and counted: an older one goes with older offsets, from which the events are read
        again.

        Raises:
            SettingsError: the store is another shop's, or they ask for a model of another shape.
            StoreError: it cannot be used.
            TopicMismatchError: the newest is of another group.
            UnreadableError: the store does not give the newest, and no other can be read.
            CheckpointError: none can be read, or the model of another shop that the settings say
                to start from is of another shape.
        """
        self._store.claim(self._settings.topic_prefix)
        announced = announcements(self._settings)
        # A number is never used again, not even with new topics: the store keeps the highest ones.
        self.version = max([self._store.newest(), *(one.version for one in announced)])
        self.is_announced = bool(announced)
        self._known_version = max([0, *(one.version for one in announced)])
        self._epoch = max([0, *(one.epoch for one in announced)])
        self._open_epoch()  # at once: a role that is stopped before it serves publishes as well
        if anew or not announced:
            why = "it begins anew" if announced else "no version is announced"
            left = "" if announced or self._settings.start_from else self._left_in_store()
            logger.info("%s: learning from %s%s", why, self._settings.start_from or "nothing", left)
            if self._settings.start_from:
                start_from(self._learner, self._settings.start_from)
            return
        announced[0].require_group(self._settings.group)
        refused: dict[StoredFile, CheckpointError] = {}
        for one in announced:
            if one.model in refused:
                continue  # several versions name one checkpoint
            try:
                model, learner = (self._store.read(file) for file in (one.model, one.learner))
                self._positions.update(restore(self._learner, model, learner))
            except CheckpointError as exc:
                metrics.CHECKPOINTS_REFUSED.inc()
                logger.error("passed over version=%d: %s", one.version, exc)
                refused[one.model] = exc
                continue
            logger.info("going on from version=%d positions=%s", one.version, self._positions)
            if self._settings.start_from:
                self._inherit(self._settings.start_from)
            return
        first = next(iter(refused.values()))  # older ones may have been removed since
        where = f": {WHICH_STORE}" if isinstance(first, UnreadableError) else "."
        raise type(first)(
            f"{first}{where} If no version can be had any more, `headrace learn --anew`, once,"
            " learns from the events that the topic still has"
        ) from first

    def _left_in_store(self) -> str:
        """Return what to say of model files whose topics are lost: without a word they go unused.

        By the time that it is read, a first version may be announced, and newer ones replace them.
        """
        if not (model := self._store.newest_model()):
            return ""
        return (
            f", though model files lie in the store: copy {model}, and `headrace learn --anew"
            " --from COPY` starts from how it ranks"
        )

    def _inherit(self, url: str) -> None:
        """Let items that come later start from another shop's; without, they start from nothing."""
        try:
            inherit(self._learner, url)
        except CheckpointError as exc:
            logger.warning("items that are new start from nothing: %s", exc)

    async def publish_forever(
        self, send: Send, guard: PauseGuard, acknowledge: Callable[[Positions], None]
    ) -> None:
        """Publish a version of the new epoch, then deltas, and versions when they are due."""
        await asyncio.to_thread(self._take_over)
        acknowledge(await self.publish_version(send, guard))
        await asyncio.gather(
            self._publish_deltas(send, guard), self._publish_versions(send, guard, acknowledge)
        )

    def _take_over(self) -> None:
        """Count on from what another learn role wrote since ``restore``, and remove what is no use.

        A role that ended as it wrote a version left files that nobody was told of. If it ended for
        lack of room, each start would add some, and there would never be any.
        """
        newest = self._store.newest()
        self.version = max(self.version, newest)
        if newest > self._known_version > 0:
            announced = announcements(self._settings)  # anew: by another role, too
            self._store.discard_above(max((one.version for one in announced), default=newest))

    async def _publish_deltas(self, send: Send, guard: PauseGuard) -> None:
        while True:
            await asyncio.sleep(self._settings.delta_interval_s)
            async with self._sending:
                await self._publish_delta(send, guard)

    async def _publish_versions(
        self, send: Send, guard: PauseGuard, acknowledge: Callable[[Positions], None]
    ) -> None:
        while True:
            await asyncio.sleep(self._settings.delta_interval_s)
            may_checkpoint = time.monotonic() >= self._next_checkpoint_s
            is_owed = self._checkpoint is None or self._checkpoint.version < self.version
            if self._is_due() or (is_owed and may_checkpoint):
                acknowledge(await self.publish_version(send, guard, with_checkpoint=may_checkpoint))

    def _open_epoch(self) -> None:
        """Deltas from here on do not fit what was published before."""
        self._epoch = max(self._epoch + 1, int(time.time() * 1000))

    def _is_due(self) -> bool:
        n_new = self._learner.n_events - self._published_events
        # Records of which nothing is learned are acknowledged with a version, too. Dicts of numbers
        # are compared in one step, in which the thread that learns cannot change them.
        has_read = self._positions != self._published_positions
        has_news = n_new > 0 or has_read or self._learner.forgetting.versions_due > 0
        waited_s = time.monotonic() - self._published_at_s
        return n_new >= self._settings.version_events or (
            waited_s >= (self._settings.version_interval_s if has_news else LONGEST_S)
        )

    async def publish_version(
        self, send: Send, guard: PauseGuard, *, with_checkpoint: bool = True
    ) -> Positions:
        """Publish a version; return the offsets that the newest checkpoint holds the events below.

        1. Publish a delta, so that the offset after it is known. 2. On the thread that learns,
        make room and pack the weights, and for a checkpoint the model, the learner's state and its
        offsets: they belong together. 3. Write the files. 4. Announce the version, and wait for the
        broker. What is learned meanwhile comes with the next delta. The caller may acknowledge only
        after 4.
        """
        async with self._publishing:
            return await self._publish_version(send, guard, with_checkpoint=with_checkpoint)

    async def _publish_version(
        self, send: Send, guard: PauseGuard, *, with_checkpoint: bool
    ) -> Positions:
        loop = asyncio.get_running_loop()
        async with self._sending:
            delta_offset = await self._publish_delta(send, guard) + 1  # 1
            packed = await loop.run_in_executor(self._thread, self._pack, with_checkpoint)  # 2
        version, write = self.version + 1, self._store.write
        if packed.checkpoint:  # 3
            await self._write_checkpoint(version, packed, delta_offset)
        weights = await asyncio.to_thread(write, version, "weights", packed.weights)
        assert self._checkpoint is not None  # the first version of an epoch has one
        guard.check()
        await self._announce(send, version, weights, self._checkpoint, packed.positions)  # 4
        self.version, self.is_announced = version, True
        self._published_events, self._published_positions = packed.n_events, packed.positions
        self._published_at_s = time.monotonic()
        await asyncio.to_thread(self._prune)
        return self._checkpoint.positions

    def _prune(self) -> None:
        """Remove old files. The version is announced: that some stay a while is no failure."""
        try:
            self._store.prune()
        except Exception as exc:  # each kind of store has errors of its own
            logger.warning("old versions stay in the store until the next one: %s", exc)

    async def _write_checkpoint(self, version: int, packed: _Packed, delta_offset: int) -> None:
        assert packed.checkpoint is not None
        started_s, (model_blob, learner_blob) = time.perf_counter(), packed.checkpoint
        model = await asyncio.to_thread(self._store.write, version, "model", model_blob)
        learner = await asyncio.to_thread(self._store.write, version, "learner", learner_blob)
        self._checkpoint = _Checkpoint(
            version, model, learner, packed.positions, delta_offset, packed.delta_sequence
        )
        seconds = packed.seconds + time.perf_counter() - started_s
        self._next_checkpoint_s = time.monotonic() + seconds / CHECKPOINT_SHARE
        metrics.CHECKPOINT_SECONDS.observe(seconds)
        metrics.CHECKPOINT_BYTES.set(model.size_bytes + learner.size_bytes)

    def _pack(self, with_checkpoint: bool) -> _Packed:
        learner = self._learner
        if learner.next_version(with_checkpoint=with_checkpoint):
            self._open_epoch()
            with_checkpoint = True
        positions = dict(self._positions)
        weights = pack_weights(learner.recommender.meta)
        if not with_checkpoint:
            return _Packed(weights, positions, learner.n_events, self._sequence)
        started_s = time.perf_counter()
        learner.forgetting.versions_due = max(0, learner.forgetting.versions_due - 1)
        model = pack_model(
            learner.recommender,
            learner.vocabulary,
            content_space=learner.assortment.catalogue.space,
        )
        state = pack_learner(learner, positions)
        seconds = time.perf_counter() - started_s
        return _Packed(
            weights, positions, learner.n_events, self._sequence, (model, state), seconds
        )

    async def _announce(
        self,
        send: Send,
        version: int,
        weights: StoredFile,
        checkpoint: _Checkpoint,
        positions: Positions,
    ) -> None:
        published_ms = int(time.time() * 1000)
        announcement = Announcement(
            version=version,
            epoch=self._epoch,
            model=checkpoint.model,
            learner=checkpoint.learner,
            delta_offset=checkpoint.delta_offset,
            published_ms=published_ms,
            weights=weights,
            delta_sequence=checkpoint.delta_sequence,
            learned_to=_by_partition(positions),
            group=self._settings.group,
        )
        await send(self._settings.topic("models"), ANNOUNCEMENT_KEY, announcement.encode())
        metrics.VERSIONS_PUBLISHED.inc()
        metrics.MODEL_VERSION.set(version)
        metrics.MODEL_PUBLISHED.set(published_ms / 1000)
        logger.info(
            "announced version=%d bytes=%d checkpoint=%s",
            version,
            weights.size_bytes,
            checkpoint.model.name,
        )

    async def _publish_delta(self, send: Send, guard: PauseGuard) -> int:
        """Publish what changed since the last delta; return the offset of its last record."""
        loop = asyncio.get_running_loop()
        blob, learned_to = await loop.run_in_executor(self._thread, self._pack_delta)
        guard.check()
        self._sequence += 1
        offset = -1
        for fragment in split(
            blob,
            epoch=self._epoch,
            sequence=self._sequence,
            published_ms=int(time.time() * 1000),
            learned_to=learned_to,
        ):
            offset = await send(self._settings.topic("deltas"), None, fragment.encode())
        metrics.DELTAS_PUBLISHED.inc()
        metrics.DELTA_BYTES.inc(len(blob))
        return offset

    def _pack_delta(self) -> tuple[bytes, tuple[int, ...]]:
        self._learner.serve_delta()
        new_items, self._learner.assortment.new_items = self._learner.assortment.new_items, []
        delta = pack_delta(self._learner.recommender, new_items)
        return delta, _by_partition(self._positions)


def _by_partition(positions: Positions) -> tuple[int, ...]:
    """Return the position in each partition, 0 where nothing was read."""
    return tuple(positions.get(p, 0) for p in range(max(positions, default=-1) + 1))


def announcements(settings: Settings) -> list[Announcement]:
    """Return the versions announced that the topic still holds, newest first.

    Raises:
        MalformedRecordError: there are some, and none can be read.
    """
    with clients.reader(settings, settings.topic("models")) as reader:
        values = [record.value for record in reader.to_end() if record.value]
    found = []
    for value in reversed(values):
        try:
            found.append(Announcement.decode(value))
        except MalformedRecordError as exc:
            if value is values[0] and not found:
                raise
            logger.error("passed over an announcement: %s", exc)
    return found
