"""What other models would be worth: the same streams again with one thing changed.

    python tests/bench/variants.py ablation --events 30000 events.tsv.gz completejourney ...
    python tests/bench/variants.py meta-learning events.tsv.gz ...
    python tests/bench/variants.py inner_steps=4 neighbours=512 events.tsv.gz ...

The first asks what each part of the model is worth, the second how its ways of meta-learning
compare, the third changes settings. One JSON line for each stream and variant, and a table at the
end: NDCG@10 of the adapted users over the second half against the model as it is, in per cent, with
a 95 % interval from drawing users, and the model's time as a ratio.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from headrace.model.ablation import PARTS
from headrace.model.ranking_metrics import UNSCORED, gains_at
from headrace.model.significance import paired_difference
from headrace.streams.evaluation.evaluate import Evaluation
from headrace.streams.evaluation.report import K
from headrace.streams.records import Item
from headrace.streams.settings import load
from headrace.streams.tools.files import interactions, load_events
from headrace.streams.tools.files_items import load_items

WARM_UP = 1_000  # events
SETS = {
    "ablation": [f"without={part}" for part in PARTS],
    "meta-learning": [
        "meta_learning=maml", "meta_learning=meta_sgd", "meta_learning=anil",
        "meta_learning=reptile", "clusters=2", "clusters=4", "inner_steps=0", "inner_steps=1",
        "inner_steps=4",
    ],
}  # fmt: skip


class Run(NamedTuple):
    """One model on one stream."""

    ranks: np.ndarray  # (n,)
    seconds: float


def run(events: pl.DataFrame, items: list[Item], variant: str, seed: int) -> Run:
    """Evaluate a variant, given as ``name=value``; the model as it is if empty."""
    name, _, value = variant.partition("=")
    flags: dict[str, Any] = {"seed": seed} | ({name: value} if name not in ("", "without") else {})
    without = (value,) if name == "without" else ()
    if "content" in without:
        flags["content"] = "off"
    evaluation = Evaluation(load(flags), without=without, has_twin=False)
    evaluation.know(items)
    ranks = evaluation.run(events)["adapted"]
    return Run(ranks, evaluation.seconds)


def compare(file: str, variants: list[str], n_events: int, seed: int) -> dict[str, Any]:
    """Return what each variant is worth on the first events of one stream."""
    stream = Path(file).name.split(".")[0]
    events = load_events(file)
    events = interactions(events).head(n_events)
    items = load_items(file) if file == "completejourney" else []
    users = events["user"].rank("dense").to_numpy()
    run(events.head(WARM_UP), items, "", seed)  # what is compared with does not pay for it
    usual = run(events, items, "", seed)
    half = (usual.ranks != UNSCORED) & (np.arange(len(users)) >= len(users) // 2)
    usual_gains = gains_at(usual.ranks[half], K)
    ndcg = float(usual_gains.mean())
    told = {"stream": stream, "events": len(events), "seed": seed, "ndcg10": round(ndcg, 5)}
    print(json.dumps(told | {"seconds": round(usual.seconds, 1)}), flush=True)
    found = {}
    for variant in variants:
        other = run(events, items, variant, seed)
        gain = paired_difference(gains_at(other.ranks[half], K), usual_gains, users[half])
        found[variant] = {
            "gain": round(gain.difference / ndcg, 4),
            "low": round(gain.low / ndcg, 4),
            "high": round(gain.high / ndcg, 4),
            "time": round(other.seconds / usual.seconds, 2),
        }
        print(json.dumps({"stream": stream, "variant": variant} | found[variant]), flush=True)
    return told | {"variants": found}


def main() -> None:
    """Run the streams one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arguments", nargs="+", metavar="SET | NAME=VALUE | FILE")
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_intermixed_args()
    variants, files = [], []
    for argument in asked.arguments:
        if argument in SETS:
            variants += SETS[argument]
        else:
            (variants if "=" in argument else files).append(argument)
    told = [compare(file, variants, asked.events, asked.seed) for file in files]
    print("| | " + " | ".join(one["stream"] for one in told) + " |", file=sys.stderr)
    for variant in variants:
        cells = [
            f"{100 * v['gain']:+.1f} [{100 * v['low']:+.1f}, {100 * v['high']:+.1f}] × {v['time']}"
            for v in (one["variants"][variant] for one in told)
        ]
        print(f"| {variant} | " + " | ".join(cells) + " |", file=sys.stderr)


if __name__ == "__main__":
    main()
