"""What lists are like beside being right: how much of the catalogue, how known, how alike.

Letters: B lists, K list length, N items, D width.
"""

import numpy as np
import torch

from headrace.model.recommender import Recommender
from headrace.model.signals import ALL_TIME, Floats, Ints


def describe_lists(lists: Ints, recommender: Recommender, *, n_items: int) -> dict[str, float]:
    """Return the statistics of (B, K) lists of item indexes, -1 padded, by what is known now.

    - ``coverage``: share of the ``n_items`` that stand in any list.
    - ``novelty``: mean self-information of what is shown, ``-log2`` of its share of events; bits.
    - ``distance``: mean over lists of 1 - cosine of two of their items' embeddings.
    - ``category_distance``: mean share of pairs of different categories, where those are known.
    """
    shown = lists[lists >= 0]
    if not len(shown):
        return {}
    popularity = recommender.signals.arrays.popularity[:n_items, ALL_TIME]
    share = np.maximum(popularity[shown], 1) / max(1.0, float(popularity.sum()))
    vectors = recommender.vectors(torch.arange(n_items)).cpu().numpy()
    category = recommender.signals.arrays.category[:n_items]
    told = {
        "coverage": len(np.unique(shown)) / n_items,
        "novelty": float(-np.log2(share).mean()),
        "distance": _distance(lists, vectors),
    }
    if (category >= 0).any():
        told["category_distance"] = _category_distance(lists, category)
    return {name: round(value, 5) for name, value in told.items()}


def _distance(lists: Ints, vectors: Floats) -> float:
    filled = lists >= 0
    n = filled.sum(1)
    inside = vectors[lists] * filled[..., None]  # (B, K, D)
    likeness = (inside.sum(1) ** 2).sum(-1) - (inside**2).sum((1, 2))  # over ordered pairs
    return _mean_over_pairs(n * (n - 1) - likeness, n)


def _category_distance(lists: Ints, category: Ints) -> float:
    filled = lists >= 0
    of = np.where(filled, category[lists], -1)
    is_pair = filled[:, :, None] & filled[:, None, :] & ~np.eye(lists.shape[1], dtype=np.bool_)
    differs = (of[:, :, None] != of[:, None, :]) & is_pair
    return _mean_over_pairs(differs.sum((1, 2)), filled.sum(1))


def _mean_over_pairs(sums: Floats | Ints, n: Ints) -> float:
    """Return the mean over lists of more than one item, given each list's sum over its pairs."""
    several = n > 1
    return float((sums[several] / (n * (n - 1))[several]).mean()) if several.any() else 0.0
