"""Baselines of the prequential protocol: what counting alone gives, learned at every event.

Each ranks an event's item before the event is applied. They learn at once, without the delay of a
service, so a model that beats them beats them at their best.

Letters: n events, U users, N items, L pairs of an item and a later follower.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import int64, njit
from numba.typed import Dict

from headrace.model.online_mix import OWN_FADE, OWN_ITEMS, MixState, mix_rank, new_mix
from headrace.model.recommender import MISS
from headrace.model.signals import Ints, Longs

NOT_RANKED = 0  # the event repeats its user's previous item
REFRESH_EVERY = 200  # events between two orderings by popularity
RECENT_FADE = 0.9  # of recent popularity at each refresh
NAMES = ("popularity", "recent_popularity", "repeat", "covisitation", "online_mix")
POPULARITY, RECENT, REPEAT, COVISITATION, MIX = range(len(NAMES))


class Stream(NamedTuple):
    """Events and where each user's and each pair's counts lie, worked out beforehand."""

    users: Ints  # (n,)
    items: Ints  # (n,)
    history_start: Longs  # (U + 1,) a user's events in ``history``
    pair_start: Longs  # (N + 1,) an item's followers in ``followers``
    followers: Ints  # (L,) in the order in which they first follow
    pair_of_event: Longs  # (n,) place of (previous item, item) among the pairs, -1 if none


def baseline_ranks(users: Ints, items: Ints) -> dict[str, Longs]:
    """Return each baseline's (n,) ranks: 1-based, ``MISS``, or 0 for a repeat of the previous item.

    Args:
        users: (n,) dense user index of each event, in the order of the stream.
        items: (n,) dense item index.
    """
    if not len(users):
        return {name: np.zeros(0, np.int64) for name in NAMES}
    ranks = _walk(_prepare(users, items), new_mix())
    return {name: ranks[:, column] for column, name in enumerate(NAMES)}


def _prepare(users: Ints, items: Ints) -> Stream:
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    by_user = np.argsort(users, kind="stable")
    previous = np.full(len(items), -1, np.int64)
    is_next = np.diff(users[by_user], prepend=-1) == 0
    previous[by_user[is_next]] = items[by_user[np.flatnonzero(is_next) - 1]]
    follows = (previous >= 0) & (previous != items)
    keys = previous * n_items + items
    unique, first, inverse = np.unique(keys[follows], return_index=True, return_inverse=True)
    order = np.lexsort((first, unique // n_items))  # by item, then by when it first followed
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    pair_of_event = np.full(len(items), -1, np.int64)
    pair_of_event[follows] = place[inverse]
    return Stream(
        users.astype(np.int32),
        items.astype(np.int32),
        np.searchsorted(users[by_user], np.arange(n_users + 1)),
        np.searchsorted(unique[order] // n_items, np.arange(n_items + 1)),
        (unique[order] % n_items).astype(np.int32),
        pair_of_event,
    )


class Counts(NamedTuple):
    """What the baselines count as they go."""

    history: Ints  # (n,) each user's items so far, oldest first, from ``history_start``
    n_history: Longs  # (U,)
    popularity: npt.NDArray[np.float64]  # (N,)
    recent: npt.NDArray[np.float64]  # (N,)
    pairs: npt.NDArray[np.float64]  # (L,)
    successions: npt.NDArray[np.float64]  # (N,) how often anything followed the item


@njit(cache=True, nogil=True)
def _walk(stream: Stream, mix: MixState) -> Longs:
    n, n_items = len(stream.items), len(stream.pair_start) - 1
    counts = Counts(
        np.zeros(n, np.int32),
        np.zeros(len(stream.history_start) - 1, np.int64),
        np.zeros(n_items),
        np.zeros(n_items),
        np.zeros(len(stream.followers)),
        np.zeros(n_items),
    )
    order = np.zeros(0, np.int64)
    rank = np.full(n_items, MISS, np.int64)
    recent_rank = np.full(n_items, MISS, np.int64)
    ranks = np.zeros((n, len(NAMES)), np.int64)
    for t in range(n):
        if t % REFRESH_EVERY == 0:
            order = _refresh(counts.popularity, rank)
            _refresh(counts.recent, recent_rank)
            counts.recent[:] *= RECENT_FADE
        user, item = stream.users[t], stream.items[t]
        start, m = stream.history_start[user], counts.n_history[user]
        had = counts.history[start : start + m]
        last = had[m - 1] if m else -1
        if item != last:
            row = ranks[t]
            row[POPULARITY] = rank[item]
            row[RECENT] = recent_rank[item]
            row[REPEAT] = _repeat_rank(had[-OWN_ITEMS:], item)
            row[COVISITATION] = _follower_rank(stream, counts, item, last) if m else row[POPULARITY]
            row[MIX] = mix_rank(
                mix, item, had, order,
                stream.pair_start, stream.followers, counts.pairs,
                counts.successions, counts.popularity,
            )  # fmt: skip
            if m:
                counts.pairs[stream.pair_of_event[t]] += 1
                counts.successions[last] += 1
        counts.history[start + m] = item
        counts.n_history[user] = m + 1
        counts.popularity[item] += 1
        counts.recent[item] += 1
    return ranks


@njit(cache=True, nogil=True)
def _refresh(counts: npt.NDArray[np.float64], rank: Longs) -> Longs:
    """Order the items seen by count, of equal ones the first seen first; note each one's rank."""
    order = np.argsort(-counts, kind="mergesort")
    n_seen = int((counts > 0).sum())
    rank[:] = MISS
    for i in range(n_seen):
        rank[order[i]] = i + 1
    return order[:n_seen]


@njit(cache=True, nogil=True)
def _repeat_rank(had: Ints, item: int) -> int:
    """Rank among the latest own items by recency-weighted count, without the last one."""
    m = len(had)
    weights = np.zeros(m)
    first_place = Dict.empty(int64, int64)
    for i in range(m):
        y = np.int64(had[i])
        if y not in first_place:
            first_place[y] = i
        weights[first_place[y]] += OWN_FADE ** (m - 1 - i)
    if np.int64(item) not in first_place:
        return MISS
    mine = weights[first_place[np.int64(item)]]
    rank = 1
    for other, place in first_place.items():
        if other != had[m - 1] and weights[place] > mine:
            rank += 1
    return rank


@njit(cache=True, nogil=True)
def _follower_rank(stream: Stream, counts: Counts, item: int, last: int) -> int:
    """Rank among the followers of the last item by count, of equal ones the first one first."""
    start, end = stream.pair_start[last], stream.pair_start[last + 1]
    mine = -1
    for place in range(start, end):
        if stream.followers[place] == item and counts.pairs[place] > 0:
            mine = place
    if mine < 0:
        return MISS
    rank = 1
    for place in range(start, end):
        n = counts.pairs[place]
        if n > counts.pairs[mine] or (n == counts.pairs[mine] and place < mine):
            rank += 1
    return rank
