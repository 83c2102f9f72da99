"""Candidate signals: what the counts say of each candidate, as numbers for the scorer.

Letters: B tasks, H interactions, N items, R relations, F signals, X context.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from headrace.model.signals import (
    ALL_TIME,
    ALSO,
    AROUND,
    FAST,
    MEDIUM,
    NEAR,
    NEXT,
    POPULARITY_LIVES,
    RECENT,
    SESSION,
    SLOW,
    Floats,
    Ints,
    ItemArrays,
    Longs,
)

HISTORY = 50  # interactions whose items are candidates and whose neighbours are walked
OWN_FADE = 0.9  # of own interactions, for each step further back
FOLLOWED_FADE = 0.95  # of what came after earlier takings of the last item

SIGNALS = (
    "own_recency", "own_last", "own_count", "own_total", "own_seen", "own_age", "own_in_session",
    "own_followed",
    "next", "next_lift", "next_of_last", "next_of_last_lift", "near", "near_lift", "session",
    "recent", "around", "around_lift", "links", "also", "also_mean", "back",
    "popularity", "popularity_slow", "popularity_medium", "popularity_fast",
    "idle", "age", "repeat_propensity", "category_share", "category_of_last",
    "content",
)  # fmt: skip
N_SIGNALS = len(SIGNALS)
(
    OWN_RECENCY, OWN_LAST, OWN_COUNT, OWN_TOTAL, OWN_SEEN, OWN_AGE, OWN_IN_SESSION,
    OWN_FOLLOWED,
    F_NEXT, NEXT_LIFT, NEXT_OF_LAST, NEXT_OF_LAST_LIFT, F_NEAR, NEAR_LIFT, F_SESSION,
    F_RECENT, F_AROUND, AROUND_LIFT, LINKS, F_ALSO, ALSO_MEAN, BACK,
    POPULARITY, POPULARITY_SLOW, POPULARITY_MEDIUM, POPULARITY_FAST,
    IDLE, AGE, REPEAT_PROPENSITY, CATEGORY_SHARE, CATEGORY_OF_LAST,
    CONTENT,
) = range(N_SIGNALS)  # fmt: skip
CONTEXTS = ("log_events", "repeat_rate", "log_session_position", "distinct_ratio")
N_CONTEXTS = len(CONTEXTS)


class Walk(NamedTuple):
    """What the walk over a task's history found; an item's row counts only if stamped."""

    sums: Floats  # (N, R) shares of each relation, over the neighbours of the recent items
    loudest: Floats  # (N, 3) by the columns below
    own: Floats  # (N, 5) own counts, by the columns below
    stamps: Longs  # (N, 3) latest task that touched, chose, owns the item
    touched: Ints  # (N,) the items touched


TOUCHED, CHOSEN, OWN = range(3)  # columns of the stamps
RECENCY, POSITION, COUNT, TOTAL, FOLLOWED = range(5)  # columns of the own counts
SHARE, SPEAKER, LINKED = range(3)  # largest share from one interaction, which, how many speak


@njit(cache=True, nogil=True)
def describe(
    a: ItemArrays,
    clock: float,
    now_s: int,
    had: Ints,
    times_s: Longs,
    n_session: int,
    walk: Walk,
    stamp: int,
    items: Ints,
    signals: Floats,
    because: Ints,
) -> None:
    """Write the counted signals of one task's candidates; ``take_logarithms`` finishes them.

    Args:
        a: the item signals.
        clock: their tick.
        now_s: latest event time counted.
        had: (H,) the user's items, newest first, -1 padded.
        times_s: (H,) their event times.
        n_session: how many of them belong to the newest session.
        walk: what was found from them, under ``stamp``.
        stamp: the task.
        items: (C,) the candidates.
        signals: (C, F) zeros, written to.
        because: (C,) -1, written to: position of the interaction that speaks loudest.
    """
    sums, loudest, own, stamps, _ = walk
    last = had[0]
    n_had = 0
    for y in had[:HISTORY]:
        n_had += y >= 0
    for c in range(len(items)):
        z = items[c]
        f = signals[c]
        root = np.sqrt(a.popularity[z, ALL_TIME] + 1)
        if stamps[z, OWN] == stamp:
            k = int(own[z, POSITION])
            f[OWN_RECENCY] = np.log1p(10 * own[z, RECENCY])
            f[OWN_LAST] = 1.0 / (k + 1)
            f[OWN_COUNT] = np.log1p(own[z, COUNT])
            f[OWN_TOTAL] = np.log1p(own[z, TOTAL])
            f[OWN_SEEN] = 1.0
            f[OWN_AGE] = np.log1p(max(0, times_s[0] - times_s[k])) / 10
            f[OWN_IN_SESSION] = 1.0 if k < n_session else 0.0
            f[OWN_FOLLOWED] = np.log1p(3 * own[z, FOLLOWED])
            because[c] = k
        if stamps[z, TOUCHED] == stamp:
            s = sums[z]
            f[F_NEXT] = 100 * s[NEXT]
            f[NEXT_LIFT] = 1000 * s[NEXT] / root
            f[F_NEAR] = 100 * s[NEAR]
            f[NEAR_LIFT] = 1000 * s[NEAR] / root
            f[F_SESSION] = 100 * s[SESSION]
            f[F_RECENT] = 100 * s[RECENT]
            f[F_AROUND] = 100 * s[AROUND]
            f[AROUND_LIFT] = 1000 * s[AROUND] / root
            f[LINKS] = loudest[z, LINKED]
            f[F_ALSO] = 10 * s[ALSO]
            f[ALSO_MEAN] = 100 * s[ALSO] / (n_had + 1)
            if because[c] < 0:
                because[c] = int(loudest[z, SPEAKER])
        f[POPULARITY] = a.popularity[z, ALL_TIME]
        age = clock - a.touched[z]
        f[POPULARITY_SLOW] = a.popularity[z, SLOW] * np.exp(-age / POPULARITY_LIVES[SLOW])
        f[POPULARITY_MEDIUM] = (
            10 * a.popularity[z, MEDIUM] * np.exp(-age / POPULARITY_LIVES[MEDIUM])
        )
        f[POPULARITY_FAST] = a.popularity[z, FAST] * np.exp(-age / POPULARITY_LIVES[FAST])
        f[IDLE] = max(0, now_s - a.last_time_s[z])
        if a.popularity[z, ALL_TIME] > 0:  # what nobody took yet is new
            f[AGE] = max(0.0, clock - a.first[z])
        f[REPEAT_PROPENSITY] = (a.repeats[z] + 0.5) / (a.popularity[z, ALL_TIME] + 3)
        if last >= 0:
            _describe_pair(a, z, last, root, f)
        if a.category[z] >= 0:
            for k in range(min(HISTORY, len(had))):
                if had[k] >= 0 and a.category[had[k]] == a.category[z]:
                    f[CATEGORY_SHARE] += (1 - OWN_FADE) * OWN_FADE**k
                    if k == 0:
                        f[CATEGORY_OF_LAST] = 1.0


def take_logarithms(signals: Floats) -> None:
    """Finish (B, C, F) signals in place: counts span decades, and so does time.

    All at once, for numpy takes several logarithms with one instruction, a compiled loop one.
    """
    counted = signals[:, :, F_NEXT:REPEAT_PROPENSITY]
    np.log1p(counted, out=counted)
    signals[:, :, IDLE : AGE + 1] /= 10


@njit(cache=True, nogil=True)
def _describe_pair(a: ItemArrays, z: int, last: int, root: float, f: Floats) -> None:
    """Write what links a candidate to the last item, in both directions."""
    j = _place_of(z, a.ids[last], a.filled[last])
    if j >= 0:
        share = a.weights[last, j, NEXT] / (a.totals[last, NEXT] + 1)
        f[NEXT_OF_LAST] = 100 * share
        f[NEXT_OF_LAST_LIFT] = 100 * share / root
    j = _place_of(last, a.ids[z], a.filled[z])
    if j >= 0:
        f[BACK] = 100 * a.weights[z, j, NEXT] / (a.totals[z, NEXT] + 3)


@njit(cache=True, nogil=True)
def _place_of(item: int, ids: Ints, n: int) -> int:
    """Return the place of an item among the first ``n`` of different ones, -1 if it is not there.

    All are looked at: without a way out, the loop compares several at once.
    """
    place = -1
    for j in range(n):
        place += (ids[j] == item) * (j + 1)
    return place
