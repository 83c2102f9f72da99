"""What lists are like beside being right: how much of the catalogue, how known, how alike.

Letters: B lists, K list length, C candidates, D width.
"""

import numpy as np
import torch

from headrace.model.arrays import Floats, Ints
from headrace.model.counts.signals import ALL_TIME
from headrace.model.recommender import Recommender
from headrace.model.vocabulary import Vocabulary


class ListStatistics:
    """Statistics of one contender's lists, counted as the lists are made; none is kept.

    - ``coverage``: share of the items that have an index at the end that stood in any list.
    - ``novelty``: mean self-information of what is shown, ``-log2`` of its share of the events
      counted so far; bits.
    - ``distance``: mean over lists of 1 - cosine of two of their items' embeddings, as the served
      encoder has them; an item without an embedding yet lies across all others.
    - ``category_distance``: mean share of pairs of different categories, where those are known.
    """

    def __init__(self) -> None:
        self._shown: set[str] = set()
        self._sums: dict[str, tuple[float, int]] = {}  # of values, and how many

    def add(self, lists: Ints, recommender: Recommender, vocabulary: Vocabulary) -> None:
        """Count (B, K) lists of item indexes, -1 padded, by what is known now."""
        arrays = recommender.signals.arrays
        shown = lists[lists >= 0]
        self._shown.update(vocabulary.ids[index] for index in np.unique(shown))
        taken = arrays.popularity[:, ALL_TIME]
        # What nobody took yet is as new as what was taken once.
        share = np.maximum(taken[shown], 1) / max(1.0, float(taken.sum()))
        self._note("novelty", -np.log2(share))
        at = torch.from_numpy(np.maximum(lists, 0).astype(np.int64)).to(recommender.device)
        vectors = recommender.vectors(at).cpu().numpy()
        if vectors.any():  # of items that nothing is known of yet, all would be unlike
            self._note("distance", _distances(lists, vectors))
        if (arrays.category >= 0).any():
            self._note("category_distance", _category_distances(lists, arrays.category))

    def _note(self, name: str, values: Floats) -> None:
        total, n = self._sums.get(name, (0.0, 0))
        self._sums[name] = total + float(values.sum()), n + len(values)

    def summary(self, vocabulary: Vocabulary) -> dict[str, float]:
        """Return the statistics, those that anything was counted for, of the items there are."""
        items = set(filter(None, vocabulary.ids))
        told = {"coverage": len(self._shown & items) / len(items)} if items else {}
        told |= {name: total / n for name, (total, n) in self._sums.items() if n}
        return {name: round(value, 5) for name, value in told.items()}


def _distances(lists: Ints, vectors: Floats) -> Floats:
    """Return the mean over pairs of 1 - cosine, of each list with a pair; ``vectors`` (B, K, D)."""
    filled = lists >= 0
    n = filled.sum(1)
    inside = vectors * filled[..., None]
    likeness = (inside.sum(1) ** 2).sum(-1) - (inside**2).sum((1, 2))  # over ordered pairs
    return _mean_over_pairs(n * (n - 1) - likeness, n)


def _category_distances(lists: Ints, category: Ints) -> Floats:
    """Return the share of pairs of different known categories, of each list with such a pair."""
    of = np.where(lists >= 0, category[lists], -1)
    filled = of >= 0
    is_pair = filled[:, :, None] & filled[:, None, :] & ~np.eye(lists.shape[1], dtype=np.bool_)
    differs = (of[:, :, None] != of[:, None, :]) & is_pair
    return _mean_over_pairs(differs.sum((1, 2)), filled.sum(1))


def _mean_over_pairs(sums: Floats | Ints, n: Ints) -> Floats:
    """Return the (B',) means of the lists of more than one item, given each one's sum."""
    several = n > 1
    means: Floats = sums[several] / (n * (n - 1))[several]
    return means
