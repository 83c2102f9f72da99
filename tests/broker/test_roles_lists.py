"""Both roles at work: events in, refreshed lists out, and what changes a list between versions."""

from collections.abc import Iterator

import pytest
from harness import Watcher
from roles_harness import RoleProcess, publish, roles, shoppers, small_deployment

from headrace.streams.produce import publish_items
from headrace.streams.settings import Settings
from headrace.streams.wire import Event, Item, Recommendation

LATER_MS = 1_700_009_000_000
ATTEMPTS = 60  # a delta comes every half second; each attempt waits for a list

Running = tuple[Settings, list[RoleProcess], Watcher]


@pytest.fixture
def running(settings: Settings) -> Iterator[Running]:
    """Run both roles with a version that stays the first one: all that moves are deltas."""
    settings = small_deployment(
        settings, version_events=1_000_000, version_interval_s=3_600.0, delta_interval_s=0.5
    )
    with roles(settings, "learn", "adapt") as processes, Watcher(settings) as watcher:
        yield settings, processes, watcher


def act(running: Running, user: str, item: str, number: int) -> Recommendation:
    """Let a user act, and return the list that answers."""
    settings, _, watcher = running
    publish(settings, [Event(user=user, item=item, time_ms=LATER_MS + number)])
    n_events = len(watcher.events) + 1
    watcher.until_answered(n_events)
    return next(found for found in watcher.last_lists().values() if found.user == user)


def test_lists_follow_events_deltas_and_the_catalogue_between_versions(running: Running) -> None:
    settings, (learn, adapt), watcher = running
    events = shoppers(400)
    publish(settings, events)
    watcher.until_answered(len(events))
    learn.until(lambda m: m.get("events_total") == len(events), "everything learned")

    # Every user has a list that answers their last event, with reasons from their own history.
    histories: dict[str, list[str]] = {}
    for event in events:
        histories.setdefault(event.user, []).append(event.item)
    found = {each.user: each for each in watcher.last_lists().values()}
    assert set(found) == set(histories)
    assert all(each.model_version == 1 for each in found.values())

    # What follows in the ring is what the lists say once the deltas have come.
    answer = act(running, "user-0", "item-7", 0)
    assert len(answer.items) == len(answer.scores) == len(answer.reasons) > 0
    assert "item-7" not in answer.items  # the last item is never in the list
    own = {*histories["user-0"], "item-7"}
    assert {reason.because for reason in answer.reasons} <= {*own, None}
    assert "item-8" in answer.items[:5]

    # An item that many take this minute is in another user's list before the next version.
    for number in range(3):
        hot = [
            Event(user=f"user-{i}", item="hot", time_ms=LATER_MS + 100 + number)
            for i in range(1, 25)
        ]
        publish(settings, hot)
    for number in range(ATTEMPTS):
        answer = act(running, "newcomer", f"item-{number % 40}", 1_000 + number)
        if "hot" in answer.items:
            break
    assert "hot" in answer.items
    assert answer.model_version == 1

    # Withdrawn, it is gone from the next lists; active again, it comes back.
    for is_active in (False, True):
        publish_items(settings, [Item(item="hot", active=is_active)])
        for number in range(ATTEMPTS):
            answer = act(running, "newcomer", f"item-{number % 40}", 2_000 + number)
            if ("hot" in answer.items) == is_active:
                break
        assert ("hot" in answer.items) == is_active

    # Both roles answer for themselves.
    for process in (learn, adapt):
        assert (process.health("live"), process.health("ready")) == (200, 200)
    metrics = adapt.metrics()
    assert metrics.get("deltas_applied_total") > 0
    assert metrics.get("candidate_recall") > 0
    assert metrics.get("prequential_ndcg", "adapted") > metrics.get(
        "prequential_ndcg", "popularity"
    )
    assert (learn.stop(), adapt.stop()) == (0, 0)
