"""Actions: their numbers, their other names, and the weights that settings give them."""

import pytest
from stream_samples import small

from headrace.streams.actions import (
    ACTIONS,
    check_actions,
    index_of,
    meant_by,
    target_of,
    weights_of,
)
from headrace.streams.learn.learner import Learner


def test_numbers_of_actions_are_those_of_every_checkpoint() -> None:
    assert [index_of(action) for action in ("view", "click", "purchase", "search")] == [1, 2, 4, 7]
    assert index_of("cart") == index_of("add_to_cart") == 3
    assert index_of("review") == index_of("rating") == 5
    assert index_of("wave at") == index_of("other") == 0


def test_lists_are_for_an_action_or_for_none_in_particular() -> None:
    assert target_of("") is None
    assert target_of("other") == 0
    assert target_of("purchase") == 4


def test_weights_reach_the_outer_loop_by_number() -> None:
    weights = {"purchase": 10, "cart": 0.5, "other": 0}
    assert weights_of(weights) == (0, 1, 1, 0.5, 10, 1, 1, 1)
    outer_loop = Learner(small(action_weights=weights)).outer_loop
    assert outer_loop.config.action_weights == (0, 1, 1, 0.5, 10, 1, 1, 1)


def test_unknown_action_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no such action: 'buy'; there are") as refusal:
        check_actions(["view", "buy"])
    assert all(action in str(refusal.value) for action in ACTIONS)


def test_two_names_of_one_action_are_refused() -> None:
    with pytest.raises(ValueError, match="cart and add_to_cart are the same action"):
        check_actions(["cart", "view", "add_to_cart"])


@pytest.mark.parametrize(
    ("action", "meant"),
    [
        ("purchse", "purchase"),
        ("PURCHASE", "purchase"),
        ("Purchase ", "purchase"),
        ("add to cart", "add_to_cart"),
        ("Add-To-Cart", "add_to_cart"),
        ("addToCart", "add_to_cart"),
        ("favourite", "favorite"),
        ("Impression", "impression"),
    ],
)
def test_a_misspelt_action_is_taken_for_the_known_one(action: str, meant: str) -> None:
    assert meant_by(action, ["impression"]) == meant


@pytest.mark.parametrize(
    "action", ["purchase", "cart", "impression", "wish", "order", "buy", "share", "checkout", ""]
)
def test_a_known_action_and_a_shops_own_are_taken_for_no_other(action: str) -> None:
    assert meant_by(action, ["impression"]) is None
