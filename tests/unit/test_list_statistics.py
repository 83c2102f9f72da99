"""Statistics of lists, by arithmetic."""

import numpy as np
import pytest
import torch
from outer_loop_samples import N_ITEMS, new_loop

from headrace.model.counts.signals import ALL_TIME
from headrace.model.recommender import Recommender
from headrace.model.vocabulary import Vocabulary
from headrace.streams.evaluation.list_statistics import ListStatistics

TEN, FOUR = Vocabulary(10, "abcdefghij"), Vocabulary(4, "abcd")
LISTS = np.array([[0, 1, 2], [0, 1, -1], [3, -1, -1]], np.int32)


@pytest.fixture
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


def described(recommender: Recommender, *parts: np.ndarray) -> dict[str, float]:
    """Return the statistics of lists that were made in several parts."""
    counted = ListStatistics()
    for lists in parts:
        counted.add(lists, recommender, TEN)
    return counted.summary(FOUR)


def test_lists_are_described_by_coverage_novelty_and_distance(recommender: Recommender) -> None:
    told = described(recommender, LISTS)
    assert told["coverage"] == 1
    assert told["novelty"] == pytest.approx((1 + 2 + 3 + 1 + 2 + 3) / 6)  # log2 of 16/8, 16/4 ...
    # Of the first list's three pairs two lie across; the second's one pair is alike.
    assert told["distance"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-5)
    assert "category_distance" not in told


def test_categories_count_pairs_that_differ(recommender: Recommender) -> None:
    recommender.signals.arrays.category[:3] = [7, 7, 8]
    told = described(recommender, LISTS)
    assert told["category_distance"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-5)


def test_an_item_of_no_known_category_is_in_no_pair(recommender: Recommender) -> None:
    recommender.signals.arrays.category[:3] = [7, -1, 8]
    assert described(recommender, LISTS)["category_distance"] == 1  # of the first and last of one


def test_lists_made_in_parts_count_as_those_made_at_once(recommender: Recommender) -> None:
    recommender.signals.arrays.category[:3] = [7, 7, 8]
    parts = described(recommender, LISTS[:1], LISTS[1:, :2])
    assert parts == pytest.approx(described(recommender, LISTS))


def test_novelty_is_that_of_the_moment_a_list_is_made(recommender: Recommender) -> None:
    counted = ListStatistics()
    counted.add(LISTS[2:], recommender, TEN)  # 2 of 16 events: 3 bits
    recommender.signals.arrays.popularity[3, ALL_TIME] = 14
    counted.add(LISTS[2:], recommender, TEN)  # 14 of 28: 1 bit
    assert counted.summary(FOUR)["novelty"] == pytest.approx((3 + 1) / 2)


def test_an_item_nobody_took_is_as_new_as_one_taken_once(recommender: Recommender) -> None:
    assert described(recommender, np.array([[9]], np.int32))["novelty"] == pytest.approx(4)


def test_items_nobody_is_shown_are_not_covered(recommender: Recommender) -> None:
    assert described(recommender, LISTS[1:])["coverage"] == 3 / 4


def test_of_no_lists_only_the_coverage_is_known(recommender: Recommender) -> None:
    assert described(recommender, LISTS[:0]) == {"coverage": 0}
    assert ListStatistics().summary(Vocabulary(4)) == {}


def test_an_index_that_is_given_to_another_item_does_not_cover_that_one(
    recommender: Recommender,
) -> None:
    vocabulary, counted = Vocabulary(4, "abcd"), ListStatistics()
    counted.add(LISTS[2:], recommender, vocabulary)
    vocabulary.evict([3])
    vocabulary.admit("e")
    assert counted.summary(vocabulary)["coverage"] == 0
    counted.add(LISTS[2:], recommender, vocabulary)
    assert counted.summary(vocabulary)["coverage"] == 1 / 4
