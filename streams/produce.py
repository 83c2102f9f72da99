"""Publish recorded or typed events and catalogues, every record acknowledged by the broker."""

from collections.abc import Iterable, Iterator

import polars as pl

from headrace.streams.clients import outbox
from headrace.streams.settings import Settings
from headrace.streams.wire import Event, Item, encode


def events_of(table: pl.DataFrame) -> Iterator[Event]:
    """Yield the rows of a table of events (``files.read_events``)."""
    for user, item, action, time_ms in table.iter_rows():
        yield Event(user=user, item=item, action=action, time_ms=time_ms)


def publish_events(settings: Settings, events: Iterable[Event]) -> int:
    """Publish events in their order, keyed by user; return how many the broker acknowledged."""
    return _publish(settings, "events", ((event.user, event) for event in events))


def publish_items(settings: Settings, items: Iterable[Item]) -> int:
    """Publish a catalogue, keyed by item; return how many the broker acknowledged."""
    return _publish(settings, "items", ((item.item, item) for item in items))


def _publish(settings: Settings, topic: str, keyed: Iterable[tuple[str, Event | Item]]) -> int:
    n_sent = 0
    with outbox(settings.bootstrap, settings.topic(topic)) as box:
        for key, record in keyed:
            box.send(key=key, value=encode(record))
            n_sent += 1
    return n_sent
