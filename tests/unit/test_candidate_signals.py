"""Signals of each candidate, computed by hand: of the user, of neighbours, of the item."""

import math

import numpy as np
import pytest
from model_samples import NOW_S, count_alone, count_user, gather, histories, items_of, link, signal

from headrace.model.counts.candidate_signals import CONTEXTS, SIGNALS
from headrace.model.counts.candidates import Gatherer
from headrace.model.counts.signals import (
    ALL_TIME,
    ALSO,
    AROUND,
    N_RELATIONS,
    NEAR,
    NEXT,
    RECENT,
    SESSION,
    ItemSignals,
)

A, B, C, D = range(4)
N_ITEMS = 200


def new_signals() -> ItemSignals:
    """Return signals of which nothing was counted."""
    return ItemSignals(128, capacity=N_ITEMS)


# ----------------------------------------------------------------------------- what is said: own


def test_own_signals_count_recency_place_and_times() -> None:
    found = gather(new_signals(), [A, B, B, C])
    # B is one and two steps back: 0.9 + 0.81.
    assert signal(found, B, "own_recency") == pytest.approx(math.log1p(10 * (0.9 + 0.81)))
    assert signal(found, B, "own_last") == pytest.approx(1 / 2)
    assert signal(found, B, "own_count") == pytest.approx(math.log1p(2))
    assert signal(found, B, "own_total") == pytest.approx(math.log1p(2))
    assert signal(found, B, "own_seen") == 1
    assert signal(found, C, "own_age") == pytest.approx(math.log1p(3 * 60) / 10)


def test_items_of_others_have_no_own_signals() -> None:
    signals = new_signals()
    signals.popular = np.array([D], np.int32)
    found = gather(signals, [A, B])
    assert [signal(found, D, name) for name in SIGNALS if name.startswith("own_")] == [0] * 8


def test_own_item_is_in_session_up_to_an_hour_gap() -> None:
    history = histories([A, B, C])
    history.times_s[0, :3] = [NOW_S, NOW_S - 3600, NOW_S - 3600 - 3601]
    found = Gatherer().gather(new_signals(), history)
    assert signal(found, B, "own_in_session") == 1
    assert signal(found, C, "own_in_session") == 0
    assert found.context[0, CONTEXTS.index("log_session_position")] == pytest.approx(math.log1p(2))


def test_item_that_followed_the_last_one_before_is_noticed() -> None:
    for last, next_one in ((A, B), (B, A)):
        found = gather(new_signals(), [last, next_one, last, C, D])  # newest first
        assert signal(found, next_one, "own_followed") == pytest.approx(math.log1p(3 * 0.95**2))
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


@pytest.mark.parametrize(
    ("relation", "name", "expected"),
    [
        # 1 was counted of item B, which is a step back: its fade, over 1 and the prior.
        (NEXT, "next", 100 * 0.6 / (1 + 1)),
        (NEAR, "near", 100 * 0.85 / (1 + 3)),
        (NEAR, "near_lift", 1000 * 0.85 / (1 + 3) / 3),
        (SESSION, "session", 100 * 1.0 / (1 + 5)),
        (RECENT, "recent", 100 * 0.7 / (1 + 0.5)),
        (AROUND, "around", 100 * 2**-1.5 / (1 + 3)),
        (AROUND, "around_lift", 1000 * 2**-1.5 / (1 + 3) / 3),
        (ALSO, "also", 10 * 0.96 / math.sqrt(0 + 2) / math.sqrt(8 + 2)),
    ],
)
def test_each_relation_fades_a_step_back(relation: int, name: str, expected: float) -> None:
    signals = new_signals()
    link(signals, B, [C], relation, 1)
    signals.arrays.popularity[C, ALL_TIME] = 8  # lifts are over its root and one: 3
    assert signal(gather(signals, [A, B]), C, name) == pytest.approx(math.log1p(expected))


def test_links_count_the_interactions_that_lead_to_an_item_fading_a_step_back() -> None:
    signals = new_signals()
    link(signals, A, [C, D], NEXT, 1)
    link(signals, B, [C], ALSO, 1)
    found = gather(signals, [A, B])
    assert signal(found, C, "links") == pytest.approx(math.log1p(1 + 0.95))
    assert signal(found, D, "links") == pytest.approx(math.log1p(1))


