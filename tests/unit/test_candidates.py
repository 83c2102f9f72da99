"""Candidates of each user: which items, in which order, and what the counted signals say."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from model_samples import NOW_S, count_alone, count_user, histories

from headrace.model.candidates import (
    CONTEXTS,
    HISTORY,
    MAX_CANDIDATES,
    QUOTAS,
    SIGNALS,
    Candidates,
    Gatherer,
    Histories,
    stack,
)
from headrace.model.signals import ALL_TIME, ALSO, NEAR, NEXT, RECENT, SESSION, Ints, ItemSignals

A, B, C, D = range(4)
N_ITEMS = 200


def new_signals(*, neighbours: int = 128) -> ItemSignals:
    """Return signals of which nothing was counted."""
    return ItemSignals(neighbours, capacity=N_ITEMS)


def link(
    signals: ItemSignals,
    item: int,
    others: Sequence[int],
    relation: int,
    weights: Sequence[float] | float,
) -> None:
    """Give an item neighbours in one relation; their weights are all that was counted of it."""
    a, n = signals.arrays, len(others)
    a.ids[item, :n] = others
    a.weights[item, :n, relation] = weights
    a.totals[item, relation] = a.weights[item, :n, relation].sum()
    a.filled[item] = n


def gather(signals: ItemSignals, *users: Sequence[int], width: int = 8) -> Candidates:
    """Gather for users given newest first."""
    return Gatherer().gather(signals, histories(*users, width=width))


def items_of(found: Candidates, row: int = 0) -> list[int]:
    """Return a user's candidates without the padding."""
    items = found.items[row]
    return [item for item in items.tolist() if item >= 0]


def signal(found: Candidates, item: int, name: str, row: int = 0) -> float:
    """Return one signal of one candidate."""
    place = items_of(found, row).index(item)
    return float(found.signals[row, place, SIGNALS.index(name)])


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


def test_user_without_a_history_gets_the_popular_items() -> None:
    signals = new_signals()
    signals.popular = np.array([D, B], np.int32)
    found = gather(signals, [])
    assert items_of(found) == [D, B]
    assert found.because[0].tolist() == [-1, -1]


def test_user_without_a_history_gets_nothing_before_the_first_event() -> None:
    found = gather(new_signals(), [])
    assert found.items.tolist() == [[-1]]  # one place, so that a batch is never of no width


@pytest.mark.parametrize("relation", [NEXT, NEAR, SESSION, RECENT, ALSO])
def test_quota_of_each_relation_goes_to_its_strongest(relation: int) -> None:
    signals = new_signals()
    others = np.arange(1, 101)
    link(signals, A, others, relation, others)  # the last are the strongest
    found = gather(signals, [A])
    assert sorted(items_of(found)) == others[-QUOTAS[relation] :].tolist()


@pytest.mark.parametrize("relation", [NEXT, NEAR, SESSION, RECENT, ALSO])
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
    assert found.because.tolist() == [[0, 0, 0], [1, -1, -1]]


def test_loudest_interaction_is_the_reason() -> None:
    signals = new_signals()
    link(signals, A, [C, D], NEXT, [1, 9])
    link(signals, B, [C], NEXT, [9])
    found = gather(signals, [A, B])
    reasons = dict(zip(items_of(found), found.because[0].tolist(), strict=True))
    # C of A: 1 / (10 + 1); of B, a step back: 0.6 * 9 / (9 + 1). B is the user's own.
    assert reasons == {B: 1, C: 1, D: 0}


# ----------------------------------------------------------------------------- what is said: own


def test_own_signals_count_recency_place_and_times() -> None:
    found = gather(new_signals(), [A, B, B, C])
    # B is one and two steps back: 0.9 + 0.81.
    assert signal(found, B, "own_recency") == pytest.approx(math.log1p(10 * (0.9 + 0.81)))
    assert signal(found, B, "own_last") == pytest.approx(1 / 2)
    assert signal(found, B, "own_count") == pytest.approx(math.log1p(2))
    assert signal(found, B, "own_seen") == 1
    assert signal(found, C, "own_age") == pytest.approx(math.log1p(3 * 60) / 10)


def test_items_of_others_have_no_own_signals() -> None:
    signals = new_signals()
    signals.popular = np.array([D], np.int32)
    found = gather(signals, [A, B])
    assert [signal(found, D, name) for name in SIGNALS if name.startswith("own_")] == [0] * 7


def test_own_item_is_in_session_up_to_an_hour_gap() -> None:
    history = histories([A, B, C])
    history.times_s[0, :3] = [NOW_S, NOW_S - 3600, NOW_S - 3600 - 3601]
    found = Gatherer().gather(new_signals(), history)
    assert signal(found, B, "own_in_session") == 1
    assert signal(found, C, "own_in_session") == 0
    assert found.context[0, CONTEXTS.index("log_session_position")] == pytest.approx(math.log1p(2))


def test_item_that_followed_the_last_one_before_is_noticed() -> None:
    found = gather(new_signals(), [A, B, A, C])  # oldest first: C, A, B, A
    assert signal(found, B, "own_followed") == pytest.approx(math.log1p(3 * 0.95**2))
    assert signal(found, C, "own_followed") == 0


def test_nothing_is_known_to_have_followed_an_unknown_last_item() -> None:
    found = gather(new_signals(), [-1, B, -1, C])
    assert signal(found, B, "own_followed") == signal(found, C, "own_followed") == 0


