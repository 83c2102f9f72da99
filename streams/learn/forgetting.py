"""Forgetting: what the learn role lets go of when a user asks, and what it owes until all is gone.

At once: the user's history, and the tasks kept for rehearsal. With the next checkpoint: items that
nobody else took. With those after it: the older ones that still hold the user. What is
counted over users stays, and what the meta-parameters have learned.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from headrace.model.arrays import Longs
from headrace.model.counts.signals import ALL_TIME
from headrace.streams.actions import FORGET
from headrace.streams.records import Event
from headrace.streams.state import UserState

if TYPE_CHECKING:
    from headrace.streams.learn.learner import Learner

Events = Sequence[tuple[str, int, Event]]  # user key, offset, event


class Forgetting:
    """Forgets users of a learner."""

    def __init__(self, learner: "Learner") -> None:
        self.versions_due = 0  # with checkpoints, until none that is kept holds a forgotten user
        self._learner = learner
        self._taken: Counter[int] = Counter()  # by those forgotten since the last checkpoint

    def take_out(self, events: Events) -> tuple[int, Events]:
        """Forget users who ask for it; return how many, and the events less theirs until then."""
        asked = {key: at for at, (key, _, event) in enumerate(events) if event.action == FORGET}
        for key in asked:
            self.forget(key)
        return len(asked), [one for at, one in enumerate(events) if at > asked.get(one[0], -1)]

    def forget(self, key: str) -> None:
        """Drop a user's history and rehearsal."""
        learner = self._learner
        learner.outer_loop.forget_owner(owner_of(key))
        state = learner.users.pop(key, UserState())
        self._taken.update(i for i in learner.vocabulary.indexes(state.items) if i >= 0)
        self.versions_due = learner.settings.versions_kept

    def evict(self, indexes: Longs) -> None:
        """Let go of items whose indexes are about to be given to others."""
        for index in indexes.tolist():
            self._taken.pop(index, None)

    def given_up(self) -> Longs:
        """Return the items that were taken by nobody but users forgotten since the last call.

        As far as their histories tell: what they took before those began is not known any more.
        """
        taken, self._taken = self._taken, Counter()
        all_time = self._learner.signals.arrays.popularity[:, ALL_TIME]
        ids = self._learner.vocabulary.ids
        only = {ids[index]: index for index, n in taken.items() if all_time[index] <= n}
        # A history may name what is not counted any more, from before the item was evicted once:
        # by the count alone, what others took since would be theirs.
        for state in self._learner.users.values():
            if not only:
                break
            for item in only.keys() & set(state.items):
                del only[item]
        return np.array(list(only.values()), np.int64)


def owner_of(key: str) -> int:
    """Return a number of 64 bits for a user, the same in every process."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)