def test_link_from_the_last_item_alone_has_a_signal_and_a_lift() -> None:
    signals = new_signals()
    link(signals, A, [C, D], NEXT, [3, 1])
    link(signals, B, [C], NEXT, [9])
    signals.arrays.popularity[C, ALL_TIME] = 8
    found = gather(signals, [A, B])
    assert signal(found, C, "next_of_last") == pytest.approx(math.log1p(100 * 3 / 5))
    assert signal(found, C, "next_of_last_lift") == pytest.approx(math.log1p(100 * 3 / 5 / 3))


@pytest.mark.parametrize(("relation", "reach"), [(NEXT, 3), (NEAR, 15), (RECENT, 5), (AROUND, 20)])
def test_relation_reaches_only_so_far_back(relation: int, reach: int) -> None:
    signals = new_signals()
    link(signals, D, [50], relation, 1)
    between = list(range(10, 10 + reach))
    assert 50 in items_of(gather(signals, [*between[1:], D], width=30))
    assert 50 not in items_of(gather(signals, [*between, D], width=30))


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


@pytest.mark.parametrize(
    ("n_before", "names"),
    [
        (0, ("next", "near", "session", "recent", "around", "also", "links")),
        (30, ("also", "links")),  # no other reaches so far back, if the session is another
    ],
)
def test_what_two_items_say_of_one_is_summed_in_each_relation_apart(
    n_before: int, names: tuple[str, ...]
) -> None:
    signals, rng = new_signals(), np.random.default_rng(0)
    for item in (A, B):
        for relation in range(N_RELATIONS):
            link(signals, item, [C, D], relation, rng.uniform(1, 5, 2))
    before = list(range(10, 10 + n_before))
    users = [A, B], [A, 4], [4, B]  # both say something, or one of them from its place
    had = histories(*(before + user for user in users), width=n_before + 2, minutes=3 * n_before)
    found = Gatherer().gather(signals, had)
    for item in (C, D):
        both, of_a, of_b = (
            [math.expm1(signal(found, item, name, row)) for name in names]
            for row in range(len(users))
        )
        assert both == pytest.approx([a + b for a, b in zip(of_a, of_b, strict=True)], rel=1e-3)
        assert min(both) > 0
        assert len({round(value, 3) for value in both}) == len(names)


def test_an_item_the_user_had_twice_says_it_from_both_places() -> None:
    signals = new_signals()
    link(signals, A, [C], NEXT, 1)
    found = gather(signals, [A, B, A], [A, B, 4], [4, B, A])
    twice, newer, older = (math.expm1(signal(found, C, "next", row)) for row in range(3))
    assert twice == pytest.approx(newer + older, rel=1e-4)
    assert older > 0


def test_way_back_from_a_candidate_to_the_last_item_is_seen() -> None:
    signals = new_signals()
    link(signals, B, [A, C], NEXT, [2, 1])
    found = gather(signals, [A, B])
    assert signal(found, B, "back") == pytest.approx(math.log1p(100 * 2 / (3 + 3)))


# ---------------------------------------------------------------------- what is said: of the item


def test_popularity_age_and_idleness_are_as_of_now() -> None:
    signals = new_signals()
    signals.clock, signals.landmark = 10.0, 10.0
    count_alone(signals, B, times=2)  # at ticks 10 and 11
    signals.arrays.last_time_s[B], signals.now_s = NOW_S - 99, NOW_S
    signals.clock = 236.0  # a fast life after the second
    found = gather(signals, [A, B])
    assert signal(found, B, "popularity") == pytest.approx(math.log1p(2))
    then = 1 + math.exp(-1 / 225)
    assert signal(found, B, "popularity_fast") == pytest.approx(math.log1p(then / math.e))
    assert signal(found, B, "popularity_medium") == pytest.approx(
        math.log1p(10 * (1 + math.exp(-1 / 1900)) * math.exp(-225 / 1900))
    )
    assert signal(found, B, "popularity_slow") == pytest.approx(
        math.log1p((1 + math.exp(-1 / 20_000)) * math.exp(-225 / 20_000))
    )
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
