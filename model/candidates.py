"""Candidates: the items that are worth scoring for each task.

One walk over the neighbours of a task's recent items finds them and what the signals of each are
written from. A compiled loop, because rows of neighbours are ragged.

Letters: B tasks, H interactions, C candidates, F signals, X context.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from headrace.model.candidate_signals import (
    CHOSEN,
    CONTENT,
    COUNT,
    FOLLOWED,
    FOLLOWED_FADE,
    HISTORY,
    LAST,
    LINKED,
    N_COLUMNS,
    N_CONTEXTS,
    N_SIGNALS,
    OWN,
    OWN_FADE,
    POSITION,
    RECENCY,
    TOTAL,
    Walk,
    describe,
    finish,
)
from headrace.model.histories import Histories
from headrace.model.signals import (
    ALL_TIME,
    ALSO,
    AROUND,
    N_RELATIONS,
    NEAR,
    NEXT,
    RECENT,
    SESSION,
    SESSION_GAP_S,
    Floats,
    Ints,
    ItemArrays,
    ItemSignals,
    Longs,
)

MAX_CANDIDATES = 320  # C; some 200 are found for a user with a history

# How many of each relation's strongest become candidates, in the order of the relations.
QUOTAS = np.array([70, 90, 40, 40, 60, 40], np.int64)
# How far back a relation is followed, and how much each step further back weighs.
REACH = np.array([3, 15, HISTORY, 5, HISTORY, 20], np.int64)
FADE = np.array([0.6, 0.85, 1.0, 0.7, 0.96, 1.0], np.float64)
_STEPS = np.arange(HISTORY)
STEP_WEIGHTS = np.where(REACH[:, None] > _STEPS, FADE[:, None] ** _STEPS, 0.0)  # (R, H)
STEP_WEIGHTS[AROUND] *= (1.0 + _STEPS) ** -1.5
LINK_FADE = 0.95
_SMALLEST = np.float32(1e-45)  # above zero: its bits are those of 1
_INFINITY_BITS = 0x7F800000
# Added to an item's total before dividing by it: a share of few observations is no evidence.
PRIOR = np.array([1.0, 3.0, 5.0, 0.5, 1.0, 3.0], np.float64)


class Candidates(NamedTuple):
    """What is worth scoring for each of B tasks."""

    items: Ints  # (B, C) item index, -1 padded
    signals: Floats  # (B, C, F)
    context: Floats  # (B, X)


def stack(parts: Sequence[Candidates]) -> Candidates:
    """Put candidates that were gathered apart into one micro-batch."""
    width = max(part.items.shape[1] for part in parts)

    def places(part: Candidates) -> list[tuple[int, int]]:
        return [(0, 0), (0, width - part.items.shape[1])]

    return Candidates(
        np.concatenate([np.pad(p.items, places(p), constant_values=-1) for p in parts]),
        np.concatenate([np.pad(p.signals, [*places(p), (0, 0)]) for p in parts]),
        np.concatenate([p.context for p in parts]),
    )


class _Memory(threading.local):
    """The working memory of one thread."""

    def __init__(self) -> None:
        self.walk = _new_walk(0)
        self.tick = 0


class Gatherer:
    """Gathers candidates with working memory that is kept between calls, for each thread its own.

    The item each user had last is a candidate only ``with_last``.
    """

    def __init__(self, *, with_last: bool = False) -> None:
        self.with_last = with_last
        self._memory = _Memory()

    def gather(
        self, signals: ItemSignals, histories: Histories, order: Longs | None = None
    ) -> Candidates:
        """Return the candidates of each history; ``order`` is as in ``Recommender.prepare``."""
        memory = self._memory
        if len(memory.walk.own) < signals.capacity:
            memory.walk = _new_walk(signals.capacity)
        b, content = len(histories.items), signals.content
        profiles = content.profiles(histories.items)
        out = Candidates(
            items=np.full((b, MAX_CANDIDATES), -1, np.int32),
            signals=np.zeros((b, MAX_CANDIDATES, N_SIGNALS), np.float32),
            context=np.zeros((b, N_CONTEXTS), np.float32),
        )
        ages = np.zeros((b, MAX_CANDIDATES), np.float32)
        _gather(
            signals.arrays,
            signals.clock,
            signals.recent_scale(),
            signals.now_s,
            signals.popular,
            content.nearest(profiles),
            histories,
            np.arange(b) if order is None else order,
            out,
            ages,
            memory.walk,
            memory.tick,
            self.with_last,
        )
        memory.tick += b
        n = int((out.items >= 0).sum(1).max(initial=1))  # C of this batch: padding costs time
        finish(out.signals[:, :n], ages[:, :n])
        out.signals[:, :n, CONTENT] = content.likeness(profiles, out.items[:, :n])
        return Candidates(out.items[:, :n], out.signals[:, :n], out.context)


def _new_walk(n_items: int) -> Walk:
    return Walk(
        sums=np.zeros((n_items, N_COLUMNS), np.float32),
        own=np.zeros((n_items, 5), np.float32),
        stamps=np.full((n_items, 2), -1, np.int64),
        touched=np.zeros(n_items + 1, np.int32),  # one more: it is written to before it is asked
        strong=np.zeros(n_items + 1, np.int32),
        strengths=np.zeros((N_RELATIONS, n_items), np.float32),
        scales=np.zeros((HISTORY, N_COLUMNS), np.float32),
    )


@njit(cache=True, nogil=True)
def _gather(
    a: ItemArrays,
    clock: float,
    recent_scale: float,
    now_s: int,
    popular: Ints,
    cold: Ints,
    histories: Histories,
    order: Longs,
    out: Candidates,
    ages: Floats,
    walk: Walk,
    tick: int,
    with_last: bool,
) -> None:
    for b in order:
        stamp = tick + b
        had, times_s = histories.items[b], histories.times_s[b]
        n_session = session_length(times_s, had)
        n_own = _own(had, walk, stamp, out.items[b])
        write_scales(a, had[:HISTORY], n_session, recent_scale, walk.scales)
        n_touched = _walk(a, had[:HISTORY], walk)
        n = n_own
        for relation in range(N_RELATIONS):
            n = _choose(relation, n_touched, walk, stamp, out.items[b], n)
        n = _add(cold[b], walk, stamp, out.items[b], n)
        n = _add(popular, walk, stamp, out.items[b], n)
        if not with_last:
            n = _drop_last(had[0], out.items[b], n)
        describe(
            a,
            clock,
            now_s,
            had,
            times_s,
            n_session,
            walk,
            stamp,
            out.items[b, :n],
            out.signals[b],
            ages[b],
            histories.n_events[b],
        )
        for z in walk.touched[:n_touched]:
            walk.sums[z] = 0.0
        n_known = 0
        for y in had[:HISTORY]:
            n_known += y >= 0
        context = out.context[b]
        context[0] = np.log1p(histories.n_events[b])
        context[1] = (histories.n_repeats[b] + 1) / (histories.n_events[b] + 5.0)
        context[2] = np.log1p(n_session)
        context[3] = n_own / (n_known + 1.0)


@njit(cache=True, nogil=True)
def session_length(times_s: Longs, had: Ints) -> int:
    """Return how many of the newest interactions belong to the newest session."""
    n = 0
    for k in range(len(had)):
        if had[k] < 0 or (k > 0 and times_s[k - 1] - times_s[k] > SESSION_GAP_S):
            break
        n = k + 1
    return n


@njit(cache=True, nogil=True)
def write_scales(
    a: ItemArrays, had: Ints, n_session: int, recent_scale: float, scales: Floats
) -> None:
    """Write what a weight of each recent item is worth: (H, 8), by the columns of the sums."""
    for k in range(len(had)):
        y = had[k]
        if y < 0:
            continue
        for r in range(N_RELATIONS):
            scales[k, r] = STEP_WEIGHTS[r, k] / (a.totals[y, r] + PRIOR[r])
        if k >= n_session:
            scales[k, SESSION] = 0.0
        scales[k, RECENT] = (
            STEP_WEIGHTS[RECENT, k]
            * recent_scale
            / (a.totals[y, RECENT] * recent_scale + PRIOR[RECENT])
        )
        scales[k, ALSO] = STEP_WEIGHTS[ALSO, k] / np.sqrt(a.popularity[y, ALL_TIME] + 2)  # cosine
        scales[k, LINKED] = LINK_FADE**k


@njit(cache=True, nogil=True)
def _walk(a: ItemArrays, had: Ints, walk: Walk) -> int:
    """Sum each relation's shares over the neighbours of the recent items.

    An item the user had several times is walked once, for all of them. Further back than most
    relations reach, only what all of them need is read.
    """
    sums, touched, scales = walk.sums, walk.touched, walk.scales
    for k in range(len(had)):
        if had[k] >= 0:
            first = int(walk.own[had[k], POSITION])
            if first < k:
                scales[first] += scales[k]
    n_touched = 0
    for k in range(len(had)):
        y = had[k]
        if y < 0 or walk.own[y, POSITION] < k:
            continue
        ids, weights, scale = a.ids[y], a.weights[y], scales[k]
        if k == 0:
            for j in range(a.filled[y]):
                sums[ids[j], LAST] = weights[j, NEXT]
        if scale[NEXT] + scale[NEAR] + scale[SESSION] + scale[RECENT] + scale[AROUND] > 0:
            n_touched = _speak(ids, weights, a.filled[y], scale, sums, touched, n_touched)
        else:
            n_touched = _whisper(ids, weights, a.filled[y], scale, sums, touched, n_touched)
    for t in range(n_touched):
        z = touched[t]
        sums[z, ALSO] /= np.sqrt(a.popularity[z, ALL_TIME] + 2)
        for r in range(N_RELATIONS):
            walk.strengths[r, t] = sums[z, r]
    return n_touched


@njit(cache=True, nogil=True)
def _speak(
    ids: Ints, weights: Floats, n: int, scale: Floats, sums: Floats, touched: Ints, n_touched: int
) -> int:
    """Add what an item says of its neighbours to their sums; return how many were touched.

    All is loaded before anything is stored: the compiler cannot know that arrays do not overlap.
    """
    s0, s1, s2, s3, s4, s5 = scale[0], scale[1], scale[2], scale[3], scale[4], scale[5]
    link = scale[LINKED]
    for j in range(n):
        z = np.uint32(ids[j])  # never negative here: saves the question
        row, w = sums[z], weights[j]
        touched[n_touched] = z
        n_touched += row[LINKED] == 0
        a0, a1, a2 = row[0] + s0 * w[0], row[1] + s1 * w[1], row[2] + s2 * w[2]
        a3, a4, a5 = row[3] + s3 * w[3], row[4] + s4 * w[4], row[5] + s5 * w[5]
        linked = row[LINKED] + link
        row[0], row[1], row[2], row[3], row[4], row[5] = a0, a1, a2, a3, a4, a5
        row[LINKED] = linked
    return n_touched


@njit(cache=True, nogil=True)
def _whisper(
    ids: Ints, weights: Floats, n: int, scale: Floats, sums: Floats, touched: Ints, n_touched: int
) -> int:
    """Do the same for an item so far back that of all relations only ALSO reaches it."""
    also, link = scale[ALSO], scale[LINKED]
    for j in range(n):
        z = np.uint32(ids[j])
        row = sums[z]
        touched[n_touched] = z
        n_touched += row[LINKED] == 0
        a4, linked = row[ALSO] + also * weights[j, ALSO], row[LINKED] + link
        row[ALSO], row[LINKED] = a4, linked
    return n_touched


@njit(cache=True, nogil=True)
def _own(had: Ints, walk: Walk, stamp: int, items: Ints) -> int:
    """Count the user's own items; those of the recent interactions are candidates, newest first."""
    own, stamps = walk.own, walk.stamps
    n = 0
    for k in range(len(had)):
        y = had[k]
        if y < 0:
            continue
        if stamps[y, OWN] != stamp:
            stamps[y, OWN] = stamp
            own[y] = 0
            own[y, POSITION] = k
            if k < HISTORY:
                stamps[y, CHOSEN] = stamp
                items[n] = y
                n += 1
        own[y, TOTAL] += 1
        if k < HISTORY:
            own[y, RECENCY] += OWN_FADE**k
            own[y, COUNT] += 1
        if k > 0 and y == had[0] and had[k - 1] >= 0:
            own[had[k - 1], FOLLOWED] += FOLLOWED_FADE**k
    return n