# ----------------------------------------------------------------------- what is said: neighbours


def test_relation_is_a_share_of_what_was_counted_fading_with_each_step_back() -> None:
    signals = new_signals()
    link(signals, A, [C, D], NEXT, [3, 1])
    link(signals, B, [C], NEXT, [1])
    signals.arrays.popularity[C, ALL_TIME] = 8
    found = gather(signals, [A, B])
    # Of A, and of B a step back; 1 is the prior.
    share = 3 / (4 + 1) + 0.6 * 1 / (1 + 1)
    assert signal(found, C, "next") == pytest.approx(math.log1p(100 * share))
    assert signal(found, C, "next_lift") == pytest.approx(math.log1p(1000 * share / 3))  # sqrt(8+1)
    assert signal(found, C, "next_of_last") == pytest.approx(math.log1p(100 * 3 / (4 + 1)))


def test_relation_reaches_only_so_far_back() -> None:
    signals = new_signals()
    link(signals, D, [50], NEXT, 1)
    assert 50 in items_of(gather(signals, [A, B, D]))
    assert 50 not in items_of(gather(signals, [A, B, C, D]))  # NEXT looks at three items


def test_session_relation_counts_items_of_this_session_only() -> None:
    signals = new_signals()
    link(signals, B, [C], SESSION, 1)
    near = Gatherer().gather(signals, histories([A, B], minutes=60))
    far = Gatherer().gather(signals, histories([A, B], minutes=61))
    assert signal(near, C, "session") == pytest.approx(math.log1p(100 * 1 / (1 + 5)))
    assert items_of(far) == [B]


def test_recent_relation_is_read_as_of_the_clock() -> None:
    signals = new_signals()
    link(signals, A, [B], RECENT, 2)
    signals.clock = 10_000 * math.log(2)  # what weighed 2 weighs 1
    found = gather(signals, [A])
    assert signal(found, B, "recent") == pytest.approx(math.log1p(100 * 1 / (1 + 0.5)))


def test_also_relation_is_a_cosine() -> None:
    signals = new_signals()
    link(signals, A, [B], ALSO, 6)
    signals.arrays.popularity[[A, B], ALL_TIME] = [7, 14]
    found = gather(signals, [A])
    cosine = 6 / (3 * 4)  # roots of 7 + 2 and 14 + 2
    assert signal(found, B, "also") == pytest.approx(math.log1p(10 * cosine))
    assert signal(found, B, "also_mean") == pytest.approx(math.log1p(100 * cosine / 2))


def test_way_back_from_a_candidate_to_the_last_item_is_seen() -> None:
    signals = new_signals()
    link(signals, B, [A, C], NEXT, [2, 1])
    found = gather(signals, [A, B])
    assert signal(found, B, "back") == pytest.approx(math.log1p(100 * 2 / (3 + 3)))


# ---------------------------------------------------------------------- what is said: of the item


def test_popularity_age_and_idleness_are_as_of_now() -> None:
    signals = new_signals()
    count_alone(signals, B, times=2)  # at ticks 0 and 1
    signals.arrays.last_time_s[B], signals.now_s = NOW_S - 99, NOW_S
    signals.clock = 226  # a fast life after the second
    found = gather(signals, [A, B])
    assert signal(found, B, "popularity") == pytest.approx(math.log1p(2))
    then = 1 + math.exp(-1 / 225)
    assert signal(found, B, "popularity_fast") == pytest.approx(math.log1p(then / math.e))
    assert signal(found, B, "age") == pytest.approx(math.log1p(226) / 10)
    assert signal(found, B, "idle") == pytest.approx(math.log1p(99) / 10)


def test_repeat_propensity_is_shrunk() -> None:
    signals = new_signals()
    count_user(signals, [B, A, B, A, B])
    found = gather(signals, [A, B])
    assert signal(found, B, "repeat_propensity") == pytest.approx((2 + 0.5) / (3 + 3))


def test_category_share_fades_with_each_step_back() -> None:
    signals = new_signals()
    signals.arrays.category[[A, B, C, D]] = [1, 2, 1, 2]
    signals.popular = np.array([D, 50], np.int32)
    found = gather(signals, [A, B, C])
    # Of category 1 are A and C, steps 0 and 2; of category 2 is B, step 1.
    assert signal(found, C, "category_share") == pytest.approx(0.1 * (1 + 0.81))
    assert signal(found, C, "category_of_last") == 1
    assert signal(found, D, "category_share") == pytest.approx(0.1 * 0.9)
    assert signal(found, D, "category_of_last") == 0
    assert signal(found, 50, "category_share") == 0  # unknown categories are not alike


def test_context_describes_the_user() -> None:
    users = histories([A, B, A], [])
    users.n_events[0], users.n_repeats[0] = 7, 2
    found = Gatherer().gather(new_signals(), users)
    assert found.context[0] == pytest.approx([math.log1p(7), 3 / 12, math.log1p(3), 2 / 4])
    assert found.context[1] == pytest.approx([0, 1 / 5, 0, 0])


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
    np.testing.assert_array_equal(one.because[row, :n], other.because[other_row, :n])
    np.testing.assert_array_equal(one.context[row], other.context[other_row])


def test_users_of_a_batch_do_not_affect_each_other() -> None:
    signals = busy_signals()
    together = gather(signals, *USERS)
    for row, user in enumerate(USERS):
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
