"""Which interaction speaks for a listed item, worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from model_samples import histories, link

from headrace.model.counts import speakers as module
from headrace.model.counts.signals import ALL_TIME, ALSO, NEAR, NEXT, SESSION, ItemSignals
from headrace.model.counts.walk import HISTORY
from headrace.model.histories import Histories
from headrace.model.networks.scorer import INPUTS

A, B, C, D, E = range(5)


def new_signals() -> ItemSignals:
    """Return signals of which nothing was counted."""
    return ItemSignals(128, capacity=200)


def speakers(
    signals: ItemSignals, users: Histories, listed: Sequence[Sequence[int]], by: str = "links"
) -> list[list[int]]:
    """Return who speaks where all items have one strongest input; "links" is of no relation."""
    items = np.array(listed, np.int32)
    strongest = np.full(items.shape, INPUTS.index(by))
    return module.speakers(signals, users, items, strongest).tolist()


def test_loudest_interaction_speaks() -> None:
    signals = new_signals()
    link(signals, A, [C, D], NEXT, [1, 9])
    link(signals, B, [C], NEXT, [9])
    found = speakers(signals, histories([A, B]), [[C, D, E]])
    # For C, A says 1 / (10 + 1) and B, a step back, 0.6 * 9 / (9 + 1). Nobody leads to E.
    assert found == [[1, 0, -1]]


def test_own_item_speaks_for_itself_whoever_else_does() -> None:
    signals = new_signals()
    link(signals, A, [B], NEXT, [9])
    assert speakers(signals, histories([A, B, B]), [[B]]) == [[1]]


def test_item_had_long_ago_speaks_for_itself_too() -> None:
    users = histories([A] * HISTORY + [B], width=HISTORY + 10)
    assert speakers(new_signals(), users, [[B]]) == [[HISTORY]]


def test_users_and_places_that_are_padded_have_no_speaker() -> None:
    signals = new_signals()
    link(signals, A, [C], NEXT, [1])
    found = speakers(signals, histories([], [-1, A]), [[C, -1], [C, -1]])
    assert found == [[-1, -1], [1, -1]]


def test_session_of_one_user_is_not_that_of_the_next() -> None:
    signals = new_signals()
    link(signals, B, [C], SESSION, [1])
    listed = [[C]]
    assert speakers(signals, histories([A, B], minutes=60), listed) == [[1]]
    assert speakers(signals, histories([A, B], minutes=61), listed) == [[-1]]


def test_who_speaks_does_so_by_the_relation_that_the_reason_names() -> None:
    signals = new_signals()
    link(signals, A, [C], NEAR, [9])
    link(signals, B, [C], NEXT, [1])
    users = histories([A, B])
    # A says .85 ** 0 * 9 / (9 + 3), B, a step back, .6 * 1 / (1 + 1).
    assert speakers(signals, users, [[C]]) == [[0]]
    assert speakers(signals, users, [[C]], by="near") == [[0]]
    assert speakers(signals, users, [[C]], by="near_lift") == [[0]]
    assert speakers(signals, users, [[C]], by="next") == [[1]]
    assert speakers(signals, users, [[C]], by="next_lift") == [[1]]
    assert speakers(signals, users, [[C]], by="session") == [[-1]]  # though others speak


def test_what_is_liked_together_is_held_against_how_often_the_item_is_taken() -> None:
    signals = new_signals()
    link(signals, A, [C], ALSO, [9])
    link(signals, B, [C], NEXT, [9])
    users = histories([A, B])
    # A says 9 / (2 * 2) ** .5 where nobody took either, B .6 * 9 / (9 + 1).
    assert speakers(signals, users, [[C]]) == [[0]]
    signals.arrays.popularity[C, ALL_TIME] = 400  # 9 / (2 * 402) ** .5 is less
    assert speakers(signals, users, [[C]]) == [[1]]
    assert speakers(signals, users, [[C]], by="also") == [[0]]


@pytest.mark.parametrize("signal", ["next_of_last", "next_of_last_lift"])
def test_what_is_next_after_the_last_item_names_it_and_no_other(signal: str) -> None:
    signals = new_signals()
    link(signals, A, [C], NEXT, [1])
    link(signals, B, [C, D], NEXT, [9, 9])
    assert speakers(signals, histories([A, B]), [[C, D, B]], by=signal) == [[0, -1, -1]]
    assert speakers(signals, histories([]), [[C]], by=signal) == [[-1]]


def test_what_is_just_before_the_last_item_names_it_if_it_is() -> None:
    signals = new_signals()
    link(signals, A, [D], NEXT, [9])
    link(signals, C, [A], NEXT, [1])
    link(signals, D, [A], NEAR, [1])
    users = histories([A, B])
    assert speakers(signals, users, [[C, D, E]], by="back") == [[0, -1, -1]]


def test_own_item_is_next_after_another_not_after_itself() -> None:
    signals = new_signals()
    link(signals, A, [B], NEXT, [9])
    users = histories([A, B])
    assert speakers(signals, users, [[B]], by="next") == [[0]]
    assert speakers(signals, users, [[B]], by="own_recency") == [[1]]
    assert speakers(signals, users, [[B]], by="affinity") == [[1]]
