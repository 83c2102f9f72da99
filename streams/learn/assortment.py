"""Assortment: which items the model knows, and what the catalogue says of them.

An item gets an index when it is taken first, or described while there is room, and gives it up when
the vocabulary is full, its catalogue record goes, or only forgotten users took it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headrace.model.arrays import Ints, Longs
from headrace.model.counts.content import MAX_COLD
from headrace.model.counts.signals import ALL_TIME, ItemSignals
from headrace.model.vocabulary import ItemIndex, Vocabulary
from headrace.streams import metrics
from headrace.streams.actions import NOT_ENGAGED
from headrace.streams.learn.catalogue import Catalogue
from headrace.streams.learn.categories import Categories
from headrace.streams.learn.content import HashedWords, pick_embedder
from headrace.streams.learn.inheritance import Inheritance
from headrace.streams.records import Event, Item
from headrace.streams.withdrawn import Withdrawn

if TYPE_CHECKING:
    from headrace.streams.learn.learner import Learner

PLACED_AT_ONCE = 64  # items; a sentence model takes some 0.2 s, and events wait meanwhile
# Of a full vocabulary, at least and at most: evicting rewrites every neighbour row, and the
# checkpoint that follows is loaded whole by all. Twice what found no room since the last time is
# evicted, for as much is to come until the next.
EVICT_SHARE, MOST_EVICTED_SHARE = 0.05, 0.25


class Assortment:
    """The items of a learner."""

    def __init__(self, learner: "Learner") -> None:
        self._learner = learner
        settings = learner.settings
        self.new_items: list[tuple[int, str]] = []  # admitted since the last delta
        self.categories = Categories()
        is_on = settings.content != "off"
        self.catalogue = Catalogue(
            pick_embedder() if is_on else HashedWords(), max_items=settings.max_items, is_on=is_on
        )
        self.inheritance: Inheritance | None = None  # of another shop's items
        self._withdrawn = Withdrawn()
        self._refused: set[str] = set()  # taken since the last eviction, and found no room
        # Items whose content is not in the model yet, at most ``max_items``, newest last.
        self._unplaced: OrderedDict[str, bool] = OrderedDict()  # item to whether it is active

    @property
    def _vocabulary(self) -> Vocabulary:
        return self._learner.vocabulary

    @property
    def _signals(self) -> ItemSignals:
        return self._learner.signals

    def admit(self, events: Sequence[Event]) -> None:
        """Give the events' items an index, while there is room, and room in the arrays."""
        new = dict.fromkeys(
            event.item
            for event in events
            if event.action not in NOT_ENGAGED and self._vocabulary.index(event.item) < 0
        )
        missing = len(new) - self._vocabulary.n_free
        if missing > 0:
            about_to_be_taken = self._vocabulary.indexes([event.item for event in events])
            untaken = self._untaken()
            self._give_up(untaken[~np.isin(untaken, about_to_be_taken)][:missing])
        admitted = [item for item in new if self._admit(item) >= 0]
        self._describe(admitted)
        if len(admitted) < len(new) and len(self._refused) < self._vocabulary.max_items:
            known = len(self._refused)
            self._refused |= new.keys() - set(admitted)
            metrics.ITEMS_REFUSED.inc(len(self._refused) - known)

    def note(self, item: Item, *, time_ms: int | None = None) -> None:
        """Take a catalogue record over: its category now, its content when it is placed."""
        self.categories.note(item.item, item.categories)
        if not item.active:
            self.categories.forget(item.item)
        self._withdrawn.note(item)
        index = self._vocabulary.index(item.item)
        if index >= 0:
            self._signals.arrays.is_out[index] = not item.active
            self._place_in_category(index, item.item)
        is_another = self.catalogue.note(item, time_ms=time_ms)
        has_vector = index >= 0 and self._signals.content.stamp_of(index) != 0
        has_content = has_vector or self.catalogue.source_of(item.item) is not None
        if has_content and (is_another or index < 0):
            self._place_later(item.item, is_active=item.active)

    def place(self, limit: int = PLACED_AT_ONCE) -> bool:
        """Bring content that was noted into the model, newest first; True if some is left.

        Items that nobody took get an index too: up to ``MAX_COLD`` while there is room, then in the
        place of the oldest of them. One that finds no room may find it when its record comes again.
        Of which nothing is known any more, they give it up. One that is withdrawn keeps its vector,
        which says what its users like, and its index too if nobody took it: the withdrawal may be
        read before the purchase that it follows. Of such, the first go where there is no room.
        """
        if not self._unplaced:  # a new price is no news
            return False
        content, vocabulary = self._signals.content, self._vocabulary
        untaken = OrderedDict.fromkeys(self._untaken().tolist())  # oldest first
        room = min(vocabulary.n_free, self._most_untaken - len(untaken))
        placed: list[str] = []
        n_given_up = 0
        while self._unplaced and len(placed) + n_given_up < limit:
            item, is_active = self._unplaced.popitem()
            source, index = self.catalogue.source_of(item), vocabulary.index(item)
            if source is None and not is_active:
                content.retire(index)
                if index in untaken:
                    untaken.move_to_end(index, last=False)
                continue
            if source is None and index in untaken:
                del untaken[index]
                self._give_up([index])
                room += 1
                n_given_up += 1
                continue
            if source is None:
                content.forget([index] if index >= 0 else [])
                continue
            is_there = index >= 0 and content.stamp_of(index) == source.stamp
            if is_there and not content.is_retired(index):
                continue
            if index < 0:
                oldest = next(iter(untaken), -1)
                if room <= 0 and not (oldest >= 0 and content.arrived[oldest] < source.arrived):
                    continue
                if room <= 0:
                    del untaken[oldest]
                    self._give_up([oldest])
                room -= 1
                self._admit(item)
            untaken.pop(index, None)  # described anew, it is among the newest
            placed.append(item)
        self._describe(placed)
        content.refresh(self._signals.arrays.popularity[:, ALL_TIME])
        return bool(self._unplaced)

    def make_room(self, *, with_checkpoint: bool = True) -> bool:
        """Evict items that only forgotten users took, and the least used of a full vocabulary.

        Only ``with_checkpoint``, for one follows an eviction. True if replicas must reload.
        """
        has_evicted = with_checkpoint and self._evict_given_up()
        most = self._vocabulary.max_items
        if not with_checkpoint or self._vocabulary.n_items < most:
            return self._signals.rebase() or has_evicted
        share = np.clip(2 * len(self._refused) / most, EVICT_SHARE, MOST_EVICTED_SHARE)
        gone = self._least_used(max(1, int(share * most)))
        metrics.ITEMS_EVICTED.inc(len(gone))
        self._refused.clear()
        for loop in self._learner.loops:
            loop.forget(gone, n_items=len(self._vocabulary))
        self._evict(gone)
        return True

    def _least_used(self, n: int) -> Longs:
        """Return some ``n`` items: the least popular, of items that nobody took none of the newest.

        What one user took is on trial, and may fill half of the vocabulary beside what others took
        too: a crawler that takes every item of another shop once would push out all of this one's.
        """
        arrays, size = self._signals.arrays, len(self._vocabulary)
        slow = self._signals.log_popularity(size)
        slow[self._untaken()[-self._most_untaken :]] = np.inf
        takers = arrays.popularity[:size, ALL_TIME] - arrays.repeats[:size]
        order = np.argsort(slow, kind="stable")
        is_on_trial = ((takers < 2) & (slow < np.inf))[order]
        too_many = int(is_on_trial.sum()) + n - self._vocabulary.max_items // 2
        first = order[is_on_trial][: min(n, max(0, too_many))]
        return np.concatenate([first, order[~np.isin(order, first)][: n - len(first)]])

    def _admit(self, item: str) -> ItemIndex:
        """Give a new item an index, if there is room, and room in the arrays."""
        index = self._vocabulary.admit(item)
        if index < 0:
            return index
        n = len(self._vocabulary)
        self._signals.reserve(n)
        if n > self._learner.recommender.meta.capacity:
            self._learner.outer_loop.grow(self._signals.capacity)
        self.new_items.append((index, item))
        self._signals.arrays.is_out[index] = item in self._withdrawn
        self._place_in_category(index, item)
        return index

    def _place_in_category(self, index: int, item: str) -> None:
        number = self.categories.of(item)
        if number is not None:
            self._signals.arrays.category[index] = number
            self._signals.arrays.dirty_items[index] = True

    def _place_later(self, item: str, *, is_active: bool) -> None:
        self._unplaced[item] = is_active
        self._unplaced.move_to_end(item)
        if len(self._unplaced) > self._vocabulary.max_items:
            self._unplaced.popitem(last=False)

    def _describe(self, items: Sequence[str]) -> None:
        """Give items that have an index the content vectors that their records make."""
        found = [
            (index, source)
            for item in items
            if (index := self._vocabulary.index(item)) >= 0
            and (source := self.catalogue.source_of(item))
        ]
        if not found:
            return
        indexes = np.array([index for index, _ in found], np.int32)
        sources = [source for _, source in found]
        vectors = self.catalogue.vectors_of(sources)
        self._signals.content.put(
            indexes,
            vectors,
            np.array([source.stamp for source in sources], np.int64),
            np.array([source.arrived for source in sources], np.int64),
        )
        if self.inheritance:
            loops, space = self._learner.loops, self.catalogue.space
            self.inheritance.pass_on(loops, indexes, vectors, space=space)

    @property
    def _most_untaken(self) -> int:
        """How many items that only the catalogue knows are held."""
        return min(MAX_COLD, self._vocabulary.max_items // 2)

    def _untaken(self) -> Ints:
        """Return the items that only the catalogue knows, oldest first."""
        arrays = self._signals.arrays
        return self._signals.content.untaken(arrays.popularity[:, ALL_TIME], arrays.filled)

    def _give_up(self, indexes: Sequence[int] | Ints) -> None:
        """Free the indexes of items that nobody took: nothing was counted for them."""
        self._signals.content.forget(indexes)
        arrays = self._signals.arrays
        arrays.category[indexes] = -1
        arrays.dirty_items[indexes] = True
        for loop in self._learner.loops:
            loop.start_anew(np.asarray(indexes))
        self._learner.forgetting.evict(np.asarray(indexes))
        self._vocabulary.evict([int(index) for index in indexes])

    def _evict_given_up(self) -> bool:
        """Evict items that only forgotten users took; those of the catalogue come back as new."""
        gone = self._learner.forgetting.given_up()
        if not len(gone):
            return False
        items = [self._vocabulary.ids[index] for index in gone]
        for loop in self._learner.loops:
            loop.start_anew(gone)  # nothing that is rehearsed names them
        self._evict(gone)
        for item in filter(self.catalogue.source_of, items):
            self._place_later(item, is_active=True)
        self.place(limit=len(items))  # no record need come that would have the rest placed
        return True

    def _evict(self, gone: Longs) -> None:
        """Free the indexes of items, and what is counted for them: replicas must reload."""
        self._signals.forget(gone)
        self._learner.pairs.forget(gone)
        self._learner.recommender.coefficients.forget(gone)
        self._learner.forgetting.evict(gone)
        self._vocabulary.evict(gone.tolist())
        # Replicas reload: told later, an evicted item would come back to them, and so would tables.
        self.new_items = []
        self._learner.recommender.coefficients.take_delta()
        self._signals.refresh_popular(len(self._vocabulary))
        self._signals.rebase()
