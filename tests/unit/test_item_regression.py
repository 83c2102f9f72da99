"""Item regression: who took what, and what a user's items then say of another."""

import numpy as np
import pytest

from headrace.model.counts import item_regression
from headrace.model.counts.item_regression import (
    FADE,
    N_REGRESSORS,
    RIDGE,
    Coefficients,
    PairCounts,
)

A, B, C, D = range(4)
# Two users of {A, B}, one of {A, C}, one of {A, B, C}, one of {C, D}, in the order they took them.
USERS = ([A, B], [B, A], [A, C], [A, B, C], [C, D])
N_ITEMS = 30


def count(pairs: PairCounts, *users: list[int]) -> PairCounts:
    """Count users one after the other; their items come oldest first."""
    for user in users:
        histories = np.full((len(user), 20), -1, np.int32)
        for step in range(len(user)):
            histories[step, :step] = user[:step][::-1]
        pairs.count(np.array(user, np.int32), histories)
    return pairs


def counted(pairs: PairCounts) -> dict[tuple[int, int], float]:
    """Return how many users took both of each pair."""
    filled = pairs.table.counts > 0
    assert len(pairs) == filled.sum()
    keys, counts = pairs.table.keys[filled], pairs.table.counts[filled]
    return {
        (int(k) >> 32, int(k) & 0xFFFFFFFF): float(n) for k, n in zip(keys, counts, strict=True)
    }


def crowd(n_users: int = 60) -> list[list[int]]:
    """Return users with some distinct items each."""
    rng = np.random.default_rng(0)
    return [rng.permutation(N_ITEMS)[: rng.integers(2, 9)].tolist() for _ in range(n_users)]


def one_row(*weights: float) -> Coefficients:
    """Return coefficients of item A on the items after it; the others have none."""
    items = np.full((4, N_REGRESSORS), -1, np.int32)
    values = np.zeros((4, N_REGRESSORS), np.float32)
    items[A, : len(weights)] = np.arange(1, len(weights) + 1)
    values[A, : len(weights)] = weights
    coefficients = Coefficients()
    coefficients.put(np.arange(4, dtype=np.int32), items, values)
    return coefficients


def fitted_to(pairs: PairCounts) -> Coefficients:
    """Return the coefficients of a first fit."""
    coefficients = Coefficients()
    pairs.fit(coefficients)
    return coefficients


def assert_same(one: Coefficients, other: Coefficients) -> None:
    """Check that two say the same of every item."""
    one_rows, other_rows = one.snapshot(), other.snapshot()
    assert one_rows.keys() == other_rows.keys()
    for name, array in one_rows.items():
        np.testing.assert_array_equal(other_rows[name], array, err_msg=name)


# ------------------------------------------------------------------------------------- counting


def test_users_are_counted_of_items_and_of_pairs_whichever_came_first() -> None:
    pairs = count(PairCounts(), *USERS)
    assert pairs.takers[:4].tolist() == [4, 3, 3, 1]
    assert counted(pairs) == {(A, B): 3, (A, C): 2, (B, C): 1, (C, D): 1}


def test_taking_an_item_again_or_an_unknown_one_counts_nothing() -> None:
    pairs = count(PairCounts(), [A, B, A, B, -1, A])
    assert pairs.takers[:2].tolist() == [1, 1]
    assert counted(pairs) == {(A, B): 1}


def test_an_item_that_left_and_came_back_has_no_pairs_with_those_who_took_it_before() -> None:
    pairs = count(PairCounts(), [A], [B])
    pairs.forget(np.array([A]))
    histories = np.array([[A], [B]], np.int32)  # of two who took C then
    pairs.count(np.array([C, C], np.int32), histories)
    assert counted(pairs) == {(B, C): 1}


def test_full_table_forgets_the_pairs_of_fewest_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_regression, "MAX_PLACES", 512)
    monkeypatch.setattr(item_regression, "_SMALLEST_TABLE", 256)
    pairs = count(PairCounts(), *[[A, B]] * 5)
    for other in range(10, 600):
        count(pairs, [C, other])
    assert len(pairs.table.counts) == 512
    assert len(pairs) <= 256
    assert counted(pairs)[A, B] == 5


def test_full_table_has_room_for_however_many_events_come_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(item_regression, "MAX_PLACES", 512)
    monkeypatch.setattr(item_regression, "_SMALLEST_TABLE", 256)
    monkeypatch.setattr(item_regression, "_COUNT_PAIRS", 64)
    pairs = count(PairCounts(), *[[A, B]] * 5, [C])
    others = np.arange(10, 410, dtype=np.int32)
    pairs.count(others, np.full((400, 1), C, np.int32))
    assert len(pairs) <= 256
    assert counted(pairs)[A, B] == 5
    assert pairs.takers[others].all()


