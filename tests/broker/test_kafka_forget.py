"""After compaction the broker's own files hold nothing of a user who was forgotten.

``headrace topics`` has the broker compact within a day; here within a second, tombstones included.
"""

import time
from pathlib import Path

from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from harness import Fleet, Watcher, deploy, java_publisher
from test_tools_forget import forget

from headrace.streams.kafka.topics import users_changelog
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events

USER = "user-who-asks-7f3a91"
ITEM = "item-only-theirs-c04b2d"
COMPACTION_LIMIT_S = 120.0
EAGER = {
    "max.compaction.lag.ms": "1000",
    "delete.retention.ms": "0",
    "file.delete.delay.ms": "0",
}


def compact_eagerly(settings: Settings, topics: list[str]) -> None:
    """Let the broker compact topics within seconds."""
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            topic,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in EAGER.items()
            ],
        )
        for topic in topics
    ]
    client = AdminClient({"bootstrap.servers": settings.bootstrap})
    for done in client.incremental_alter_configs(resources).values():
        done.result(10)


def files_with(data: Path, topic: str, text: str) -> list[str]:
    """Return the files of a topic's partitions in which these bytes stand."""
    found = []
    for path in sorted(data.glob(f"{topic}-[0-9]*/*")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # a segment that the cleaner has just replaced
            continue
        if text.encode() in content:
            found.append(f"{path.parent.name}/{path.name}")
    return found


def test_no_file_of_states_or_lists_holds_the_user_or_an_item_only_they_had(
    settings: Settings, tmp_path: Path, kafka_data: Path
) -> None:
    settings = deploy(settings, partitions=2, pause_limit_s=30.0)  # a busy machine is no pause
    compacted = [users_changelog(settings), settings.topic("recommendations")]
    compact_eagerly(settings, compacted)
    others = [f"other-{number}" for number in range(12)]
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, others) as publisher,
        Fleet(settings, tmp_path) as fleet,
    ):
        worker = fleet.start()
        publisher.publish(24)
        publish_events(settings, [Event(user=USER, item=ITEM, time_ms=at) for at in range(5)])
        watcher.until_answered(29)
        for topic in compacted:
            assert files_with(kafka_data, topic, USER)
            assert files_with(kafka_data, topic, ITEM)

        forget(settings, USER)
        n_events = 29 + settings.partitions
        watcher.until_answered(n_events)
        deadline = time.monotonic() + COMPACTION_LIMIT_S
        # A segment is closed by the first record after its time, and only then compacted.
        while left := [
            name
            for topic in compacted
            for text in (USER, ITEM)
            for name in files_with(kafka_data, topic, text)
        ]:
            assert time.monotonic() < deadline, f"still in {left}"
            publisher.publish(len(others))
            n_events += len(others)
            watcher.until_answered(n_events)
        assert worker.stop() == 0
        watcher.assert_nothing_lost_or_doubled()
    for topic in compacted:
        assert files_with(kafka_data, topic, others[0])
    # What the shop itself must delete.
    assert files_with(kafka_data, settings.topic("events"), USER)
