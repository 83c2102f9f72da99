"""Baselines against arithmetic on tiny streams, and against slow plain Python on a longer one."""

from collections import Counter, defaultdict

import numpy as np
import numpy.typing as npt
import pytest

from headrace.model.baselines import NOT_RANKED, baseline_ranks
from headrace.model.recommender import MISS

Ranks = dict[str, npt.NDArray[np.int64]]


def ranks_of(events: list[tuple[int, int]]) -> Ranks:
    users, items = (np.array(column, np.int32) for column in zip(*events, strict=True))
    return baseline_ranks(users, items)


def test_event_that_repeats_the_previous_item_is_not_ranked() -> None:
    ranks = ranks_of([(0, 7), (0, 7), (0, 3), (0, 7)])
    for name, column in ranks.items():
        assert (column == NOT_RANKED).tolist() == [False, True, False, False], name


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


def test_mix_ranks_by_its_first_weights_before_it_has_learned() -> None:
    # User 9 had 0; after 0 came 1 twice and 2 once. Signals of 1: share 2/3; of 2: share 1/3, and
    # nothing is ordered by popularity yet. Both counts favour 1.
    history = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 2)]
    assert ranks_of([*history, (9, 0), (9, 1)])["online_mix"][-1] == 1
    assert ranks_of([*history, (9, 0), (9, 2)])["online_mix"][-1] == 2


# ------------------------------------------------------------------- a slow reference, plain Python


def slow_covisitation(users: list[int], items: list[int]) -> list[int]:
    followers: defaultdict[int, Counter[int]] = defaultdict(Counter)
    last: dict[int, int] = {}
    ranks = []
    for user, item in zip(users, items, strict=True):
        before = last.get(user)
        if before == item:
            ranks.append(NOT_RANKED)
            continue
        if before is None:
            ranks.append(-1)  # by popularity, tested above
        else:
            order = [other for other, _ in followers[before].most_common()]
            ranks.append(order.index(item) + 1 if item in order else MISS)
            followers[before][item] += 1
        last[user] = item
    return ranks


def slow_repeat(users: list[int], items: list[int]) -> list[int]:
    histories: defaultdict[int, list[int]] = defaultdict(list)
    ranks = []
    for user, item in zip(users, items, strict=True):
        own = histories[user]
        if own and own[-1] == item:
            ranks.append(NOT_RANKED)
        else:
            weights: defaultdict[int, float] = defaultdict(float)
            for step, other in enumerate(reversed(own[-50:])):
                weights[other] += 0.9**step
            if own:
                del weights[own[-1]]
            mine = weights.get(item)
            ranks.append(
                MISS if mine is None else 1 + sum(w > mine + 1e-12 for w in weights.values())
            )
        own.append(item)
    return ranks


@pytest.fixture(scope="module")
def stream() -> tuple[list[int], list[int]]:
    random = np.random.default_rng(0)
    users = random.integers(0, 12, 1_500)
    items = (random.pareto(1.0, 1_500) * 3).astype(int) % 40
    return users.tolist(), items.tolist()


def test_compiled_repeat_equals_plain_python(stream: tuple[list[int], list[int]]) -> None:
    users, items = stream
    assert ranks_of(list(zip(users, items, strict=True)))["repeat"].tolist() == slow_repeat(*stream)


def test_compiled_covisitation_equals_plain_python(stream: tuple[list[int], list[int]]) -> None:
    users, items = stream
    found = ranks_of(list(zip(users, items, strict=True)))["covisitation"]
    for rank, expected in zip(found, slow_covisitation(*stream), strict=True):
        assert expected == -1 or rank == expected


def test_no_events_give_no_ranks() -> None:
    empty = np.zeros(0, np.int32)
    assert all(len(column) == 0 for column in baseline_ranks(empty, empty).values())
