"""Candidates of each task and what the counted signals say of them.

For each task one walk over the neighbours of its recent items gives both: the items that are worth
scoring and the signals of each. A compiled loop, because rows of neighbours are ragged.

Letters: B tasks, H recent interactions looked at, C candidates, F signals, X context.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from headrace.model.signals import (
    ALL_TIME,
    ALSO,
    FAST,
    MEDIUM,
    N_RELATIONS,
    NEAR,
    NEXT,
    POPULARITY_LIVES,
    RECENT,
    SESSION,
    SESSION_GAP_S,
    SLOW,
    Floats,
    Ints,
    ItemArrays,
    ItemSignals,
    Longs,
)

HISTORY = 50  # H
MAX_CANDIDATES = 320  # C; some 200 are found for a user with a history

# How many of each relation's strongest become candidates, in the order of the relations.
QUOTAS = np.array([70, 90, 40, 40, 60], np.int64)
# How far back a relation is followed, and how much each step further back weighs.
REACH = np.array([3, 15, HISTORY, 5, HISTORY], np.int64)
FADE = np.array([0.6, 0.85, 1.0, 0.7, 0.96], np.float64)
# Added to an item's total before dividing by it: a share of few observations is no evidence.
PRIOR = np.array([1.0, 3.0, 5.0, 0.5, 1.0], np.float64)
OWN_FADE = 0.9

SIGNALS = (
    "own_recency", "own_last", "own_count", "own_seen", "own_age", "own_in_session", "own_followed",
    "next", "next_lift", "next_of_last", "next_of_last_lift", "near", "near_lift", "session",
    "recent", "also", "also_mean", "back",
    "popularity", "popularity_slow", "popularity_medium", "popularity_fast",
    "idle", "age", "repeat_propensity", "category_share", "category_of_last",
)  # fmt: skip
N_SIGNALS = len(SIGNALS)
(
    OWN_RECENCY, OWN_LAST, OWN_COUNT, OWN_SEEN, OWN_AGE, OWN_IN_SESSION, OWN_FOLLOWED,
    F_NEXT, NEXT_LIFT, NEXT_OF_LAST, NEXT_OF_LAST_LIFT, F_NEAR, NEAR_LIFT, F_SESSION,
    F_RECENT, F_ALSO, ALSO_MEAN, BACK,
    POPULARITY, POPULARITY_SLOW, POPULARITY_MEDIUM, POPULARITY_FAST,
    IDLE, AGE, REPEAT_PROPENSITY, CATEGORY_SHARE, CATEGORY_OF_LAST,
) = range(N_SIGNALS)  # fmt: skip
CONTEXTS = ("log_events", "repeat_rate", "log_session_position", "distinct_ratio")
N_CONTEXTS = len(CONTEXTS)


class Histories(NamedTuple):
    """Recent interactions of B users, newest first, as the model sees them."""

    items: Ints  # (B, H) item index, -1 padded or unknown
    times_s: Longs  # (B, H)
    actions: Ints  # (B, H) action index
    n_events: Longs  # (B,) ever, beyond what is remembered
    n_repeats: Longs  # (B,) of them, items the user already had

    def rows(self, index: npt.NDArray[np.generic] | slice) -> "Histories":
        """Return the histories of some of the users."""
        return Histories(
            self.items[index],
            self.times_s[index],
            self.actions[index],
            self.n_events[index],
            self.n_repeats[index],
        )


class Candidates(NamedTuple):
    """What is worth scoring for each of B tasks."""

    items: Ints  # (B, C) item index, -1 padded
    signals: Floats  # (B, C, F)
    context: Floats  # (B, X)
    because: Ints  # (B, C) position in the history of the interaction that speaks loudest, -1 none


def stack(parts: Sequence[Candidates]) -> Candidates:
    """Put candidates that were gathered apart into one micro-batch."""
    width = max(part.items.shape[1] for part in parts)

    def places(part: Candidates) -> list[tuple[int, int]]:
        return [(0, 0), (0, width - part.items.shape[1])]

    return Candidates(
        np.concatenate([np.pad(p.items, places(p), constant_values=-1) for p in parts]),
        np.concatenate([np.pad(p.signals, [*places(p), (0, 0)]) for p in parts]),
        np.concatenate([p.context for p in parts]),
        np.concatenate([np.pad(p.because, places(p), constant_values=-1) for p in parts]),
    )


class Gatherer:
    """Gathers candidates with working memory that is kept between calls. Not for two threads."""

    def __init__(self) -> None:
        self._sums = np.zeros((0, N_RELATIONS), np.float32)  # (N, R) of the task at hand
        self._loudest = np.zeros((0, 2), np.float32)  # (N, 2) weight and position
        self._own = np.zeros((0, 3), np.float32)  # (N, 3) recency, position, count
        self._stamps = np.zeros((0, 3), np.int64)  # (N, 3) task that touched, chose, owns the item
        self._touched = np.zeros(0, np.int32)
        self._tick = 0

    def gather(self, signals: ItemSignals, histories: Histories) -> Candidates:
        """Return the candidates of each user, without the item each user had last."""
        self._reserve(signals.capacity)
        b = len(histories.items)
        out = Candidates(
            items=np.full((b, MAX_CANDIDATES), -1, np.int32),
            signals=np.zeros((b, MAX_CANDIDATES, N_SIGNALS), np.float32),
            context=np.zeros((b, N_CONTEXTS), np.float32),
            because=np.full((b, MAX_CANDIDATES), -1, np.int32),
        )
        _gather(
            signals.arrays,
            signals.clock,
            signals.recent_scale(),
            signals.now_s,
            signals.popular,
            histories,
            out,
            (self._sums, self._loudest, self._own, self._stamps, self._touched),
            self._tick,
        )
        self._tick += b
        n = int((out.items >= 0).sum(1).max(initial=1))  # C of this batch: padding costs time
        return Candidates(out.items[:, :n], out.signals[:, :n], out.context, out.because[:, :n])

    def _reserve(self, n_items: int) -> None:
        if len(self._touched) < n_items:
            self._sums = np.zeros((n_items, N_RELATIONS), np.float32)
            self._loudest = np.zeros((n_items, 2), np.float32)
            self._own = np.zeros((n_items, 3), np.float32)
            self._stamps = np.full((n_items, 3), -1, np.int64)
            self._touched = np.zeros(n_items, np.int32)


Scratch = tuple[Floats, Floats, Floats, Longs, Ints]
TOUCHED, CHOSEN, OWN = range(3)  # columns of the stamps


@njit(cache=True, nogil=True)
def _gather(
    a: ItemArrays,
    clock: float,
    recent_scale: float,
    now_s: int,
    popular: Ints,
    histories: Histories,
    out: Candidates,
    scratch: Scratch,
    tick: int,
) -> None:
    for b in range(len(histories.items)):
        stamp = tick + b
        had, times_s = histories.items[b], histories.times_s[b]
        n_session = _session_length(times_s, had)
        n_touched = _walk(a, had, n_session, recent_scale, scratch, stamp)
        n_own = _own(had, scratch, stamp, out.items[b])
        n_distinct = n_own
        n = n_own
        for relation in range(N_RELATIONS):
            n = _choose(relation, n_touched, scratch, stamp, out.items[b], n)
        stamps = scratch[3]
        for item in popular:
            if n < MAX_CANDIDATES and stamps[item, CHOSEN] != stamp:
                stamps[item, CHOSEN] = stamp
                out.items[b, n] = item
                n += 1
        n = _drop_last(had[0], out.items[b], n)
        _describe(a, clock, now_s, had, times_s, n_session, scratch, stamp, out, b, n)
        n_known = 0
        for y in had:
            n_known += y >= 0
        context = out.context[b]
        context[0] = np.log1p(histories.n_events[b])
        context[1] = (histories.n_repeats[b] + 1) / (histories.n_events[b] + 5.0)
        context[2] = np.log1p(n_session)
        context[3] = n_distinct / (n_known + 1.0)


@njit(cache=True, nogil=True)
def _session_length(times_s: Longs, had: Ints) -> int:
    """Return how many of the newest interactions belong to the newest session."""
    n = 0
    for k in range(len(had)):
        if had[k] < 0 or (k > 0 and times_s[k - 1] - times_s[k] > SESSION_GAP_S):
            break
        n = k + 1
    return n


@njit(cache=True, nogil=True)
def _walk(
    a: ItemArrays, had: Ints, n_session: int, recent_scale: float, scratch: Scratch, stamp: int
) -> int:
    """Sum each relation's shares over the neighbours of the recent items."""
    sums, loudest, _, stamps, touched = scratch
    n_touched = 0
    scale = np.ones(N_RELATIONS)
    for k in range(len(had)):
        y = had[k]
        if y < 0:
            continue
        for r in range(N_RELATIONS):
            scale[r] = FADE[r] ** k / (a.totals[y, r] + PRIOR[r]) if k < REACH[r] else 0.0
        if k >= n_session:
            scale[SESSION] = 0.0
        scale[RECENT] = (
            FADE[RECENT] ** k * recent_scale / (a.totals[y, RECENT] * recent_scale + PRIOR[RECENT])
            if k < REACH[RECENT]
            else 0.0
        )
        scale[ALSO] = FADE[ALSO] ** k / np.sqrt(a.popularity[y, ALL_TIME] + 2)  # cosine
        for j in range(a.filled[y]):
            z = a.ids[y, j]
            if stamps[z, TOUCHED] != stamp:
                stamps[z, TOUCHED] = stamp
                touched[n_touched] = z
                n_touched += 1
                for r in range(N_RELATIONS):
                    sums[z, r] = 0
                loudest[z, 0] = 0
            weight = a.weights[y, j]
            voice = 0.0
            for r in range(N_RELATIONS):
                share = scale[r] * weight[r]
                sums[z, r] += share
                voice += share
            if voice > loudest[z, 0]:
                loudest[z, 0] = voice
                loudest[z, 1] = k
    for t in range(n_touched):
        z = touched[t]
        sums[z, ALSO] /= np.sqrt(a.popularity[z, ALL_TIME] + 2)
    return n_touched


