"""Item vocabulary: external item ids to dense item indexes, bounded."""

from collections.abc import Iterable, Sequence
from typing import NewType

ItemIndex = NewType("ItemIndex", int)
UNKNOWN = ItemIndex(-1)  # an item the vocabulary has no room for, or padding


class Vocabulary:
    """A two-way map that grows up to ``max_items``. One writer: the learn role."""

    def __init__(self, max_items: int, ids: Iterable[str] = ()) -> None:
        self.max_items = max_items
        self.ids: list[str] = list(ids)  # position is the item index; "" is a free place
        self._indexes = {item: ItemIndex(i) for i, item in enumerate(self.ids) if item}
        self._free = [ItemIndex(i) for i, item in enumerate(self.ids) if not item]

    def __len__(self) -> int:
        """Return how many indexes are in use or free for use again: the width of the arrays."""
        return len(self.ids)

    @property
    def n_items(self) -> int:
        """Return how many items have an index."""
        return len(self._indexes)

    @property
    def n_free(self) -> int:
        """Return how many more items there is room for."""
        return self.max_items - self.n_items

    def index(self, item: str) -> ItemIndex:
        """Return the item's index, ``UNKNOWN`` if it has none."""
        return self._indexes.get(item, UNKNOWN)

    def indexes(self, items: Sequence[str]) -> list[int]:
        """Return the index of each item, ``UNKNOWN`` where it has none."""
        get = self._indexes.get
        return [get(item, UNKNOWN) for item in items]

    def admit(self, item: str) -> ItemIndex:
        """Return the item's index, giving it one while there is room."""
        known = self._indexes.get(item)
        if known is not None:
            return known
        if self._free:
            index = self._free.pop()
            self.ids[index] = item
        elif len(self.ids) < self.max_items:
            index = ItemIndex(len(self.ids))
            self.ids.append(item)
        else:
            return UNKNOWN
        self._indexes[item] = index
        return index

    def place(self, index: int, item: str) -> bool:
        """Follow the writer: the item has this index there. True if it was another's here."""
        if index >= len(self.ids):
            self.ids.extend([""] * (index + 1 - len(self.ids)))
        old, before = self._indexes.pop(item, None), self.ids[index]
        if old is not None:
            self.ids[old] = ""
        is_anothers = before not in ("", item)
        if is_anothers:
            del self._indexes[before]
        self.ids[index] = item
        self._indexes[item] = ItemIndex(index)
        return is_anothers

    def evict(self, indexes: Iterable[int]) -> None:
        """Free the indexes for other items. What was counted for them must be forgotten first."""
        for index in indexes:
            del self._indexes[self.ids[index]]
            self.ids[index] = ""
            self._free.append(ItemIndex(index))
