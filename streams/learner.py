"""Learner: the single writer of what all users share. No Kafka, no clock.

Vocabulary, item signals, the users' histories that counting needs, and the outer loop.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from headrace.model.arrays import Ints, Longs
from headrace.model.config import REMEMBERED, OuterLoopConfig
from headrace.model.content import MAX_COLD
from headrace.model.item_regression import FIT_EVENTS, Coefficients, PairCounts
from headrace.model.losses import Processes
from headrace.model.meta_parameters import MetaParameters
from headrace.model.outer_loop import OuterLoop
from headrace.model.recommender import Recommender
from headrace.model.rehearsal import Tasks
from headrace.model.signals import ALL_TIME, ItemSignals
from headrace.model.vocabulary import ItemIndex, Vocabulary
from headrace.streams.actions import weights_of
from headrace.streams.catalogue import Catalogue
from headrace.streams.categories import Categories
from headrace.streams.content import HashedWords, pick_embedder
from headrace.streams.forgetting import Forgetting, owner_of
from headrace.streams.inheritance import Inheritance
from headrace.streams.model_settings import model_config, pick_device
from headrace.streams.prequential import Folded, fold, judge
from headrace.streams.settings import Settings
from headrace.streams.state import NOT_ENGAGED, UserState
from headrace.streams.wire import Event, Item

PLACED_AT_ONCE = 64  # items; a sentence model takes some 0.2 s, and events wait meanwhile
SAMPLE_OF = 1_000  # parts that the users are in, for a share of them
EVICT_SHARE = 0.05  # of a full vocabulary, at a version: evicting rewrites every neighbour row


class Learned(NamedTuple):
    """What one step did."""

    n_events: int  # new to their users' states
    n_tasks: int
    query_loss: float  # nats, NaN without tasks
    n_forgotten: int = 0  # users


class Learner:
    """Learns from events in order; see ``learn``.

    ``with_repeats`` an event may repeat its user's previous item: it is judged and learned from
    too, and that item competes. What is served leaves it out. ``processes`` share the gradients.
    """

    def __init__(
        self, settings: Settings, *, with_repeats: bool = False, processes: Processes | None = None
    ) -> None:
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.with_repeats = with_repeats
        self._processes = processes
        self.vocabulary = Vocabulary(settings.max_items)
        self.recommender = Recommender(
            MetaParameters(model_config(settings)),
            ItemSignals(settings.neighbours),
            device=pick_device(settings),
            with_last=with_repeats,
        )
        self.outer_loop = self.new_outer_loop()
        self.twins: list[OuterLoop] = []  # others that learn of the same items, to compare with
        self.pairs = PairCounts()
        self.users: OrderedDict[str, UserState] = OrderedDict()  # least recent first
        self.forgetting = Forgetting(self)
        self.n_events = 0
        self._n_unfitted = 0  # events since items were fitted anew
        self.new_items: list[tuple[int, str]] = []  # admitted since the last delta
        self.categories = Categories()
        is_on = settings.content != "off"
        self.catalogue = Catalogue(
            pick_embedder() if is_on else HashedWords(), max_items=settings.max_items, is_on=is_on
        )
        self.inheritance: Inheritance | None = None  # of another shop's items
        # Items whose content is not in the model yet, at most ``max_items``, newest last.
        self._unplaced: OrderedDict[str, None] = OrderedDict()

    def new_outer_loop(self) -> OuterLoop:
        """Return an outer loop over the recommender's meta-parameters."""
        return OuterLoop(
            self.recommender,
            OuterLoopConfig(
                replay_batches=self.settings.replay_batches,
                replay_tasks=self.settings.replay_tasks,
                action_weights=weights_of(self.settings.action_weights),
            ),
            seed=self.settings.seed,
            processes=self._processes,
        )

    @property
    def loops(self) -> list[OuterLoop]:
        """The outer loops over the items here, its own first."""
        return [self.outer_loop, *self.twins]

    @property
    def served(self) -> Recommender:
        """What ranks, and what events are judged by."""
        return self.outer_loop.served

    def serve_version(self) -> None:
        """Serve, and judge by, the meta-parameters of now."""
        self.outer_loop.serve_version(len(self.vocabulary))

    def serve_delta(self) -> None:
        """Serve what a delta carries as it is now; some items are fitted anew for it."""
        if self._n_unfitted >= FIT_EVENTS:
            self._n_unfitted = 0
            self.pairs.fit(self.recommender.coefficients)
        self.outer_loop.serve_delta()

    @property
    def signals(self) -> ItemSignals:
        """The item signals being counted."""
        return self.recommender.signals

    def warm_up(self) -> None:
        """Compile the loops before the first events come."""
        self.recommender.warm_up()
        none = np.zeros(0, np.int64)
        had = np.zeros((0, REMEMBERED), np.int64)
        self.signals.count(none.astype(np.int32), none, had.astype(np.int32), had, none)
        pairs = PairCounts()
        pairs.count(np.ones(1, np.int32), np.zeros((1, REMEMBERED), np.int32))
        pairs.fit(Coefficients())

    def learn(
        self, events: Sequence[tuple[str, int, Event]], *, is_behind: bool = False
    ) -> Learned:
        """Learn from (user key, offset, event) triples, new to the users' states and in order.

        1. Forget users who ask for it. 2. Admit items. 3. Fold the events, keeping each history
        before. 4. Judge the tasks among them, by what is served: the scorer must learn how far to
        trust an encoder of the last version. 5. Count all in the item signals. 6. Step the outer
        loop.

        While the role ``is_behind``, nothing is rehearsed, and 4 and 6 are for a share of the
        users, always the same ones: what each of them is adapted to is whole.
        """
        n_forgotten, events = self.forgetting.take_out(events)  # 1
        self.admit([event for _, _, event in events])  # 2
        states, folded = self.fold(events)  # 3
        owners = np.array([owner_of(key) for key, _, _ in events], np.int64)
        if is_behind:
            folded.is_task[owners % SAMPLE_OF >= self.settings.behind_share * SAMPLE_OF] = False
        judged = judge(self.served, folded, states)  # 4
        tasks = judged.tasks if judged else None
        owners = owners[folded.is_task]
        learned = self.absorb(folded, tasks, rehearse=not is_behind, owners=owners)  # 5, 6
        return learned._replace(n_forgotten=n_forgotten)

    def absorb(
        self,
        folded: Folded,
        tasks: Tasks | None,
        *,
        is_counted: bool = False,
        rehearse: bool = True,
        owners: Longs | None = None,
    ) -> Learned:
        """Count folded events, unless they are, and step the outer loop on the tasks among them."""
        if not is_counted:
            self.count(folded, slice(None))
        self.signals.refresh_popular(len(self.vocabulary))
        self.n_events += len(folded.targets)
        self._n_unfitted += len(folded.targets)
        if tasks is None:
            return Learned(len(folded.targets), 0, float("nan"))
        loss = self.outer_loop.learn(
            tasks, n_items=len(self.vocabulary), rehearse=rehearse, owners=owners
        )
        return Learned(len(folded.targets), len(tasks), loss)

    def count(self, folded: Folded, rows: slice) -> None:
        """Count some of the folded events in the item signals and for the item regression."""
        targets, before = folded.targets[rows], folded.before.rows(rows)
        self.signals.count(
            targets, folded.times_s[rows], before.items, before.times_s, before.n_events
        )
        self.pairs.count(targets, before.items)

    def admit(self, events: Sequence[Event]) -> None:
        """Give the events' items an index, while there is room, and room in the arrays."""
        new = dict.fromkeys(
            event.item
            for event in events
            if event.action not in NOT_ENGAGED and self.vocabulary.index(event.item) < 0
        )
        missing = len(new) - self.vocabulary.n_free
        if missing > 0:
            about_to_be_taken = self.vocabulary.indexes([event.item for event in events])
            untaken = self._untaken()
            self._give_up(untaken[~np.isin(untaken, about_to_be_taken)][:missing])
        self._describe([item for item in new if self._admit(item) >= 0])

    def _admit(self, item: str) -> ItemIndex:
        """Give a new item an index, if there is room, and room in the arrays."""
        index = self.vocabulary.admit(item)
        if index < 0:
            return index
        n = len(self.vocabulary)
        self.signals.reserve(n)
        if n > self.recommender.meta.capacity:
            self.outer_loop.grow(self.signals.capacity)
        self.new_items.append((index, item))
        self._place_in_category(index, item)
        return index

    def fold(self, events: Sequence[tuple[str, int, Event]]) -> tuple[list[UserState], Folded]:
        """Apply events to the users' states that the learner keeps; return those states."""
        owners: dict[str, int] = {}
        rows = [(owners.setdefault(key, len(owners)), offset, e) for key, offset, e in events]
        states = [self._user(key) for key in owners]
        return states, self.fold_into(states, rows)

    def fold_into(
        self, states: Sequence[UserState], rows: Sequence[tuple[int, int, Event]]
    ) -> Folded:
        """Apply (position of the user's state, offset, event) triples to any users' states."""
        return fold(
            states,
            rows,
            self.vocabulary,
            history_length=self.settings.history_length,
            with_repeats=self.with_repeats,
        )

    def _user(self, key: str) -> UserState:
        state = self.users.setdefault(key, UserState())
        self.users.move_to_end(key)
        return state

    def forget_users(self) -> None:
        """Drop the least recent users beyond the bound."""
        while len(self.users) > self.settings.learn_users:
            self.users.popitem(last=False)

    # ------------------------------------------------------------------------- the catalogue

    def note(self, item: Item, *, time_ms: int | None = None) -> None:
        """Take a catalogue record over: its category now, its content when it is placed."""
        self.categorise(item.item, item.categories)
        is_another = self.catalogue.note(item, time_ms=time_ms)
        index = self.vocabulary.index(item.item)
        has_vector = index >= 0 and self.signals.content.stamp_of(index) != 0
        has_content = has_vector or self.catalogue.source_of(item.item) is not None
        if has_content and (is_another or index < 0):
            self._place_later(item.item)

    def _place_later(self, item: str) -> None:
        self._unplaced[item] = None
        self._unplaced.move_to_end(item)
        if len(self._unplaced) > self.settings.max_items:
            self._unplaced.popitem(last=False)

    def place(self, limit: int = PLACED_AT_ONCE) -> bool:
        """Bring content that was noted into the model, newest first; True if some is left.

        Items that nobody took get an index too: up to ``MAX_COLD`` while there is room, then in the
        place of the oldest of them. One that finds no room may find it when its record comes again.
        Of which nothing is known any more, they give it up.
        """
        if not self._unplaced:  # a new price is no news
            return False
        content, vocabulary = self.signals.content, self.vocabulary
        untaken = dict.fromkeys(self._untaken().tolist())  # oldest first
        room = min(vocabulary.n_free, self._most_untaken - len(untaken))
        placed: list[str] = []
        n_given_up = 0
        while self._unplaced and len(placed) + n_given_up < limit:
            item, _ = self._unplaced.popitem()
            source, index = self.catalogue.source_of(item), vocabulary.index(item)
            if source is None and index in untaken:
                del untaken[index]
                self._give_up([index])
                room += 1
                n_given_up += 1
                continue
            if source is None:
                content.forget([index] if index >= 0 else [])
                continue
            if index >= 0 and content.stamp_of(index) == source.stamp:
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
        content.refresh(self.signals.arrays.popularity[:, ALL_TIME])
        return bool(self._unplaced)

    def _describe(self, items: Sequence[str]) -> None:
        """Give items that have an index the content vectors that their records make."""
        found = [
            (index, source)
            for item in items
            if (index := self.vocabulary.index(item)) >= 0
            and (source := self.catalogue.source_of(item))
        ]
        if not found:
            return
        indexes = np.array([index for index, _ in found], np.int32)
        sources = [source for _, source in found]
        vectors = self.catalogue.vectors_of(sources)
        self.signals.content.put(
            indexes,
            vectors,
            np.array([source.stamp for source in sources], np.int64),
            np.array([source.arrived for source in sources], np.int64),
        )
        if self.inheritance:
            self.inheritance.pass_on(self.loops, indexes, vectors, space=self.catalogue.space)

    @property
    def _most_untaken(self) -> int:
        """How many items that only the catalogue knows are held."""
        return min(MAX_COLD, self.vocabulary.max_items // 2)

    def _untaken(self) -> Ints:
        """Return the items that only the catalogue knows, oldest first."""
        arrays = self.signals.arrays
        return self.signals.content.untaken(arrays.popularity[:, ALL_TIME], arrays.filled)

    def _give_up(self, indexes: Sequence[int] | Ints) -> None:
        """Free the indexes of items that nobody took: nothing was counted for them."""
        self.signals.content.forget(indexes)
        arrays = self.signals.arrays
        arrays.category[indexes] = -1
        arrays.dirty_items[indexes] = True
        for loop in self.loops:
            loop.start_anew(np.asarray(indexes))
        self.forgetting.evict(np.asarray(indexes))
        self.vocabulary.evict([int(index) for index in indexes])

    def categorise(self, item: str, categories: Sequence[str]) -> None:
        """Note the finest of an item's categories, now or once the item is admitted."""
        self.categories.note(item, categories)
        index = self.vocabulary.index(item)
        if index >= 0:
            self._place_in_category(index, item)

    def _place_in_category(self, index: int, item: str) -> None:
        number = self.categories.of(item)
        if number is not None:
            self.signals.arrays.category[index] = number
            self.signals.arrays.dirty_items[index] = True

    def make_room(self, *, with_checkpoint: bool = True) -> bool:
        """Evict items that only forgotten users took, and the least popular of a full vocabulary.

        The former ``with_checkpoint`` only: they are no reason to write one. Of items that nobody
        took, the newest stay. True if replicas must reload.
        """
        has_evicted = with_checkpoint and self._evict_given_up()
        if self.vocabulary.n_items < self.vocabulary.max_items:
            return self.signals.rebase() or has_evicted
        n = max(1, int(EVICT_SHARE * self.vocabulary.max_items))
        slow = self.signals.popularity_now(len(self.vocabulary))[:, 1]
        slow[self._untaken()[-self._most_untaken :]] = np.inf
        gone = np.argsort(slow, kind="stable")[:n]
        for loop in self.loops:
            loop.forget(gone, n_items=len(self.vocabulary))
        self._evict(gone)
        return True

    def _evict_given_up(self) -> bool:
        """Evict items that only forgotten users took; those of the catalogue come back as new."""
        gone = self.forgetting.given_up()
        if not len(gone):
            return False
        items = [self.vocabulary.ids[index] for index in gone]
        self.outer_loop.start_anew(gone)  # nothing that is rehearsed names them
        self._evict(gone)
        for item in filter(self.catalogue.source_of, items):
            self._place_later(item)
        self.place()
        return True

    def _evict(self, gone: Longs) -> None:
        """Free the indexes of items, and what is counted for them: replicas must reload."""
        self.signals.forget(gone)
        self.pairs.forget(gone)
        self.recommender.coefficients.forget(gone)
        self.forgetting.evict(gone)
        self.vocabulary.evict(gone.tolist())
        # Replicas reload: told later, an evicted item would come back to them, and so would tables.
        self.new_items = []
        self.recommender.coefficients.take_delta()
        self.signals.refresh_popular(len(self.vocabulary))
        self.signals.rebase()
