"""A drawn shop: users who stay around an item of their own, so that every row of counts is full.

Worse than most real shops for what counting costs, and the same on every machine.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from headrace.model.counts.item_regression import N_REGRESSORS
from headrace.model.counts.signals import N_RELATIONS
from headrace.streams.learn.learner import Learner
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.state import UserState

COUNTED = 60  # events of each user before the measurement; the model sees the latest 50
EVENTS_EACH = 8  # to go through again and again: one that repeats the one before it is not judged
SESSION = 10  # events without an hour's gap
LEARNED = 4_000  # of the counted events, the last, are learned from too
ITEM_BYTES = 25_000  # rows of neighbours and regressors, while they are copied to grow
USER_BYTES = 40_000  # events and state
SPREAD = 50  # of the items, a user's are this part on either side of the first
STOCK_EVENTS = 10  # of each item, on average
_AT_ONCE = 1_000  # events
_MINUTE_MS = 60_000


class Shop(NamedTuple):
    """What a measurement starts from."""

    learner: Learner  # of a model that has just been published
    events: list[Event]  # that come next


def open_shop(
    settings: Settings,
    *,
    n_items: int,
    n_users: int,
    n_events: int,
    n_before: int = COUNTED,
    learner: Learner | None = None,
) -> Shop:
    """Return a shop whose users have ``n_before`` events, and the events that come next.

    A ``learner`` that is given may have counted more before.
    """
    n_each = n_before + -(-n_events // n_users)
    drawn = _draw(n_items, n_users, n_each, seed=settings.seed)
    n_counted = n_before * n_users
    learner = learner or Learner(settings)
    for at in range(0, n_counted, _AT_ONCE):
        taken = drawn[at : min(at + _AT_ONCE, n_counted)]
        block = [(event.user, at + i, event) for i, event in enumerate(taken)]
        if at < n_counted - LEARNED:
            learner.assortment.admit([event for _, _, event in block])
            learner.absorb(learner.fold(block)[1], None)
            continue
        while learner.pairs.new_takers.any():  # every item, some at a time
            learner.pairs.fit(learner.recommender.coefficients)
        learner.learn(block)
    learner.serve_version()
    return Shop(learner, drawn[n_counted : n_counted + n_events])


def stock(learner: Learner, n_items: int) -> None:
    """Give a new learner items with full rows of neighbours and of regressors.

    What stands in the rows is drawn, not counted: it takes as much memory and as long to read, and
    a million items take a minute instead of an hour.
    """
    for items in np.array_split(np.arange(n_items, dtype=np.int32), -(-n_items // _AT_ONCE)):
        learner.assortment.admit([Event(user="", item=f"i{item}", time_ms=0) for item in items])
    learner.assortment.new_items = []
    random = np.random.default_rng(learner.settings.seed)
    a, k = learner.signals.arrays, learner.signals.neighbours
    for items in np.array_split(np.arange(n_items, dtype=np.int32), -(-n_items // _AT_ONCE)):
        steps = random.normal(0, n_items / SPREAD, (len(items), k)).astype(np.int32)
        a.ids[items] = (items[:, None] + steps) % n_items
        a.weights[items] = random.standard_exponential((len(items), k, N_RELATIONS), np.float32)
        a.totals[items] = a.weights[items].sum(1)
        a.filled[items] = k
        a.popularity[items] = random.exponential(STOCK_EVENTS, (len(items), 1))
        regressors = np.full((len(items), N_REGRESSORS), -1, np.int32)
        regressors[:, :k] = a.ids[items, :N_REGRESSORS]
        weights = random.normal(0, 1 / N_REGRESSORS, regressors.shape).astype(np.float32)
        learner.recommender.coefficients.put(items, regressors, weights)
        learner.recommender.coefficients.take_delta()  # what is in stock is no news


def _draw(n_items: int, n_users: int, n_each: int, *, seed: int) -> list[Event]:
    """Return events in the order of their times, all users in turn."""
    random = np.random.default_rng(seed)
    home = random.integers(0, n_items, n_users)
    steps = random.normal(0, n_items / SPREAD, (n_each, n_users)).astype(np.int64)
    items = ((home + steps) % n_items).tolist()
    gaps = np.where(np.arange(n_each) % SESSION == 0, 24 * 60, 1).cumsum() * _MINUTE_MS
    return [
        Event(user=f"u{user}", item=f"i{items[at][user]}", time_ms=int(gaps[at]))
        for at in range(n_each)
        for user in range(n_users)
    ]


def states_of(learner: Learner) -> dict[str, UserState]:
    """Return the users' states as an adapt worker starts with them, before any offset."""
    return {user: replace(state, last_offset=-1) for user, state in learner.users.items()}
