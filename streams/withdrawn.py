"""Withdrawn items: what the catalogue says is offered no more."""

from headrace.model.counts.signals import ItemSignals
from headrace.model.vocabulary import Vocabulary
from headrace.streams.records import Item

MAX_WITHDRAWN = 2_000_000  # items; 200 MB, and ten times the vocabulary


class Withdrawn:
    """The latest of them; their marks in item signals are for those that have an index there."""

    def __init__(self) -> None:
        self._items: dict[str, None] = {}  # oldest first

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def note(self, item: Item) -> None:
        """Take over whether an item is offered."""
        self._items.pop(item.item, None)
        if not item.active:
            self._items[item.item] = None
        if len(self._items) > MAX_WITHDRAWN:
            del self._items[next(iter(self._items))]

    def mark_all(self, signals: ItemSignals, vocabulary: Vocabulary) -> None:
        """Mark those among the items that a version came with."""
        signals.arrays.is_out[: len(vocabulary)] = [item in self._items for item in vocabulary.ids]
