"""Publisher: the learn role's deltas every second or so, and its model versions."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from headrace.streams import clients, metrics
from headrace.streams.errors import CheckpointError, MalformedRecordError
from headrace.streams.guards import PauseGuard
from headrace.streams.learner import Learner
from headrace.streams.learner_state import Positions, pack_learner, restore
from headrace.streams.publication import (
    ANNOUNCEMENT_KEY,
    Announcement,
    pack_delta,
    pack_model,
    split,
)
from headrace.streams.settings import Settings
from headrace.streams.store import ModelStore, StoredFile
from headrace.streams.transfer import start_from

logger = logging.getLogger(__name__)

# Topic, key, value: sends to partition 0, waits for the broker, returns the record's offset.
Send = Callable[[str, bytes | None, bytes], Awaitable[int]]


class Publisher:
    """Publishes what a learner learned. ``positions`` are those of the thread that learns.

    One publication comes after the other: the last version, which a stop asks for, waits for what
    is being published then. Two at once would take one number and write over each other's files.
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
        self._epoch = 0
        self._sequence = 0
        self._publishing = asyncio.Lock()
        self._published_events = -1
        self._published_positions = Positions()
        self._published_at_s = time.monotonic()

    def restore(self) -> None:
        """Go on from the newest version announced that can be read, if any was announced.

        A damaged one is passed over, logged and counted: an older one goes with older offsets, from
        which the events are read again.

        Raises:
            CheckpointError: none can be read, or the settings ask for a model of another shape; or
                so it is with the model of another shop that the settings say to start from.
        """
        announced = announcements(self._settings)
        # A number is never used again, not even with new topics: the store keeps the highest ones.
        self.version = max([self._store.newest(), *(one.version for one in announced)])
        self.is_announced = bool(announced)
        self._epoch = max([0, *(one.epoch for one in announced)])
        self._open_epoch()  # at once: a role that is stopped before it serves publishes as well
        if not announced:
            logger.info(
                "no version is announced: learning from %s", self._settings.start_from or "nothing"
            )
            if self._settings.start_from:
                start_from(self._learner, self._settings.start_from)
            return
        refused: list[CheckpointError] = []
        for one in announced:
            try:
                model, learner = (self._store.read(file) for file in (one.model, one.learner))
                self._positions.update(restore(self._learner, model, learner))
            except CheckpointError as exc:
                metrics.CHECKPOINTS_REFUSED.inc()
                logger.error("passed over version=%d: %s", one.version, exc)
                refused.append(exc)
                continue
            logger.info("going on from version=%d positions=%s", one.version, self._positions)
            return
        raise refused[0]

    async def publish_forever(
        self, send: Send, guard: PauseGuard, acknowledge: Callable[[Positions], None]
    ) -> None:
        """Publish a version of the new epoch, then deltas, and versions when they are due."""
        acknowledge(await self.publish_version(send, guard))
        while True:
            await asyncio.sleep(self._settings.delta_interval_s)
            if self._is_due():
                acknowledge(await self.publish_version(send, guard))
            else:
                async with self._publishing:
                    await self._publish_delta(send, guard)

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
            has_news and waited_s >= self._settings.version_interval_s
        )

    async def publish_version(self, send: Send, guard: PauseGuard) -> Positions:
        """Publish everything as a version; return the offsets it holds the events below.

        1. Publish a delta, so that the offset after it is known. 2. On the thread that learns,
        make room and pack the model, the learner's state and its offsets: they belong together.
        3. Write both files. 4. Announce the version, and wait for the broker. What is learned
        meanwhile comes with the next delta. The caller may acknowledge only after 4.
        """
        async with self._publishing:
            return await self._publish_version(send, guard)

    async def _publish_version(self, send: Send, guard: PauseGuard) -> Positions:
        started_s = time.perf_counter()
        delta_offset = await self._publish_delta(send, guard) + 1  # 1
        loop = asyncio.get_running_loop()
        model_blob, learner_blob, positions, n_events = await loop.run_in_executor(
            self._thread, self._pack
        )  # 2
        version = self.version + 1
        model = await asyncio.to_thread(self._store.write, version, "model", model_blob)  # 3
        learner = await asyncio.to_thread(self._store.write, version, "learner", learner_blob)
        guard.check()
        await self._announce(send, version, model, learner, delta_offset)  # 4
        self.version, self.is_announced = version, True
        self._published_events, self._published_positions = n_events, positions
        self._published_at_s = time.monotonic()
        await asyncio.to_thread(self._store.prune)
        metrics.CHECKPOINT_SECONDS.observe(time.perf_counter() - started_s)
        metrics.CHECKPOINT_BYTES.set(model.size_bytes + learner.size_bytes)
        return positions

    def _pack(self) -> tuple[bytes, bytes, Positions, int]:
        learner = self._learner
        if learner.make_room():
            self._open_epoch()
        learner.forget_users()
        learner.forgetting.versions_due = max(0, learner.forgetting.versions_due - 1)
        learner.publish_version()
        positions = dict(self._positions)
        return (
            pack_model(
                learner.recommender, learner.vocabulary, content_space=learner.catalogue.space
            ),
            pack_learner(learner, positions),
            positions,
            learner.n_events,
        )

    async def _announce(
        self, send: Send, version: int, model: StoredFile, learner: StoredFile, delta_offset: int
    ) -> None:
        published_ms = int(time.time() * 1000)
        announcement = Announcement(
            version=version,
            epoch=self._epoch,
            model=model,
            learner=learner,
            delta_offset=delta_offset,
            published_ms=published_ms,
        )
        await send(self._settings.topic("models"), ANNOUNCEMENT_KEY, announcement.encode())
        metrics.VERSIONS_PUBLISHED.inc()
        metrics.MODEL_VERSION.set(version)
        metrics.MODEL_PUBLISHED.set(published_ms / 1000)
        logger.info("announced version=%d bytes=%d", version, model.size_bytes)

    async def _publish_delta(self, send: Send, guard: PauseGuard) -> int:
        """Publish what changed since the last delta; return the offset of its last record."""
        loop = asyncio.get_running_loop()
        blob = await loop.run_in_executor(self._thread, self._pack_delta)
        guard.check()
        self._sequence += 1
        offset = -1
        for fragment in split(
            blob,
            epoch=self._epoch,
            sequence=self._sequence,
            published_ms=int(time.time() * 1000),
        ):
            offset = await send(self._settings.topic("deltas"), None, fragment.encode())
        metrics.DELTAS_PUBLISHED.inc()
        metrics.DELTA_BYTES.inc(len(blob))
        return offset

    def _pack_delta(self) -> bytes:
        self._learner.publish_delta()
        new_items, self._learner.new_items = self._learner.new_items, []
        return pack_delta(self._learner.recommender, new_items)


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
