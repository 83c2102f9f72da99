"""Publish recorded or typed events and catalogues, every record acknowledged by the broker."""

from collections.abc import Iterable

from headrace.streams.kafka.clients import outbox
from headrace.streams.settings import Settings
from headrace.streams.wire import Event, Item, encode


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
    with outbox(settings, settings.topic(topic)) as box:
        try:
            for key, record in keyed:
                box.send(key=key, value=encode(record))
        except KeyboardInterrupt:
            box.drain()
            raise Stopped(box.n_sent) from None
    return box.n_sent
