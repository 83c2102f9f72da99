"""Following broadcast topics: everything in order, or of some only what holds now."""

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest

from headrace.streams.kafka.clients import outbox
from headrace.streams.kafka.follower import Follower
from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings

LIMIT_S = 30.0
AGAIN = b"read the deltas again"
Read = Queue[tuple[str, bytes]]  # noun of the topic, value


@pytest.fixture
def deployed(settings: Settings) -> Settings:
    """Return settings whose topics exist."""
    create_topics(settings)
    return settings


def publish(settings: Settings, noun: str, *values: bytes) -> None:
    """Publish values under one key, as the learn role does."""
    with outbox(settings, settings.topic(noun)) as box:
        for value in values:
            box.send(key="announced", value=value)


@contextmanager
def following(
    settings: Settings,
    *nouns: str,
    latest_only: tuple[str, ...] = (),
    first: tuple[str, ...] = (),
) -> Iterator[Read]:
    """Follow topics; what is handed over lands in the queue.

    A record that says so has the deltas read from their second on.
    """
    read: Read = Queue()

    def put(noun: str, record: Any) -> None:
        read.put((noun, record.value))
        if record.value == AGAIN:
            follower.seek(settings.topic("deltas"), 1)

    follower = Follower(
        settings,
        {settings.topic(n): lambda record, n=n: put(n, record) for n in nouns},
        latest_only=[settings.topic(n) for n in latest_only],
        first=[settings.topic(n) for n in first],
    )
    follower.start()
    try:
        yield read
    finally:
        follower.close()


def take(read: Read, n: int) -> list[tuple[str, bytes]]:
    """Return the next records."""
    return [read.get(timeout=LIMIT_S) for _ in range(n)]


def test_a_topic_is_read_from_its_beginning_in_order(deployed: Settings) -> None:
    publish(deployed, "items", b"1", b"2")
    with following(deployed, "items") as read:
        assert take(read, 2) == [("items", b"1"), ("items", b"2")]
        publish(deployed, "items", b"3")
        assert take(read, 1) == [("items", b"3")]


def test_of_the_latest_only_what_was_overwritten_is_never_handed_over(deployed: Settings) -> None:
    # More than one poll brings (500): the first poll's last record is not the topic's.
    publish(deployed, "models", *(b"%d" % number for number in range(1_200)))
    with following(deployed, "models", latest_only=("models",)) as read:
        assert take(read, 1) == [("models", b"1199")]
        for number in (b"a", b"b"):
            publish(deployed, "models", number)
            assert take(read, 1) == [("models", number)]
    assert read.empty()


def test_a_handler_may_have_another_topic_read_from_an_offset_on(deployed: Settings) -> None:
    publish(deployed, "deltas", b"0", b"1", b"2")
    with following(deployed, "models", "deltas") as read:
        assert take(read, 3) == [("deltas", b"0"), ("deltas", b"1"), ("deltas", b"2")]
        publish(deployed, "models", AGAIN)
        assert take(read, 3) == [("models", AGAIN), ("deltas", b"1"), ("deltas", b"2")]


def test_a_first_topic_is_read_to_its_end_before_the_others(deployed: Settings) -> None:
    publish(deployed, "models", b"version")
    publish(deployed, "items", *(b"%d" % number for number in range(1_200)))  # several polls
    with following(deployed, "models", "items", first=("items",)) as read:
        assert take(read, 1_200) == [("items", b"%d" % number) for number in range(1_200)]
        assert take(read, 1) == [("models", b"version")]
        publish(deployed, "items", b"later")
        assert take(read, 1) == [("items", b"later")]
