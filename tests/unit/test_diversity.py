"""Diversity: what a list gives up in score for items that differ."""

import math
from typing import Any

import pytest
import torch

from headrace.model.diversity import POOL, diversify

NO = float("-inf")
# The first two are the same thing, the third is another, the fourth unknown.
VECTORS = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
SCORES = torch.tensor([[0.0, math.log(0.9), math.log(0.5), math.log(0.2)]])


def diverse(scores: torch.Tensor, vectors: torch.Tensor, *, diversity: float, length: int) -> Any:
    """Return the lists of candidates, of (B, C, D) vectors."""
    rows = torch.arange(len(scores))[:, None]
    lists = diversify(scores, lambda at: vectors[rows, at], diversity=diversity, length=length)
    return lists.tolist()


def order(diversity: float, scores: torch.Tensor = SCORES, length: int = 4) -> list[list[int]]:
    """Return the lists of candidates."""
    vectors = VECTORS.expand(len(scores), -1, -1)
    return diverse(scores, vectors, diversity=diversity, length=length)


def test_without_diversity_the_order_is_that_of_the_scores() -> None:
    torch.manual_seed(0)
    scores, vectors = torch.randn(5, 80), torch.randn(5, 80, 3)
    lists = diverse(scores, vectors, diversity=0, length=20)
    assert lists == scores.topk(20, dim=1).indices.tolist()


@pytest.mark.parametrize(
    ("diversity", "expected"),
    [
        # After the first: the same thing is worth .8 * .9 - .2 * 1 = .52, the other .8 * .5 = .4.
        (0.2, [0, 1, 2, 3]),
        # .6 * .9 - .4 = .14 against .6 * .5 = .3, and of the rest .14 against .6 * .2 = .12.
        (0.4, [0, 2, 1, 3]),
        # .5 * .9 - .5 < 0: the unknown one comes before the same thing.
        (0.5, [0, 2, 3, 1]),
    ],
)
def test_likeness_to_what_is_placed_costs_a_candidate_its_place(
    diversity: float, expected: list[int]
) -> None:
    assert order(diversity) == [expected]


def test_users_do_not_affect_each_other() -> None:
    other = torch.tensor([[NO, 3.0, 1.0, 2.0]])
    assert order(0.4, torch.cat([SCORES, other])) == order(0.4) + order(0.4, other)


def test_what_stays_out_comes_last_and_nothing_comes_twice() -> None:
    scores = torch.tensor([[NO, 3.0, NO, 2.0], [NO] * 4])
    lists = order(0.4, scores)
    assert lists[0][:2] == [1, 3]
    assert [sorted(one) for one in lists] == [[0, 1, 2, 3]] * 2


def test_only_the_best_candidates_change_places_and_a_longer_list_goes_on_as_scored() -> None:
    torch.manual_seed(0)
    scores, vectors = torch.randn(3, 200), torch.randn(3, 200, 2)
    plain = scores.topk(100, dim=1).indices.tolist()
    lists = diverse(scores, vectors, diversity=0.5, length=100)
    for found, scored in zip(lists, plain, strict=True):
        assert found[:POOL] != scored[:POOL]
        assert set(found[:POOL]) == set(scored[:POOL])
        assert found[POOL:] == scored[POOL:]
    short = diverse(scores, vectors, diversity=0.5, length=10)
    assert short == [one[:10] for one in lists]
