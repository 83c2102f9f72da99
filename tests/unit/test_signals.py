"""Item signals: what a stream of events counts, and what of it is popular."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from model_samples import count_alone, count_user, link, relation_of

from headrace.model.counts.signals import (
    ALL_TIME,
    ALSO,
    AROUND,
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
    ItemSignals,
)

A, B, C, D = range(4)
LATER = math.exp(1 / RECENT_LIFE)  # RECENT counts a tick later this much more


def new_signals(neighbours: int = 4, *, capacity: int = 4) -> ItemSignals:
    """Return signals of which nothing was counted."""
    return ItemSignals(neighbours, capacity=capacity)


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
    # Forwards by distance to the power -0.8; backwards half of that.
    AROUND: [[0, 1, 2**-0.8], [0.5, 0, 1], [0.5 * 2**-0.8, 0.5, 0]],
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
    count_user(signals, [B], times_s=[5])  # late: it was taken since
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


@pytest.mark.parametrize(
    ("gap_s", "counted"),
    [
        (SESSION_GAP_S, 1),
        (SESSION_GAP_S + 1, 0),
        (-SESSION_GAP_S, 1),  # late
        (-SESSION_GAP_S - 1, 0),
    ],
)
def test_longer_gap_either_way_ends_the_session(gap_s: int, counted: int) -> None:
    signals = new_signals()
    count_user(signals, [A, B], times_s=[0, gap_s])
    assert relation_of(signals, SESSION, 2).tolist() == [[0, counted], [counted, 0]]
    assert relation_of(signals, NEXT, 2)[A, B] == 1


def test_nothing_before_the_gap_is_in_the_session() -> None:
    signals = new_signals()
    gap = SESSION_GAP_S + 1
    count_user(signals, [A, B, C], times_s=[0, gap, gap + 1])
    assert relation_of(signals, SESSION, 3).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_session_is_as_long_as_its_gaps_are_short() -> None:
    signals = new_signals()
    count_user(signals, [A, B, C], times_s=[0, 3000, 6000])  # A and C: more than an hour apart
    assert relation_of(signals, SESSION, 3).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("relation", "window"),
    [(NEXT, 1), (NEAR, 5), (RECENT, 5), (SESSION, 20), (ALSO, 30), (AROUND, 30)],
)
def test_relation_looks_back_over_its_window(relation: int, window: int) -> None:
    signals = new_signals(64, capacity=35)
    count_user(signals, list(range(35)))
    linked = np.flatnonzero(relation_of(signals, relation, 35)[:, 34])
    assert linked.tolist() == list(range(34 - window, 34))


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
    assert all(relation_of(signals, r, 2).trace() == 0 for r in range(N_RELATIONS))  # not its own


def test_shares_go_on_moving_where_float32_would_round_what_is_added_away() -> None:
    signals, n_before = new_signals(), 2.0**24  # the next float32 is two more
    count_user(signals, [A, B])
    a = signals.arrays
    a.weights[A, 0], a.totals[A] = n_before, n_before
    signals.take_delta()
    for _ in range(100):
        count_user(signals, [A, C])
    shares = relation_of(signals, SESSION, 3)[A] / a.totals[A, SESSION]
    assert shares[C] > 100 / n_before
    assert shares[[B, C]].sum() == pytest.approx(1, rel=1e-5)
    told = signals.take_delta()
    assert told["ids"][told["rows"] == A].tolist() == [B, C]  # a halved weight travels, too


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


@pytest.mark.parametrize(("followers", "kept"), [((B, B, C, D), [B, D]), ((B, C, C, D), [C, D])])
def test_full_row_lets_its_weakest_neighbour_go(followers: list[int], kept: list[int]) -> None:
    signals = new_signals(2)
    for follower in followers:  # A's row has two places
        count_user(signals, [A, follower])
    row = relation_of(signals, NEXT, 4)[A]
    assert np.flatnonzero(row).tolist() == kept
    assert signals.arrays.totals[A, NEXT] > row.sum()  # what went is still part of the whole


def test_a_full_row_learns_what_follows_now() -> None:
    signals = new_signals(8)
    signals.reserve(12)
    last_season, this_season = range(1, 9), range(9, 12)
    for follower in [*last_season] * 100 + [*this_season] * 4_000:
        count_user(signals, [A, follower])
    row = relation_of(signals, NEXT, 12)[A]
    assert row[9:].min() > row[1:9].max()
    # What fades does so as a whole: what is left of it is the row's, and of those who went.
    assert signals.arrays.totals[A, NEXT] >= row.sum()


def test_a_row_that_fades_travels_whole() -> None:
    signals, replica = new_signals(8), new_signals(8)
    signals.reserve(12)
    replica.reserve(12)
    for follower in [*range(1, 9)] * 10 + [*range(9, 12)] * 500:
        count_user(signals, [A, follower])
        if follower == 9:
            replica.apply_delta(signals.take_delta())
    replica.apply_delta(signals.take_delta())
    assert relation_of(signals, NEXT, 12)[A, 1:9].max() < 10  # it has faded
    for relation in (NEXT, NEAR, ALSO):
        found, expected = (relation_of(each, relation, 12) for each in (replica, signals))
        np.testing.assert_array_equal(found, expected)


def test_ten_users_of_both_items_weigh_as_one_who_followed_one_to_the_other() -> None:
    signals = new_signals(2)
    link(signals, A, [B, C], ALSO, [11, 0])  # strength 1.1
    signals.arrays.weights[A, 1, NEXT] = 1  # of C
    count_user(signals, [A, D])
    assert signals.arrays.ids[A].tolist() == [B, D]


def test_weights_of_the_neighbour_that_went_are_not_inherited() -> None:
    signals = new_signals(1)
    count_user(signals, [A, B])
    count_user(signals, [A, C], times_s=[0, SESSION_GAP_S + 1])
    assert relation_of(signals, SESSION, 3)[A].tolist() == [0, 0, 0]
    assert relation_of(signals, NEXT, 3)[A].tolist() == [0, 0, 1]


# --------------------------------------------------------------------------------------- popular


def popular_of(signals: ItemSignals, quotas: tuple[int, ...]) -> list[int]:
    """Return the candidates for everybody."""
    signals.refresh_popular(signals.capacity, quotas=quotas)
    popular: npt.NDArray[np.int32] = signals.popular
    return popular.tolist()


def test_popular_items_come_best_first_without_those_that_had_no_event() -> None:
    signals = new_signals(capacity=12)
    for item in range(12):
        count_alone(signals, item, times=item * 5 % 12)  # 0, 5, 10, 3, 8, 1, 6, 11, 4, 9, 2, 7
    assert popular_of(signals, (12, 0, 0, 0)) == [7, 2, 9, 4, 11, 6, 1, 8, 3, 10, 5]


def test_popular_items_are_the_first_of_each_life_without_doubles() -> None:
    signals = new_signals()
    count_alone(signals, A, times=500)
    count_alone(signals, B, times=1_000)
    count_alone(signals, C, times=400)
    # All time: B, A, C. Of the last 225 ticks: C, then B, 400 ticks ago, then A.
    assert popular_of(signals, (1, 0, 0, 1)) == [B, C]
    assert popular_of(signals, (2, 0, 0, 2)) == [B, A, C]


def test_items_that_are_out_leave_their_places_to_the_next() -> None:
    signals = new_signals(capacity=12)
    for item in range(12):
        count_alone(signals, item, times=item)
    signals.arrays.is_out[[11, 10, 9, 7]] = True
    assert popular_of(signals, (2, 0, 0, 0)) == [8, 6]
    assert popular_of(signals, (9, 0, 0, 0)) == [8, 6, 5, 4, 3, 2, 1]  # there are no more


def test_nothing_is_popular_before_the_first_event() -> None:
    assert popular_of(new_signals(), (4, 4, 4, 4)) == []
