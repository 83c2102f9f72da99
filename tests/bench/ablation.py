"""What each part of the model is worth: every stream again without it, against the whole model.

    python tests/bench/ablation.py --events 30000 events.tsv.gz completejourney ...

One JSON line for each stream and part, and a table at the end: how much of NDCG@10 over the second
half goes with the part, in per cent, and a 95 % interval from drawing users.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch

from headrace.model.ablation import PARTS
from headrace.model.ranking_metrics import gains_at
from headrace.model.significance import paired_difference
from headrace.streams.evaluate import Evaluation
from headrace.streams.files import load_events, load_items
from headrace.streams.report import UNSCORED, K
from headrace.streams.settings import load
from headrace.streams.state import NOT_ENGAGED


def ranks_of(events: pl.DataFrame, items: list, without: tuple[str, ...], seed: int) -> np.ndarray:
    """Return the (n,) ranks of the adapted users' items, by a model without those parts."""
    settings = load({"seed": seed, "content": "off" if "content" in without else None})
    evaluation = Evaluation(settings, without=without, has_twin=False)
    for item in items:
        evaluation.learner.note(item)
    while evaluation.learner.place():
        pass
    return evaluation.run(events)["adapted"]


def ablate(file: str, n_events: int, seed: int) -> dict:
    """Return what each part is worth on the first events of one stream."""
    name = Path(file).name.split(".")[0]
    events = load_events(file)
    events = events.filter(~pl.col("action").is_in(list(NOT_ENGAGED))).head(n_events)
    items = load_items(file) if file == "completejourney" else []
    users = events["user"].rank("dense").to_numpy()
    whole = ranks_of(events, items, (), seed)
    half = (whole != UNSCORED) & (np.arange(len(whole)) >= len(whole) // 2)
    best = gains_at(whole[half], K)
    told = {"stream": name, "events": len(events), "seed": seed, "ndcg10": float(best.mean())}
    print(json.dumps(told), flush=True)
    parts = {}
    for part in PARTS:
        less = gains_at(ranks_of(events, items, (part,), seed)[half], K)
        found = paired_difference(less, best, users[half])
        bounds = {"difference": found.difference, "low": found.low, "high": found.high}
        parts[part] = {key: round(value / best.mean(), 4) for key, value in bounds.items()}
        print(json.dumps({"stream": name, "without": part} | parts[part]), flush=True)
    return told | {"without": parts}


def main() -> None:
    """Run the streams one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    told = [ablate(file, asked.events, asked.seed) for file in asked.files]
    print("| without | " + " | ".join(one["stream"] for one in told) + " |", file=sys.stderr)
    for part in PARTS:
        cells = [one["without"][part] for one in told]
        shown = [
            f"{100 * c['difference']:+.1f} [{100 * c['low']:+.1f}, {100 * c['high']:+.1f}]"
            for c in cells
        ]
        print(f"| {part} | " + " | ".join(shown) + " |", file=sys.stderr)


if __name__ == "__main__":
    main()
