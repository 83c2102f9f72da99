"""How much better lists could be than what is served, given what is known when they are made.

    pip install lightgbm
    python tests/bench/ceiling.py --events 50000 diginetica.tsv.gz ...

Two bounds, over the second half of each stream. *In hindsight* the same candidates are ranked by
gradient-boosted trees (LambdaMART, Burges 2010, MSR-TR-2010-82) that learned from what other users
took in that half, later events included: half of the users rank for the other half. They are given
the scorer's inputs, each also against the highest among the user's candidates, and what session
neighbours that see every event at once say of each. *The better of two* takes for each event the
better one of the served list and the session neighbours', which nobody knows beforehand. One JSON
line for each stream.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numba import njit

from headrace.model.arrays import Floats, Ints, Longs
from headrace.model.baselines.counting import baseline_ranks
from headrace.model.baselines.session_neighbours import (
    QUERY,
    Sequences,
    _find,
    _nearest,
    _score,
    learn_stream,
    new_sequences,
)
from headrace.model.ranking_metrics import MISS, gains_at
from headrace.streams.evaluation.evaluate import EVENTS_PER_DELTA, EVENTS_PER_VERSION, blocks_of
from headrace.streams.evaluation.report import K
from headrace.streams.learn.learner import Learner
from headrace.streams.prequential import judge, lists_for
from headrace.streams.settings import Settings, load
from headrace.streams.tools.files import interactions, load_events
from headrace.streams.tools.files_items import load_items

TREES = 150


class Scored(NamedTuple):
    """The judged events of a stream's second half."""

    events: Longs  # (n,) position in the stream
    ranks: Longs  # (n,) in the served lists
    places: Ints  # (n,) of the event's item among the candidates, -1 if it is none
    inputs: list[Floats]  # of each event (C, F), half precision


def rank_stream(events: pl.DataFrame, users: Ints, settings: Settings, file: str) -> Scored:
    """Rank, apply and learn a stream as ``headrace evaluate`` does; keep what the scorer saw."""
    learner = Learner(settings)
    for item in load_items(file) if file == "completejourney" else []:
        learner.assortment.note(item)
    while learner.assortment.place():
        pass
    ends = np.concatenate([[0], np.cumsum(np.bincount(users))])  # of each user's events
    sequences = new_sequences(ends, settings.max_items)
    positions, ranks, places, inputs = [], [], [], []
    for block in blocks_of(events, EVENTS_PER_DELTA):
        learner.assortment.admit([event for _, _, event in block])
        states, folded = learner.fold(block)
        judged = judge(learner.served, folded, states)
        at = np.array([position for _, position, _ in block])
        row = 0
        for i, is_task in enumerate(folded.is_task):
            one = slice(i, i + 1)
            if is_task and judged is not None:
                if at[i] >= len(events) // 2:
                    items = judged.tasks.items[row]
                    items = items[items >= 0]
                    said = _said(sequences, folded.before.items[i], folded.times_s[i], items)
                    inputs.append(_inputs(judged.tasks.inputs[row, : len(items)], said))
                row += 1
            user = users[at[one]].astype(np.int32)
            learn_stream(sequences, user, folded.targets[one], folded.times_s[one])
        if judged is not None:
            shown = lists_for(learner.served, judged, length=settings.list_length)
            half = at[folded.is_task] >= len(events) // 2
            positions.append(at[folded.is_task][half])
            ranks.append(shown.ranks[half])
            places.append(judged.tasks.positions[half])
        learner.absorb(folded, judged.tasks if judged else None)
        if (at[-1] + 1) % EVENTS_PER_VERSION < len(block):
            learner.assortment.make_room()
            learner.serve_version()
        learner.serve_delta()
    return Scored(np.concatenate(positions), np.concatenate(ranks), np.concatenate(places), inputs)


