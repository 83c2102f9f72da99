"""Baselines of the prequential protocol: what counting alone gives, learned at every event.

Each ranks an event's item before the event is applied. They learn at once, without the delay of a
service, so a model that beats them beats them at their best.

Of items that count the same, the one that came first stands first. Where scores are sums, equal
ones share the best place, which is the protocol's rule and in the baselines' favour: an item of the
model has the place that its list gives it. Popularity keeps a user's previous item in its list, as
a list that is the same for everybody would.

Letters: n events, U users, N items, L pairs of an item and a later follower.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import int64, njit
from numba.typed import Dict

from headrace.model.arrays import Doubles, Ints, Longs
from headrace.model.baselines.online_mix import (
    OWN_FADE,
    OWN_ITEMS,
    Followers,
    MixState,
    mix_rank,
    new_mix,
)
from headrace.model.baselines.session_neighbours import (
    Sequences,
    add_interaction,
    neighbour_rank,
    new_sequences,
)
from headrace.model.config import REMEMBERED
from headrace.model.ranking_metrics import MISS

REFRESH_EVERY = 200  # events between two orderings by popularity
RECENT_FADE = 0.9  # of recent popularity at each refresh
NAMES = (
    "popularity",
    "recent_popularity",
    "repeat",
    "covisitation",
    "session_knn",
    "online_mix",
)
POPULARITY, RECENT, REPEAT, COVISITATION, NEIGHBOURS, MIX = range(len(NAMES))


class Stream(NamedTuple):
    """Events, and where what they count lies, worked out beforehand."""

    users: Ints  # (n,)
    items: Ints  # (n,)
    times_s: Longs  # (n,)
    history_start: Longs  # (U + 1,) a user's events in ``Counts.history``
    pair_of_event: Longs  # (n,) place of (previous item, item) in ``Followers``, -1 if none


class Counts(NamedTuple):
    """What the baselines count as they go."""

    history: Ints  # (n,) each user's items so far, oldest first, from ``history_start``
    n_history: Longs  # (U,)
    popularity: Doubles  # (N,)
    recent: Doubles  # (N,)
    followers: Followers
    sequences: Sequences


def baseline_ranks(
    users: Ints,
    items: Ints,
    times_s: Longs,
    *,
    n_own: int = REMEMBERED,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Longs]:
    """Return each baseline's (n,) ranks: from 1, ``MISS``, or ``UNSCORED`` where the item repeats.

    Args:
        users: (n,) user index of each event, in the order of the stream.
        items: (n,) item index.
        times_s: (n,) event time; only session neighbours look at it.
        n_own: latest items of a user that session neighbours score as own.
        on_progress: told how many more events are ranked, after every ``REFRESH_EVERY``.
    """
    n = len(users)
    ranks = np.zeros((n, len(NAMES)), np.int64)
    columns = _by_first_use(users), _by_first_use(items), times_s.astype(np.int64)
    stream, counts = _prepare(*columns, n_own=n_own)
    mix = new_mix()
    for start in range(0, n, REFRESH_EVERY):
        block = ranks[start : start + REFRESH_EVERY]
        _walk(stream, counts, mix, start, block)
        on_progress(len(block))
    return {name: ranks[:, column] for column, name in enumerate(NAMES)}


def _by_first_use(ids: Ints) -> Ints:
    """Number the ids in the order in which they first come: it decides between equal counts."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


def _prepare(users: Ints, items: Ints, times_s: Longs, *, n_own: int) -> tuple[Stream, Counts]:
    n, n_users, n_items = len(items), len(np.unique(users)), len(np.unique(items))
    by_user = np.argsort(users, kind="stable")
    previous = np.full(n, -1, np.int64)
    is_next = np.diff(users[by_user], prepend=-1) == 0
    previous[by_user[is_next]] = items[by_user[np.flatnonzero(is_next) - 1]]
    follows = (previous >= 0) & (previous != items)
    pairs, first, inverse = np.unique(
        (previous * n_items + items)[follows], return_index=True, return_inverse=True
    )
    order = np.lexsort((first, pairs // n_items))  # by item, then by when it was first followed
    pair_of_event = np.full(n, -1, np.int64)
    pair_of_event[follows] = np.argsort(order)[inverse]
    pairs = pairs[order]
    history_start = np.searchsorted(users[by_user], np.arange(n_users + 1))
    followers = Followers(
        np.searchsorted(pairs // n_items, np.arange(n_items + 1)),
        (pairs % n_items).astype(np.int32),
        np.zeros(len(pairs)),
        np.zeros(n_items),
    )
    counts = Counts(
        np.zeros(n, np.int32),
        np.zeros(n_users, np.int64),
        np.zeros(n_items),
        np.zeros(n_items),
        followers,
        new_sequences(history_start, n_items, n_own=n_own),
    )
    return Stream(users, items, times_s, history_start, pair_of_event), counts


@njit(cache=True, nogil=True)
def _walk(stream: Stream, counts: Counts, mix: MixState, first: int, ranks: Longs) -> None:
    """Order by popularity; then rank and apply as many events from ``first`` as ``ranks`` holds."""
    rank, recent_rank = np.empty((2, len(counts.popularity)), np.int64)
    order = _refresh(counts.popularity, rank)
    _refresh(counts.recent, recent_rank)
    counts.recent[:] *= RECENT_FADE
    for i in range(len(ranks)):
        user, item = stream.users[first + i], stream.items[first + i]
        time_s = stream.times_s[first + i]
        start, m = stream.history_start[user], counts.n_history[user]
        had = counts.history[start : start + m]
        if m == 0 or item != had[-1]:
            row = ranks[i]
            row[POPULARITY] = rank[item]
            row[RECENT] = recent_rank[item]
            row[REPEAT] = _repeat_rank(had[-OWN_ITEMS:], item)
            row[COVISITATION] = rank[item]
            row[NEIGHBOURS] = recent_rank[item]
            if m:
                row[COVISITATION] = _follower_rank(counts.followers, item, had[-1])
                row[NEIGHBOURS] = neighbour_rank(counts.sequences, user, item, time_s)
            row[MIX] = mix_rank(mix, item, had, order, counts.followers, counts.popularity)
            if m:
                counts.followers.counts[stream.pair_of_event[first + i]] += 1
                counts.followers.totals[had[-1]] += 1
        counts.history[start + m] = item
        counts.n_history[user] = m + 1
        counts.popularity[item] += 1
        counts.recent[item] += 1
        add_interaction(counts.sequences, user, item, time_s)


@njit(cache=True, nogil=True)
def _refresh(counts: Doubles, rank: Longs) -> Longs:
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
def _follower_rank(followers: Followers, item: int, last: int) -> int:
    """Rank among the followers of the last item by count, of equal ones the first one first."""
    start, end = followers.start[last], followers.start[last + 1]
    counts = followers.counts[start:end]
    for mine in range(end - start):
        if followers.items[start + mine] == item and counts[mine] > 0:
            return int((counts > counts[mine]).sum() + (counts[:mine] == counts[mine]).sum()) + 1
    return MISS
