"""Item signals: growth, forgetting, and the replicas that follow by deltas."""

import math

import numpy as np
import pytest
from model_samples import count_alone, count_user, relation_of

from headrace.model.counts.signals import (
    ALL_TIME,
    N_RELATIONS,
    NEXT,
    RECENT,
    RECENT_LIFE,
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
    assert signals.arrays.ids[A].tolist() == [C, D, -1, -1]
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
    totals = signals.arrays.totals[:3, RECENT] * signals.recent_scale()
    assert before[A, B] == pytest.approx(math.exp(-40) * LATER, rel=1e-4)
    assert signals.rebase()
    assert signals.recent_scale() == 1
    np.testing.assert_allclose(relation_of(signals, RECENT, 3), before, rtol=1e-5)
    np.testing.assert_allclose(signals.arrays.totals[:3, RECENT], totals, rtol=1e-5)


def test_rebase_waits_until_weights_are_large() -> None:
    signals = new_signals()
    count_user(signals, [A, B, C])
    signals.clock = 40 * RECENT_LIFE - 1
    assert not signals.rebase()
    assert signals.landmark == 0


def test_weights_stay_finite_where_no_rebase_comes_for_long() -> None:
    signals = new_signals()
    signals.clock = 1_000 * RECENT_LIFE  # e^88 is more than float32 holds
    count_user(signals, [A, B, C])
    seen = relation_of(signals, RECENT, 3) * signals.recent_scale()
    np.testing.assert_allclose(seen, [[0, 1, 0.8], [0, 0, 1], [0, 0, 0]], rtol=1e-5)
    assert signals.rebase()
    np.testing.assert_allclose(relation_of(signals, RECENT, 3), seen, rtol=1e-5)


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
    count_alone(signals, A, times=1)  # its neighbours stay as they are
    delta = signals.take_delta()
    assert (delta["items"].tolist(), delta["rows"].tolist()) == ([A], [])


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
