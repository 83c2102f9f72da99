"""Publish recorded or typed events and catalogues, every record acknowledged by the broker."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from headrace.streams.kafka.clients import outbox
from headrace.streams.records import Event, Item
from headrace.streams.settings import Settings
from headrace.streams.wire import encode


class Stopped(KeyboardInterrupt):
    """Ctrl-C, after so many records: the broker has acknowledged them."""

    def __init__(self, n_sent: int) -> None:
        super().__init__()
        self.n_sent = n_sent


def publish_events(settings: Settings, events: Iterable[Event]) -> int:
    """Publish events in their order, keyed by user; return how many the broker acknowledged.

    Raises:
        Stopped: by Ctrl-C.
    """
    return _publish(settings, "events", ((event.user, event) for event in events))


def publish_items(settings: Settings, items: Iterable[Item]) -> int:
    """Publish a catalogue, keyed by item; return how many the broker acknowledged.

    Raises:
        Stopped: by Ctrl-C.
    """
    return _publish(settings, "items", ((item.item, item) for item in items))


def _publish(settings: Settings, topic: str, keyed: Iterable[tuple[str, Event | Item]]) -> int:
    with outbox(settings, settings.topic(topic)) as box, _ctrl_c_between() as between:
        try:
            for key, record in keyed:
                with between:
                    box.send(key=key, value=encode(record))
        except KeyboardInterrupt:
            if between.is_urgent:  # the broker may hang
                raise
            box.drain()
            raise Stopped(box.n_sent) from None
    return box.n_sent


class _Between:
    """Puts Ctrl-C off while a record is sent: else it may be sent and not counted."""

    def __init__(self) -> None:
        self._is_sending = self._is_asked = self.is_urgent = False

    def __enter__(self) -> None:
        self._is_sending = True

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._is_sending = False
        if self._is_asked and failure is None:
            raise KeyboardInterrupt

    def on_signal(self, _: int, __: FrameType | None) -> None:
        """Interrupt now, or when the record is sent; who asks again does not wait for that."""
        if not self._is_sending or self._is_asked:
            self.is_urgent = self._is_asked
            raise KeyboardInterrupt
        self._is_asked = True


@contextmanager
def _ctrl_c_between() -> Iterator[_Between]:
    between = _Between()
    if threading.current_thread() is not threading.main_thread():  # others are not interrupted
        yield between
        return
    before = signal.signal(signal.SIGINT, between.on_signal)
    try:
        yield between
    finally:
        signal.signal(signal.SIGINT, before)
