"""What operators do to topics that are in use: told, and nothing silently lost."""

import time
from pathlib import Path

import pytest
from harness import WAIT_LIMIT_S, Fleet, Watcher, deploy
from kafka import TopicPartition
from kafka.admin import ConfigResource, OffsetSpec

from headrace.streams.errors import TopicMismatchError
from headrace.streams.guards import EXIT_WRONG
from headrace.streams.kafka.clients import admin
from headrace.streams.kafka.topics import create_topics, users_changelog
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events

N_EVENTS = 40


def click_often(settings: Settings) -> None:
    """Publish some events of a few users."""
    publish_events(
        settings, [Event(user=f"u{n % 8}", item=f"i{n}", time_ms=n) for n in range(N_EVENTS)]
    )


def test_a_limit_below_what_roles_write_is_told_with_its_topic(settings: Settings) -> None:
    deltas = deploy(settings).topic("deltas")
    with admin(settings) as client:
        small = {"max.message.bytes": "600"}
        client.alter_configs([ConfigResource("TOPIC", deltas, small)])
        of_deltas = [ConfigResource("TOPIC", deltas)]
        deadline = time.monotonic() + WAIT_LIMIT_S
        while time.monotonic() < deadline:  # the controller tells the broker in its own time
            found = client.describe_configs(of_deltas, config_filter="all")["topic"][deltas]
            if found["max.message.bytes"]["value"] == "600":
                break
            time.sleep(0.05)
    with pytest.raises(TopicMismatchError, match=f"topic {deltas} takes 600 bytes at once.*--add"):
        create_topics(settings)


def test_states_that_are_gone_are_told_and_made_of_the_events_again(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    events, group = settings.topic("events"), f"{settings.group}-adapt"
    click_often(settings)
    with Watcher(settings) as watcher, Fleet(settings, tmp_path) as fleet:
        worker = fleet.start()
        watcher.until_answered(N_EVENTS)
        assert worker.stop() == 0
    with admin(settings) as client:
        client.delete_topics([users_changelog(settings)])
    told = f"of events that group {group} has read.*--topic {events} --reset-offsets --to-earliest"
    with pytest.raises(TopicMismatchError, match=told):
        create_topics(settings)
    with admin(settings) as client:
        earliest = {TopicPartition(events, p): OffsetSpec.EARLIEST for p in range(4)}
        client.reset_group_offsets(group, earliest)
    assert create_topics(settings) == [users_changelog(settings)]
    with Watcher(settings) as watcher, Fleet(settings, tmp_path / "..") as fleet:
        worker = fleet.start()
        watcher.until_answered(N_EVENTS)
        assert worker.stop() == 0
        watcher.assert_nothing_lost_or_doubled()


def test_events_that_retention_took_before_they_were_read_are_told(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    events = settings.topic("events")
    with Watcher(settings) as watcher, Fleet(settings, tmp_path) as fleet:
        click_often(settings)
        worker = fleet.start()
        watcher.until_answered(N_EVENTS)
        assert worker.stop() == 0
        click_often(settings)  # while nobody is there
        watcher.until(lambda: len(watcher.events) == 2 * N_EVENTS, "all events")
        ends = {record.partition(): record.offset() for record in watcher.events}
        with admin(settings) as client:
            client.delete_records({TopicPartition(events, p): end for p, end in ends.items()})
        worker = fleet.start()
        worker.until_logged("were removed before they were read")
        last = set(ends.items())

        def are_answered() -> bool:
            answered = {(p, one.source.offset) for (p, _), one in watcher.last_lists().items()}
            return last <= answered

        watcher.until(are_answered, "what is left is answered")
        assert worker.stop() == 0


def test_partitions_that_are_added_end_a_worker_with_what_to_do(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    events = settings.topic("events")
    with Fleet(settings, tmp_path) as fleet:
        worker = fleet.start()
        worker.until_logged("Worker ready")
        with admin(settings) as client:
            client.create_partitions({events: 6})
        assert worker.process.wait(120) == EXIT_WRONG
        assert f"partitions were added to {events}" in worker.log()
        with pytest.raises(TopicMismatchError, match=f"{events} has 6.*add as many to the others"):
            create_topics(settings)
