"""Item signals: what a stream of events counts, and how replicas follow."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from model_samples import count_alone, count_user, relation_of

from headrace.model.signals import (
    ALL_TIME,
    ALSO,
    FAST,
    MEDIUM,
    N_RELATIONS,
    NEAR,
    NEXT,
    POPULARITY_LIVES,
    RECENT,
    RECENT_LIFE,
    SESSION,
    SESSION_GAP_S,
    SLOW,
    ItemArrays,
    ItemSignals,
)

A, B, C, D = range(4)
LATER = math.exp(1 / RECENT_LIFE)  # RECENT counts a tick later this much more
UNSENT = {"dirty", "dirty_items"}


def new_signals(neighbours: int = 4, *, capacity: int = 4) -> ItemSignals:
    """Return signals of which nothing was counted."""
    return ItemSignals(neighbours, capacity=capacity)


def random_events(signals: ItemSignals, rng: np.random.Generator, *, n_items: int = 9) -> None:
    """Count five users of six events each."""
    for _ in range(5):
        count_user(signals, rng.integers(0, n_items, 6).tolist())


def assert_equal(one: ItemSignals, other: ItemSignals, n_items: int) -> None:
    """The same is read of both: filled places, totals, popularity, clocks."""
    for relation in range(N_RELATIONS):
        read = relation_of(one, relation, n_items)
        np.testing.assert_array_equal(read, relation_of(other, relation, n_items))
    for name in set(ItemArrays._fields) - UNSENT - {"ids", "weights"}:
        values = getattr(one.arrays, name)[:n_items]
        np.testing.assert_array_equal(values, getattr(other.arrays, name)[:n_items], err_msg=name)
    assert (one.clock, one.landmark, one.now_s) == (other.clock, other.landmark, other.now_s)


# -------------------------------------------------------------------------------------- counting

THREE_EVENTS = {  # of one user: A at tick 0, then B at 1, then C at 2; from row to column
    # Each item is followed by the next one.
    NEXT: [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
    # Forwards 1, two steps 0.8; backwards half of that.
    NEAR: [[0, 1, 0.8], [0.5, 0, 1], [0.4, 0.5, 0]],
    # Once for each pair, both ways.
    SESSION: [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
    # As NEAR, forwards only; what is counted at tick t weighs LATER^t.
    RECENT: [[0, LATER, 0.8 * LATER**2], [0, 0, LATER**2], [0, 0, 0]],
    # Once for each pair, both ways.
    ALSO: [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
}


@pytest.mark.parametrize("relation", THREE_EVENTS)
def test_three_events_count_each_relation(relation: int) -> None:
    signals = new_signals()
    count_user(signals, [A, B, C])
    expected = np.array(THREE_EVENTS[relation])
    np.testing.assert_allclose(relation_of(signals, relation, 3), expected, rtol=1e-6)
    np.testing.assert_allclose(signals.arrays.totals[:3, relation], expected.sum(1), rtol=1e-6)


def test_clock_ticks_once_an_event_and_now_is_the_latest_event_time() -> None:
    signals = new_signals()
    count_user(signals, [A, B, C], times_s=[10, 30, 20])
    assert (signals.clock, signals.now_s) == (3, 30)
    assert signals.arrays.first[:3].tolist() == [0, 1, 2]
    assert signals.arrays.last_time_s[:3].tolist() == [10, 30, 20]


def test_no_events_change_nothing() -> None:
    signals = new_signals()
    count_user(signals, [])
    assert (signals.clock, signals.now_s) == (0, 0)
    assert not signals.arrays.dirty_items.any()


def test_unknown_items_are_no_events_and_no_neighbours() -> None:
    signals = new_signals()
    count_user(signals, [A, -1, B])
    assert signals.clock == 2
    # What stands between them is unknown: B did not follow A directly, but came two steps later.
    assert relation_of(signals, NEXT, 2).sum() == 0
    assert relation_of(signals, NEAR, 2)[A, B] == np.float32(0.8)


@pytest.mark.parametrize(("gap_s", "counted"), [(SESSION_GAP_S, 1), (SESSION_GAP_S + 1, 0)])
def test_longer_gap_ends_the_session(gap_s: int, counted: int) -> None:
    signals = new_signals()
    count_user(signals, [A, B], times_s=[0, gap_s])
    assert relation_of(signals, SESSION, 2).tolist() == [[0, counted], [counted, 0]]
    assert relation_of(signals, NEXT, 2)[A, B] == 1


def test_nothing_before_the_gap_is_in_the_session() -> None:
    signals = new_signals()
    gap = SESSION_GAP_S + 1
    count_user(signals, [A, B, C], times_s=[0, gap, gap + 1])
    assert relation_of(signals, SESSION, 3).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_click_repeated_at_once_adds_to_popularity_only() -> None:
    signals = new_signals()
    count_user(signals, [A, A])
    assert signals.arrays.popularity[A, ALL_TIME] == 2
    assert signals.arrays.filled[A] == 0
    assert signals.arrays.totals[A].sum() == 0
    assert signals.arrays.repeats[A] == 0


def test_return_to_an_item_is_a_repeat_and_no_new_pair() -> None:
    signals = new_signals()
    count_user(signals, [A, B, A])
    assert signals.arrays.repeats[:2].tolist() == [1, 0]
    assert relation_of(signals, ALSO, 2).tolist() == [[0, 1], [1, 0]]  # of the first A, B alone
    assert relation_of(signals, NEXT, 2).tolist() == [[0, 1], [1, 0]]
    assert relation_of(signals, NEXT, 2)[A, A] == 0


def test_two_users_do_not_follow_each_other() -> None:
    signals = new_signals()
    count_user(signals, [A])
    count_user(signals, [B])
    assert signals.arrays.totals.sum() == 0
    assert signals.clock == 2


@pytest.mark.parametrize(("life", "ticks"), [(FAST, 225), (MEDIUM, 1_900), (SLOW, 20_000)])
def test_popularity_decays_to_one_in_e_over_its_life(life: int, ticks: int) -> None:
    assert POPULARITY_LIVES[life] == ticks
    signals = new_signals()
    count_alone(signals, A, times=1)
    count_alone(
        signals, B, times=ticks - 1
    )  # A was counted at tick 0, now it is tick 1 + ticks - 1
    now = signals.popularity_now(2)
    assert now[A, life] == pytest.approx(1 / math.e, rel=1e-5)
    assert now[A, ALL_TIME] == 1


def test_popularity_counted_again_adds_one_to_what_is_left() -> None:
    signals = new_signals()
    count_alone(signals, A, times=1)
    count_alone(signals, B, times=224)
    count_alone(signals, A, times=1)  # at tick 225, a life after the first
    assert signals.arrays.popularity[A, FAST] == pytest.approx(1 / math.e + 1, rel=1e-5)


def test_full_row_lets_its_weakest_neighbour_go() -> None:
    signals = new_signals(2)
    for follower in (B, B, C, D):  # A's row has two places: B twice and C once, then D comes
        count_user(signals, [A, follower])
    assert relation_of(signals, NEXT, 4)[A].tolist() == [0, 2, 0, 1]
    assert signals.arrays.totals[A, NEXT] == 4  # what went is still part of the whole


def test_weights_of_the_neighbour_that_went_are_not_inherited() -> None:
    signals = new_signals(1)
    count_user(signals, [A, B])
    count_user(signals, [A, C], times_s=[0, SESSION_GAP_S + 1])
    assert relation_of(signals, SESSION, 3)[A].tolist() == [0, 0, 0]
    assert relation_of(signals, NEXT, 3)[A].tolist() == [0, 0, 1]


# ---------------------------------------------------------------------------- growth, forgetting


def test_growth_keeps_values() -> None:
    signals = new_signals(capacity=4)
    count_user(signals, [A, B, C])
    before = {relation: relation_of(signals, relation, 3) for relation in range(N_RELATIONS)}
    signals.reserve(5)
    assert signals.capacity == 8  # doubled
    for relation, weights in before.items():
        np.testing.assert_array_equal(relation_of(signals, relation, 3), weights)
    assert signals.arrays.popularity[:, ALL_TIME].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert signals.arrays.dirty_items.tolist() == [True] * 3 + [False] * 5


def test_room_that_is_there_is_not_made_again() -> None:
    signals = new_signals(capacity=4)
    arrays = signals.arrays
    signals.reserve(4)
    assert signals.arrays is arrays


def test_forgotten_item_leaves_no_trace_in_any_row() -> None:
    signals = new_signals()
    count_user(signals, [A, B, C, D])
    kept = [A, C, D]
    before = {r: relation_of(signals, r, 4)[np.ix_(kept, kept)] for r in range(N_RELATIONS)}
    signals.forget(np.array([B]))
    for relation, weights in before.items():
        after = relation_of(signals, relation, 4)
        assert after[B].sum() == after[:, B].sum() == 0
        np.testing.assert_array_equal(after[np.ix_(kept, kept)], weights)
    assert B not in signals.arrays.ids
    assert signals.arrays.filled.tolist() == [2, 0, 2, 2]


def test_index_of_a_forgotten_item_starts_anew() -> None:
    signals = new_signals()
    signals.arrays.category[B] = 7
    count_user(signals, [A, B, A, B])
    signals.forget(np.array([B]))
    fresh = new_signals()
    for name in ItemArrays._fields:
        values = getattr(signals.arrays, name)[B]
        np.testing.assert_array_equal(values, getattr(fresh.arrays, name)[B], err_msg=name)


def test_rebase_keeps_what_readers_see() -> None:
    signals = new_signals()
    count_user(signals, [A, B, C])
    signals.clock = 40 * RECENT_LIFE  # e^40 is the limit
    before = relation_of(signals, RECENT, 3) * signals.recent_scale()
    assert before[A, B] == pytest.approx(math.exp(-40) * LATER, rel=1e-4)
    assert signals.rebase()
    assert signals.recent_scale() == 1
    np.testing.assert_allclose(relation_of(signals, RECENT, 3), before, rtol=1e-5)


def test_rebase_waits_until_weights_are_large() -> None:
    signals = new_signals()
    count_user(signals, [A, B, C])
    signals.clock = 40 * RECENT_LIFE - 1
    assert not signals.rebase()
    assert signals.landmark == 0


def test_recent_weight_fades_to_one_in_e_over_its_life() -> None:
    signals = new_signals()
    count_user(signals, [A, B])  # B at tick 1
    signals.clock = 1 + RECENT_LIFE
    seen = relation_of(signals, RECENT, 2)[A, B] * signals.recent_scale()
    assert seen == pytest.approx(1 / math.e, rel=1e-5)


# ------------------------------------------------------------------------------ deltas, snapshots


def test_delta_makes_a_replica_equal() -> None:
    signals, replica = new_signals(), new_signals()
    count_user(signals, [A, B, C])
    replica.apply_delta(signals.take_delta())
    assert_equal(replica, signals, 4)


def test_delta_applied_twice_changes_nothing() -> None:
    signals, replica = new_signals(), new_signals()
    count_user(signals, [A, B, C, A])
    delta = signals.take_delta()
    replica.apply_delta(delta)
    replica.apply_delta(delta)
    assert_equal(replica, signals, 4)


def test_delta_holds_only_what_changed_since_the_last() -> None:
    signals = new_signals()
    count_user(signals, [A, B])
    signals.take_delta()
    count_user(signals, [C, D])
    delta = signals.take_delta()
    assert delta["items"].tolist() == [C, D]
    assert sorted(zip(delta["rows"].tolist(), delta["ids"].tolist(), strict=True)) == [
        (C, D),
        (D, C),
    ]
    assert signals.take_delta()["items"].tolist() == []


def test_empty_delta_changes_nothing() -> None:
    signals, replica = new_signals(), new_signals()
    replica.apply_delta(signals.take_delta())
    assert_equal(replica, signals, 4)


@pytest.mark.parametrize("neighbours", [2, 4, 16])  # rows that overflow, fill up, and do neither
def test_deltas_in_sequence_equal_a_snapshot(neighbours: int) -> None:
    rng = np.random.default_rng(0)
    signals = new_signals(neighbours, capacity=16)
    follower = new_signals(neighbours, capacity=1)  # grows as items come
    for _ in range(8):
        random_events(signals, rng)
        follower.apply_delta(signals.take_delta())
    loaded = new_signals(neighbours, capacity=1)
    loaded.apply_delta(signals.snapshot(9))
    assert_equal(follower, signals, 9)
    assert_equal(loaded, signals, 9)


def test_replica_loaded_from_a_snapshot_goes_on_by_deltas() -> None:
    rng = np.random.default_rng(1)
    signals, replica = new_signals(2, capacity=16), new_signals(2)
    random_events(signals, rng)
    signals.take_delta()
    signals.forget(np.array([3, 5]))
    replica.apply_delta(signals.snapshot(9))
    random_events(signals, rng)
    replica.apply_delta(signals.take_delta())
    assert_equal(replica, signals, 9)


def test_snapshot_does_not_move_with_later_counts() -> None:
    signals, replica = new_signals(), new_signals()
    count_user(signals, [A, B])
    snapshot = signals.snapshot(4)
    count_user(signals, [A, B])
    replica.apply_delta(snapshot)
    assert replica.arrays.popularity[:2, ALL_TIME].tolist() == [1, 1]
    assert relation_of(replica, NEXT, 2)[A, B] == 1


# --------------------------------------------------------------------------------------- popular


def popular_of(signals: ItemSignals, quotas: tuple[int, ...]) -> list[int]:
    """Return the candidates for everybody."""
    signals.refresh_popular(4, quotas=quotas)
    popular: npt.NDArray[np.int32] = signals.popular
    return popular.tolist()


def test_popular_items_come_best_first_without_those_that_had_no_event() -> None:
    signals = new_signals()
    for item, times in ((A, 2), (C, 3), (D, 1)):
        count_alone(signals, item, times=times)
    assert popular_of(signals, (4, 0, 0, 0)) == [C, A, D]


def test_popular_items_are_the_first_of_each_life_without_doubles() -> None:
    signals = new_signals()
    count_alone(signals, A, times=500)
    count_alone(signals, B, times=1_000)
    count_alone(signals, C, times=400)
    # All time: B, A, C. Of the last 225 ticks: C, then B, 400 ticks ago, then A.
    assert popular_of(signals, (1, 0, 0, 1)) == [B, C]
    assert popular_of(signals, (2, 0, 0, 2)) == [B, A, C]


def test_nothing_is_popular_before_the_first_event() -> None:
    assert popular_of(new_signals(), (4, 4, 4, 4)) == []
