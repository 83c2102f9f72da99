"""Statistics of lists, by arithmetic."""

import numpy as np
import pytest
import torch
from outer_loop_samples import N_ITEMS, new_loop

from headrace.model.recommender import Recommender
from headrace.model.signals import ALL_TIME
from headrace.streams.list_statistics import describe_lists

LISTS = np.array([[0, 1, 2], [0, 1, -1], [3, -1, -1]], np.int32)


def recommender() -> Recommender:
    """Return items 0 and 1 that point one way, 2 and 3 across it, taken 8, 4, 2 and 2 times."""
    made = new_loop().recommender
    vectors = torch.tensor([[2.0, 0, 0, 0], [1, 0, 0, 0], [0, 3, 0, 0], [0, 1, 0, 0]])
    with torch.no_grad():
        made.meta.encoder.items[:4] = vectors
    made.meta.n_items.fill_(N_ITEMS)
    made.signals.arrays.popularity[:, ALL_TIME] = 0
    made.signals.arrays.popularity[:4, ALL_TIME] = [8, 4, 2, 2]
    return made


def test_lists_are_described_by_coverage_novelty_and_distance() -> None:
    told = describe_lists(LISTS, recommender(), n_items=4)
    assert told["coverage"] == 1
    assert told["novelty"] == pytest.approx((1 + 2 + 3 + 1 + 2 + 3) / 6)  # log2 of 16/8, 16/4 ...
    # Of the first list's three pairs two lie across; the second's one pair is alike.
    assert told["distance"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-5)
    assert "category_distance" not in told


def test_categories_count_pairs_that_differ() -> None:
    made = recommender()
    made.signals.arrays.category[:3] = [7, 7, 8]
    told = describe_lists(LISTS, made, n_items=4)
    assert told["category_distance"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-5)


def test_items_nobody_is_shown_are_not_covered() -> None:
    assert describe_lists(LISTS[1:], recommender(), n_items=4)["coverage"] == 3 / 4
    assert describe_lists(LISTS[:0], recommender(), n_items=4) == {}
