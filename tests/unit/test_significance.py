"""Paired differences and their confidence, by hand and against drawing users one by one."""

import math

import numpy as np
import pytest

from headrace.model.significance import FEWEST_USERS, paired_difference


def test_difference_is_the_mean_over_events() -> None:
    first, second = np.array([1.0, 0.5, 0.0]), np.array([0.5, 0.5, 0.25])
    found = paired_difference(first, second, np.array([3, 3, 9]))
    assert (found.events, found.users) == (3, 2)
    assert found.difference == pytest.approx((0.5 + 0 - 0.25) / 3)


def test_equal_users_leave_no_doubt() -> None:
    users = np.repeat(np.arange(10), 3)
    found = paired_difference(np.full(30, 0.75), np.full(30, 0.5), users)
    assert (found.low, found.difference, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_interval_is_that_of_users_not_of_events() -> None:
    # Ten users who disagree, however often: seldom as many of each are drawn.
    users = np.repeat(np.arange(10), 100)
    found = paired_difference((users < 5).astype(np.float64), np.zeros(1000), users)
    assert (found.low, found.high) == pytest.approx((0.2, 0.8), abs=0.11)


def test_few_users_leave_the_interval_unknown() -> None:
    users = np.repeat(np.arange(FEWEST_USERS - 1), 100)
    found = paired_difference(np.full(len(users), 0.75), np.full(len(users), 0.5), users)
    assert found.told() == {
        "events": 900, "users": 9, "difference": 0.25, "low": None, "high": None
    }  # fmt: skip


def test_interval_covers_what_drawing_users_one_by_one_gives() -> None:
    random = np.random.default_rng(0)
    users = random.integers(0, 40, 600)
    first = random.random(600) + 0.2 * (users % 3)
    found = paired_difference(first, np.full(600, 0.5), users)
    means = []
    for _ in range(2000):
        drawn = np.concatenate([np.flatnonzero(users == u) for u in random.integers(0, 40, 40)])
        means.append(first[drawn].mean() - 0.5)
    assert found.low == pytest.approx(np.percentile(means, 2.5), abs=0.01)
    assert found.high == pytest.approx(np.percentile(means, 97.5), abs=0.01)


def test_of_few_users_nineteen_in_twenty_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(1)
    users = np.repeat(np.arange(FEWEST_USERS), 20)
    holds = []
    for _ in range(300):
        gains = random.normal(0, 1, FEWEST_USERS)[users] + random.normal(0, 1, len(users))
        found = paired_difference(gains, np.zeros(len(users)), users)
        holds.append(found.low <= 0 <= found.high)
    assert np.mean(holds) == pytest.approx(0.95, abs=0.03)  # as drawn, .90


def test_without_events_nothing_is_known() -> None:
    none = np.zeros(0)
    found = paired_difference(none, none, none.astype(np.int64))
    assert (found.events, found.users) == (0, 0)
    assert math.isnan(found.difference)
    told = {"events": 0, "users": 0, "difference": None, "low": None, "high": None}
    assert found.told() == told