def test_room_is_made_for_pairs_and_not_for_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_regression, "MAX_PLACES", 512)
    monkeypatch.setattr(item_regression, "_SMALLEST_TABLE", 256)
    pairs, histories = PairCounts(), np.full((200, 1_000), -1, np.int32)
    histories[:, 0] = C
    pairs.count(np.arange(10, 210, dtype=np.int32), histories)
    assert len(pairs) == 0  # who has taken C is not counted yet
    pairs = count(PairCounts(), [C])
    pairs.count(np.arange(10, 210, dtype=np.int32), histories)
    assert len(pairs) == 200


def test_table_grows_without_losing_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_regression, "_SMALLEST_TABLE", 64)
    large = count(PairCounts(), *crowd())
    monkeypatch.undo()
    assert counted(large) == counted(count(PairCounts(), *crowd()))
    assert len(large.table.counts) > 64


def test_pairs_of_a_thousand_items_lie_apart_in_a_large_table() -> None:
    pairs = PairCounts()
    pairs.count(np.arange(1_000, dtype=np.int32), np.full((1_000, 1), -1, np.int32))
    for drawn in np.random.default_rng(0).integers(0, 1_000, (50, 2, 4_000)).astype(np.int32):
        pairs.count(drawn[0], drawn[1][:, None])
    is_free = np.append(pairs.table.counts == 0, True)
    assert len(pairs) > 150_000
    assert np.diff(np.flatnonzero(is_free)).max() < 40  # the longest a pair can be looked for


def test_forgotten_items_take_their_pairs_along() -> None:
    pairs = count(PairCounts(), *USERS)
    pairs.forget(np.array([C, 1_000_000]))
    assert counted(pairs) == {(A, B): 3}
    assert pairs.takers[:4].tolist() == [4, 3, 0, 1]


def test_counts_go_on_from_their_state() -> None:
    pairs = count(PairCounts(), *crowd(30))
    again = PairCounts.of(pairs.state())
    for each in (pairs, again):
        count(each, *crowd()[30:])
    assert counted(again) == counted(pairs)
    np.testing.assert_array_equal(again.new_takers, pairs.new_takers)


# -------------------------------------------------------------------------------------- fitting


def test_coefficients_are_those_of_ridge_regression_on_who_took_what() -> None:
    users = crowd()
    fitted = fitted_to(count(PairCounts(), *users))
    took = np.zeros((len(users), N_ITEMS))
    for row, user in zip(took, users, strict=True):
        row[user] = 1
    for target in range(N_ITEMS):
        both = took.T @ took[:, target]
        met = [j for j in range(N_ITEMS) if j != target and both[j] > 0]
        x = took[:, met]
        expected = np.linalg.solve(x.T @ x + RIDGE * np.eye(len(met)), x.T @ took[:, target])
        n = len(met)
        got = dict(zip(fitted.items[target, :n], fitted.weights[target, :n], strict=True))
        assert sorted(got) == met
        assert [got[j] for j in met] == pytest.approx(expected, rel=2e-3, abs=1e-6)
        assert (fitted.items[target, n:] == -1).all()


def test_an_item_of_very_many_pairs_counts_for_the_others_as_one_of_few() -> None:
    few, many = (count(PairCounts(), *crowd()) for _ in range(2))
    others = np.arange(N_ITEMS, N_ITEMS + 2 * item_regression._LONG_ROW, dtype=np.int32)
    many.count(others, np.full((len(others), 1), A, np.int32))  # each taken once, after A
    of_few, of_many = fitted_to(few), fitted_to(many)
    assert (of_few.items[B:N_ITEMS] == A).any()
    np.testing.assert_array_equal(of_many.items[B:N_ITEMS], of_few.items[B:N_ITEMS])
    np.testing.assert_array_equal(of_many.weights[B:N_ITEMS], of_few.weights[B:N_ITEMS])


def test_items_with_most_new_takers_are_fitted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_regression, "FIT_ITEMS", 1)
    pairs = count(PairCounts(), *USERS)
    fitted = fitted_to(pairs)
    assert fitted.take_delta()["fitted"].tolist() == [A]
    pairs.fit(fitted)  # B and C have as many
    assert fitted.take_delta()["fitted"].tolist() == [B]
    assert fitted.snapshot()["fitted"].tolist() == [A, B]


