"""Session neighbours: what came around the same items in the latest sequences that hold them.

After VSTAN, Ludewig et al. 2020, Empirical Analysis of Session-based Recommendation Algorithms
(arXiv:1910.12781), which adds to STAN, Garg et al. 2019, Sequence and Time Aware
Neighborhood for Session-based Recommendations (doi:10.1145/3331184.3331322). Kept: similarity by
position-weighted common items, decay with a neighbour's age and with the distance from the common
item, own items as candidates. Changed, so that one setting fits sessions, baskets and users of
years alike:

- a sequence is up to thirty of a user's interactions in a row, and the query is the user's latest
  items across sequences: cutting at a gap in time gained next to nothing on any stream and cost
  much on some;
- weights fall as powers instead of exponentially, and no length or item frequency is divided out;
- what stood before the common item counts half;
- how much less, or more, own items count is learned at every event.

A direct repeat of an item adds nothing: a sequence holds it once.

Letters: n events, U users, N items. A place is where an interaction lies in ``items``; a sequence
goes by its first place.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from headrace.model.arrays import Bools, Doubles, Ints, Longs
from headrace.model.config import REMEMBERED
from headrace.model.ranking_metrics import MISS

SEQUENCE = 30  # interactions after which a user's next sequence begins
QUERY = 20  # latest items of the user that look for neighbours
PLACES = 500  # latest places looked at of each
NEIGHBOURS = 200
BEFORE = 0.5  # weight of what stood before the common item
AGE_POWER = -0.15
DAY_S = 86_400.0
SHARPNESS = 1.5  # a candidate's probability goes by score ** 1.5
LEARNING_RATE = 0.05
QUERY_WEIGHT = np.array([float(1 + step) ** -1.5 for step in range(QUERY)])  # latest first
DISTANCE_WEIGHT = np.array([0.0] + [float(d) ** -0.8 for d in range(1, SEQUENCE)])


class Sequences(NamedTuple):
    """All sequences so far, and what is needed to find and to score them."""

    start: Longs  # (U + 1,) where a user's places begin
    n_had: Longs  # (U,) places in use
    items: Ints  # (n,)
    sequence: Longs  # (n,) the sequence of each place
    earlier: Longs  # (n,) the place before with the same item, -1 if none
    latest: Longs  # (N,) the latest place of each item, -1 if none
    length: Longs  # (n,) of each sequence
    time_s: Longs  # (n,) of each sequence's latest event
    own_log: Doubles  # (1,) log of the learned factor of own items
    common: Longs  # (n,) the place of its most recently queried item, where ``found_by`` is set
    # Between events all of these are 0.
    similarity: Doubles  # (n,) of each sequence
    found_by: Longs  # (n,) the last step of the query that found it, from 1
    scores: Doubles  # (N,)
    is_own: Bools  # (N,)
    n_own: int  # latest items of the user that are scored as own


def new_sequences(history_start: Longs, n_items: int, *, n_own: int = REMEMBERED) -> Sequences:
    """Return no sequences yet; a user's events must fit from one ``history_start`` to the next."""
    n, n_users = int(history_start[-1]), len(history_start) - 1
    return Sequences(
        start=history_start,
        n_had=np.zeros(n_users, np.int64),
        items=np.zeros(n, np.int32),
        sequence=np.zeros(n, np.int64),
        earlier=np.zeros(n, np.int64),
        latest=np.full(n_items, -1),
        length=np.zeros(n, np.int64),
        time_s=np.zeros(n, np.int64),
        own_log=np.zeros(1),
        similarity=np.zeros(n),
        common=np.zeros(n, np.int64),
        found_by=np.zeros(n, np.int64),
        scores=np.zeros(n_items),
        is_own=np.zeros(n_items, np.bool_),
        n_own=n_own,
    )


@njit(cache=True, nogil=True)
def add_interaction(s: Sequences, user: int, item: int, time_s: int) -> None:
    """Append to the user's sequence, or begin the next; a direct repeat only makes it younger."""
    m = s.n_had[user]
    place = s.start[user] + m
    if m > 0 and s.items[place - 1] == item:
        s.time_s[s.sequence[place - 1]] = time_s
        return
    sequence = place - m % SEQUENCE
    s.items[place] = item
    s.sequence[place] = sequence
    s.earlier[place] = s.latest[item]
    s.latest[item] = place
    s.length[sequence] += 1
    s.time_s[sequence] = time_s
    s.n_had[user] = m + 1


@njit(cache=True, nogil=True)
def neighbour_rank(s: Sequences, user: int, item: int, time_s: int) -> int:
    """Rank an event's item for a user with a history, then learn how much own items count."""
    first = s.start[user]
    had = s.items[first : first + s.n_had[user]][::-1]  # latest first
    rank: int = _rank(s, had, item, time_s, LEARNING_RATE)
    return rank


