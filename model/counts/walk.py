"""Walk: over a user's recent items and their neighbours, for what both say of other items.

Compiled loops, because rows of neighbours are ragged.

Letters: H interactions, N items, R relations.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from headrace.model.arrays import Floats, Ints, Longs
from headrace.model.counts.signals import (
    ALL_TIME,
    ALSO,
    AROUND,
    N_RELATIONS,
    NEAR,
    NEXT,
    RECENT,
    SESSION,
    SESSION_GAP_S,
    ItemArrays,
)

HISTORY = 50  # interactions whose items are candidates and whose neighbours are walked
OWN_FADE = 0.9  # of own interactions, for each step further back
FOLLOWED_FADE = 0.95  # of what came after earlier takings of the last item

# How far back a relation is followed, and how much each step further back weighs.
REACH = np.array([3, 15, HISTORY, 5, HISTORY, 20], np.int64)
FADE = np.array([0.6, 0.85, 1.0, 0.7, 0.96, 1.0], np.float64)
_STEPS = np.arange(HISTORY)
STEP_WEIGHTS = np.where(REACH[:, None] > _STEPS, FADE[:, None] ** _STEPS, 0.0)  # (R, H)
STEP_WEIGHTS[AROUND] *= (1.0 + _STEPS) ** -1.5
LINK_FADE = 0.95
# Added to an item's total before dividing by it: a share of few observations is no evidence.
PRIOR = np.array([1.0, 3.0, 5.0, 0.5, 1.0, 3.0], np.float64)


class Walk(NamedTuple):
    """What the walk over a task's history found. Working memory, kept from one task to the next."""

    sums: Floats  # (N, 8) by the columns below, over the neighbours of the recent items; else zero
    own: Floats  # (N, 5) own counts, by the columns below; they count only if stamped
    stamps: Longs  # (N, 2) latest task that chose, owns the item
    touched: Ints  # (N,) the items that have sums
    strong: Ints  # (N,) places in ``touched`` of the strongest by one relation; later free for use
    strengths: Floats  # (R, N) their shares of each relation, in the order they were touched
    scales: Floats  # (H, 8) what a weight of each interaction's item is worth


LINKED, LAST = 6, 7  # columns of the sums behind the relations: how many speak; NEXT of the last
N_COLUMNS = 8
CHOSEN, OWN = range(2)  # columns of the stamps
RECENCY, POSITION, COUNT, TOTAL, FOLLOWED = range(5)  # columns of the own counts


def new_walk(n_items: int) -> Walk:
    """Return working memory for so many items."""
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
def session_length(times_s: Longs, had: Ints) -> int:
    """Return how many of the newest interactions belong to the newest session."""
    n = 0
    for k in range(len(had)):
        # What comes late may be of long before, or from a device that was not connected.
        if had[k] < 0 or (k > 0 and abs(times_s[k - 1] - times_s[k]) > SESSION_GAP_S):
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
def walk_neighbours(a: ItemArrays, had: Ints, walk: Walk, kept: int) -> int:
    """Sum each relation's shares over the neighbours of the recent items; return how many have any.

    They are the first of ``walk.touched``. ``had`` is (H,), newest first, -1 padded.

    An item the user had several times is walked once, for all of them. Further back than most
    relations reach, only what all of them need is read.

    What is offered no more has no strength, unless it is the item ``kept``.
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
        is_in = np.float32(not a.is_out[z] or z == kept)
        for r in range(N_RELATIONS):
            walk.strengths[r, t] = sums[z, r] * is_in
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
def count_own(had: Ints, walk: Walk, stamp: int, items: Ints) -> int:
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