def test_an_item_nobody_took_since_keeps_its_coefficients() -> None:
    pairs = count(PairCounts(), *USERS)
    fitted = fitted_to(pairs)
    before = fitted.weights.copy()
    fitted.take_delta()
    count(pairs, [C, D]).fit(fitted)
    assert fitted.take_delta()["fitted"].tolist() == [C, D]
    np.testing.assert_array_equal(fitted.weights[A], before[A])
    assert fitted.weights[D, 0] > before[D, 0] > 0


def test_coefficients_stay_small_where_users_take_more_items_than_are_remembered() -> None:
    rng, pairs = np.random.default_rng(0), PairCounts()
    for _ in range(5):  # users with 30 of 60 items each
        played = rng.permutation(60)[rng.integers(0, 30, 8_000)].astype(np.int32)
        before = np.arange(len(played))[:, None] - np.arange(1, 21)
        pairs.count(played, np.where(before >= 0, played[before], -1).astype(np.int32))
    assert 0 < np.abs(fitted_to(pairs).weights).max() <= 1


def test_items_whose_counts_have_equal_rows_get_no_coefficients_and_the_others_theirs() -> None:
    # Each round counts an item once and each of its pairs twice: after this many both are equal.
    rounds = int(RIDGE) + 1
    around = np.tile(np.arange(100, 121, dtype=np.int32), rounds)
    behind = np.arange(len(around))[:, None] - np.arange(1, 21)
    pairs = count(PairCounts(), *crowd())
    pairs.count(around, np.where(behind >= 0, around[behind], -1).astype(np.int32))
    fitted = fitted_to(pairs)
    assert fitted.weights[:N_ITEMS].any(1).all()
    assert not fitted.weights[100:121].any()


# --------------------------------------------------------------------------------------- serving


def test_users_items_speak_evenly_and_faded_each_once() -> None:
    said = one_row(0.5, -0.25).inputs(
        np.array([[A, B, -1]], np.int32), np.array([[D, C, B, B, C]], np.int32)
    )
    # C is one step back, B two; nothing speaks for B, and D says nothing of A.
    assert said[0, 0].tolist() == pytest.approx([0.5 - 0.25, 0.5 * FADE**2 - 0.25 * FADE])
    assert said[0, 1:].tolist() == [[0, 0], [0, 0]]


def test_users_do_not_hear_each_other() -> None:
    coefficients, candidates = one_row(0.5, 0.25), np.array([[A], [A]], np.int32)
    said = coefficients.inputs(candidates, np.array([[B, -1], [-1, -1]], np.int32))
    assert said[:, 0, 0].tolist() == [0.5, 0]


def test_items_newer_than_the_coefficients_are_silent() -> None:
    said = one_row(0.5).inputs(np.array([[99, A]], np.int32), np.array([[98, B]], np.int32))
    assert said[0, :, 0].tolist() == [0, 0.5]


def test_a_regressor_newer_than_every_fitted_item_speaks() -> None:
    coefficients = Coefficients()
    regressors = np.full((1, N_REGRESSORS), -1, np.int32)
    regressors[0, 0] = D
    coefficients.put(
        np.array([A], np.int32), regressors, np.full((1, N_REGRESSORS), 0.5, np.float32)
    )
    said = coefficients.inputs(np.array([[A]], np.int32), np.array([[D]], np.int32))
    assert said[0, 0].tolist() == [0.5, 0.5]


def test_a_replica_that_follows_by_deltas_says_the_same() -> None:
    pairs, fitted, replica = PairCounts(), Coefficients(), Coefficients()
    for users in (crowd(20), crowd()[20:40], crowd()[40:]):
        count(pairs, *users).fit(fitted)
        delta = fitted.take_delta()
        for _ in range(2):  # a delta that is applied again changes nothing
            replica.apply_delta(delta)
        assert_same(replica, fitted)
    fitted.forget(np.array([A, B]))
    replica.apply_delta(fitted.take_delta())
    assert_same(replica, fitted)


def test_coefficients_come_back_from_a_checkpoint() -> None:
    fitted, again = fitted_to(count(PairCounts(), *crowd())), Coefficients()
    again.apply_delta(fitted.snapshot())
    assert_same(again, fitted)
    assert not len(again.take_delta()["fitted"])  # nothing to tell others


def test_coefficients_without_an_item_neither_have_nor_hear_it() -> None:
    left = one_row(0.5, 0.25)
    left.forget(np.array([B, 1_000_000]))
    assert left.items[A, :2].tolist() == [C, -1]
    assert left.weights[A, :2].tolist() == [0.25, 0]
    left.forget(np.array([A]))
    assert (left.items == -1).all()
