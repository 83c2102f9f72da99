"""Session neighbours against arithmetic on tiny streams."""

import numpy as np
import pytest

from headrace.model.baselines.counting import baseline_ranks
from headrace.model.baselines.session_neighbours import learn_stream, new_sequences
from headrace.model.ranking_metrics import MISS, UNSCORED

DAY = 86_400


def ranks_of(events: list[tuple[int, int]], *, times_s: list[int] | None = None) -> list[int]:
    """Return the ranks of (user, item), all at one time if none is given."""
    users, items = (np.array(column, np.int32) for column in zip(*events, strict=True))
    times = np.array(times_s or [0] * len(events), np.int64)
    return baseline_ranks(users, items, times)["session_knn"].tolist()


def test_what_came_right_after_the_common_item_stands_before_what_came_later() -> None:
    # From 1: 2 lies one step off and weighs 1, 3 lies two steps off and weighs 2^-0.8 = 0.57.
    history = [(0, 1), (0, 2), (0, 3)]
    assert ranks_of([*history, (9, 1), (9, 2)])[-1] == 1
    assert ranks_of([*history, (9, 1), (9, 3)])[-1] == 2


def test_what_came_before_the_common_item_counts_half() -> None:
    # From 2: 1 lies one step before and weighs 0.5; 3, 4 and 5 after weigh 1, 0.57 and 0.42.
    history = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]
    assert ranks_of([*history, (9, 2), (9, 4)])[-1] == 2
    assert ranks_of([*history, (9, 2), (9, 1)])[-1] == 3
    assert ranks_of([*history, (9, 2), (9, 5)])[-1] == 4


def test_a_neighbour_that_shares_more_counts_more() -> None:
    # User 9 has 7, then 1. User 0 shares both (1 + 2^-1.5), user 1 only 1: 2 stands before 3.
    history = [(1, 1), (1, 3), (0, 7), (0, 1), (0, 2)]
    assert ranks_of([*history, (9, 7), (9, 1), (9, 2)])[-1] == 1
    # 7 itself is user 0's, one step before, and user 9's own; 3 is third or better.
    assert ranks_of([*history, (9, 7), (9, 1), (9, 3)])[-1] in (2, 3)


def test_an_item_that_is_twice_in_a_neighbour_counts_once() -> None:
    # Users 0 and 1 share the item 1 alone. 3 lies one step from the common place (weight 1) of
    # user 1, 2 two steps from that of user 0 (0.57): counted twice, it would have 1.15.
    history = [(0, 1), (0, 5), (0, 1), (0, 6), (0, 2), (1, 1), (1, 3)]
    assert ranks_of([*history, (9, 1), (9, 2)])[-1] > ranks_of([*history, (9, 1), (9, 3)])[-1]


def test_older_neighbours_count_less() -> None:
    # After 1: 2 of an old neighbour, 3 of a young one, both one step off.
    history = [(0, 1), (0, 2), (1, 1), (1, 3)]
    times = [0, 0, 90 * DAY, 90 * DAY, 91 * DAY, 91 * DAY]
    assert ranks_of([*history, (9, 1), (9, 3)], times_s=times)[-1] == 1
    assert ranks_of([*history, (9, 1), (9, 2)], times_s=times)[-1] == 2
    # At one and the same time they are equal, and nothing is scored strictly higher.
    assert ranks_of([*history, (9, 1), (9, 2)])[-1] == 1


def test_a_direct_repeat_makes_its_sequence_younger() -> None:
    # As above, but the old neighbour's last item comes again on the day of the query.
    history = [(0, 1), (0, 2), (1, 1), (1, 3), (0, 2)]
    times = [0, 0, 90 * DAY, 90 * DAY, 91 * DAY, 91 * DAY, 91 * DAY]
    assert ranks_of([*history, (9, 1), (9, 2)], times_s=times)[-1] == 1


def test_a_direct_repeat_takes_no_place() -> None:
    # Without the repeats 2 lies one step after 1, as 3 does.
    history = [(0, 1), (0, 1), (0, 1), (0, 2), (1, 1), (1, 3)]
    assert ranks_of(history)[1:3] == [UNSCORED, UNSCORED]
    assert ranks_of([*history, (9, 1), (9, 2)])[-1] == 1


def test_the_next_sequence_begins_after_thirty_interactions() -> None:
    # Item 30 is the 30th of user 0 and 31 the first of the next sequence.
    history = [(0, item) for item in range(1, 32)]
    assert ranks_of([*history, (9, 29), (9, 30)])[-1] == 1
    assert ranks_of([*history, (9, 30), (9, 31)])[-1] == MISS


def test_own_items_are_candidates_and_the_previous_one_never_is() -> None:
    # User 0 has 1, 2 and 3 alone: one step before 3 stands 2, two steps 1.
    assert ranks_of([(0, 1), (0, 2), (0, 3), (0, 2)])[-1] == 1
    assert ranks_of([(0, 1), (0, 2), (0, 3), (0, 1)])[-1] == 2


def test_own_items_count_less_where_nobody_returns() -> None:
    # From 2: the own item 5 lies one step before (0.5), 3 lies two steps after (0.57) and 4 one
    # (1). User 900's own sequence adds to 5 alone and lifts it to the first place, unless it has
    # been learned that nobody returns.
    def rank_of_3(n_users: int) -> int:
        paths = [(user, item) for user in range(n_users) for item in (5, 2, 4, 3)]
        return ranks_of([*paths, (900, 6), (900, 5), (900, 2), (900, 3)])[-1]

    assert rank_of_3(1) == 3  # behind 4 and 5
    assert rank_of_3(300) == 2  # behind 4


def test_how_much_own_items_count_is_learned_of_a_stream_that_nobody_ranks() -> None:
    n_users, path = 100, (5, 2, 4, 3)
    sequences = new_sequences(np.arange(n_users + 1) * len(path), 6)
    users = np.repeat(np.arange(n_users, dtype=np.int32), len(path))
    items = np.tile(np.array(path, np.int32), n_users)
    learn_stream(sequences, users, items, np.zeros(len(users), np.int64))
    assert sequences.own_log[0] < -0.1  # nobody returns


@pytest.mark.parametrize(("item", "rank"), [(1, 1), (0, 2), (2, MISS)])
def test_a_user_without_history_gets_the_recently_popular(item: int, rank: int) -> None:
    # Block 1 has 0 200 times, block 2 has 1 190 times: 0 has faded to 180 at the ordering.
    blocks = [(user, 0) for user in range(200)]
    blocks += [(200 + i, 1 if i < 190 else 3) for i in range(200)]
    assert ranks_of([*blocks, (900, item)])[-1] == rank
