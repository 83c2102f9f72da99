"""By action: whose events a figure speaks of, and of which list, by arithmetic."""

import numpy as np
import polars as pl

from headrace.model.ranking_metrics import MISS, UNSCORED
from headrace.streams.actions import index_of
from headrace.streams.evaluation.by_action import names, numbers_of, summarise

VIEW, PURCHASE = index_of("view"), index_of("purchase")
# Forty events of two users: in the second half twelve are views, of which two repeat, and eight
# purchases.
N = 40
AT = np.arange(N)
ACTIONS = np.where(AT % 5 < 3, VIEW, PURCHASE)
USERS = AT % 2
REPEATS = AT % 10 == 0


def ranks(rank: int, **of_purchases: int) -> np.ndarray:
    """Return the same rank for all events, another for purchases if given."""
    found = np.where(ACTIONS == PURCHASE, of_purchases.get("purchases", rank), rank)
    return np.where(REPEATS, UNSCORED, found)


RANKS = {
    "adapted": ranks(3),
    "for_view": ranks(1, purchases=MISS),
    "for_purchase": ranks(MISS, purchases=1),
}


def test_events_of_each_action_are_those_of_the_second_half_without_repeats() -> None:
    told = summarise(RANKS, ACTIONS, USERS)
    assert {action: found["events"] for action, found in told.items()} == {
        "view": 10,
        "purchase": 8,
    }


def test_each_list_is_judged_by_the_events_of_each_action() -> None:
    told = summarise(RANKS, ACTIONS, USERS)["purchase"]
    assert told.keys() == {"events", "adapted", "for_view", "for_purchase"}
    # Rank 3: 1/log2(4).
    assert [told[name]["ndcg10"] for name in ("adapted", "for_view", "for_purchase")] == [0.5, 0, 1]
    assert [told[name]["hr10"] for name in ("adapted", "for_view", "for_purchase")] == [1, 0, 1]


def test_gain_is_that_of_the_actions_own_list() -> None:
    told = summarise(RANKS, ACTIONS, USERS)
    expected = {"events": 8, "users": 2, "difference": 0.5, "low": None, "high": None}
    assert told["purchase"]["adapted"]["gain"] == expected
    assert told["purchase"]["for_view"]["gain"]["difference"] == 1
    assert told["view"]["for_purchase"]["gain"]["difference"] == 1
    assert told["view"]["for_view"]["gain"]["difference"] == 0


def test_lists_are_called_by_the_actions_name() -> None:
    events = pl.DataFrame({"action": ["view", "cart", "purchase", "wave"]})
    assert numbers_of(events).tolist() == [1, 3, 4, 0]
    assert names(numbers_of(events).tolist()) == [
        "for_view", "for_add_to_cart", "for_purchase", "for_other",
    ]  # fmt: skip
