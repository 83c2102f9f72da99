"""A rolling upgrade and its way back: workers of two releases share the partitions of a group."""

from pathlib import Path

import previous_release
from harness import Fleet, Watcher, Worker, deploy, java_publisher
from test_tools_forget import forget

from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events

LEAVER = "leaver"


def test_partitions_move_between_releases_both_ways_and_nothing_is_lost(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings, pause_limit_s=30.0)  # a busy machine is no pause
    before = previous_release.unpacked(tmp_path / "previous")
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, [f"user-{number}" for number in range(30)]) as publisher,
        Fleet(settings, tmp_path) as fleet,
    ):
        n_more = 0  # events that are not the publisher's

        def answered() -> None:
            watcher.until_answered(publisher.n_sent + n_more + 100)

        def joins(**options: object) -> Worker:
            worker = fleet.start(**options)
            worker.until_logged("Worker ready")
            answered()
            return worker

        old = fleet.start(environment=before)
        old.until_logged("Worker ready")
        publish_events(settings, [Event(user=LEAVER, item="tea", time_ms=at) for at in range(3)])
        n_more += 3
        with publisher.steadily(per_second=100):
            answered()
            new = joins()  # some partitions move to this release
            assert old.stop() == 0  # and now all
            answered()
            forget(settings, LEAVER)
            n_more += settings.partitions
            answered()
            old = joins(environment=before)  # the way back: some, and then all
            assert new.stop() == 0
            answered()
            new = joins()
        watcher.until_answered(publisher.n_sent + n_more)
        assert [old.stop(), new.stop()] == [0, 0]
        for worker, is_old in zip(fleet.workers, (True, False, True, False), strict=True):
            assert (f"runs {tmp_path}" in worker.log()) == is_old
        watcher.assert_nothing_lost_or_doubled()
        watcher.assert_no_state_went_back()
        watcher.assert_partitions_are_committed()
        assert not watcher.dead_letters
        assert LEAVER.encode() not in {user for _, user in watcher.written()}
