"""What an evaluation found, in numbers: overall, over the stream, by what was known beforehand."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from headrace.model.arrays import Bools, Doubles, Longs
from headrace.model.counts.content import FEW_EVENTS
from headrace.model.ranking_metrics import (
    MISS,
    UNSCORED,
    Ranks,
    f1_at,
    gains_at,
    hr_at,
    mrr_at,
    ndcg_at,
    precision_at,
)
from headrace.model.significance import paired_difference

K = 10
WINDOWS = 20  # of the stream
# Users by how many interactions they had before: from so many to fewer than so many.
HISTORIES = {"all": (0, None), "under_5": (0, 5), "5_to_20": (5, 21), "over_20": (21, None)}
EARLIER = {
    "0": (0, 1), "1-2": (1, 3), "3-4": (3, 5), "5-9": (5, 10), "10-20": (10, 21), "21-50": (21, 51),
    "51+": (51, None),
}  # fmt: skip

RIVALS = ("twin", "placebo", "frozen")  # of the adapted users

Span = tuple[int, int | None]


class ScoredStream(NamedTuple):
    """The n events of a stream, in order, and where their items stood."""

    ranks: Ranks
    users: Longs  # (n,)
    n_earlier: Longs  # (n,) interactions of the event's user before it
    n_of_item: Longs  # (n,) events of its item before it

    def rows(self, index: Bools) -> "ScoredStream":
        """Return some of the events."""
        ranks = {name: ranks[index] for name, ranks in self.ranks.items()}
        return ScoredStream(ranks, self.users[index], self.n_earlier[index], self.n_of_item[index])


def summarise(judged: ScoredStream) -> dict[str, Any]:
    """Return what the second half of the events says, and NDCG@10 over all of them in turn."""
    half = second_half(judged)
    return {
        "scored": len(half.users),
        "candidate_recall": _recall(half.ranks["frozen"]),
        "contenders": {name: _measures(ranks) for name, ranks in half.ranks.items()},
        "cold_items": _of_cold_items(half),
        "by_history": {name: _of_span(half, span) for name, span in EARLIER.items()},
        "over_stream": _over_stream(judged),
        "adapting": adapting(
            {name: gains_at(half.ranks[name], K) for name in ("adapted", *RIVALS)},
            half.users,
            half.n_earlier,
        ),
    }


def second_half(judged: ScoredStream) -> ScoredStream:
    """Return the events that are scored."""
    n = len(judged.users)
    return judged.rows(_is_ranked(judged) & (np.arange(n) >= n // 2))


def _is_ranked(judged: ScoredStream) -> Bools:
    is_ranked: Bools = judged.ranks["adapted"] != UNSCORED
    return is_ranked


def adapting(gains: Mapping[str, Doubles], users: Longs, n_earlier: Longs) -> dict[str, Any]:
    """Return what adapting adds to NDCG@10, by how many interactions users had before.

    Args:
        gains: contender to the (n,) NDCG@10 of each event.
        users: (n,) whose event it is.
        n_earlier: (n,) interactions of that user before it.
    """
    told: dict[str, Any] = {}
    for name in RIVALS:
        for part, span in HISTORIES.items():
            rows = _is_within(n_earlier, span)
            found = paired_difference(gains["adapted"][rows], gains[name][rows], users[rows])
            told.setdefault(f"versus_{name}", {})[part] = found.told()
    return told


def _recall(ranks: Longs) -> float | None:
    return round(float((ranks < MISS).mean()), 4) if len(ranks) else None


def _measures(ranks: Longs) -> dict[str, float | None]:
    """Return the ranking metrics; recall equals the hit ratio, as one item is relevant."""
    measures = {
        f"hr{K}": hr_at,
        f"ndcg{K}": ndcg_at,
        f"mrr{K}": mrr_at,
        f"precision{K}": precision_at,
        f"f1_{K}": f1_at,
    }
    return {name: _mean(measure, ranks) for name, measure in measures.items()}


def _of_cold_items(judged: ScoredStream) -> dict[str, float | None]:
    """Return how many events were of items with few before, and NDCG@10 over them."""
    is_cold = judged.n_of_item < FEW_EVENTS
    return {"events": int(is_cold.sum())} | {
        name: _mean(ndcg_at, ranks[is_cold]) for name, ranks in judged.ranks.items()
    }


def _of_span(judged: ScoredStream, span: Span) -> dict[str, Any]:
    """Return HR@10 and NDCG@10 of events whose user had so many interactions before."""
    rows = _is_within(judged.n_earlier, span)
    return {"events": int(rows.sum())} | {
        name: {f"hr{K}": _mean(hr_at, r[rows]), f"ndcg{K}": _mean(ndcg_at, r[rows])}
        for name, r in judged.ranks.items()
    }


def _mean(measure: Callable[[Longs, int], float], ranks: Longs) -> float | None:
    """Return a measure of some of the events, None if there are none."""
    return round(measure(ranks, K), 5) if len(ranks) else None


def _over_stream(judged: ScoredStream) -> dict[str, list[float | None]]:
    """Return each contender's NDCG@10 in equal windows of the stream, and where they end.

    None in a window in which nothing was judged.
    """
    is_ranked = _is_ranked(judged)
    n = len(is_ranked)
    ends = [n * (i + 1) // WINDOWS for i in range(WINDOWS)]
    at = np.searchsorted(np.flatnonzero(is_ranked), [0, *ends])
    told: dict[str, list[float | None]] = {"events": [float(end) for end in ends]}
    for name, ranks in judged.ranks.items():
        scored = ranks[is_ranked]
        told[name] = [_mean(ndcg_at, scored[a:b]) for a, b in pairwise(at)]
    return told


def _is_within(counts: Longs, span: Span) -> Bools:
    low, high = span
    is_within: Bools = (counts >= low) & (counts < (np.inf if high is None else high))
    return is_within
