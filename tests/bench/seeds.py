"""Does adapting pay, over several trainings: the same streams with other seeds, told together.

    python tests/bench/seeds.py --seeds 3 diginetica.tsv.gz completejourney ...

The interval of one run knows of users and events, not of another training. Here an event's gain is
the mean over the trainings, and users are drawn as in `headrace evaluate`. One JSON line for each
stream and seed, as `headrace evaluate` tells it but without baselines, and one for all seeds of a
stream: NDCG@10 over the second half, and what the adapted users have over twin, placebo and frozen.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl

from headrace.model.ranking_metrics import gains_at
from headrace.streams.evaluation.evaluate import CONTENDERS, Evaluation
from headrace.streams.evaluation.report import K, ScoredStream, adapting, second_half, summarise
from headrace.streams.settings import load
from headrace.streams.tools.files import interactions, load_events
from headrace.streams.tools.files_items import load_items


def run(file: str, seeds: range, n_events: int) -> None:
    """Train and judge once for each seed, then tell all together."""
    events = load_events(file)
    events = interactions(events).head(n_events)
    users = events["user"].rank("dense").to_numpy()
    n_of_item = events.select(pl.int_range(pl.len()).over("item")).to_series().to_numpy()
    stream, of_seeds = Path(file).name.split(".")[0], []
    for seed in seeds:
        evaluation = Evaluation(load({"seed": seed}))
        evaluation.know(load_items(file) if file == "completejourney" else [])
        found = evaluation.run(events)
        ranks = {name: found[name] for name in CONTENDERS}
        judged = ScoredStream(ranks, users, np.concatenate(evaluation.n_earlier), n_of_item)
        line = {"stream": stream, "seed": seed, "seconds": round(evaluation.seconds, 1)}
        print(json.dumps(line | summarise(judged)), flush=True)
        half = second_half(judged)  # the same events each time: the stream alone decides
        of_seeds.append({name: gains_at(half.ranks[name], K) for name in CONTENDERS})
    gains = {name: np.mean([gains[name] for gains in of_seeds], 0) for name in CONTENDERS}
    told = {
        "stream": stream,
        "seeds": list(seeds),
        f"ndcg{K}": {name: round(float(of.mean()), 5) for name, of in gains.items()},
        "adapting": adapting(gains, half.users, half.n_earlier),
    }
    print(json.dumps(told), flush=True)


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