@njit(cache=True, nogil=True)
def _own(had: Ints, scratch: Scratch, stamp: int, items: Ints) -> int:
    """Take the user's own items as candidates, newest first."""
    own, stamps = scratch[2], scratch[3]
    n = 0
    for k in range(len(had)):
        y = had[k]
        if y < 0:
            continue
        if stamps[y, OWN] != stamp:
            stamps[y, OWN] = stamp
            stamps[y, CHOSEN] = stamp
            own[y, 0] = 0
            own[y, 1] = k
            own[y, 2] = 0
            items[n] = y
            n += 1
        own[y, 0] += OWN_FADE**k
        own[y, 2] += 1
    return n


@njit(cache=True, nogil=True)
def _choose(
    relation: int, n_touched: int, scratch: Scratch, stamp: int, items: Ints, n: int
) -> int:
    """Take the strongest of one relation as candidates; of equal ones, the first met."""
    sums, _, _, stamps, touched = scratch
    quota = QUOTAS[relation]
    threshold, n_equal = np.float32(0.0), 0
    if n_touched > quota:
        strengths = np.empty(n_touched, np.float32)
        for t in range(n_touched):
            strengths[t] = sums[touched[t], relation]
        threshold = np.partition(strengths, n_touched - quota)[n_touched - quota]
        n_equal = quota - (strengths > threshold).sum()  # room left for those at the threshold
    for t in range(n_touched):
        z = touched[t]
        strength = sums[z, relation]
        if strength <= 0 or strength < threshold:
            continue
        if strength == threshold:
            if n_equal == 0:
                continue
            n_equal -= 1
        if n == MAX_CANDIDATES:
            break
        if stamps[z, CHOSEN] != stamp:
            stamps[z, CHOSEN] = stamp
            items[n] = z
            n += 1
    return n


