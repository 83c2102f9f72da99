"""kafka-python clients with this package's limits and errors: for tools, and outside groups.

Reading never joins a group: partitions are assigned by hand and nothing is committed, so that a
tool can look at a topic without disturbing a role.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer import fetcher
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    KafkaTimeoutError,
    RetriableError,
)
from kafka.record import MemoryRecords

from headrace.streams.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    StreamsError,
)
from headrace.streams.kafka.listener import CONNECT_LIMIT_S, explain_silence, require_listener
from headrace.streams.kafka.record_batches import checked
from headrace.streams.kafka.security import client_options
from headrace.streams.settings import Settings

# kafka-python's only seam between what was fetched and what is made of it.
fetcher.MemoryRecords = checked(MemoryRecords)


DELIVERY_LIMIT_S = 60.0  # a leader election takes up to about 15 s; the producer retries through it
SEND_LIMIT_S = DELIVERY_LIMIT_S  # that an acknowledgement is waited for
CLOSE_LIMIT_S = 5.0  # for what is under way when something failed
POLL_WAIT_S = 0.2
EMPTY_POLLS_LIMIT = 150  # in a row, where records are due: 30 s, which covers a leader election
MAX_UNCONFIRMED = 10_000  # records under way: enough to never starve the sender, a few MB


def _close(client: Any) -> None:
    client.close()


def _give_up(producer: Any) -> None:
    """Close a producer that may have no broker any more: it would flush for ever, or give up."""
    producer.flush = lambda timeout: None  # noqa: ARG005 - as it is called
    producer.close(timeout=CLOSE_LIMIT_S)


@contextmanager
def _client(
    kind: Any, settings: Settings, *, give_up: Callable[[Any], None] = _close, **options: Any
) -> Iterator[Any]:
    """Yield a client of ``kind`` and close it, or ``give_up``; Kafka's errors become ours."""
    require_listener(settings)
    limit_ms = int(CONNECT_LIMIT_S * 1000)
    try:
        client = kind(**client_options(settings), bootstrap_timeout_ms=limit_ms, **options)
    except KafkaTimeoutError as exc:
        raise explain_silence(settings) from exc
    leave = give_up
    try:
        yield client
        leave = _close
    except RetriableError as exc:
        raise BrokerUnreachableError(f"the broker at {settings.bootstrap} failed: {exc}") from exc
    except AuthorizationError as exc:
        raise BrokerRefusedError(
            f"the broker at {settings.bootstrap} says that this user may not do that ({exc}):"
            " `headrace acls` prints what each role needs"
        ) from exc
    except KafkaError as exc:
        raise StreamsError(f"the broker at {settings.bootstrap} refused: {exc}") from exc
    finally:
        leave(client)


@contextmanager
def admin(settings: Settings) -> Iterator[Any]:
    """Yield an admin client.

    Raises:
        BrokerUnreachableError: no broker answers within the limit.
        BrokerRefusedError: one side does not trust the other.
    """
    with _client(KafkaAdminClient, settings) as client:
        yield client


@contextmanager
def outbox(settings: Settings, topic: str) -> Iterator["Outbox"]:
    """Yield an outbox to ``topic``; leaving it normally waits for every acknowledgement.

    Raises:
        BrokerUnreachableError: no broker answers within the limit, or it stops answering.
        StreamsError: the topic does not exist, or the broker refused a record.
    """
    with admin(settings) as client:
        _require_topic(topic, is_there=topic in client.list_topics())
    with _client(
        KafkaProducer,
        settings,
        give_up=_give_up,
        acks="all",
        enable_idempotence=True,
        delivery_timeout_ms=int(DELIVERY_LIMIT_S * 1000),
        allow_auto_create_topics=False,
        linger_ms=5,  # fills batches at full speed, and is far below what a person notices
    ) as client:
        box = Outbox(client, topic)
        yield box
        box.drain()


class Outbox:
    """Sends to one topic, by key with Java's partitioner, and checks every acknowledgement."""

    def __init__(self, client: Any, topic: str) -> None:
        self._client = client
        self._topic = topic
        self._unconfirmed: deque[Any] = deque()
        self.n_sent = 0

    def partitions(self) -> list[int]:
        """Return the topic's partitions."""
        return sorted(self._client.partitions_for(self._topic))

    def send(self, *, key: str, value: bytes, partition: int | None = None) -> None:
        """Send one record, to a partition if given; wait for the oldest when many are under way."""
        self._unconfirmed.append(
            self._client.send(self._topic, key=key.encode(), value=value, partition=partition)
        )
        self.n_sent += 1
        if len(self._unconfirmed) > MAX_UNCONFIRMED:
            self._unconfirmed[0].get(SEND_LIMIT_S)  # it stays, if Ctrl-C comes meanwhile
            self._unconfirmed.popleft()

    def drain(self) -> None:
        """Wait until everything sent is acknowledged."""
        self._client.flush(SEND_LIMIT_S)
        while self._unconfirmed:
            self._unconfirmed.popleft().get(SEND_LIMIT_S)


