"""Model versions: swapped under load, refused when damaged, gone on from after a kill."""

from collections import Counter, defaultdict
from dataclasses import replace

from confluent_kafka import Producer
from harness import Watcher
from roles_harness import (
    START_LIMIT_S,
    WAIT_LIMIT_S,
    RoleProcess,
    publish,
    roles,
    shoppers,
    small_deployment,
)

from headrace.model.counts.signals import ALL_TIME
from headrace.streams.guards import EXIT_PAUSED, EXIT_WRONG
from headrace.streams.kafka.broker import free_port
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import restore
from headrace.streams.learn.publisher import announcements
from headrace.streams.settings import Settings
from headrace.streams.versions.publication import ANNOUNCEMENT_KEY, Announcement
from headrace.streams.versions.store import ModelStore
from headrace.streams.wire import decode_recommendation

CHUNK = 50


def announced(settings: Settings) -> Announcement:
    """Return the version announced last."""
    return announcements(settings)[0]


def announce_damaged(settings: Settings) -> int:
    """Announce a version whose file is not what its checksum says; return its number."""
    good = announced(settings)
    assert good.weights
    model, weights = (replace(file, sha256="0" * 64) for file in (good.model, good.weights))
    damaged = replace(good, version=good.version + 1_000, model=model, weights=weights)
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    producer.produce(settings.topic("models"), key=ANNOUNCEMENT_KEY, value=damaged.encode())
    producer.flush()
    return damaged.version


def test_versions_are_swapped_under_load_and_a_damaged_one_is_refused(settings: Settings) -> None:
    settings = small_deployment(settings, version_events=100, delta_interval_s=0.5, versions_kept=2)
    events = shoppers(1_000)
    with (
        Watcher(settings) as watcher,
        roles(settings, "learn", "adapt") as (learn, adapt),
    ):
        # A chunk at a time, each answered: versions come in the middle of the load.
        n_sent = 0
        while n_sent < len(events) or announced(settings).version < 4:
            publish(settings, events[n_sent % len(events) :][:CHUNK])
            n_sent += CHUNK
            watcher.until_answered(n_sent)
        adapt.until(lambda m: m.get("model_version") >= 4, "the fourth version at work")

        # A worker that starts now finds announcements of versions that are no longer kept.
        adapt.kill_and_restart()
        adapt.until(lambda m: m.get("ready") == 1, "the new worker ready", limit_s=START_LIMIT_S)
        assert adapt.metrics().get("model_version") >= 4
        assert adapt.metrics().get("checkpoints_refused_total") == 0

        damaged = announce_damaged(settings)
        adapt.until(lambda m: m.get("checkpoints_refused_total") == 1, "the damaged one refused")
        assert adapt.metrics().get("model_version") < damaged
        publish(settings, events[:CHUNK])
        watcher.until_answered(n_sent + CHUNK)
        assert adapt.metrics().get("model_version") < damaged
        assert (learn.child.poll(), adapt.child.poll()) == (None, None)

    versions: defaultdict[int, list[int]] = defaultdict(list)
    for record in watcher.lists:
        versions[record.partition()].append(decode_recommendation(record.value()).model_version)
    assert all(column == sorted(column) for column in versions.values())
    assert max(max(column) for column in versions.values()) >= 4
    expected, written = watcher.expected(), watcher.written()
    assert {key: state.items for key, state in written.items()} == {
        key: state.items for key, state in expected.items()
    }


def test_killed_learn_role_learns_nothing_twice_and_skips_nothing(settings: Settings) -> None:
    # A version after 400 events and none after 100: those are learned and lost with the process.
    settings = small_deployment(
        settings, version_events=400, version_interval_s=3_600.0, delta_interval_s=0.5
    )
    events = shoppers(600)
    with Watcher(settings) as watcher, roles(settings, "learn") as (learn,):
        publish(settings, events[:450])
        learn.until(
            lambda m: m.get("checkpoint_duration_seconds_count") == 2, "a checkpoint with events"
        )
        publish(settings, events[450:550])
        learn.until(lambda m: m.get("events_total") == 550, "more learned than is saved")
        n_saved = learned_events(settings)
        assert 400 <= n_saved <= 450
        announce_damaged(settings)  # the one before it, and its offsets, will do
        learn.kill_and_restart()
        publish(settings, events[550:])
        learn.until(lambda m: m.get("events_total") == 600 - n_saved, "the rest learned")
        assert learn.metrics().get("checkpoints_refused_total") == 1
        assert learn.stop() == 0  # a stop publishes what was learned until then
        watcher.until(lambda: len(watcher.events) == len(events), "all events on their topic")
        ends = Counter(record.partition() for record in watcher.events)

    learner, positions = restored(settings)
    assert positions == dict(ends)
    assert learner.n_events == len(events)
    expected = {
        f"{partition}/{user.decode()}": state
        for (partition, user), state in watcher.expected().items()
    }
    assert set(learner.users) == set(expected)
    for key, state in learner.users.items():
        assert (state.items, state.n_events) == (expected[key].items, expected[key].n_events)
    assert counted(learner) == dict(Counter(event.item for event in events))


def test_the_last_words_of_a_learn_role_that_is_stopped_are_that_it_is(settings: Settings) -> None:
    with roles(small_deployment(settings), "learn") as (learn,):
        assert learn.stop() == 0
        assert learn.child.log_tail().endswith("headrace.streams.process stopped")


def restored(settings: Settings) -> tuple[Learner, dict[int, int]]:
    """Return a learner that goes on from the version announced last, and its offsets."""
    store = ModelStore(settings.store_url, keep=settings.versions_kept)
    announcement = announced(settings)
    learner = Learner(settings)
    positions = restore(learner, store.read(announcement.model), store.read(announcement.learner))
    return learner, positions


def counted(learner: Learner) -> dict[str, int]:
    """Return how many events of each item a learner has counted."""
    return {
        item: int(learner.signals.arrays.popularity[index, ALL_TIME])
        for index, item in enumerate(learner.vocabulary.ids)
    }


def learned_events(settings: Settings) -> int:
    """Return how many events are in the version announced last."""
    return restored(settings)[0].n_events


def test_a_second_learn_role_ends_for_good_and_the_first_goes_on_when_it_is_started_again(
    settings: Settings,
) -> None:
    settings = small_deployment(settings)
    group = f"group {settings.group}-learn"
    with roles(settings, "learn") as (first,):
        second = RoleProcess(settings.model_copy(update={"learn_port": free_port()}), "learn")
        try:
            assert second.child.wait(START_LIMIT_S) == EXIT_WRONG
            assert f"another learn role is in {group}" in second.child.log_tail()
        finally:
            second.stop()
        assert first.child.wait(WAIT_LIMIT_S) == EXIT_PAUSED
        assert f"another learn role has joined {group}" in first.child.log_tail()
        before = announced(settings).version
    with roles(settings, "learn") as (again,):
        publish(settings, shoppers(CHUNK))
        again.until(lambda m: m.get("events_total") == CHUNK, "every event is learned")
        again.until(lambda m: m.get("model_version") > before, "a newer version")