@njit(cache=True, nogil=True)
def _drop_last(last: int, items: Ints, n: int) -> int:
    """Take the last item out of the candidates: nobody needs to be told what they just did."""
    for c in range(n):
        if items[c] == last:
            for d in range(c + 1, n):
                items[d - 1] = items[d]
            items[n - 1] = -1
            return n - 1
    return n


@njit(cache=True, nogil=True)
def _describe(
    a: ItemArrays,
    clock: float,
    now_s: int,
    had: Ints,
    times_s: Longs,
    n_session: int,
    scratch: Scratch,
    stamp: int,
    out: Candidates,
    b: int,
    n: int,
) -> None:
    """Write the signals of each candidate; logarithms, because counts span decades."""
    sums, loudest, own, stamps, _ = scratch
    last = had[0]
    n_had = 0
    for y in had:
        n_had += y >= 0
    for c in range(n):
        z = out.items[b, c]
        f = out.signals[b, c]
        root = np.sqrt(a.popularity[z, ALL_TIME] + 1)
        if stamps[z, OWN] == stamp:
            k = int(own[z, 1])
            f[OWN_RECENCY] = np.log1p(10 * own[z, 0])
            f[OWN_LAST] = 1.0 / (k + 1)
            f[OWN_COUNT] = np.log1p(own[z, 2])
            f[OWN_SEEN] = 1.0
            f[OWN_AGE] = np.log1p(max(0, times_s[0] - times_s[k])) / 10
            f[OWN_IN_SESSION] = 1.0 if k < n_session else 0.0
            followed = 0.0
            for j in range(1, len(had)):
                if last >= 0 and had[j] == last and had[j - 1] == z:
                    followed += 0.95**j
            f[OWN_FOLLOWED] = np.log1p(3 * followed)
            out.because[b, c] = k
        if stamps[z, TOUCHED] == stamp:
            s = sums[z]
            f[F_NEXT] = np.log1p(100 * s[NEXT])
            f[NEXT_LIFT] = np.log1p(1000 * s[NEXT] / root)
            f[F_NEAR] = np.log1p(100 * s[NEAR])
            f[NEAR_LIFT] = np.log1p(1000 * s[NEAR] / root)
            f[F_SESSION] = np.log1p(100 * s[SESSION])
            f[F_RECENT] = np.log1p(100 * s[RECENT])
            f[F_ALSO] = np.log1p(10 * s[ALSO])
            f[ALSO_MEAN] = np.log1p(100 * s[ALSO] / (n_had + 1))
            if out.because[b, c] < 0:
                out.because[b, c] = int(loudest[z, 1])
        f[POPULARITY] = np.log1p(a.popularity[z, ALL_TIME])
        age = clock - a.touched[z]
        f[POPULARITY_SLOW] = np.log1p(a.popularity[z, SLOW] * np.exp(-age / POPULARITY_LIVES[SLOW]))
        f[POPULARITY_MEDIUM] = np.log1p(
            10 * a.popularity[z, MEDIUM] * np.exp(-age / POPULARITY_LIVES[MEDIUM])
        )
        f[POPULARITY_FAST] = np.log1p(a.popularity[z, FAST] * np.exp(-age / POPULARITY_LIVES[FAST]))
        f[IDLE] = np.log1p(max(0, now_s - a.last_time_s[z])) / 10
        f[AGE] = np.log1p(max(0.0, clock - a.first[z])) / 10
        f[REPEAT_PROPENSITY] = (a.repeats[z] + 0.5) / (a.popularity[z, ALL_TIME] + 3)
        if last >= 0:
            _describe_pair(a, z, last, root, f)
        if a.category[z] >= 0:
            for k in range(len(had)):
                if had[k] >= 0 and a.category[had[k]] == a.category[z]:
                    f[CATEGORY_SHARE] += (1 - OWN_FADE) * OWN_FADE**k
                    if k == 0:
                        f[CATEGORY_OF_LAST] = 1.0


@njit(cache=True, nogil=True)
def _describe_pair(a: ItemArrays, z: int, last: int, root: float, f: Floats) -> None:
    """Write what links a candidate to the last item, in both directions."""
    for j in range(a.filled[last]):
        if a.ids[last, j] == z:
            share = a.weights[last, j, NEXT] / (a.totals[last, NEXT] + 1)
            f[NEXT_OF_LAST] = np.log1p(100 * share)
            f[NEXT_OF_LAST_LIFT] = np.log1p(100 * share / root)
            break
    for j in range(a.filled[z]):
        if a.ids[z, j] == last:
            f[BACK] = np.log1p(100 * a.weights[z, j, NEXT] / (a.totals[z, NEXT] + 3))
            break
