"""Catalogue reader: the learn role's, from the items topic to the learner."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from headrace.streams import metrics
from headrace.streams.errors import MalformedRecordError
from headrace.streams.guards import end_process, tell_failure
from headrace.streams.learn.learner import Learner
from headrace.streams.records import Item
from headrace.streams.wire import decode_item, record_time_ms

WAITING_ITEMS = 256  # catalogue records of up to 1 MB; then the follower waits


class CatalogueReader:
    """Takes catalogue records over on the thread that owns the learner.

    A failure there ends the process.
    """

    def __init__(self, learner: Learner, thread: Executor) -> None:
        self._learner = learner
        self._thread = thread
        self._is_placing = self._is_closed = False
        self._waiting: deque[Future[None]] = deque()

    def __call__(self, record: Any) -> None:
        """Note what a record says of its item.

        Waits while many wait: a catalogue is read faster than it is taken over.

        Raises:
            MalformedRecordError: it cannot be decoded.
        """
        try:
            item = decode_item(record.value, key=record.key)
        except MalformedRecordError:
            metrics.CONTENT_REFUSED.labels("malformed").inc()
            raise
        time_ms = record_time_ms(record.timestamp, now_ms=int(time.time() * 1000))
        waiting = self._waiting
        waiting.append(self._submit(self._note, item, time_ms))
        while waiting and (len(waiting) > WAITING_ITEMS or waiting[0].done()):
            waiting.popleft().exception()  # waits; what failed has ended the process

    def close(self) -> None:
        """Place nothing more: the thread is about to end, and a restart reads all again."""
        self._is_closed = True

    def _submit(self, work: Callable[..., None], *given: Any) -> Future[None]:
        submitted = self._thread.submit(work, *given)
        submitted.add_done_callback(_end_if_failed)
        return submitted

    def _note(self, item: Item, time_ms: int) -> None:
        self._learner.assortment.note(item, time_ms=time_ms)
        self._place_later()

    def _place_later(self) -> None:
        """Place what is noted once the records that wait now are, several of them together."""
        if not (self._is_placing or self._is_closed):
            self._is_placing = True
            self._submit(self._place)

    def _place(self) -> None:
        self._is_placing = False
        if self._learner.assortment.place():
            self._place_later()


def _end_if_failed(submitted: Future[None]) -> None:
    if not submitted.cancelled() and (exc := submitted.exception()) is not None:
        end_process(tell_failure(exc, "taking the catalogue over failed"))
