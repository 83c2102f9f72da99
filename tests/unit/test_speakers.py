"""Which interaction speaks for a listed item, worked out by hand."""

import numpy as np
from model_samples import histories, link

from headrace.model.signals import NEXT, SESSION, ItemSignals
from headrace.model.speakers import speakers
from headrace.model.walk import HISTORY

A, B, C, D, E = range(5)


def new_signals() -> ItemSignals:
    """Return signals of which nothing was counted."""
    return ItemSignals(128, capacity=200)


def test_loudest_interaction_speaks() -> None:
    signals = new_signals()
    link(signals, A, [C, D], NEXT, [1, 9])
    link(signals, B, [C], NEXT, [9])
    found = speakers(signals, histories([A, B]), np.array([[C, D, E]], np.int32))
    # For C, A says 1 / (10 + 1) and B, a step back, 0.6 * 9 / (9 + 1). Nobody leads to E.
    assert found.tolist() == [[1, 0, -1]]


def test_own_item_speaks_for_itself_whoever_else_does() -> None:
    signals = new_signals()
    link(signals, A, [B], NEXT, [9])
    assert speakers(signals, histories([A, B, B]), np.array([[B]], np.int32)).tolist() == [[1]]


def test_item_had_long_ago_speaks_for_itself_too() -> None:
    users = histories([A] * HISTORY + [B], width=HISTORY + 10)
    assert speakers(new_signals(), users, np.array([[B]], np.int32)).tolist() == [[HISTORY]]


def test_users_and_places_that_are_padded_have_no_speaker() -> None:
    signals = new_signals()
    link(signals, A, [C], NEXT, [1])
    found = speakers(signals, histories([], [-1, A]), np.array([[C, -1], [C, -1]], np.int32))
    assert found.tolist() == [[-1, -1], [1, -1]]


def test_session_of_one_user_is_not_that_of_the_next() -> None:
    signals = new_signals()
    link(signals, B, [C], SESSION, [1])
    listed = np.array([[C]], np.int32)
    assert speakers(signals, histories([A, B], minutes=60), listed).tolist() == [[1]]
    assert speakers(signals, histories([A, B], minutes=61), listed).tolist() == [[-1]]
