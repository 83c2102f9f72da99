"""Prequential truth: how good the lists were, judged by what users did next, over a window."""

from collections import deque

import numpy as np

from headrace.model.recommender import MISS
from headrace.model.signals import Longs
from headrace.streams import metrics

WINDOW_EVENTS = 5_000  # at 200 events a second, the last 25 seconds
K = 10


class Window:
    """Means over the latest judged events; exact sums, so that they do not drift."""

    def __init__(self, size: int = WINDOW_EVENTS) -> None:
        self._values: deque[tuple[float, ...]] = deque(maxlen=size)
        self._size = size

    def __len__(self) -> int:
        """Return how many events are in the window."""
        return len(self._values)

    def add(self, ranks: dict[str, Longs]) -> None:
        """Judge events by the (n,) ranks that each contender gave their items."""
        hits = [np.asarray(r) <= K for r in ranks.values()]
        gains = [
            np.where(hit, 1 / np.log2(np.asarray(r) + 1.0), 0.0)
            for hit, r in zip(hits, ranks.values(), strict=True)
        ]
        recall = np.asarray(ranks["frozen"]) < MISS
        self._values.extend(zip(*hits, *gains, recall, strict=True))

    def publish(self, contenders: tuple[str, ...]) -> None:
        """Set the gauges."""
        if not self._values:
            return
        means = np.mean(np.asarray(self._values, np.float64), axis=0)
        for i, name in enumerate(contenders):
            metrics.HIT_RATIO.labels(name).set(means[i])
            metrics.NDCG.labels(name).set(means[len(contenders) + i])
        metrics.CANDIDATE_RECALL.set(means[-1])