def _require_topic(topic: str, *, is_there: bool) -> None:
    if not is_there:
        raise StreamsError(
            f"topic {topic} does not exist: create it with `headrace topics`; or this user may not"
            " see it: `headrace acls` prints what each role needs"
        )


class Reader:
    """Reads one topic's partitions by hand, without a group."""

    def __init__(self, consumer: Any, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self._empty_polls = 0
        _require_topic(topic, is_there=topic in consumer.topics())
        numbers = sorted(consumer.partitions_for_topic(topic))
        self._partitions = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(self._partitions)
        consumer.seek_to_beginning()

    def poll(self) -> list[Any]:
        """Return the next records, in offset order within a partition; empty after a short wait."""
        polled = self._consumer.poll(timeout_ms=int(POLL_WAIT_S * 1000))
        records = [record for records in polled.values() for record in records]
        self._empty_polls = 0 if records else self._empty_polls + 1
        return records

    def wait(self) -> list[Any]:
        """Poll where nothing may be due for long; of a silence, ask now and then what it means.

        Raises:
            KafkaTimeoutError: no broker answers.
        """
        records = self.poll()
        if self._empty_polls > EMPTY_POLLS_LIMIT:
            self._empty_polls = 0
            self._consumer.end_offsets(self._partitions)
        return records

    def to_end(self) -> Iterator[Any]:
        """Yield the records from the present position to the end as it stands on reaching it."""
        while not self._is_at_end():
            yield from self._poll_or_fail()

    def skip_to_end(self) -> None:
        """Go to the end: only what is written from now on will be read.

        The end comes with a fetch. Asking for it (ListOffsets) lies on the embedded broker, which
        answers with the base offset of the last batch.
        """
        self._consumer.seek_to_end()
        while not all(self._end(tp) is not None for tp in self._partitions):
            self._poll_or_fail()
        for tp in self._partitions:
            self._consumer.seek(tp, self._end(tp))

    def _poll_or_fail(self) -> list[Any]:
        """Poll where an answer is due: the consumer itself would wait for a broker for ever."""
        records = self.poll()
        if self._empty_polls > EMPTY_POLLS_LIMIT:
            raise BrokerUnreachableError(
                f"the broker stopped answering while {self._topic} was read: try again"
            )
        return records

    def _is_at_end(self) -> bool:
        return all(self._is_read(tp) for tp in self._partitions)

    def _is_read(self, tp: TopicPartition) -> bool:
        # Either is unknown while the broker does not answer.
        end = self._end(tp)
        position = self._consumer.position(tp, timeout_ms=int(POLL_WAIT_S * 1000))
        return end is not None and position is not None and position >= end

    def _end(self, tp: TopicPartition) -> int | None:
        end: int | None = self._consumer.highwater(tp)
        return end


@contextmanager
def reader(settings: Settings, topic: str) -> Iterator[Reader]:
    """Yield a reader of the whole topic, from its beginning.

    Raises:
        BrokerUnreachableError: no broker answers within the limit.
        BrokerRefusedError: one side does not trust the other.
        StreamsError: the topic does not exist.
    """
    with _client(
        KafkaConsumer,
        settings,
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        auto_offset_reset="earliest",  # for an offset that retention removed
    ) as consumer:
        yield Reader(consumer, topic)


@contextmanager
def broadcast_consumer(settings: Settings, topics: Sequence[str]) -> Iterator[Any]:
    """Yield a groupless consumer at the beginning of partition 0 of each topic.

    Raises:
        BrokerUnreachableError: no broker answers within the limit.
        BrokerRefusedError: one side does not trust the other.
        StreamsError: a topic does not exist.
    """
    with _client(
        KafkaConsumer,
        settings,
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # for an offset that retention removed
        fetch_max_wait_ms=100,  # a delta is waited for by every list after it
        isolation_level="read_committed",
    ) as consumer:
        for topic in topics:
            _require_topic(topic, is_there=bool(consumer.partitions_for_topic(topic)))
        consumer.assign([TopicPartition(topic, 0) for topic in topics])
        consumer.seek_to_beginning()
        yield consumer
