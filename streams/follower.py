"""Follower: a thread that hands over the records of broadcast topics, from their beginning.

Models, deltas and items are for every worker, not for one of a group, so they are read without
one. Faust's own way of broadcasting, the GlobalTable, is documented to recover in a loop.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from kafka import TopicPartition

from headrace.streams import clients
from headrace.streams.guards import EXIT_FAILED, end_process

logger = logging.getLogger(__name__)

Handler = Callable[[Any], None]  # takes a kafka-python ConsumerRecord


class Follower(threading.Thread):
    """Follows single-partition topics; a handler that raises ends the process."""

    def __init__(self, bootstrap: str, handlers: Mapping[str, Handler]) -> None:
        super().__init__(name="follower", daemon=True)
        self._broker = bootstrap
        self._handlers = dict(handlers)
        self._stopping = threading.Event()
        self._seeks: dict[str, int] = {}

    def seek(self, topic: str, offset: int) -> None:
        """Read the topic from an offset on. Only from within a handler."""
        self._seeks[topic] = offset

    def close(self) -> None:
        """Stop following and wait for the thread."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Follow until closed."""
        try:
            with clients.broadcast_consumer(self._broker, list(self._handlers)) as consumer:
                while not self._stopping.is_set():
                    self._poll(consumer)
        except Exception:
            logger.exception("ended: following %s failed", ", ".join(self._handlers))
            end_process(EXIT_FAILED)

    def _poll(self, consumer: Any) -> None:
        polled = consumer.poll(timeout_ms=int(clients.POLL_WAIT_S * 1000))
        # In the order of the handlers: a version before the deltas that come on top of it.
        for topic, handle in self._handlers.items():
            for record in polled.get(TopicPartition(topic, 0), []):
                if topic in self._seeks:
                    break  # what follows will be read again from the new place
                handle(record)
        for topic, offset in self._seeks.items():
            consumer.seek(TopicPartition(topic, 0), offset)
        self._seeks.clear()
