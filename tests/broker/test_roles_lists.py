"""Both roles at work: events in, refreshed lists out, and what changes a list between versions."""

import time
from collections.abc import Callable, Iterator

import pytest
from harness import Watcher
from roles_harness import (
    WAIT_LIMIT_S,
    RoleProcess,
    publish,
    roles,
    shoppers,
    small_deployment,
)

from headrace.streams.actions import REFRESH
from headrace.streams.records import Event, Item, Recommendation, rec_id_of
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_items

LATER_MS = 1_700_009_000_000
N_ITEMS = 40  # of the ring that shoppers go round

Running = tuple[Settings, list[RoleProcess], Watcher]


@pytest.fixture
def running(settings: Settings) -> Iterator[Running]:
    """Run both roles with a version that stays the first one: all that moves are deltas."""
    settings = small_deployment(
        settings, version_events=1_000_000, version_interval_s=3_600.0, delta_interval_s=0.5
    )
    with roles(settings, "learn", "adapt") as processes, Watcher(settings) as watcher:
        yield settings, processes, watcher


def act(
    running: Running, user: str, item: str, number: int, action: str = "click"
) -> Recommendation:
    """Let a user act, and return the list that answers."""
    settings, _, watcher = running
    publish(settings, [Event(user=user, item=item, action=action, time_ms=LATER_MS + number)])
    n_events = len(watcher.events) + 1
    watcher.until_answered(n_events)
    return next(found for found in watcher.last_lists().values() if found.user == user)


def act_until(
    running: Running, user: str, is_met: Callable[[Recommendation], bool], what: str
) -> Recommendation:
    """Let a user act, one item of the ring after the other, until the list is as it should be."""
    deadline, number = time.monotonic() + WAIT_LIMIT_S, 0
    while not is_met(answer := act(running, user, f"item-{number % N_ITEMS}", number)):
        assert time.monotonic() < deadline, f"not in time: {what}"
        number += 1
    return answer


def follower_of(answer: Recommendation, running: Running) -> str:
    """Return what follows the user's last item in the ring."""
    state = next(s for (_, u), s in running[2].expected().items() if u.decode() == answer.user)
    return f"item-{(int(state.items[-1].removeprefix('item-')) + 1) % N_ITEMS}"


def assert_lists_answer(watcher: Watcher) -> None:
    """Check every user's last list against their own events."""
    lists = watcher.last_lists()
    expected = watcher.expected()
    assert lists.keys() == expected.keys()
    for key, state in expected.items():
        answer = lists[key]
        assert answer.user == key[1].decode()
        assert (answer.source.partition, answer.source.offset) == (key[0], state.last_offset)
        assert answer.rec_id == rec_id_of(answer.user, answer.source)
        assert answer.model_version == 1
        assert len(answer.items) == len(answer.scores) == len(answer.reasons)
        assert state.items[-1] not in answer.items
        assert {reason["because"] for reason in answer.reasons} <= {None, *state.items}


def test_lists_follow_events_deltas_and_the_catalogue_between_versions(running: Running) -> None:
    settings, (learn, adapt), watcher = running
    events = shoppers(600)
    publish(settings, events[:400])
    watcher.until_answered(400)
    learn.until(lambda m: m.get("events_total") == 400, "everything learned")

    # What follows in the ring is what the lists say once the deltas have come.
    act_until(running, "anyone", lambda a: follower_of(a, running) in a.items[:5], "what follows")
    publish(settings, events[400:])
    watcher.until_answered(len(watcher.events) + 200)
    assert_lists_answer(watcher)
    assert all(answer.items and answer.reasons for answer in watcher.last_lists().values())

    # An item that many take this minute is in another user's list before the next version.
    for round_ms in range(3):
        publish(
            settings,
            [Event(user=f"user-{i}", item="hot", time_ms=LATER_MS + round_ms) for i in range(24)],
        )
    watcher.until_answered(len(watcher.events) + 72)
    hot = act_until(running, "newcomer", lambda a: "hot" in a.items, "the hot item")
    assert hot.model_version == 1
    # It is in that of a user who never did anything and asks for one.
    asked = act(running, "visitor", "", 0, action=REFRESH)
    assert "hot" in asked.items
    assert asked.judged == {}
    # What its publisher sent twice counts once.
    took = Event(user="hasty", item="hot", time_ms=LATER_MS, event_id="e1")
    publish(settings, [took, took])
    watcher.until_answered(len(watcher.events) + 2)
    (state,) = (state for (_, user), state in watcher.written().items() if user == b"hasty")
    assert state.items == ["hot"]
    assert adapt.metrics().get("duplicate_events_total") == 1

    # Withdrawn, it is gone from the next lists; active again, it comes back.
    publish_items(settings, [Item(item="hot", active=False)])
    act_until(running, "newcomer", lambda a: "hot" not in a.items, "the item withdrawn")
    assert "hot" not in act(running, "newcomer", "item-1", 0).items
    publish_items(settings, [Item(item="hot")])
    act_until(running, "newcomer", lambda a: "hot" in a.items, "the item back")
    assert_roles_answer(learn, adapt)


def assert_roles_answer(learn: RoleProcess, adapt: RoleProcess) -> None:
    """Check what both roles say of themselves, and stop them."""
    for process in (learn, adapt):
        assert (process.health("live"), process.health("ready")) == (200, 200)
    metrics = adapt.metrics()
    of_role = ("headrace_lists_total", ()), ("headrace_learned_share", ())
    assert [key in metrics.samples for key in of_role] == [True, False]
    assert [key in learn.metrics().samples for key in of_role] == [False, True]
    assert metrics.get("deltas_applied_total") > 0
    assert metrics.get("candidate_recall") > 0
    # Of the events that came after the deltas most were the next of the ring.
    assert metrics.get("prequential_ndcg", "adapted") > metrics.get(
        "prequential_ndcg", "popularity"
    )
    assert (learn.stop(), adapt.stop()) == (0, 0)
