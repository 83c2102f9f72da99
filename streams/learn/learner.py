"""Learner: the single writer of what all users share. No Kafka, no clock.

The users' histories that counting needs, and the outer loop; its items are those of the assortment.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from headrace.model.arrays import Longs
from headrace.model.config import REMEMBERED, OuterLoopConfig
from headrace.model.counts.item_regression import FIT_EVENTS, Coefficients, PairCounts
from headrace.model.counts.signals import ItemSignals
from headrace.model.learning.losses import Processes
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.learning.rehearsal import Tasks
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.recommender import Recommender
from headrace.model.vocabulary import Vocabulary
from headrace.streams.actions import weights_of
from headrace.streams.learn.assortment import Assortment
from headrace.streams.learn.forgetting import Forgetting, owner_of
from headrace.streams.model_settings import model_config, pick_device
from headrace.streams.prequential import Folded, fold, judge
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.state import UserState

SAMPLE_OF = 1_000  # parts that the users are in, for a share of them


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
        self.assortment = Assortment(self)

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

    def next_version(self, *, with_checkpoint: bool = True) -> bool:
        """Make room for items and users, and serve what is left; True if replicas must reload."""
        must_reload = self.assortment.make_room(with_checkpoint=with_checkpoint)
        self.forget_users()
        self.serve_version()
        return must_reload

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
        self.assortment.admit([event for _, _, event in events])  # 2
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
