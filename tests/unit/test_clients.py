"""Readers and outboxes against a broker that does not answer as it should."""

from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from unittest.mock import Mock

import pytest
from kafka.errors import KafkaTimeoutError

from headrace.streams.errors import BrokerUnreachableError, StreamsError
from headrace.streams.kafka import clients
from headrace.streams.kafka.clients import (
    EMPTY_POLLS_LIMIT,
    MAX_UNCONFIRMED,
    Outbox,
    Reader,
    reader,
)
from headrace.streams.kafka.listener import explain_silence
from headrace.streams.settings import Settings

Record = namedtuple("Record", "offset")


class FakeConsumer:
    """One partition of a topic; each poll answers with the next of ``polls``, then with nothing."""

    def __init__(self, *polls: list[int], end: int | None) -> None:
        self._polls = list(polls)
        self._end = end
        self._position = 0

    def topics(self) -> set[str]:
        """Return the one topic."""
        return {"t"}

    def partitions_for_topic(self, _: str) -> set[int]:
        """Return the one partition."""
        return {0}

    def assign(self, partitions: list[Any]) -> None:
        """Take the partition."""
        self.assigned = partitions

    def seek_to_beginning(self) -> None:
        """Start over."""
        self._position = 0

    def poll(self, timeout_ms: int) -> dict[Any, list[Record]]:
        """Answer with the next records."""
        assert timeout_ms > 0
        offsets = self._polls.pop(0) if self._polls else []
        if offsets:
            self._position = offsets[-1] + 1
        return {self.assigned[0]: [Record(offset) for offset in offsets]}

    def position(self, _: Any, timeout_ms: int) -> int | None:
        """Return the next offset to read, unknown while there is nothing to know it from."""
        assert timeout_ms > 0
        return self._position if self._polls or self._end is not None else None

    def highwater(self, _: Any) -> int | None:
        """Return the end as the last fetch told it."""
        return self._end


class Acknowledgement:
    """A sent record that waits for its acknowledgement."""

    def __init__(self, error: Exception | None = None) -> None:
        self.is_checked = False
        self._error = error

    def get(self, timeout: float) -> None:
        """Return, or raise what went wrong."""
        assert timeout > 0
        self.is_checked = True
        if self._error:
            raise self._error


class FakeProducer:
    """Takes every record; ``failing`` is the number of the one that is lost."""

    def __init__(self, *, failing: int | None = None) -> None:
        self.sent: list[Acknowledgement] = []
        self._failing = failing

    def send(
        self, _: str, *, key: bytes, value: bytes, partition: int | None = None
    ) -> Acknowledgement:
        """Take a record."""
        assert key
        assert value
        assert partition is None
        error = OSError("lost") if len(self.sent) == self._failing else None
        self.sent.append(Acknowledgement(error))
        return self.sent[-1]

    def flush(self, timeout: float) -> None:
        """Return at once, as a producer does that has given up on a record."""
        assert timeout > 0


def test_reading_ends_at_the_end_also_across_gaps() -> None:
    consumer = FakeConsumer([0, 1], [5], end=6)  # 2 to 4 have been compacted away
    assert [record.offset for record in Reader(consumer, "t").to_end()] == [0, 1, 5]


def test_empty_topic_has_no_records() -> None:
    assert list(Reader(FakeConsumer(end=0), "t").to_end()) == []


def test_broker_may_be_slow_again_and_again() -> None:
    slow: list[list[int]] = [[]] * EMPTY_POLLS_LIMIT
    consumer = FakeConsumer(*slow, [0], *slow, [1], end=2)
    assert [record.offset for record in Reader(consumer, "t").to_end()] == [0, 1]


def test_who_waits_for_records_asks_now_and_then_whether_the_broker_is_there() -> None:
    consumer = FakeConsumer(*[[]] * EMPTY_POLLS_LIMIT, [0], end=1)
    reader = Reader(consumer, "t")
    assert not any(reader.wait() for _ in range(EMPTY_POLLS_LIMIT))
    assert [record.offset for record in reader.wait()] == [0]
    consumer.end_offsets = ask = Mock(side_effect=KafkaTimeoutError)
    assert not any(reader.wait() for _ in range(EMPTY_POLLS_LIMIT))
    assert not ask.called
    with pytest.raises(KafkaTimeoutError):
        reader.wait()


@pytest.mark.parametrize("end", [None, 5])
def test_silent_broker_is_an_error_and_no_end(end: int | None) -> None:
    found = Reader(FakeConsumer([0, 1], end=end), "t").to_end()
    assert [next(found).offset, next(found).offset] == [0, 1]
    with pytest.raises(BrokerUnreachableError, match="stopped answering while t was read"):
        next(found)


def test_a_reader_goes_on_with_what_is_left_where_retention_took_what_it_was_to_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, object] = {}

    @contextmanager
    def client(*_: object, **options: object) -> Iterator[FakeConsumer]:
        asked.update(options)
        yield FakeConsumer([], end=0)

    monkeypatch.setattr(clients, "_client", client)
    with reader(Settings(), "t"):
        pass
    assert asked["auto_offset_reset"] == "earliest"  # not from what comes next


def test_absent_topic_is_named() -> None:
    with pytest.raises(StreamsError, match="topic u does not exist: create it with"):
        Reader(FakeConsumer(end=0), "u")


def test_what_speaks_http_is_no_broker_that_asks_for_a_password() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever).start()
        told = explain_silence(Settings(bootstrap=f"127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert "does not answer: is it a Kafka broker" in str(told)


def test_every_acknowledgement_is_checked() -> None:
    producer = FakeProducer()
    box = Outbox(producer, "t")
    for _ in range(MAX_UNCONFIRMED + 1):
        box.send(key="u", value=b"v")
    assert [sent.is_checked for sent in producer.sent[:2]] == [True, False]  # the oldest first
    box.drain()
    assert all(sent.is_checked for sent in producer.sent)


def test_lost_record_is_an_error_when_the_outbox_is_drained() -> None:
    box = Outbox(FakeProducer(failing=1), "t")
    for _ in range(3):
        box.send(key="u", value=b"v")
    with pytest.raises(OSError, match="lost"):
        box.drain()
