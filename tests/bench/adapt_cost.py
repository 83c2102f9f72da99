"""CPU time of a user, by stage, in micro-batches over a catalogue of a given size.

    python tests/bench/adapt_cost.py [--users 256] [--items 10000]

Each user of a micro-batch has one new event, folded into the state: what was before it and what is
after it is prepared, it is judged by the list before it, then the user is adapted and ranked, with
reasons. The shop is drawn (`headrace bench`).
"""

import argparse
import json
import time

import numpy as np
import torch

from headrace.model.recommender import Recommender
from headrace.streams.adapt.lists import ListMaker
from headrace.streams.bench.shop import open_shop
from headrace.streams.learn.learner import Learner
from headrace.streams.prequential import Folded, fold, gradient_sums, judge, lists_for, prepare
from headrace.streams.settings import load
from headrace.streams.state import UserState

N_USERS = 4_000
REPEATS = 20
MANY = 10**9  # above any offset that the states hold


def time_stages(
    learner: Learner, lists: ListMaker, states: list[UserState], folded: Folded
) -> dict[str, float]:
    """Return the CPU seconds that each stage took for one micro-batch."""
    model: Recommender = learner.served
    stamps = {"": time.process_time()}
    before, after = prepare(model, folded)
    stamps["candidates, encoder"] = time.process_time()
    judged = judge(model, folded, states, before)
    assert judged is not None
    lists_for(model, judged, length=learner.settings.list_length)
    stamps["judge"] = time.process_time()
    with torch.no_grad():
        adapted = model.adapt(after, gradient_sums(model, states))
    stamps["adapt"] = time.process_time()
    lists.rank(model, learner.vocabulary, folded.after, after, adapted, states)
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
    shop = open_shop(settings, n_items=asked.items, n_users=N_USERS, n_events=asked.users * REPEATS)
    learner, lists, found = shop.learner, ListMaker(settings), []
    for at in range(0, len(shop.events), asked.users):
        block = shop.events[at : at + asked.users]
        states = [learner.users[event.user] for event in block]
        rows = [(i, MANY + at + i, event) for i, event in enumerate(block)]
        folded = fold(states, rows, learner.vocabulary, history_length=settings.history_length)
        found.append(time_stages(learner, lists, states, folded))
    stages = {stage: float(np.median([f[stage] for f in found])) for stage in found[0]}
    stages["all"] = sum(stages.values())
    told = {stage: round(1000 * s / asked.users, 3) for stage, s in stages.items()}
    print(json.dumps({"users": asked.users, "items": asked.items, "ms_per_user": told}))


if __name__ == "__main__":
    main()
