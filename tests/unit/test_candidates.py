"""Candidates of each user: which items, in which order, and for whom."""

import math

import numpy as np
import pytest
from model_samples import count_user, gather, histories, items_of, link, signal

from headrace.model.arrays import Ints
from headrace.model.counts.candidates import MAX_CANDIDATES, QUOTAS, Candidates, Gatherer, stack
from headrace.model.counts.signals import (
    ALSO,
    AROUND,
    N_RELATIONS,
    NEAR,
    NEXT,
    RECENT,
    SESSION,
    SESSION_GAP_S,
    ItemSignals,
)
from headrace.model.counts.walk import HISTORY, session_length
from headrace.model.histories import Histories

A, B, C, D = range(4)
N_ITEMS = 200


def new_signals() -> ItemSignals:
    """Return signals of which nothing was counted."""
    return ItemSignals(128, capacity=N_ITEMS)


# ---------------------------------------------------------------------------------- which items


def test_own_items_come_first_newest_first_without_the_last() -> None:
    signals = new_signals()
    link(signals, A, [50], NEXT, 1)
    found = gather(signals, [A, B, C, B])
    assert items_of(found) == [B, C, 50]


def test_last_item_is_no_candidate_even_where_others_lead_to_it() -> None:
    signals = new_signals()
    link(signals, B, [A, C], NEXT, 1)
    signals.popular = np.array([A, D], np.int32)
    assert items_of(gather(signals, [A, B, A])) == [B, C, D]


def test_last_item_is_a_candidate_where_repeats_are_judged() -> None:
    found = Gatherer(with_last=True).gather(new_signals(), histories([A, B, A]))
    assert items_of(found) == [A, B]
    assert signal(found, A, "own_last") == 1


def test_what_is_offered_no_more_is_no_candidate_and_takes_no_place() -> None:
    signals = new_signals()
    n = int(QUOTAS[NEXT])
    link(signals, A, [*range(50, 51 + n)], NEXT, [float(2 * n - at) for at in range(n + 1)])
    link(signals, C, [D], NEXT, 1)
    signals.arrays.is_out[[B, 50, 51]] = True
    found = gather(signals, [C, B, A])
    assert items_of(found) == [A, D, *range(52, 51 + n)]  # all that there is room for
    assert found.context.tolist() == gather(new_signals(), [C, B, A]).context.tolist()


def test_what_an_event_took_is_a_candidate_though_it_is_offered_no_more() -> None:
    signals = new_signals()
    link(signals, A, [50, 51], NEXT, [2, 1])
    signals.arrays.is_out[[B, 50, 51]] = True
    users = histories([C, B, A], [C, B, A], [C, B, A])
    found = Gatherer().gather(signals, users, kept=np.array([51, B, -1], np.int32))
    assert [row[row >= 0].tolist() for row in found.items] == [[A, 51], [B, A], [A]]
    signals.arrays.is_out[:] = False
    plain = Gatherer().gather(signals, users)
    for row, item in ((0, 51), (1, B)):
        at, then = (int(np.flatnonzero(x.items[row] == item)[0]) for x in (found, plain))
        np.testing.assert_array_equal(found.signals[row, at], plain.signals[row, then])


def test_user_without_a_history_gets_the_popular_items() -> None:
    signals = new_signals()
    signals.popular = np.array([D, B], np.int32)
    found = gather(signals, [])
    assert items_of(found) == [D, B]


def test_user_without_a_history_gets_nothing_before_the_first_event() -> None:
    found = gather(new_signals(), [])
    assert found.items.tolist() == [[-1]]  # one place, so that a batch is never of no width


@pytest.mark.parametrize("relation", [NEXT, NEAR, SESSION, RECENT, ALSO, AROUND])
def test_quota_of_each_relation_goes_to_its_strongest(relation: int) -> None:
    signals = new_signals()
    others = np.arange(1, 101)
    link(signals, A, others, relation, others)  # the last are the strongest
    found = gather(signals, [A])
    assert sorted(items_of(found)) == others[-QUOTAS[relation] :].tolist()


@pytest.mark.parametrize("relation", [NEXT, NEAR, SESSION, RECENT, ALSO, AROUND])
def test_stronger_item_met_late_is_taken_before_equal_weaker_ones(relation: int) -> None:
    signals = new_signals()
    others = np.arange(1, 101)
    link(signals, A, others, relation, np.where(others == 100, 2, 1))
    quota = int(QUOTAS[relation])
    assert items_of(gather(signals, [A])) == [*range(1, quota), 100]


def test_item_of_two_relations_takes_one_place() -> None:
    signals = new_signals()
    link(signals, A, [B, C], NEXT, 1)
    link(signals, A, [B, C], ALSO, 1)
    signals.popular = np.array([C, D], np.int32)
    assert items_of(gather(signals, [A])) == [B, C, D]


def test_candidates_are_bounded() -> None:
    signals = ItemSignals(4, capacity=1_000)
    signals.popular = np.arange(1_000, dtype=np.int32)
    assert items_of(gather(signals, [])) == list(range(MAX_CANDIDATES))


