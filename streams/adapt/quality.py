"""Prequential truth: how good the lists were, judged by what users did next, over a window."""

from collections.abc import Iterable

import numpy as np

from headrace.model.arrays import Doubles
from headrace.model.ranking_metrics import MISS, Ranks, gains_at
from headrace.streams import metrics

WINDOW_EVENTS = 5_000  # at 200 events a second, the last 25 seconds
K = 10


class Window:
    """Means over the latest judged events."""

    def __init__(self, size: int = WINDOW_EVENTS) -> None:
        self._size = size
        self._values: Doubles | None = None  # (n, hits, gains and recall)
        self._names: list[str] = []

    def __len__(self) -> int:
        """Return how many events are in the window."""
        return 0 if self._values is None else len(self._values)

    def add(self, ranks: Ranks) -> None:
        """Judge events by the (n,) ranks that each contender gave their items."""
        self._names = list(ranks)
        hits = [r <= K for r in ranks.values()]
        gains = [gains_at(r, K) for r in ranks.values()]
        recall = ranks["frozen"] < MISS
        values = np.stack([*hits, *gains, recall], 1).astype(np.float64)
        kept = values[:0] if self._values is None else self._values
        self._values = np.concatenate([kept, values])[-self._size :]

    def publish(self, contenders: Iterable[str]) -> None:
        """Set the gauges of these contenders."""
        if self._values is None or not len(self._values):
            return
        means = self._values.mean(axis=0)
        for name in contenders:
            i = self._names.index(name)
            metrics.HIT_RATIO.labels(name).set(means[i])
            metrics.NDCG.labels(name).set(means[len(self._names) + i])
        metrics.CANDIDATE_RECALL.set(means[-1])
        metrics.JUDGED.set(len(self))
