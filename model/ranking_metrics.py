"""Ranking metrics from ranks: each judged event has one relevant item, and where it stood."""

from collections.abc import Mapping

import numpy as np

from headrace.model.arrays import Doubles, Longs

MISS = 1_000_000  # rank of an item that was no candidate
UNSCORED = 0  # the event repeats its user's previous item
Ranks = Mapping[str, Longs]  # contender to where (n,) events' items stood: from 1, or one of these


def hr_at(ranks: Longs, k: int) -> float:
    """Return the hit ratio: the share of events whose item stood among the first ``k``."""
    return float(np.mean(ranks <= k)) if len(ranks) else 0.0


def gains_at(ranks: Longs, k: int) -> Doubles:
    """Return each event's (n,) NDCG: ``1 / log2(rank + 1)`` within the first ``k``, else 0."""
    return np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)


def ndcg_at(ranks: Longs, k: int) -> float:
    """Return the mean of ``gains_at``."""
    return float(np.mean(gains_at(ranks, k))) if len(ranks) else 0.0


def mrr_at(ranks: Longs, k: int) -> float:
    """Return the mean of ``1 / rank`` within the first ``k``, else 0."""
    return float(np.mean(np.where(ranks <= k, 1 / np.maximum(ranks, 1), 0))) if len(ranks) else 0.0


def precision_at(ranks: Longs, k: int) -> float:
    """Return the mean share of relevant items among the first ``k``: at most ``1 / k`` here.

    Recall needs no function of its own: with one relevant item it is the hit ratio.
    """
    return hr_at(ranks, k) / k


def f1_at(ranks: Longs, k: int) -> float:
    """Return the mean of each event's F1: ``2 / (k + 1)`` for a hit, from precision and recall."""
    return hr_at(ranks, k) * 2 / (k + 1)
