"""CPU time of a user, by stage, in micro-batches over a catalogue of a given size.

    python tests/bench/adapt_cost.py [--users 256] [--items 10000]

Each user of a micro-batch has one new event: it is folded into the state and judged by the list
before it, then the user is adapted and ranked, with reasons. The stream is drawn: users move around
an item of their own, so that every item has as many neighbours as are kept.
"""

import argparse
import json
import time

import numpy as np
import torch

from headrace.model.recommender import Recommender
from headrace.streams.learner import Learner
from headrace.streams.lists import ListMaker
from headrace.streams.prequential import Folded, fold, gradient_sums, judge, served
from headrace.streams.settings import Settings, load
from headrace.streams.state import UserState
from headrace.streams.wire import Event

N_USERS = 4_000
HISTORY = 60  # events of each user
LEARN_AT_ONCE = 1_000  # events
LEARNED = 20_000  # of the events; the others are only counted
REPEATS = 20

Events = list[tuple[str, int, Event]]  # (user, offset, event)


def drawn_events(n_items: int, *, seed: int = 0) -> Events:
    """Return events of users who stay around an item of their own."""
    random = np.random.default_rng(seed)
    home = random.integers(0, n_items, N_USERS)
    steps = random.normal(0, n_items / 50, (HISTORY, N_USERS)).astype(np.int64)
    items = ((home + steps) % n_items).tolist()
    return [
        (
            str(user),
            at * N_USERS + user,
            Event(user=str(user), item=str(items[at][user]), time_ms=at * 60_000),
        )
        for at in range(HISTORY)
        for user in range(N_USERS)
    ]


def learned_from(events: Events, settings: Settings) -> Learner:
    """Return a learner that counted all events, learned from the last and published."""
    learner = Learner(settings)
    for at in range(0, len(events), LEARN_AT_ONCE):
        block = events[at : at + LEARN_AT_ONCE]
        if at < len(events) - LEARNED:
            learner.admit([event for _, _, event in block])
            learner.absorb(learner.fold(block)[1], None)
        else:
            learner.learn(block)
    learner.publish_version()
    return learner


def time_stages(
    learner: Learner, lists: ListMaker, states: list[UserState], folded: Folded
) -> dict[str, float]:
    """Return the CPU seconds that each stage took for one micro-batch."""
    model: Recommender = learner.published
    stamps = {"": time.process_time()}
    judged = judge(model, folded, states)
    assert judged is not None
    served(model, judged, length=learner.settings.list_length)
    stamps["judge"] = time.process_time()
    with torch.no_grad():
        prepared = model.prepare(folded.after)
        stamps["candidates, encoder"] = time.process_time()
        adapted = model.adapt(prepared, gradient_sums(model, states))
        stamps["adapt"] = time.process_time()
    lists.rank(model, learner.vocabulary, folded.after, prepared, adapted, states)
    stamps["rank, explain"] = time.process_time()
    times = list(stamps.values())
    return dict(zip(list(stamps)[1:], np.diff(times).tolist(), strict=True))


def main() -> None:
    """Print the median milliseconds of a user, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=256, help="of a micro-batch")
    parser.add_argument("--items", type=int, default=10_000)
    asked = parser.parse_args()
    settings = load()
    events = drawn_events(asked.items)
    n_last = asked.users * REPEATS
    learner = learned_from(events[:-n_last], settings)
    lists, found = ListMaker(settings), []
    for at in range(len(events) - n_last, len(events), asked.users):
        block = events[at : at + asked.users]
        states = [learner.users[user] for user, _, _ in block]
        rows = [(i, offset, event) for i, (_, offset, event) in enumerate(block)]
        folded = fold(states, rows, learner.vocabulary, history_length=settings.history_length)
        found.append(time_stages(learner, lists, states, folded))
    stages = {stage: float(np.median([f[stage] for f in found])) for stage in found[0]}
    stages["adapted and ranked"] = sum(stages.values()) - stages["judge"]
    stages["all"] = stages["adapted and ranked"] + stages["judge"]
    told = {stage: round(1000 * s / asked.users, 3) for stage, s in stages.items()}
    print(json.dumps({"users": asked.users, "items": asked.items, "ms_per_user": told}))


if __name__ == "__main__":
    main()
