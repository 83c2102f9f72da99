"""Baselines against arithmetic on tiny streams."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from headrace.model.baselines.counting import baseline_ranks
from headrace.model.baselines.online_mix import MixState, learn
from headrace.model.ranking_metrics import MISS, UNSCORED

Ranks = dict[str, npt.NDArray[np.int64]]


def ranks_of(events: list[tuple[int, int]]) -> Ranks:
    users, items = (np.array(column, np.int32) for column in zip(*events, strict=True))
    return baseline_ranks(users, items, np.zeros(len(users), np.int64))


def test_event_that_repeats_the_previous_item_is_not_ranked() -> None:
    ranks = ranks_of([(0, 7), (0, 7), (0, 3), (0, 7)])
    for name, column in ranks.items():
        assert (column == UNSCORED).tolist() == [False, True, False, False], name


def test_item_never_seen_before_is_a_miss_everywhere() -> None:
    ranks = ranks_of([(0, 0), (1, 1), (0, 2)])
    assert all((column == MISS).all() for column in ranks.values())


def test_covisitation_ranks_followers_of_the_last_item_by_count() -> None:
    # After 0 came: 1, 2, 2. User 9 has 0 last: 2 stands first, 1 second.
    history = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 2)]
    assert ranks_of([*history, (9, 0), (9, 2)])["covisitation"][-1] == 1
    assert ranks_of([*history, (9, 0), (9, 1)])["covisitation"][-1] == 2
    assert ranks_of([*history, (9, 0), (9, 3)])["covisitation"][-1] == MISS


def test_followers_of_equal_count_stand_in_the_order_they_first_followed() -> None:
    history = [(0, 0), (0, 5), (1, 0), (1, 2)]  # after 0: 5, then 2, once each
    assert ranks_of([*history, (9, 0), (9, 5)])["covisitation"][-1] == 1
    assert ranks_of([*history, (9, 0), (9, 2)])["covisitation"][-1] == 2


def test_repeat_ranks_own_items_by_recency_weighted_count_without_the_last() -> None:
    # Own: 0, 1, 0, 2, 3. Weights: 0 has 0.9^4 + 0.9^2 = 1.4661, 1 has 0.9^3, 2 has 0.9; 3 is last.
    own = [(0, 0), (0, 1), (0, 0), (0, 2), (0, 3)]
    assert ranks_of([*own, (0, 0)])["repeat"][-1] == 1
    assert ranks_of([*own, (0, 2)])["repeat"][-1] == 2
    assert ranks_of([*own, (0, 1)])["repeat"][-1] == 3


def test_popularity_is_ordered_anew_every_200_events() -> None:
    # 200 events: item 0 comes 100 times, 1 comes 60 times, 2 comes 40 times, each by a new user.
    stream = [(user, 0 if user < 100 else 1 if user < 160 else 2) for user in range(200)]
    ranks = ranks_of([*stream, (900, 1), (901, 2), (902, 0)])
    assert ranks["popularity"][-3:].tolist() == [2, 3, 1]
    assert (ranks["popularity"][:200] == MISS).all()  # nothing is ordered before the first 200


def test_recent_popularity_forgets_a_tenth_every_200_events() -> None:
    # Block 1: item 0 200 times. Block 2: item 1 190 times. After two fades of the first count
    # and one of the second (at 200 and at 400): 0 has 200 * 0.9 = 180 at the ordering, 1 has 190.
    blocks = [(user, 0) for user in range(200)]
    blocks += [(200 + i, 1 if i < 190 else 2) for i in range(200)]
    ranks = ranks_of([*blocks, (900, 1), (901, 0)])
    assert ranks["recent_popularity"][-2:].tolist() == [1, 2]
    assert ranks["popularity"][-2:].tolist() == [2, 1]


def test_covisitation_of_a_new_user_is_popularity() -> None:
    # Before event 200 nothing is ordered; then item 0 (120 times) stands before item 1 (80 times).
    stream = [(user, 0 if user < 120 else 1) for user in range(200)]
    assert ranks_of([*stream, (900, 1)])["covisitation"][-1] == 2


def test_items_of_equal_count_stand_in_the_order_they_first_came_whatever_their_index() -> None:
    stream = [(user, 5 if user % 2 else 9) for user in range(200)]  # 100 times each, 9 first
    ranks = ranks_of([*stream, (900, 9), (901, 5)])
    assert ranks["popularity"][-2:].tolist() == [1, 2]
    assert ranks["recent_popularity"][-2:].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["popularity", "recent_popularity"])
def test_popularity_keeps_the_previous_item_in_its_list(name: str) -> None:
    # Item 0 (120 times) is what user 0 had last, and still stands before item 1 (80 times).
    stream = [(user, 0 if user < 120 else 1) for user in range(200)]
    assert ranks_of([*stream, (0, 1)])[name][-1] == 2


@pytest.mark.parametrize("name", ["popularity", "recent_popularity"])
def test_popularity_counts_every_event_also_repeats_of_the_previous_item(name: str) -> None:
    # User 0 has item 0 60 times in a row; 59 users have item 1, 81 users an item of their own.
    stream = [(0, 0)] * 60 + [(user, 1) for user in range(1, 60)]
    stream += [(user, user) for user in range(100, 181)]
    assert ranks_of([*stream, (900, 0)])[name][-1] == 1
    assert ranks_of([*stream, (900, 1)])[name][-1] == 2


def test_repeat_sees_the_latest_50_own_items_only() -> None:
    # 0, then 1 and 2 in turn: after 49 of these 0 is the 50th from the end, after 50 the 51st.
    turns = [(0, 1 + i % 2) for i in range(50)]
    assert ranks_of([(0, 0), *turns[:49], (0, 0)])["repeat"][-1] == 2  # 2 stands before it
    assert ranks_of([(0, 0), *turns, (0, 0)])["repeat"][-1] == MISS


def test_repeat_of_the_previous_item_adds_to_history_and_popularity_only() -> None:
    # After 1 came: 2 once. Counted as a succession, 1 after 1 (twice) would stand before it.
    succession = ranks_of([(0, 1), (0, 1), (0, 1), (0, 2), (9, 1), (9, 2)])
    assert succession["covisitation"][-1] == 1
    # Own: 0, 1, 1, 2. Weights: 0 has 0.9^3 = 0.73, 1 has 0.9^2 + 0.9 = 1.71; 2 is last.
    assert ranks_of([(0, 0), (0, 1), (0, 1), (0, 2), (0, 0)])["repeat"][-1] == 2
    # Item 0 comes 99 times to new users and once again to one of them; item 1 comes 99 times.
    stream = [(user, 1 if user < 99 else 0) for user in range(198)]
    popular = ranks_of([*stream, (197, 0), (198, 2), (900, 0)])
    assert popular["popularity"][-1] == 1


def test_mix_ranks_by_its_first_weights_before_it_has_learned() -> None:
    # After 0 came 1 twice and 2 once. Followers' shares: log(1 + 100 * 2/3) = 4.22 for 1 and
    # log(1 + 100 * 1/3) = 3.54 for 2; popularity adds 0.3 * log(3) = 0.33 and 0.3 * log(2) = 0.21.
    # Nothing has been learned: no item was a candidate when it came.
    history = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 2)]
    assert ranks_of([*history, (9, 0), (9, 1)])["online_mix"][-1] == 1
    assert ranks_of([*history, (9, 0), (9, 2)])["online_mix"][-1] == 2
    assert ranks_of([*history, (9, 0), (9, 3)])["online_mix"][-1] == MISS


def test_mix_ranks_a_candidate_that_only_popularity_gives() -> None:
    # 0 (120 times) and 1 (80 times) are known by popularity alone; user 900 has no history.
    stream = [(user, 0 if user < 120 else 1) for user in range(200)]
    assert ranks_of([*stream, (900, 1)])["online_mix"][-1] == 2


def test_mix_has_a_follower_from_the_last_three_items_only() -> None:
    # 5 follows 0. User 9 has 0 and two more items, or 0 and three more, before 5 comes.
    after = [(0, 0), (0, 5), (9, 0), (9, 1), (9, 2)]
    assert ranks_of([*after, (9, 5)])["online_mix"][-1] < MISS
    assert ranks_of([*after, (9, 3), (9, 5)])["online_mix"][-1] == MISS


def test_mix_has_the_sixty_most_frequent_followers_of_an_item() -> None:
    # Items 1 to 61 follow 0 once each, in this order: the 61st is the one that falls out.
    history = [event for y in range(1, 62) for event in ((y, 0), (y, y))]
    assert ranks_of([*history, (900, 0), (900, 60)])["online_mix"][-1] < MISS
    assert ranks_of([*history, (900, 0), (900, 61)])["online_mix"][-1] == MISS


def test_one_adagrad_step_matches_hand_computed_gradient() -> None:
    # Two candidates at weights (0, 0, 0, 0): p = 1/2 each. Signals differ in the first alone:
    # gradient = 1/2 * 1 + 1/2 * 0 - 1 = -1/2, its square 0.25 is added to 0.01.
    mix = MixState(np.zeros(4), np.full(4, 0.01))
    signals = np.array([[1.0, 0, 0, 0], [0.0, 0, 0, 0]])
    learn(mix, signals, np.zeros(2), 0)
    assert mix.squares.tolist() == pytest.approx([0.26, 0.01, 0.01, 0.01])
    assert mix.weights.tolist() == pytest.approx([0.3 * 0.5 / math.sqrt(0.26), 0, 0, 0])


def test_progress_adds_up_to_the_events() -> None:
    told: list[int] = []
    users = np.arange(450, dtype=np.int32)
    baseline_ranks(users, users, users.astype(np.int64), on_progress=told.append)
    assert told == [200, 200, 50]


def test_no_events_give_no_ranks() -> None:
    empty = np.zeros(0, np.int32)
    assert all(
        len(column) == 0 for column in baseline_ranks(empty, empty, empty.astype(np.int64)).values()
    )
