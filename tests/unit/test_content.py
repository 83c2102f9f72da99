"""Content by item index: users' profiles, the cold items nearest to them, and replicas of it."""

import numpy as np
import numpy.typing as npt
import pytest
from model_samples import count_user, histories

from headrace.model.counts.candidate_signals import SIGNALS
from headrace.model.counts.candidates import Gatherer
from headrace.model.counts.content import MAX_COLD, NEAREST, PROFILE_FADE, Content
from headrace.model.counts.signals import ItemSignals

EAST, NORTH, NORTH_EAST = [1.0, 0.0], [0.0, 1.0], [0.8, 0.6]


def with_content(*vectors: list[float], content: Content | None = None) -> Content:
    """Return content of which item i has the i-th vector and came as the i-th."""
    content = content or Content()
    n = np.arange(len(vectors), dtype=np.int64)
    content.put(n.astype(np.int32), np.array(vectors, np.float16), n + 1, n + 1)
    return content


def had(*items: int) -> npt.NDArray[np.int32]:
    """Return the (1, H) history of one user, newest first."""
    return np.array([items], np.int32)


def test_a_profile_is_the_mean_content_in_which_recent_items_weigh_more() -> None:
    profiles = with_content(EAST, NORTH).profiles(had(0, 1))
    length = np.hypot(1, PROFILE_FADE)
    assert profiles[0] == pytest.approx([1 / length, PROFILE_FADE / length])


def test_items_of_unknown_content_leave_the_profile_as_it_is() -> None:
    content = with_content(EAST, NORTH)
    content.forget([1])
    assert content.profiles(had(1, -1, 9, 0))[0] == pytest.approx(EAST)
    assert not content.profiles(had(1, -1)).any()


def test_likeness_is_the_cosine_and_zero_where_content_is_unknown() -> None:
    content = with_content(EAST, NORTH, NORTH_EAST)
    likeness = content.likeness(content.profiles(had(0)), had(2, -1, 1, 0, 77))
    assert likeness[0] == pytest.approx([0.8, 0, 0, 1, 0], abs=1e-3)


def test_only_items_with_few_events_are_cold_and_the_newest_stand_first() -> None:
    content = with_content(EAST, NORTH, NORTH_EAST, EAST)
    content.forget([3])
    content.refresh(np.array([2, 3, 0, 0, 0], np.float32))
    assert content.cold.tolist() == [2, 0]


def test_what_is_forgotten_is_no_longer_cold_at_once() -> None:
    content = with_content(EAST, NORTH, NORTH_EAST)
    content.refresh(np.zeros(3, np.float32))
    content.forget([1])  # another item may have the index before the next refresh
    assert content.cold.tolist() == [2, 0]
    assert set(content.nearest(content.profiles(had(1, 0)))[0].tolist()) == {2, 0}


def test_of_many_cold_items_the_newest_are_kept() -> None:
    content = with_content(*[EAST] * (MAX_COLD + 5))
    content.refresh(np.zeros(MAX_COLD + 5, np.float32))
    assert len(content.cold) == MAX_COLD
    assert (content.cold[0], content.cold[-1]) == (MAX_COLD + 4, 5)


def test_the_nearest_cold_items_become_candidates_of_users_with_a_profile() -> None:
    signals = ItemSignals(8)
    signals.content = with_content(EAST, *[NORTH] * 40, *[NORTH_EAST] * NEAREST)
    count_user(signals, [0, 0, 0])
    signals.refresh_popular(61)
    found = Gatherer().gather(signals, histories([0], []))
    assert set(found.items[0].tolist()) == {*range(41, 61)}  # NORTH_EAST; the last one is left out
    assert set(found.items[1].tolist()) == {0, -1}  # a new user sees what is popular
    column = SIGNALS.index("content")
    assert found.signals[0, :, column] == pytest.approx(0.8, abs=1e-3)
    assert not found.signals[1, :, column].any()


def test_without_content_nothing_is_gathered_for_it() -> None:
    signals = ItemSignals(8)
    count_user(signals, [0, 1, 2])
    signals.refresh_popular(3)
    found = Gatherer().gather(signals, histories([0]))
    assert sorted(found.items[0].tolist()) == [1, 2]
    assert not found.signals[:, :, SIGNALS.index("content")].any()


def test_only_what_nobody_took_is_untaken_oldest_first() -> None:
    content = with_content(EAST, NORTH, EAST, NORTH)
    content.put(np.array([0], np.int32), np.array([EAST], np.float16), *np.array([[9], [9]]))
    popularity, filled = np.array([0, 1, 0, 0], np.float32), np.array([0, 0, 0, 2], np.int32)
    assert content.untaken(popularity, filled).tolist() == [2, 0]


def test_a_replica_that_follows_deltas_is_equal_to_a_snapshot() -> None:
    content, replica, other = with_content(EAST, NORTH), Content(), Content()
    replica.apply_delta(content.take_delta())
    with_content(NORTH_EAST, content=content)
    content.forget([1])
    delta = content.take_delta()
    assert delta["items"].tolist() == [0, 1]
    replica.apply_delta(delta)
    replica.apply_delta(delta)  # again changes nothing
    other.apply_delta(content.snapshot())
    for one in (replica, other):
        for name, array in content.snapshot().items():
            np.testing.assert_array_equal(one.snapshot()[name], array)
    assert len(content.take_delta()["items"]) == 0


def test_items_that_the_signals_forget_have_no_content_left() -> None:
    signals = ItemSignals(8)
    signals.content = with_content(EAST, NORTH)
    signals.forget(np.array([0, 500]))
    assert signals.content.snapshot()["items"].tolist() == [1]