def _said(s: Sequences, history: Ints, time_s: int, items: Ints) -> Floats:
    """Return what session neighbours say of (C,) items: (C,)."""
    had = history[history >= 0]
    had = had[np.diff(had, prepend=-1) != 0]  # a direct repeat is held once
    said = np.zeros(len(items), np.float32)
    if len(had):
        _say(s, had, time_s, items, said)
    return said


@njit
def _say(s: Sequences, had: Ints, time_s: int, items: Ints, said: Floats) -> None:
    found = _find(s, had[:QUERY])
    candidates = _score(s, _nearest(s, found, time_s))
    for c in range(len(items)):
        said[c] = s.scores[items[c]]
    s.similarity[found] = 0.0
    s.found_by[found] = 0
    s.scores[candidates] = 0.0


def _inputs(inputs: Floats, said: Floats) -> Floats:
    """Return the scorer's (C, I) inputs with what the neighbours said, and all against the best."""
    own = np.concatenate([inputs, np.log1p(100 * said)[:, None]], 1)
    best = own.max(0, initial=0.0)
    return np.concatenate([own, own - best], 1).astype(np.float16)


def hindsight_ranks(scored: Scored, users: Ints, seed: int) -> Longs:
    """Return the (n,) ranks by trees that learned from the other half of the users."""
    import lightgbm  # here: the project does not depend on it, and --help must work without

    fold = np.random.default_rng(seed).integers(0, 2, users.max() + 1)[users]
    ranks = np.full(len(users), MISS)
    settings = {
        "objective": "lambdarank", "learning_rate": 0.05, "num_leaves": 31,
        "min_data_in_leaf": 200, "feature_fraction": 0.5, "max_bin": 127,
        "lambdarank_truncation_level": 20, "num_threads": 1, "seed": seed, "verbose": -1,
    }  # fmt: skip
    for own in (0, 1):
        others = np.flatnonzero((fold != own) & (scored.places >= 0))
        groups = [len(scored.inputs[i]) for i in others]
        taken = np.zeros(sum(groups), np.int8)
        taken[np.concatenate([[0], np.cumsum(groups)[:-1]]) + scored.places[others]] = 1
        rows = np.concatenate([scored.inputs[i] for i in others]).astype(np.float32)
        trees = lightgbm.train(settings, lightgbm.Dataset(rows, taken, group=groups), TREES)
        for i in np.flatnonzero((fold == own) & (scored.places >= 0)):
            scores = trees.predict(scored.inputs[i].astype(np.float32), num_threads=1)
            ranks[i] = 1 + (scores > scores[scored.places[i]]).sum()
    return ranks


def bound(file: str, n_events: int, settings: Settings) -> dict[str, Any]:
    """Return NDCG@10 of what is served, of session neighbours, and of both bounds."""
    events = load_events(file)
    events = interactions(events).head(n_events)
    users, items = (
        (events[name].rank("dense").to_numpy() - 1).astype(np.int32) for name in ("user", "item")
    )
    scored = rank_stream(events, users, settings, file)
    times_s = events["time_ms"].to_numpy() // 1000
    neighbours = baseline_ranks(users, items, times_s)["session_knn"][scored.events]
    gains = {
        "served": gains_at(scored.ranks, K),
        "session_knn": gains_at(neighbours, K),
        "hindsight": gains_at(hindsight_ranks(scored, users[scored.events], settings.seed), K),
    }
    gains["better_of_two"] = np.maximum(gains["served"], gains["session_knn"])
    ndcg = {name: float(values.mean()) for name, values in gains.items()}
    return {
        "stream": Path(file).name.split(".")[0],
        "events": len(events),
        "scored": len(scored.events),
        "recall": round(float((scored.places >= 0).mean()), 4),
        "ndcg10": {name: round(value, 5) for name, value in ndcg.items()},
        "over_session_knn": {n: round(v / ndcg["session_knn"], 3) for n, v in ndcg.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Bound the streams one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    for file in asked.files:
        told = bound(file, asked.events, load({"seed": asked.seed}))
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
