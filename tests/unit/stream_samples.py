"""Small settings, streams and learners that the tests around the learner and serving share."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from headrace.model.config import OuterLoopConfig
from headrace.model.learning.outer_loop import OuterLoop
from headrace.streams.learn.learner import Learner
from headrace.streams.prequential import Folded, fold
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.state import UserState

START_MS = 1_700_000_000_000
MINUTE_MS = 60_000
Triple = tuple[str, int, Event]  # user key, offset, event


def small(**changes: Any) -> Settings:
    """Return settings of a model that computes in milliseconds."""
    sizes = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8, "list_length": 5}
    return Settings(
        **(sizes | {"device": "cpu", "replay_tasks": 256, "replay_batches": 0} | changes)
    )


def event(user: str, item: str, minute: int = 0, **fields: Any) -> Event:
    """Return an event so many minutes after the start."""
    return Event(user=user, item=item, time_ms=START_MS + minute * MINUTE_MS, **fields)


def drawn(n: int, *, n_users: int = 7, n_items: int = 20, seed: int = 0) -> list[Triple]:
    """Return a stream in which low items are popular, a minute between events."""
    random = np.random.default_rng(seed)
    users = random.integers(0, n_users, n)
    items = (n_items * random.random(n) ** 2).astype(int)
    return [
        (f"user-{u}", at, event(f"user-{u}", f"item-{i}", at))
        for at, (u, i) in enumerate(zip(users, items, strict=True))
    ]


def batches(stream: Sequence[Triple], size: int) -> Iterator[Sequence[Triple]]:
    """Cut a stream."""
    for start in range(0, len(stream), size):
        yield stream[start : start + size]


class PlainLearner(Learner):
    """Draws nothing at random while it learns, so that two of them can be compared.

    What an outer loop draws is not in a checkpoint: the tasks it rehearses, those it takes for new
    users', and those it standardises the inputs by. A step is on as many new tasks as make it due.
    """

    def new_outer_loop(self) -> OuterLoop:
        config = OuterLoopConfig(
            gradient_dropout=0, standardise_until=0, replay_batches=0, batch_tasks=8
        )
        return OuterLoop(self.recommender, config, seed=self.settings.seed)


def learned(stream: Iterable[Triple], *, size: int = 16, **changes: Any) -> Learner:
    """Return a learner of a stream, with negatives drawn as before a version is published."""
    learner = PlainLearner(small(**changes))
    for batch in batches(list(stream), size):
        learner.learn(batch)
    learner.serve_version()
    return learner


def folded(
    learner: Learner, states: Sequence[UserState], events: Sequence[tuple[int, int, Event]]
) -> Folded:
    """Fold into states with the learner's vocabulary."""
    return fold(states, events, learner.vocabulary, history_length=100)


def state_of(*events: Event, length: int = 1000) -> UserState:
    """Return the state of a user who did this."""
    state = UserState()
    for offset, one in enumerate(events):
        state.apply(one, offset=offset, history_length=length)
    return state


def copies(states: Iterable[UserState]) -> list[UserState]:
    """Return states that do not change with the given ones."""
    return copy.deepcopy(list(states))
