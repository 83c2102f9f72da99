"""Diversity: lists whose items differ, by maximal marginal relevance.

Source: Carbonell and Goldstein 1998, The use of MMR, diversity-based reranking (SIGIR).

Letters: B tasks, C candidates, P those in the pool, D width, K list length.
"""

from collections.abc import Callable

import torch
from torch import Tensor

POOL = 50  # best candidates that are put into another order; a longer list goes on as scored


def best_first(scores: Tensor, k: int) -> Tensor:
    """Return the (B, k) places of the highest of (B, C) scores, of equal ones the first one first.

    A rank is to be the place in the list, and ``topk`` breaks ties as it likes; it takes a third of
    the time of a sort all the same, and ties are few.
    """
    top = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    has_ties = (top.values[:, 1:] == top.values[:, :-1]).any(1)
    places = top.indices[:, :k].contiguous()
    if has_ties.any():
        places[has_ties] = scores[has_ties].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return places


def diversify(
    scores: Tensor, vectors_of: Callable[[Tensor], Tensor], *, diversity: float, length: int
) -> Tensor:
    """Return the (B, K) candidates of each list, first place first.

    Each place goes to the candidate of the largest ``(1 - diversity) * relevance - diversity *
    likeness``: likeness is the largest cosine with an item placed before, relevance the candidate's
    probability over the best one's. Raw scores would weigh differently for every user.

    Args:
        scores: (B, C), minus infinity for what stays out of the lists.
        vectors_of: called once, with the (B, P) candidates in the pool; returns their (B, P, D)
            vectors of unit length, or zero where nothing is known.
        diversity: 0 keeps the order of the scores, 1 looks at differences only.
        length: K, at most C.
    """
    order = best_first(scores, max(POOL, length))
    pool, behind = order[:, :POOL], order[:, POOL:]
    best = scores.gather(1, pool)
    relevance = torch.exp(best - best[:, :1]).nan_to_num(0.0)
    inside = vectors_of(pool)  # (B, P, D)
    likeness = torch.full_like(best, -1.0)  # to the likest item placed so far
    is_open = torch.isfinite(best)
    rows = torch.arange(len(scores), device=scores.device)
    placed = []
    for place in range(min(length, pool.shape[1])):
        told = likeness if place else torch.zeros_like(likeness)
        value = (1 - diversity) * relevance - diversity * told
        # What stays out fills the places that nothing else is left for.
        chosen = value.masked_fill(~is_open, float("-inf")).argmax(1)  # (B,)
        nothing_left = ~is_open.any(1)
        chosen = torch.where(nothing_left, place, chosen)
        is_open[rows, chosen] = False
        cosine = (inside @ inside[rows, chosen][..., None]).squeeze(-1)
        likeness = torch.maximum(likeness, cosine)
        placed.append(pool[rows, chosen])
    return torch.cat([torch.stack(placed, 1), behind], 1)