@njit(cache=True, nogil=True)
def _choose(relation: int, n_touched: int, walk: Walk, stamp: int, items: Ints, n: int) -> int:
    """Take the strongest of one relation as candidates; of equal ones, the first met."""
    stamps, strengths = walk.stamps, walk.strengths[relation, :n_touched]
    threshold, n_equal = _threshold(strengths, QUOTAS[relation])
    n_strong = 0
    for t in range(n_touched):  # without a branch to be guessed wrong
        walk.strong[n_strong] = t
        n_strong += strengths[t] >= threshold
    for t in walk.strong[:n_strong]:
        if strengths[t] == threshold:
            if n_equal == 0:
                continue
            n_equal -= 1
        if n == MAX_CANDIDATES:
            break
        z = walk.touched[t]
        if stamps[z, CHOSEN] != stamp:
            stamps[z, CHOSEN] = stamp
            items[n] = z
            n += 1
    return n


@njit(cache=True, nogil=True)
def _threshold(strengths: Floats, quota: int) -> tuple[np.float32, int]:
    """Return the smallest strength above zero within the quota, and how many equal to it fit.

    The bits of floats above zero are in the order of the floats, so that it is found by halving
    between them. Counting compares several at once: faster than partitioning.
    """
    bits = strengths.view(np.int32)
    low, high = np.int32(1), np.int32(_INFINITY_BITS)  # of which at least, fewer than quota reach
    if _count_from(bits, low) <= quota:
        return _SMALLEST, len(strengths)
    while high - low > 1:
        middle = np.int32(low + (high - low) // 2)
        n = _count_from(bits, middle)
        if n == quota:
            return np.array([middle], np.int32).view(np.float32)[0], quota
        if n > quota:
            low = middle
        else:
            high = middle
    threshold = np.array([low], np.int32).view(np.float32)[0]
    return threshold, quota - _count_from(bits, high)


@njit(cache=True, nogil=True)
def _count_from(bits: Ints, least: np.int32) -> int:
    """Return how many are at least so large."""
    n = np.int32(0)
    for i in range(np.int32(len(bits))):
        n += np.int32(bits[i] >= least)
    return int(n)


@njit(cache=True, nogil=True)
def _add(given: Ints, walk: Walk, stamp: int, items: Ints, n: int) -> int:
    """Take the given items, -1 padded, as candidates while there is room."""
    stamps = walk.stamps
    for item in given:
        if item >= 0 and n < MAX_CANDIDATES and stamps[item, CHOSEN] != stamp:
            stamps[item, CHOSEN] = stamp
            items[n] = item
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
