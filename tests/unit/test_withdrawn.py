"""Withdrawn items: which are known, and marked where there are signals of them."""

import pytest

from headrace.model.counts.signals import ItemSignals
from headrace.model.vocabulary import Vocabulary
from headrace.streams import withdrawn
from headrace.streams.records import Item
from headrace.streams.withdrawn import Withdrawn


def withdrawing(*items: str) -> Withdrawn:
    """Return what knows that some items were withdrawn."""
    found = Withdrawn()
    for item in items:
        found.note(Item(item=item, active=False))
    return found


def test_an_item_is_withdrawn_until_it_is_active_again() -> None:
    found = withdrawing("tea", "milk")
    assert "tea" in found
    found.note(Item(item="tea"))
    assert "tea" not in found
    assert "milk" in found


def test_of_more_than_there_is_room_for_the_latest_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(withdrawn, "MAX_WITHDRAWN", 2)
    found = withdrawing("a", "b", "a", "c")
    assert [item in found for item in "abc"] == [True, False, True]


def test_all_that_have_an_index_are_marked() -> None:
    signals = ItemSignals(2, capacity=4)
    signals.arrays.is_out[0] = True  # as an item before it was
    withdrawing("tea", "unheard of").mark_all(signals, Vocabulary(9, ["milk", "tea", ""]))
    assert signals.arrays.is_out.tolist() == [False, True, False, False]
