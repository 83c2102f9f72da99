"""Ranking metrics by arithmetic: ranks 1, 3, 11 and a miss, of four events."""

import math

import numpy as np
import pytest

from headrace.model.ranking_metrics import f1_at, hr_at, mrr_at, ndcg_at, precision_at

RANKS = np.array([1, 3, 11, 1_000_000])


def test_hit_ratio_is_the_share_within_the_first_k() -> None:
    assert hr_at(RANKS, 10) == 2 / 4
    assert hr_at(RANKS, 11) == 3 / 4


def test_ndcg_is_one_for_the_first_place_and_fades_with_the_logarithm() -> None:
    # 1/log2(2) = 1, 1/log2(4) = 1/2, the other two stand outside
    assert ndcg_at(RANKS, 10) == pytest.approx((1 + 1 / 2) / 4)
    assert ndcg_at(RANKS, 11) == pytest.approx((1 + 1 / 2 + 1 / math.log2(12)) / 4)


def test_mrr_is_the_mean_of_one_over_rank() -> None:
    assert mrr_at(RANKS, 10) == pytest.approx((1 + 1 / 3) / 4)


def test_precision_and_f1_know_one_relevant_item() -> None:
    assert precision_at(RANKS, 10) == pytest.approx((1 / 10 + 1 / 10) / 4)
    # Of a hit: precision 1/10, recall 1.
    assert f1_at(RANKS, 10) == pytest.approx(2 * (1 / 10 * 1) / (1 / 10 + 1) * 2 / 4)


def test_no_events_give_zero() -> None:
    none = np.zeros(0, np.int64)
    assert (hr_at(none, 10), ndcg_at(none, 10), mrr_at(none, 10)) == (0.0, 0.0, 0.0)
