"""Does adapting pay, over several trainings: the same streams with other seeds, told together.

    python tests/bench/seeds.py --seeds 3 diginetica.tsv.gz completejourney ...

The interval of one run knows of users and events, not of another training. Here an event's gain is
the mean over the trainings, and users are drawn as in `headrace evaluate`. One JSON line for each
stream and seed, and one for all seeds of a stream: NDCG@10 over the second half, and what the
adapted users have over the twin, the placebo and the frozen ones.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from headrace.model.ranking_metrics import gains_at
from headrace.model.significance import paired_difference
from headrace.streams.evaluate import Evaluation
from headrace.streams.files import load_events, load_items
from headrace.streams.report import HISTORIES, UNSCORED, K
from headrace.streams.settings import load
from headrace.streams.state import NOT_ENGAGED

OTHERS = ("twin", "placebo", "frozen")
Gains = dict[str, np.ndarray]  # contender to (n,) NDCG@10 of each event of the second half


def told(gains: Gains, users: np.ndarray, n_earlier: np.ndarray) -> dict[str, Any]:
    """Return the means, and the differences by how many interactions a user had before."""
    differences: dict[str, Any] = {}
    for other in OTHERS:
        for part, (start, end) in HISTORIES.items():
            rows = (n_earlier >= start) & (n_earlier < (end or np.inf))
            found = paired_difference(gains["adapted"][rows], gains[other][rows], users[rows])
            differences.setdefault(f"over_{other}", {})[part] = {
                name: round(value, 5) for name, value in found._asdict().items()
            }
    return {name: round(float(of.mean()), 5) for name, of in gains.items()} | differences


def run(file: str, seeds: range, n_events: int) -> None:
    """Train and judge once for each seed, then tell all together."""
    events = load_events(file)
    events = events.filter(~pl.col("action").is_in(list(NOT_ENGAGED))).head(n_events)
    users, stream, of_seeds = events["user"].rank("dense").to_numpy(), Path(file).name, []
    for seed in seeds:
        evaluation = Evaluation(load({"seed": seed}))
        evaluation.know(load_items(file) if file == "completejourney" else [])
        ranks = evaluation.run(events)
        half = (ranks["adapted"] != UNSCORED) & (np.arange(len(users)) >= len(users) // 2)
        gains = {name: gains_at(ranks[name][half], K) for name in ("adapted", *OTHERS)}
        n_earlier = np.concatenate(evaluation.n_earlier)[half]
        of_seeds.append(gains)
        line = {"stream": stream, "seed": seed, "seconds": round(evaluation.seconds, 1)}
        print(json.dumps(line | told(gains, users[half], n_earlier)), flush=True)
    # Which events are scored is decided by the stream alone.
    pooled = {name: np.mean([gains[name] for gains in of_seeds], 0) for name in of_seeds[0]}
    print(
        json.dumps({"stream": stream, "seeds": list(seeds)} | told(pooled, users[half], n_earlier)),
        flush=True,
    )


def main() -> None:
    """Run the streams one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--events", type=int, default=100_000)
    asked = parser.parse_args()
    for file in asked.files:
        run(file, range(asked.seeds), asked.events)


if __name__ == "__main__":
    main()