def test_candidates_of_all_relations_are_bounded_too() -> None:
    signals, own = ItemSignals(128, capacity=1_000), list(range(N_RELATIONS))
    first = N_RELATIONS
    for relation, quota in enumerate(QUOTAS.tolist()):
        link(signals, relation, range(first, first + quota), relation, 1)
        first += quota
    assert first > MAX_CANDIDATES + 1
    found = Gatherer(with_last=True).gather(signals, histories(own, own))
    for row in (0, 1):
        assert len(set(items_of(found, row))) == MAX_CANDIDATES
        assert items_of(found, row)[: len(own)] == own


def test_unknown_items_are_skipped() -> None:
    signals = new_signals()
    link(signals, B, [C], NEXT, 1)
    found = gather(signals, [-1, B, -1])
    assert items_of(found) == [B, C]
    # B is one step further back than if it were the last: 0.6 of 1 / (1 + 1).
    assert signal(found, C, "next") == pytest.approx(math.log1p(100 * 0.6 / 2))


def test_shorter_rows_are_padded() -> None:
    signals = new_signals()
    link(signals, A, [B, C, D], NEXT, 1)
    found = gather(signals, [A], [C, B])
    assert found.items.tolist() == [[B, C, D], [B, -1, -1]]
    assert not found.signals[1, 1:].any()


# ---------------------------------------------------------------------------- users and batches


def busy_signals() -> ItemSignals:
    """Return signals with all relations, of streams drawn at random."""
    rng = np.random.default_rng(0)
    signals = ItemSignals(8, capacity=40)
    for _ in range(30):
        count_user(signals, rng.integers(0, 40, 8).tolist())
    signals.refresh_popular(40)
    return signals


USERS = ([3, 1, 4, 1, 5], [], [9, 2, 6], [-1, 5, 3], [7], [9, 2, 6])


def assert_same_user(one: Candidates, row: int, other: Candidates, other_row: int) -> None:
    """A user's candidates are the same in two batches, whatever their widths."""
    items = items_of(one, row)
    n = len(items)
    assert items == items_of(other, other_row)
    np.testing.assert_array_equal(one.signals[row, :n], other.signals[other_row, :n])
    np.testing.assert_array_equal(one.context[row], other.context[other_row])


def test_users_of_a_batch_do_not_affect_each_other() -> None:
    signals = busy_signals()
    users = USERS * 4  # more than are finished together
    together = gather(signals, *users)
    for row, user in enumerate(users):
        assert_same_user(together, row, gather(signals, user), 0)


def test_order_of_users_in_a_batch_does_not_matter() -> None:
    signals = busy_signals()
    forwards, backwards = gather(signals, *USERS), gather(signals, *USERS[::-1])
    for row in range(len(USERS)):
        assert_same_user(forwards, row, backwards, len(USERS) - 1 - row)


def test_gatherer_remembers_nothing_of_the_call_before() -> None:
    signals, gatherer = busy_signals(), Gatherer()
    first = gatherer.gather(signals, histories(*USERS))
    gatherer.gather(signals, histories(*USERS[::-1], [8, 8, 1]))
    again = gatherer.gather(signals, histories(*USERS))
    for name, values in first._asdict().items():
        np.testing.assert_array_equal(getattr(again, name), values, err_msg=name)


def test_gatherer_follows_signals_that_grew() -> None:
    signals, gatherer = busy_signals(), Gatherer()
    gatherer.gather(signals, histories(*USERS))
    new_item = 60
    signals.reserve(new_item + 1)
    count_user(signals, [9, new_item, 9, new_item])
    found = gatherer.gather(signals, histories([9]))
    assert_same_user(found, 0, gather(signals, [9]), 0)
    assert new_item in items_of(found)


def test_no_users_have_no_candidates() -> None:
    found = gather(busy_signals())
    assert found.items.shape[0] == found.context.shape[0] == 0


def test_stacked_parts_keep_their_rows_padded_to_the_widest() -> None:
    signals = busy_signals()
    parts = [gather(signals, user) for user in USERS]
    stacked, together = stack(parts), gather(signals, *USERS)
    for name, values in together._asdict().items():
        np.testing.assert_array_equal(getattr(stacked, name), values, err_msg=name)


def test_rows_of_histories_are_those_users() -> None:
    all_users = histories(*USERS)
    chosen: Histories = all_users.rows(np.array([2, 0]))
    expected = histories(USERS[2], USERS[0])
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(getattr(chosen, name), values, err_msg=name)


def test_all_signals_are_finite_where_nothing_was_counted() -> None:
    found = gather(new_signals(), [A, B, -1, C], [], [-1], width=HISTORY)
    items: Ints = found.items
    assert items_of(found, 2) == []
    assert np.isfinite(found.signals).all()
    assert np.isfinite(found.context).all()
    assert items.min() == -1


def test_the_newest_session_ends_at_a_long_gap_either_way() -> None:
    had = np.array([3, 2, 1, -1], np.int32)
    for gap_s in (SESSION_GAP_S + 1, -SESSION_GAP_S - 1):  # late: of long before, or after
        assert session_length(np.array([gap_s, 0, 0, 0]), had) == 1
        assert session_length(np.array([gap_s, gap_s, 0, 0]), had) == 2
    assert session_length(np.array([0, SESSION_GAP_S, 0, 0]), had) == 3
