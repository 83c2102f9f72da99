"""What a change of the world costs, and what is kept of the old one, with and without rehearsal.

    python tests/bench/drift.py A.tsv.gz B.tsv.gz --events 10000

- *permuted*: half-way through A all items change their names among themselves;
- *A then B*: B's users and items follow A's;
- *back to A*: B comes between the first and the second part of A.

Each is held against the same events where nothing changed: A as it is, B on its own. Told of each:
NDCG@10 over the first events after the change, as a share of the other's over those, and after how
many events a moving window first reaches 90 % of the other's. One JSON line each, then a table.
"""

import argparse
import json
import sys
from typing import Any

import numpy as np
import polars as pl

from headrace.model.baselines import baseline_ranks
from headrace.model.ranking_metrics import gains_at
from headrace.streams.evaluate import Evaluation
from headrace.streams.files import load_events
from headrace.streams.report import UNSCORED, K
from headrace.streams.settings import load
from headrace.streams.state import NOT_ENGAGED

EARLY = 1_000  # events after a change
LATE = 5_000
WINDOW = 2_000
RECOVERED = 0.9
BASELINES = ("online_mix", "session_knn", "covisitation")

Gains = dict[str, np.ndarray]  # contender to (n,) NDCG@10, NaN where nothing is ranked


def engaged(file: str, n: int) -> pl.DataFrame:
    """Return the first interactions of a file."""
    events = load_events(file).select("user", "item", "action", "time_ms")
    return events.filter(~pl.col("action").is_in(list(NOT_ENGAGED))).head(n)


def joined(*parts: tuple[str, pl.DataFrame]) -> pl.DataFrame:
    """Return parts one after the other; users and items of different names are others."""
    found, end_ms = [], 0
    for name, part in parts:
        later = pl.col("time_ms") - part["time_ms"][0] + end_ms
        names = {column: pl.concat_str(pl.lit(name), column) for column in ("user", "item")}
        found.append(part.with_columns(**names, time_ms=later))
        end_ms = found[-1]["time_ms"][-1] + 1000
    return pl.concat(found)


def permuted(events: pl.DataFrame, start: int, *, seed: int = 0) -> pl.DataFrame:
    """Return the events with all items' names exchanged from ``start`` on."""
    items = events["item"].unique(maintain_order=True)
    others = items.sample(fraction=1, shuffle=True, seed=seed)
    renamed = events["item"].replace_strict(items, others)
    is_later = pl.int_range(pl.len()) >= start
    return events.with_columns(pl.when(is_later).then(renamed).otherwise("item").alias("item"))


def gains_of(events: pl.DataFrame, replay_batches: int) -> Gains:
    """Return every contender's NDCG@10 of each event."""
    settings = load({"replay_batches": replay_batches})
    ranks = {"adapted": Evaluation(settings, has_twin=False).run(events)["adapted"]}
    users, items = (events[name].rank("dense").to_numpy() for name in ("user", "item"))
    baselines = baseline_ranks(
        users, items, events["time_ms"].to_numpy() // 1000, on_progress=lambda _: None
    )
    ranks |= {name: baselines[name] for name in BASELINES}
    return {name: np.where(r == UNSCORED, np.nan, gains_at(r, K)) for name, r in ranks.items()}


def compare(changed: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    """Compare (n,) NDCG@10 after a change with those of the same events without one."""
    told: dict[str, float | None] = {}
    for n in (EARLY, LATE):
        told[f"first_{n}"] = round(float(np.nanmean(changed[:n])), 4)
        told[f"share_{n}"] = round(float(np.nanmean(changed[:n]) / np.nanmean(other[:n])), 3)
    ends = np.arange(WINDOW, len(changed) + 1, WINDOW // 4)
    shares = [np.nanmean(changed[e - WINDOW : e]) / np.nanmean(other[e - WINDOW : e]) for e in ends]
    reached = np.flatnonzero(np.array(shares) >= RECOVERED)
    told["recovered_after"] = int(ends[reached[0]]) if len(reached) else None
    return told


def measure(a: str, b: str, n: int, replay_batches: int) -> list[dict[str, Any]]:
    """Return one row for each change and contender."""
    whole, other = engaged(a, 2 * n), engaged(b, n)
    first, second = whole[:n], whole[n:]
    usual = gains_of(whole, replay_batches)
    alone = gains_of(other, replay_batches)
    changes = {
        "permuted": (permuted(whole, n), n, {name: gains[n:] for name, gains in usual.items()}),
        "A then B": (joined(("a", first), ("b", other)), n, alone),
        "back to A": (
            joined(("a", first), ("b", other), ("a", second)),
            2 * n,
            {name: gains[n:] for name, gains in usual.items()},
        ),
    }
    rows = []
    for change, (events, start, reference) in changes.items():
        gains = gains_of(events, replay_batches)
        for name in ("adapted", *BASELINES) if replay_batches else ("adapted",):
            row = {"change": change, "contender": name, "replay_batches": replay_batches}
            row |= compare(gains[name][start:], reference[name])
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Measure with rehearsal and without."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--events", type=int, default=10_000, help="of each part")
    asked = parser.parse_args()
    rows = [row for r in (2, 0) for row in measure(asked.a, asked.b, asked.events, r)]
    print("| change | contender | first 1,000 | first 5,000 | recovered |", file=sys.stderr)
    for row in rows:
        name = row["contender"] + ("" if row["replay_batches"] else ", no rehearsal")
        shares = " | ".join(
            f"{row[f'first_{n}']:.4f} ({row[f'share_{n}']:.0%})" for n in (EARLY, LATE)
        )
        print(
            f"| {row['change']} | {name} | {shares} | {row['recovered_after']} |", file=sys.stderr
        )


if __name__ == "__main__":
    main()
