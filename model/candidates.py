"""Candidates: the items that are worth scoring for each task.

One walk over the neighbours of a task's recent items finds them and what the signals of each are
written from. A compiled loop, because rows of neighbours are ragged.

Letters: B tasks, H interactions, C candidates, F signals, X context.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from headrace.model.candidate_signals import (
    CHOSEN,
    CONTENT,
    COUNT,
    FOLLOWED,
    FOLLOWED_FADE,
    HISTORY,
    LINKED,
    N_CONTEXTS,
    N_SIGNALS,
    OWN,
    OWN_FADE,
    POSITION,
    RECENCY,
    SHARE,
    SPEAKER,
    TOTAL,
    TOUCHED,
    Walk,
    describe,
    take_logarithms,
)
from headrace.model.signals import (
    ALL_TIME,
    ALSO,
    AROUND,
    N_RELATIONS,
    RECENT,
    SESSION,
    SESSION_GAP_S,
    Floats,
    Ints,
    ItemArrays,
    ItemSignals,
    Longs,
)

REMEMBERED = 200  # H, interactions in which the own counts are taken
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
# Added to an item's total before dividing by it: a share of few observations is no evidence.
PRIOR = np.array([1.0, 3.0, 5.0, 0.5, 1.0, 3.0], np.float64)


class Histories(NamedTuple):
    """Recent interactions of B users, newest first, as the model sees them."""

    items: Ints  # (B, H) item index, -1 padded or unknown
    times_s: Longs  # (B, H)
    actions: Ints  # (B, H) action index
    n_events: Longs  # (B,) ever, beyond what is remembered
    n_repeats: Longs  # (B,) of them, items the user already had
    features: Ints  # (B, J) of the latest interaction, -1 padded

    def rows(self, index: npt.NDArray[np.generic] | slice) -> "Histories":
        """Return the histories of some of the users."""
        return Histories(
            self.items[index],
            self.times_s[index],
            self.actions[index],
            self.n_events[index],
            self.n_repeats[index],
            self.features[index],
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
    """Gathers candidates with working memory that is kept between calls. Not for two threads.

    The item each user had last is a candidate only ``with_last``.
    """

    def __init__(self, *, with_last: bool = False) -> None:
        self.with_last = with_last
        self._walk = _new_walk(0)
        self._tick = 0

    def gather(self, signals: ItemSignals, histories: Histories) -> Candidates:
        """Return the candidates of each user."""
        self._reserve(signals.capacity)
        b, content = len(histories.items), signals.content
        profiles = content.profiles(histories.items)
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
            content.nearest(profiles),
            histories,
            out,
            self._walk,
            self._tick,
            self.with_last,
        )
        self._tick += b
        n = int((out.items >= 0).sum(1).max(initial=1))  # C of this batch: padding costs time
        take_logarithms(out.signals[:, :n])
        out.signals[:, :n, CONTENT] = content.likeness(profiles, out.items[:, :n])
        return Candidates(out.items[:, :n], out.signals[:, :n], out.context, out.because[:, :n])

    def _reserve(self, n_items: int) -> None:
        if len(self._walk.touched) < n_items:
            self._walk = _new_walk(n_items)


def _new_walk(n_items: int) -> Walk:
    return Walk(
        sums=np.zeros((n_items, N_RELATIONS), np.float32),
        loudest=np.zeros((n_items, 3), np.float32),
        own=np.zeros((n_items, 5), np.float32),
        stamps=np.full((n_items, 3), -1, np.int64),
        touched=np.zeros(n_items, np.int32),
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
    out: Candidates,
    walk: Walk,
    tick: int,
    with_last: bool,
) -> None:
    for b in range(len(histories.items)):
        stamp = tick + b
        had, times_s = histories.items[b], histories.times_s[b]
        n_session = _session_length(times_s, had)
        n_touched = _walk(a, had[:HISTORY], n_session, recent_scale, walk, stamp)
        n_own = _own(had, walk, stamp, out.items[b])
        n_distinct = n_own
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
            out.because[b],
        )
        n_known = 0
        for y in had[:HISTORY]:
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
    a: ItemArrays, had: Ints, n_session: int, recent_scale: float, walk: Walk, stamp: int
) -> int:
    """Sum each relation's shares over the neighbours of the recent items."""
    sums, loudest, _, stamps, touched = walk
    n_touched = 0
    scale = np.ones(N_RELATIONS)
    for k in range(len(had)):
        y = had[k]
        if y < 0:
            continue
        for r in range(N_RELATIONS):
            scale[r] = STEP_WEIGHTS[r, k] / (a.totals[y, r] + PRIOR[r])
        if k >= n_session:
            scale[SESSION] = 0.0
        scale[RECENT] = (
            STEP_WEIGHTS[RECENT, k]
            * recent_scale
            / (a.totals[y, RECENT] * recent_scale + PRIOR[RECENT])
        )
        scale[ALSO] = STEP_WEIGHTS[ALSO, k] / np.sqrt(a.popularity[y, ALL_TIME] + 2)  # cosine
        link = LINK_FADE**k
        for j in range(a.filled[y]):
            z = a.ids[y, j]
            if stamps[z, TOUCHED] != stamp:
                stamps[z, TOUCHED] = stamp
                touched[n_touched] = z
                n_touched += 1
                for r in range(N_RELATIONS):
                    sums[z, r] = 0
                loudest[z, SHARE] = 0
                loudest[z, LINKED] = 0
            weight = a.weights[y, j]
            voice = 0.0
            for r in range(N_RELATIONS):
                share = scale[r] * weight[r]
                sums[z, r] += share
                voice += share
            loudest[z, LINKED] += link
            if voice > loudest[z, SHARE]:
                loudest[z, SHARE] = voice
                loudest[z, SPEAKER] = k
    for t in range(n_touched):
        z = touched[t]
        sums[z, ALSO] /= np.sqrt(a.popularity[z, ALL_TIME] + 2)
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
    sums, _, _, stamps, touched = walk
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
