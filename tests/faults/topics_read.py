"""What lies on the topics of a deployment: read whole, without a group, past every broker fault."""

import time
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.streams.settings import Settings

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
        records, n_ended = [], 0
        deadline = time.monotonic() + READ_LIMIT_S
        while n_ended < len(partitions):
            assert time.monotonic() < deadline, f"{topic} could not be read to its end"
            polled = consumer.consume(10_000, POLL_S)
            ended = [record for record in polled if record.error()]
            n_ended += len(ended)
            records += [record for record in polled if not record.error()]
        return records
    finally:
        consumer.close()


def ends_of(settings: Settings) -> dict[int, int]:
    """Return the end offset of each partition of the events."""
    topic = settings.topic("events")
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "reader"})
    try:
        return {
            p: consumer.get_watermark_offsets(TopicPartition(topic, p), READ_LIMIT_S)[1]
            for p in range(settings.partitions)
        }
    finally:
        consumer.close()


def committed(settings: Settings, role: str) -> dict[int, int]:
    """Return the committed offsets of a role's group; 0 for a partition without one."""
    group = f"{settings.group}-{role}"
    wanted = [TopicPartition(settings.topic("events"), p) for p in range(settings.partitions)]
    admin = AdminClient({"bootstrap.servers": settings.bootstrap, "log_level": 0})
    answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])
    found = answer[group].result(READ_LIMIT_S).topic_partitions
    return {tp.partition: max(tp.offset, 0) for tp in found}
