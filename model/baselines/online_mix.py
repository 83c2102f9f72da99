"""Online mix: four counted signals, weighed by a softmax regression that learns at every event.

All users share its four weights; only the signals are a user's own.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import int64, njit
from numba.typed import Dict

from headrace.model.arrays import Doubles, Ints, Longs
from headrace.model.ranking_metrics import MISS

OWN_ITEMS = 50  # latest own items that are candidates
FOLLOWERS = 60  # most frequent followers of each of the last items that are candidates
LAST_ITEMS = 3
POPULAR = 100
OWN_FADE = 0.9
FOLLOWER_FADE = 0.6
LEARNING_RATE = 0.3  # Adagrad
ADAGRAD_START = 0.01
N_SIGNALS = 4
OWN, LAST, FOLLOWED, POPULARITY = range(N_SIGNALS)


class MixState(NamedTuple):
    """What is learned."""

    weights: Doubles  # (4,)
    squares: Doubles  # (4,) Adagrad's sums of squared gradients


class Followers(NamedTuple):
    """Which items came directly after which, and how often so far."""

    start: Longs  # (N + 1,) where an item's followers lie in ``items`` and ``counts``
    items: Ints  # (L,) item index, in the order in which they first follow
    counts: Doubles  # (L,) 0 until the follower has followed
    totals: Doubles  # (N,) how often anything followed the item


def new_mix() -> MixState:
    """Return the weights before the first event."""
    return MixState(np.array([1.0, 1.0, 1.0, 0.3]), np.full(N_SIGNALS, ADAGRAD_START))


@njit(cache=True, nogil=True)
def mix_rank(
    mix: MixState, item: int, had: Ints, order: Longs, followers: Followers, popularity: Doubles
) -> int:
    """Rank an event's item, then learn from it.

    Args:
        mix: updated in place if the item is a candidate.
        item: what the event is about.
        had: (m,) the user's items before, oldest first.
        order: items by popularity, best first, as last refreshed.
        followers: as counted before the event.
        popularity: (N,) how often each item came before the event.
    """
    rows: dict[Any, int] = Dict.empty(int64, int64)  # candidate to its row of signals
    signals = _gather(rows, had, order, followers, popularity)
    if np.int64(item) not in rows:
        return MISS
    scores = (signals * mix.weights).sum(axis=1)
    if len(had):
        scores[rows[np.int64(had[-1])]] = -np.inf  # the previous item is never in the list
    target = rows[np.int64(item)]
    rank = int((scores > scores[target]).sum()) + 1
    learn(mix, signals, scores, target)
    return rank


@njit(cache=True, nogil=True)
def _gather(
    rows: dict[Any, int], had: Ints, order: Longs, followers: Followers, popularity: Doubles
) -> Doubles:
    """Fill ``rows`` with the candidates; return their (candidates, 4) signals."""
    signals = np.zeros((OWN_ITEMS + LAST_ITEMS * FOLLOWERS + POPULAR, N_SIGNALS))
    latest = had[::-1]
    for k, y in enumerate(latest[:OWN_ITEMS]):
        row = _row_of(rows, y)
        signals[row, OWN] += OWN_FADE**k
        if signals[row, LAST] == 0:
            signals[row, LAST] = 1.0 / (k + 1)
    for k, y in enumerate(latest[:LAST_ITEMS]):
        start, end = followers.start[y], followers.start[y + 1]
        for place in start + _most_frequent(followers.counts[start:end]):
            share = followers.counts[place] / followers.totals[y]
            row = _row_of(rows, followers.items[place])
            signals[row, FOLLOWED] += FOLLOWER_FADE**k * share
    for z in order[:POPULAR]:
        _row_of(rows, z)
    for z, row in rows.items():
        signals[row, OWN] = np.log1p(10 * signals[row, OWN])
        signals[row, FOLLOWED] = np.log1p(100 * signals[row, FOLLOWED])
        signals[row, POPULARITY] = np.log1p(popularity[z])
    return signals[: len(rows)]


@njit(cache=True, nogil=True)
def _row_of(rows: dict[Any, int], item: int) -> int:
    key = np.int64(item)
    if key not in rows:
        rows[key] = len(rows)
    return int(rows[key])


@njit(cache=True, nogil=True)
def _most_frequent(counts: Doubles) -> Longs:
    """Return the places of the most frequent followers, of equal ones the first."""
    places = np.flatnonzero(counts > 0)
    n_more = len(places) - FOLLOWERS
    if n_more > 0:  # only those that stay are sorted: an item may have thousands of followers
        least = np.partition(counts[places], n_more)[n_more]
        above, equal = places[counts[places] > least], places[counts[places] == least]
        places = np.sort(np.append(above, equal[: FOLLOWERS - len(above)]))
    order: Longs = places[np.argsort(-counts[places], kind="mergesort")]
    return order


@njit(cache=True, nogil=True)
def learn(mix: MixState, signals: Doubles, scores: Doubles, target: int) -> None:
    """Take one Adagrad step on the softmax cross-entropy over the candidates."""
    p = np.exp(scores - scores.max())
    p /= p.sum()
    for s in range(N_SIGNALS):
        gradient = (p * signals[:, s]).sum() - signals[target, s]
        mix.squares[s] += gradient * gradient
        mix.weights[s] -= LEARNING_RATE * gradient / np.sqrt(mix.squares[s])
