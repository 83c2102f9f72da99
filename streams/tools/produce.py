"""Publish recorded or typed events and catalogues, every record acknowledged by the broker."""

from collections.abc import Iterable

from headrace.streams.kafka.clients import outbox
from headrace.streams.settings import Settings
from headrace.streams.wire import Event, Item, encode


def publish_events(settings: Settings, events: Iterable[Event]) -> int:
    """Publish events in their order, keyed by user; return how many the broker acknowledged."""
    return _publish(settings, "events", ((event.user, event) for event in events))


def publish_items(settings: Settings, items: Iterable[Item]) -> int:
    """Publish a catalogue, keyed by item; return how many the broker acknowledged."""
    return _publish(settings, "items", ((item.item, item) for item in items))


def _publish(settings: Settings, topic: str, keyed: Iterable[tuple[str, Event | Item]]) -> int:
    n_sent = 0
    with outbox(settings, settings.topic(topic)) as box:
        for key, record in keyed:
            box.send(key=key, value=encode(record))
            n_sent += 1
    return n_sent
