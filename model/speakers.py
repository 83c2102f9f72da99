"""Speakers: which of a user's own interactions says most for a listed item.

Only what is listed needs a reason, so it is found afterwards, not for every candidate.

Letters: B tasks, H interactions, K list length, R relations.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from headrace.model.histories import Histories
from headrace.model.signals import N_RELATIONS, Floats, Ints, ItemArrays, ItemSignals, Longs
from headrace.model.walk import HISTORY, N_COLUMNS, session_length, write_scales


def speakers(signals: ItemSignals, histories: Histories, listed: Ints) -> Ints:
    """Return the (B, K) position in the history of what speaks loudest for (B, K) items.

    An own item speaks for itself; -1 where nothing speaks.
    """
    out = np.full(listed.shape, -1, np.int32)
    scales = np.zeros((HISTORY, N_COLUMNS), np.float32)
    recent_scale = signals.recent_scale()
    _find(signals.arrays, recent_scale, histories.items, histories.times_s, listed, scales, out)
    return out


@njit(cache=True, nogil=True)
def _find(
    a: ItemArrays,
    recent_scale: float,
    items: Ints,
    times_s: Longs,
    listed: Ints,
    scales: Floats,
    out: Ints,
) -> None:
    places = np.zeros(len(a.ids), np.uint8)  # of the listed items, from 1 on
    loudest = np.zeros(listed.shape[1], np.float32)
    heard = np.zeros(a.ids.shape[1] + 1, np.int32)
    for b in range(len(items)):
        had, top = items[b], listed[b]
        n_session = session_length(times_s[b], had)
        write_scales(a, had[:HISTORY], n_session, recent_scale, scales)
        loudest[:] = 0
        for c in range(len(top)):
            if top[c] >= 0:
                places[top[c]] = c + 1
        for k in range(min(HISTORY, len(had))):
            if had[k] >= 0:
                n = _heard(a.ids[had[k]], a.filled[had[k]], places, heard)
                for j in heard[:n]:
                    voice = np.float32(0.0)
                    for r in range(N_RELATIONS):
                        voice += scales[k, r] * a.weights[had[k], j, r]
                    c = places[a.ids[had[k], j]] - 1
                    if voice > loudest[c]:
                        loudest[c], out[b, c] = voice, k
        for k in range(len(had) - 1, -1, -1):
            if had[k] >= 0 and places[had[k]] > 0:
                out[b, places[had[k]] - 1] = k  # the latest time, whoever else speaks
        for z in top:
            if z >= 0:
                places[z] = 0


@njit(cache=True, nogil=True)
def _heard(ids: Ints, n: int, places: npt.NDArray[np.uint8], heard: Ints) -> int:
    """Find which of the first ``n`` items have a place, without a branch to be guessed wrong."""
    n_heard = np.uint32(0)  # unsigned, as items: saves asking whether an index is negative
    for j in range(np.uint32(n)):
        heard[n_heard] = j
        n_heard += np.uint32(places[np.uint32(ids[j])] > 0)
    return int(n_heard)
