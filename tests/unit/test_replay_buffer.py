"""Replay buffer: what is kept, and what is drawn from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.model.learning.replay_buffer import ReplayBuffer


def columns(numbers: range) -> list[np.ndarray]:
    """Return two columns in which each number stands."""
    values = np.array(numbers, np.int32)
    return [values, np.repeat(values[:, None], 3, 1).astype(np.float16)]


@pytest.mark.parametrize(
    ("batches", "kept"),
    [
        ([range(3)], {0, 1, 2}),
        ([range(3), range(3, 6)], {2, 3, 4, 5}),
        ([range(3), range(3, 6), range(6, 9), range(9, 12)], {8, 9, 10, 11}),
        ([range(10)], {6, 7, 8, 9}),  # more than there is room for
    ],
)
def test_latest_rows_are_kept_and_no_more(batches: list[range], kept: set[int]) -> None:
    replay = ReplayBuffer(4)
    for batch in batches:
        replay.add(columns(batch), 0)
    assert replay.filled == len(kept)
    drawn, _ = replay.peek(200, np.random.default_rng(0))
    assert set(drawn.tolist()) == kept


def test_row_comes_back_whole() -> None:
    replay = ReplayBuffer(8)
    replay.add(columns(range(5)), 0)
    number, triple = replay.sample(50, np.random.default_rng(0))
    np.testing.assert_array_equal(triple, np.repeat(number[:, None], 3, 1))
    assert (number.dtype, triple.dtype) == (np.int32, np.float16)


def test_new_rows_are_drawn_first_and_once_for_sure() -> None:
    replay, random = ReplayBuffer(6), np.random.default_rng(0)
    replay.add(columns(range(4)), 0)
    assert replay.sample(3, random)[0].tolist() == [0, 1, 2]
    replay.add(columns(range(4, 6)), 0)
    drawn, _ = replay.sample(5, random)
    assert drawn[:3].tolist() == [3, 4, 5]
    assert set(drawn[3:].tolist()) <= set(range(6))


def test_looking_does_not_count_as_drawing() -> None:
    replay, random = ReplayBuffer(4), np.random.default_rng(0)
    replay.add(columns(range(2)), 0)
    replay.peek(10, random)
    assert replay.sample(2, random)[0].tolist() == [0, 1]


def test_new_rows_that_were_overwritten_are_forgotten() -> None:
    replay = ReplayBuffer(4)
    replay.add(columns(range(3)), 0)
    replay.add(columns(range(3, 6)), 0)
    assert replay.sample(4, np.random.default_rng(0))[0].tolist() == [2, 3, 4, 5]


@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.integers(1, 3), max_size=2),
    st.lists(st.integers(1, 3), max_size=4),
)
def test_dropped_rows_are_gone_and_all_others_stay(
    batches: list[list[int]], dropped: list[int], after: list[int]
) -> None:
    replay, number = ReplayBuffer(6), 0
    kept: list[tuple[int, int]] = []  # number and owner, in the order they came
    for owners in batches:
        rows = range(number, number + len(owners))
        replay.add(columns(rows), np.array(owners))
        kept, number = [*kept, *zip(rows, owners, strict=True)][-6:], rows.stop
    for owner in dropped:
        replay.drop(owner)
        kept = [row for row in kept if row[1] != owner]
    assert replay.filled == len(kept)
    if after:
        rows = range(number, number + len(after))
        replay.add(columns(rows), np.array(after))
        new = set(rows)
        assert new <= set(replay.sample(200, np.random.default_rng(0))[0].tolist())
        room = 6 - len(after)
        oldest_may_move = {n for n, _ in kept}
        left = set(replay.peek(200, np.random.default_rng(0))[0].tolist()) - new
        assert left <= oldest_may_move
        assert len(left) == min(room, len(kept))
    elif kept:
        assert set(replay.peek(200, np.random.default_rng(0))[0].tolist()) == {n for n, _ in kept}
