"""Candidates: the items that are worth scoring for each task.

One walk over the neighbours of a task's recent items (``walk``) finds them and what the signals of
each are written from.

Letters: B tasks, H interactions, C candidates, F signals, X context.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from headrace.model.arrays import Bools, Floats, Ints, Longs
from headrace.model.counts.candidate_signals import CONTENT, N_CONTEXTS, N_SIGNALS, describe, finish
from headrace.model.counts.signals import N_RELATIONS, ItemArrays, ItemSignals
from headrace.model.counts.walk import (
    CHOSEN,
    HISTORY,
    Walk,
    count_own,
    new_walk,
    session_length,
    walk_neighbours,
    write_scales,
)
from headrace.model.histories import Histories

MAX_CANDIDATES = 320  # C; some 200 are found for a user with a history

# How many of each relation's strongest become candidates, in the order of the relations.
QUOTAS = np.array([70, 90, 40, 40, 60, 40], np.int64)
_SMALLEST = np.float32(1e-45)  # above zero: its bits are those of 1
_INFINITY_BITS = 0x7F800000


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
        self.walk = new_walk(0)
        self.tick = 0


class Gatherer:
    """Gathers candidates with working memory that is kept between calls, for each thread its own.

    The item each user had last is a candidate only ``with_last``.
    """

    def __init__(self, *, with_last: bool = False) -> None:
        self.with_last = with_last
        self._memory = _Memory()

    def gather(
        self,
        signals: ItemSignals,
        histories: Histories,
        order: Longs | None = None,
        kept: Ints | None = None,
    ) -> Candidates:
        """Return the candidates of each history; the rest is as in ``Recommender.prepare``."""
        memory = self._memory
        if len(memory.walk.own) < signals.capacity:
            memory.walk = new_walk(signals.capacity)
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
            np.full(b, -1, np.int32) if kept is None else kept.astype(np.int32),
            out,
            ages,
            memory.walk,
            memory.tick,
            self.with_last,
        )
        memory.tick += b
        n = int((out.items >= 0).sum(1).max(initial=1))  # C of this batch: padding costs time
        finish(out.signals, ages, n)
        out.signals[:, :n, CONTENT] = content.likeness(profiles, out.items[:, :n])
        items = np.ascontiguousarray(out.items[:, :n])  # of any width, loops take it in one form
        return Candidates(items, out.signals[:, :n], out.context)


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
    kept: Ints,
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
        n_own = count_own(had, walk, stamp, out.items[b])
        n_known = 0
        for y in had[:HISTORY]:
            n_known += y >= 0
        write_scales(a, had[:HISTORY], n_session, recent_scale, walk.scales)
        n_touched = walk_neighbours(a, had[:HISTORY], walk, kept[b])
        n = _drop_out(a.is_out, kept[b], out.items[b], n_own)
        for relation in range(N_RELATIONS):
            n = _choose(relation, n_touched, walk, stamp, out.items[b], n)
        n = _add(cold[b], a.is_out, walk, stamp, out.items[b], n)
        n = _add(popular, a.is_out, walk, stamp, out.items[b], n)
        if not with_last:
            n = _drop_last(had[0], out.items[b], n)
        describe(
            a,
            clock,
            now_s,
            had,
            times_s,
            n_known,
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
        context = out.context[b]
        context[0] = np.log1p(histories.n_events[b])
        context[1] = (histories.n_repeats[b] + 1) / (histories.n_events[b] + 5.0)
        context[2] = np.log1p(n_session)
        context[3] = n_own / (n_known + 1.0)


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
    # What reaches low is more than the quota, what reaches high is less.
    low, high = np.int32(1), np.int32(_INFINITY_BITS)
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
def _add(given: Ints, is_out: Bools, walk: Walk, stamp: int, items: Ints, n: int) -> int:
    """Take the given items, -1 padded, as candidates while there is room."""
    stamps = walk.stamps
    for item in given:
        if item < 0 or is_out[item]:
            continue
        if n < MAX_CANDIDATES and stamps[item, CHOSEN] != stamp:
            stamps[item, CHOSEN] = stamp
            items[n] = item
            n += 1
    return n


@njit(cache=True, nogil=True)
def _drop_out(is_out: Bools, kept: int, items: Ints, n: int) -> int:
    """Take items that are offered no more out of the candidates, but for one."""
    n_left = 0
    for c in range(n):
        item = items[c]
        items[c] = -1
        if not is_out[item] or item == kept:
            items[n_left] = item
            n_left += 1
    return n_left


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
