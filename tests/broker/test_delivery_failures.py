"""Workers that are stopped, killed and paused lose nothing, double nothing, write nothing stale."""

from pathlib import Path

import pytest
from harness import Fleet, Watcher, deploy, java_publisher

from headrace.streams.errors import TopicMismatchError
from headrace.streams.guards import EXIT_PAUSED, EXIT_WRONG
from headrace.streams.kafka.clients import admin
from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings

USERS = [f"user-{number}" for number in range(40)]
PER_SECOND = 400
# The embedded broker gives a group no leader any more whose leader leaves while one that was killed
# is still counted in: so the next fault comes when the session of 6 s is over.
A_SESSION = 8 * PER_SECOND


def test_restarts_and_kills_mid_stream_lose_and_double_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings, micro_batch_events=64)
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, USERS) as publisher,
        Fleet(settings, tmp_path) as fleet,
    ):
        first, second = fleet.start(), fleet.start()
        with publisher.steadily(per_second=PER_SECOND):
            watcher.until_answered(publisher.n_sent + 200)
            first.kill()
            first = fleet.start()
            watcher.until_answered(publisher.n_sent + A_SESSION)
            assert second.stop() == 0
            second = fleet.start()
            watcher.until_answered(publisher.n_sent + 200)
            first.kill()
            second.kill()
            first = fleet.start()
            watcher.until_answered(publisher.n_sent + 200)
        watcher.until_answered(publisher.n_sent)
        assert first.stop() == 0
        watcher.assert_nothing_lost_or_doubled()
        watcher.assert_no_state_went_back()
        watcher.assert_partitions_are_committed()


def test_a_worker_paused_past_its_session_writes_nothing_stale(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings, micro_batch_events=64)
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, USERS) as publisher,
        Fleet(settings, tmp_path) as fleet,
    ):
        paused = fleet.start(slow_s=0.02, slow_calls=10_000)
        with publisher.steadily(per_second=PER_SECOND):
            watcher.until(lambda: len(watcher.lists) > 100, "the first worker at work")
            fleet.start()
            paused.pause()
            watcher.until_answered(publisher.n_sent + 200)
            paused.resume()
            assert paused.wait() == EXIT_PAUSED
            watcher.until_answered(publisher.n_sent + 200)
        watcher.until_answered(publisher.n_sent)
        watcher.assert_nothing_lost_or_doubled()
        watcher.assert_no_state_went_back()


def test_events_of_a_topic_that_was_made_anew_end_the_worker_rather_than_pass_for_replays(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, ["ann"]) as publisher,
        Fleet(settings, tmp_path) as fleet,
    ):
        worker = fleet.start()
        publisher.publish(9)
        watcher.until_answered(9)
        assert worker.stop() == 0
    events = settings.topic("events")
    with admin(settings) as client:
        client.delete_topics([events])
    with pytest.raises(TopicMismatchError, match=f"If {events} was deleted to begin anew"):
        create_topics(settings)
    with admin(settings) as client:  # as who does not ask `headrace topics`
        by_hand = {"num_partitions": settings.partitions, "replication_factor": 1}
        client.create_topics({events: by_hand})
        client.wait_for_topics([events])
    with java_publisher(settings, ["ann"]) as publisher, Fleet(settings, tmp_path) as fleet:
        worker = fleet.start()
        publisher.publish(3)
        worker.until_logged("end at 3, before 9, up to where they have been read")
        assert worker.wait() == EXIT_WRONG