@njit(cache=True, nogil=True)
def learn_stream(s: Sequences, users: Ints, items: Ints, times_s: Longs) -> None:
    """Learn from each of (n,) events how much own items count, then append it."""
    for i in range(len(users)):
        m = s.n_had[users[i]]
        if m > 0 and s.items[s.start[users[i]] + m - 1] != items[i]:
            neighbour_rank(s, users[i], items[i], times_s[i])
        add_interaction(s, users[i], items[i], times_s[i])


@njit(cache=True, nogil=True)
def standing_ranks(s: Sequences, users: Ints, items: Ints, times_s: Longs) -> Longs:
    """Rank (n,) events of users who have no sequences, each user's events in a row; learn nothing.

    A repeat counts here, so the previous item is in the list: first, as nothing says where else. A
    user's first event has no history and no rank: it gets 0.
    """
    ranks, had, m = np.zeros(len(users), np.int64), np.empty(len(users), np.int32), 0
    for i in range(len(users)):
        if i == 0 or users[i] != users[i - 1]:
            m = 0
        elif items[i] == had[m - 1]:
            ranks[i] = 1
        else:
            ranks[i] = min(MISS, 1 + _rank(s, had[:m][::-1], items[i], times_s[i], 0.0))
        if m == 0 or items[i] != had[m - 1]:
            had[m] = items[i]
            m += 1
    return ranks


@njit(cache=True, nogil=True)
def _rank(s: Sequences, had: Ints, item: int, time_s: int, learning_rate: float) -> int:
    """Rank an item after a history, latest first, then learn how much own items count."""
    found = _find(s, had[:QUERY])
    candidates = _score(s, _nearest(s, found, time_s))
    s.scores[had[0]] = 0.0  # the previous item is never in the list
    rank: int = _rank_and_learn(s, candidates, had[: s.n_own], item, learning_rate)
    s.similarity[found] = 0.0
    s.found_by[found] = 0
    s.scores[candidates] = 0.0
    return rank


@njit(cache=True, nogil=True)
def _find(s: Sequences, query: Ints) -> Longs:
    """Sum up the similarity of the latest sequences that share an item; return them."""
    found = np.empty(len(query) * PLACES, np.int64)
    n = 0
    for step in range(len(query)):
        if query[step] in query[:step]:
            continue
        place = s.latest[query[step]]
        for _ in range(PLACES):
            if place < 0:
                break
            sequence = s.sequence[place]
            if s.found_by[sequence] == 0:
                found[n] = sequence
                n += 1
                s.common[sequence] = place
            if s.found_by[sequence] <= step:  # an item counts once
                s.found_by[sequence] = step + 1
                s.similarity[sequence] += QUERY_WEIGHT[step]
            place = s.earlier[place]
    return found[:n]


@njit(cache=True, nogil=True)
def _nearest(s: Sequences, found: Longs, time_s: int) -> Longs:
    """Fade similarities with age; return the most similar, with all that equal the last of them."""
    for sequence in found:
        age_days = max(0, time_s - s.time_s[sequence]) / DAY_S
        s.similarity[sequence] *= (1.0 + age_days) ** AGE_POWER
    if len(found) <= NEIGHBOURS:
        return found
    values = s.similarity[found]
    least = np.partition(values, len(values) - NEIGHBOURS)[len(values) - NEIGHBOURS]
    nearest: Longs = found[values >= least]
    return nearest


@njit(cache=True, nogil=True)
def _score(s: Sequences, neighbours: Longs) -> Longs:
    """Score the items around the common item of each neighbour; return them."""
    n_places = 0
    for sequence in neighbours:
        n_places += s.length[sequence]
    candidates = np.empty(n_places, np.int64)
    n = 0
    for sequence in neighbours:
        common = s.common[sequence]
        for place in range(sequence, sequence + s.length[sequence]):
            if place == common:
                continue
            weight = s.similarity[sequence] * DISTANCE_WEIGHT[abs(place - common)]
            item = s.items[place]
            if s.scores[item] == 0.0:
                candidates[n] = item
                n += 1
            s.scores[item] += weight if place > common else BEFORE * weight
    return candidates[:n]


@njit(cache=True, nogil=True)
def _rank_and_learn(
    s: Sequences, candidates: Longs, own: Ints, item: int, learning_rate: float
) -> int:
    """Rank the item with own items scaled; if it has a score, take a step on its cross-entropy."""
    s.is_own[own] = True
    factor = np.exp(s.own_log[0])
    mine = s.scores[item] * (factor if s.is_own[item] else 1.0)
    rank = 1
    total, own_total = 0.0, 0.0
    for candidate in candidates:
        score = s.scores[candidate]
        if s.is_own[candidate]:
            score *= factor
            own_total += score**SHARPNESS
        rank += score > mine
        total += score**SHARPNESS
    if mine > 0.0:
        s.own_log[0] += learning_rate * (s.is_own[item] - own_total / total)
    s.is_own[own] = False
    return rank if mine > 0.0 else MISS
