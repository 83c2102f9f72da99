"""Residual: an item's taken events against those expected."""

import math

import numpy as np
import pytest

from headrace.model.counts.residual import FADE, PRIOR, Residual


def test_item_nobody_judged_has_none() -> None:
    assert Residual(3).logs().tolist() == [0, 0, 0]


def test_residual_is_the_log_of_taken_over_expected() -> None:
    residual = Residual(4)
    items, p = (
        np.array([[0, 1, -1], [1, 2, 0]], np.int32),
        np.array([[0.7, 0.3, 0], [0.1, 0.8, 0.1]]),
    )
    residual.count(items, p.astype(np.float32), np.array([1, 1], np.int32))
    expected = [math.log(0.5 / 1.3), math.log(2.5 / 0.9), math.log(0.5 / 1.3), 0]
    assert residual.logs().tolist() == pytest.approx(expected, abs=1e-3)


def test_counts_fade_towards_the_prior() -> None:
    residual = Residual.of(np.array([100], np.float32), np.array([10], np.float32))
    n = 1000
    none = np.full((n, 1), -1, np.int32)
    residual.count(none, np.zeros((n, 1), np.float32), np.zeros(0, np.int32))
    assert residual.taken[0] == 100  # no event, no fading
    residual.grow(2)
    residual.count(none, np.zeros((n, 1), np.float32), np.full(n, 1, np.int32))
    assert residual.taken[0] == pytest.approx(PRIOR + FADE**n * (100 - PRIOR), rel=1e-5)
    assert residual.expected[0] == pytest.approx(PRIOR + FADE**n * (10 - PRIOR), rel=1e-5)


def test_forgotten_item_starts_over() -> None:
    residual = Residual.of(np.array([4, 4], np.float32), np.array([2, 2], np.float32))
    residual.forget(np.array([0], np.int32))
    assert residual.logs().tolist() == pytest.approx([0, math.log(2)])
