"""What lies on the topics of a deployment: read whole, without a group, past every broker fault."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from headrace.streams.settings import Settings

Answer = TypeVar("Answer")

READ_LIMIT_S = 60.0
POLL_S = 0.2  # a poll for many records takes as long, whatever comes


def read_all(settings: Settings, topic: str) -> list[Any]:
    """Return every record of a topic, in offset order within a partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": "reader",  # librdkafka wants a name; nothing is joined or committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, READ_LIMIT_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        records: list[Any] = []
        ended: set[int] = set()
        deadline = time.monotonic() + READ_LIMIT_S
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline, f"{topic} could not be read to its end"
            for record in consumer.consume(10_000, POLL_S):
                if record.error() is None:
                    records.append(record)
                elif record.error().code() == KafkaError._PARTITION_EOF:
                    ended.add(record.partition())  # other errors are tried again by the client
        return records
    finally:
        consumer.close()


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask a broker again for as long as another is about to lead."""
    deadline = time.monotonic() + READ_LIMIT_S
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)  # an election offers nothing to wait for


def ends_of(settings: Settings) -> dict[int, int]:
    """Return the end offset of each partition of the events."""
    topic = settings.topic("events")
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "reader"})
    try:
        return {
            p: patiently(
                lambda p=p: consumer.get_watermark_offsets(TopicPartition(topic, p), READ_LIMIT_S)
            )[1]
            for p in range(settings.partitions)
        }
    finally:
        consumer.close()


def committed(settings: Settings, role: str) -> dict[int, int]:
    """Return the committed offsets of a role's group; 0 for a partition without one."""
    group = f"{settings.group}-{role}"
    wanted = [TopicPartition(settings.topic("events"), p) for p in range(settings.partitions)]
    admin = AdminClient({"bootstrap.servers": settings.bootstrap, "log_level": 0})

    def ask() -> Any:
        answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])
        return answer[group].result(READ_LIMIT_S).topic_partitions

    return {tp.partition: max(tp.offset, 0) for tp in patiently(ask)}
