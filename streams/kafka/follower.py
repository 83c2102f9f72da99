"""Follower: a thread that hands over the records of broadcast topics, from their beginning.

Models, deltas and items are for every worker, not for one of a group, so they are read without
one. Faust's own way of broadcasting, the GlobalTable, is documented to recover in a loop.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kafka import TopicPartition

from headrace.streams.errors import CheckpointError, MalformedRecordError
from headrace.streams.guards import end_process, tell_failure
from headrace.streams.kafka import clients
from headrace.streams.settings import Settings

logger = logging.getLogger(__name__)

Handler = Callable[[Any], None]  # takes a kafka-python ConsumerRecord
LATEST_HELD = 100  # to go back to: many versions may name one checkpoint
RETRY_S = 30.0  # until the newest that was of no use is handed over again: the store may be back
TOLD, TOLD_OF = 10, 1_000  # the first refused of a topic, then one of so many: all may be
STOP_LIMIT_S = 2.0  # for what is being loaded; nothing of it has to be finished


class Follower(threading.Thread):
    """Follows single-partition topics.

    A handler that raises ``MalformedRecordError`` or ``CheckpointError`` refuses the record, which
    is logged and passed over; any other exception ends the process.

    Of a topic in ``latest_only`` a record is handed over only if there is no later one: a broker
    compacts a topic late, and who comes new must not go through all that was overwritten. If it is
    refused, the record before it is handed over, as far as the broker has kept it, and after a
    while the newest again; where none is of use, ``if_none`` is logged, once for all. Topics in
    ``first`` are read to their end before the rest.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Mapping[str, Handler],
        *,
        latest_only: Collection[str] = (),
        if_none: str = "",
        first: Collection[str] = (),
    ) -> None:
        super().__init__(name="follower", daemon=True)
        self._settings = settings
        self._handlers = dict(handlers)
        self._latest_only = frozenset(latest_only)
        self._if_none = if_none
        self._first = [TopicPartition(topic, 0) for topic in first]
        self._held: dict[str, deque[Any]] = {}
        self._retry_at_s: dict[str, float] = {}
        self._stopping = threading.Event()
        self._seeks: dict[str, int] = {}
        self._n_refused = Counter[str]()

    def seek(self, topic: str, offset: int) -> None:
        """Read the topic from an offset on. Only from within a handler."""
        self._seeks[topic] = offset

    def close(self) -> None:
        """Stop following and wait for the thread, but not for a model store that hangs."""
        self._stopping.set()
        self.join(STOP_LIMIT_S)
        if self.is_alive():  # a daemon: it ends with the process
            topics = ", ".join(self._handlers)
            logger.warning("stopped without waiting for the reader of %s any longer", topics)

    def run(self) -> None:
        """Follow until closed."""
        try:
            with clients.broadcast_consumer(self._settings, list(self._handlers)) as consumer:
                self._read_first(consumer)
                while not self._stopping.is_set():
                    self._poll(consumer)
        except Exception as exc:
            end_process(tell_failure(exc, f"following {', '.join(self._handlers)} failed"))

    def _read_first(self, consumer: Any) -> None:
        rest = consumer.assignment() - set(self._first)
        consumer.pause(*rest)
        for tp, end in consumer.end_offsets(self._first).items():
            while (position := consumer.position(tp)) < end and not self._stopping.is_set():
                self._poll(consumer)
                if consumer.position(tp) <= position:  # its end is nearer if it was made anew
                    end = min(end, consumer.end_offsets([tp])[tp])
        consumer.resume(*rest)

    def _poll(self, consumer: Any) -> None:
        polled = consumer.poll(timeout_ms=int(clients.POLL_WAIT_S * 1000))
        # In the order of the handlers: a version before the deltas that come on top of it.
        for topic in self._handlers:
            tp = TopicPartition(topic, 0)
            records = polled.get(tp, [])
            if topic in self._latest_only:
                self._hand_over_latest(consumer, tp, records)
                continue
            for record in records:
                if topic in self._seeks or self._stopping.is_set():
                    break  # what follows is read again, from the new place or at the next start
                self._take(record)
        for topic, offset in self._seeks.items():
            consumer.seek(TopicPartition(topic, 0), offset)
        self._seeks.clear()

    def _take(self, record: Any) -> bool:
        """Hand a record over; log it and return False if it is of no use."""
        try:
            self._handlers[record.topic](record)
        except (MalformedRecordError, CheckpointError) as exc:
            self._n_refused[record.topic] += 1
            n = self._n_refused[record.topic]
            if record.topic in self._latest_only or n <= TOLD or n % TOLD_OF == 0:
                logger.error(
                    "passed over %s offset=%d key=%.300r: %s (%d so far)",
                    *(record.topic, record.offset, record.key, exc, n),
                )
            return False
        return True

    def _hand_over_latest(self, consumer: Any, tp: TopicPartition, records: Sequence[Any]) -> None:
        """Hold records until the end is read; then hand over, newest first, until one is of use."""
        held = self._held.setdefault(tp.topic, deque(maxlen=LATEST_HELD))
        held.extend(records)
        is_early = not records and time.monotonic() < self._retry_at_s.get(tp.topic, 0)
        # Both are at hand after a fetch that brought records.
        if not held or is_early or consumer.position(tp) < consumer.highwater(tp):
            return
        # Those before the newest only once: each may take long, and other topics wait meanwhile.
        n = 1 if tp.topic in self._retry_at_s else len(held)
        for record in list(held)[: -n - 1 : -1]:
            if self._take(record):
                held.clear()
                self._retry_at_s.pop(tp.topic, None)
                return
        self._retry_at_s[tp.topic] = time.monotonic() + RETRY_S
        logger.error(
            "nothing at hand of %s is of use, the newest is tried again in %.0f s: %s",
            *(tp.topic, RETRY_S, self._if_none),
        )
