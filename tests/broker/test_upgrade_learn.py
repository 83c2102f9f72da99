"""The learn role is upgraded and taken back: each release goes on from what the other learned."""

from collections import Counter
from pathlib import Path

import previous_release
from harness import Watcher
from roles_harness import publish, roles, shoppers, small_deployment
from test_roles_versions import counted, restored

from headrace.streams.settings import Settings

CHUNK = 150


def test_releases_of_learn_follow_each_other_and_no_event_is_learned_twice(
    settings: Settings, tmp_path: Path
) -> None:
    settings = small_deployment(settings, version_events=100, delta_interval_s=0.5)
    before = previous_release.unpacked(tmp_path / "previous")
    events = shoppers(4 * CHUNK)

    def learns(n_before: int, **release: dict[str, str]) -> None:
        with roles(settings, "learn", **release) as (learn,):
            publish(settings, events[n_before:][:CHUNK])
            learn.until(lambda m: m.get("events_total") == CHUNK, "what is new, and no more")
            # 0.1.0 must not be stopped before the version that is due now: it publishes its last
            # one beside that, and each removes the other's files while they are written.
            learn.until(lambda m: m.get("checkpoint_duration_seconds_count") >= 2, "a version")
            # A stop publishes what was learned until then.
            assert learn.stop() == 0, learn.child.log_tail()

    with Watcher(settings) as watcher:
        learns(0, environment=before)
        with roles(settings, "adapt") as (adapt,):
            learns(CHUNK)
            learns(2 * CHUNK, environment=before)  # the way back
            learns(3 * CHUNK)
            watcher.until_answered(len(events))
            refused = adapt.metrics().get("checkpoints_refused_total")
            assert refused == 0, adapt.child.log_tail()
        ends = Counter(record.partition() for record in watcher.events)

    learner, positions = restored(settings)
    assert positions == dict(ends)
    assert learner.n_events == len(events)
    assert counted(learner) == dict(Counter(event.item for event in events))
