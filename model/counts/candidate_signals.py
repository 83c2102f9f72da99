"""Candidate signals: what the counts say of each candidate, as numbers for the scorer.

Letters: B tasks, H interactions, C candidates, N items, R relations, F signals, X context.
"""

import numpy as np
from numba import njit

from headrace.model.arrays import Floats, Ints, Longs
from headrace.model.counts.signals import (
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
    ItemArrays,
)
from headrace.model.counts.tenure import FEW, TENURE_SIGNALS, USUAL_SHARE, tenure_of
from headrace.model.counts.walk import (
    COUNT,
    FOLLOWED,
    HISTORY,
    LAST,
    LINKED,
    OWN,
    OWN_FADE,
    POSITION,
    RECENCY,
    TOTAL,
    Walk,
)

SIGNALS = (
    *TENURE_SIGNALS,
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
    TENURE, TENURE_SHARE,
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

CATEGORY_FADES = ((1 - OWN_FADE) * OWN_FADE ** np.arange(HISTORY)).astype(np.float32)
_AT_ONCE = 16  # tasks whose signals are finished together: they stay in the fast memory
_FADE_RATES = (-1 / POPULARITY_LIVES[SLOW : FAST + 1]).astype(np.float32)


@njit(cache=True, nogil=True)
def describe(
    a: ItemArrays,
    clock: float,
    now_s: int,
    had: Ints,
    times_s: Longs,
    n_known: int,
    n_session: int,
    walk: Walk,
    stamp: int,
    items: Ints,
    signals: Floats,
    ages: Floats,
    n_earlier: int,
) -> None:
    """Write the counted signals of one task's candidates; ``finish`` takes them on from there.

    Several short loops: what one waits for from memory, the next turns of it ask for meanwhile.

    Args:
        a: the item signals.
        clock: their tick.
        now_s: latest event time counted.
        had: (H,) the user's items, newest first, -1 padded.
        times_s: (H,) their event times.
        n_known: how many of the latest ``HISTORY`` are items that are known.
        n_session: how many of ``had`` belong to the newest session.
        walk: what was found from them, under ``stamp``.
        stamp: the task.
        items: (C,) the candidates.
        signals: (C, F) zeros, written to.
        ages: (C,) written to: ticks since each candidate's last event.
        n_earlier: interactions the user ever had.
    """
    n = len(items)
    last = had[0]
    tenure = tenure_of(n_earlier)
    for c in range(n):
        if walk.stamps[items[c], OWN] == stamp:
            _describe_own(walk.own[items[c]], times_s, n_session, signals[c])
    for c in range(n):
        z, f = items[c], signals[c]
        popularity = a.popularity[z]
        f[POPULARITY] = popularity[ALL_TIME]
        f[POPULARITY_SLOW] = popularity[SLOW]
        f[POPULARITY_MEDIUM] = 10 * popularity[MEDIUM]
        f[POPULARITY_FAST] = popularity[FAST]
        f[TENURE] = a.tenures[z, tenure]
        f[TENURE_SHARE] = 10 * (f[TENURE] + USUAL_SHARE * FEW) / (popularity[ALL_TIME] + FEW)
        f[REPEAT_PROPENSITY] = (a.repeats[z] + 0.5) / (popularity[ALL_TIME] + 3)
    for c in range(n):
        z, f = items[c], signals[c]
        ages[c] = clock - a.touched[z]
        f[IDLE] = max(0, now_s - a.last_time_s[z])
        if f[POPULARITY] > 0:  # what nobody took yet is new
            f[AGE] = max(0.0, clock - a.first[z])
    last_scale = 100 / (a.totals[last, NEXT] + 1) if last >= 0 else 0.0
    for c in range(n):
        s, f = walk.sums[items[c]], signals[c]
        lift = 10 / np.sqrt(f[POPULARITY] + 1)
        f[F_NEXT] = 100 * s[NEXT]
        f[NEXT_LIFT] = lift * f[F_NEXT]
        f[NEXT_OF_LAST] = last_scale * s[LAST]
        f[NEXT_OF_LAST_LIFT] = lift / 10 * f[NEXT_OF_LAST]
        f[F_NEAR] = 100 * s[NEAR]
        f[NEAR_LIFT] = lift * f[F_NEAR]
        f[F_SESSION] = 100 * s[SESSION]
        f[F_RECENT] = 100 * s[RECENT]
        f[F_AROUND] = 100 * s[AROUND]
        f[AROUND_LIFT] = lift * f[F_AROUND]
        f[LINKS] = s[LINKED]
        f[F_ALSO] = 10 * s[ALSO]
        f[ALSO_MEAN] = 100 * s[ALSO] / (n_known + 1)
    if last >= 0:
        places = walk.strong  # free for use now
        for c in range(n):
            places[c] = place_of(last, a.ids[items[c]], a.filled[items[c]])
        for c in range(n):
            z, j = items[c], places[c]
            if j >= 0:
                signals[c, BACK] = 100 * a.weights[z, j, NEXT] / (a.totals[z, NEXT] + 3)
    _describe_categories(a.category, had, items, signals)


@njit(cache=True, nogil=True)
def _describe_own(own: Floats, times_s: Longs, n_session: int, f: Floats) -> None:
    """Write what a user's own history says of one of their own items."""
    k = int(own[POSITION])
    f[OWN_RECENCY] = np.log1p(10 * own[RECENCY])
    f[OWN_LAST] = 1.0 / (k + 1)
    f[OWN_COUNT] = np.log1p(own[COUNT])
    f[OWN_TOTAL] = np.log1p(own[TOTAL])
    f[OWN_SEEN] = 1.0
    f[OWN_AGE] = np.log1p(max(0, times_s[0] - times_s[k])) / 10
    f[OWN_IN_SESSION] = 1.0 if k < n_session else 0.0
    f[OWN_FOLLOWED] = np.log1p(3 * own[FOLLOWED])


@njit(cache=True, nogil=True, fastmath={"reassoc"})  # so that the sum over k takes several at once
def _describe_categories(category: Ints, had: Ints, items: Ints, signals: Floats) -> None:
    """Write how much of the recent history is of a candidate's category."""
    n = min(HISTORY, len(had))
    own = np.full(n, -1, np.int32)
    for k in range(n):
        if had[k] >= 0:
            own[k] = category[had[k]]
    for c in range(len(items)):
        of_item = category[items[c]]
        if of_item < 0:
            continue
        share = np.float32(0.0)
        for k in range(n):
            share += CATEGORY_FADES[k] * (own[k] == of_item)
        signals[c, CATEGORY_SHARE] = share
        signals[c, CATEGORY_OF_LAST] = own[0] == of_item


@njit(cache=True, nogil=True)
def place_of(item: int, ids: Ints, n: int) -> int:
    """Return the place of an item among the first ``n`` of different ones, -1 if it is not there.

    All are looked at: without a way out, the loop compares several at once, in 32 bits twice as
    many as in 64.
    """
    place = np.int32(-1)
    for j in range(np.int32(n)):
        place += np.int32(ids[j] == item) * np.int32(j + 1)
    return int(place)


def finish(signals: Floats, ages: Floats, n: int) -> None:
    """Finish (B, C, F) signals of ``n`` candidates in place: counts span decades, and so does time.

    Popularities fade with the (B, C) ticks since the item's last event. numpy takes functions of
    many numbers at a time where they lie side by side; which of them are asked for, loops choose.
    """
    logs = np.empty((_AT_ONCE, *signals.shape[1:]), np.float32)
    for at in range(0, len(signals), _AT_ONCE):
        part = signals[at : at + _AT_ONCE]
        _fade(part, np.exp(_FADE_RATES[:, None, None] * ages[at : at + _AT_ONCE, :n]))
        np.log1p(part[:, :n], out=logs[: len(part), :n])
        _take_logs(part, logs, n)


@njit(cache=True, nogil=True)
def _fade(signals: Floats, fades: Floats) -> None:
    """Multiply the fading popularities of (B, C, F) signals by their (3, B, n) fades."""
    for b in range(fades.shape[1]):
        for c in range(fades.shape[2]):
            for life in range(len(fades)):
                signals[b, c, POPULARITY_SLOW + life] *= fades[life, b, c]


@njit(cache=True, nogil=True)
def _take_logs(signals: Floats, logs: Floats, n: int) -> None:
    """Put the logarithms of what is counted in its place, of ``n`` candidates."""
    for b in range(len(signals)):
        for c in range(n):
            f, log = signals[b, c], logs[b, c]
            for s in range(TENURE_SHARE + 1):
                f[s] = log[s]
            for s in range(F_NEXT, REPEAT_PROPENSITY):
                f[s] = log[s]
            f[IDLE] /= np.float32(10)
            f[AGE] /= np.float32(10)
