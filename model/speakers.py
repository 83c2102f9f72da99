"""Speakers: which of a user's own interactions says most for a listed item.

Only what is listed needs a reason, so it is found afterwards, not for every candidate.

Letters: B tasks, H interactions, K list length, R relations.
"""

import numpy as np
from numba import njit

from headrace.model.candidate_signals import HISTORY, N_COLUMNS, place_of
from headrace.model.candidates import Histories, session_length, write_scales
from headrace.model.signals import N_RELATIONS, Floats, Ints, ItemArrays, ItemSignals, Longs


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
    for b in range(len(items)):
        had = items[b]
        n_session = session_length(times_s[b], had)
        write_scales(a, had[:HISTORY], n_session, recent_scale, scales)
        for c in range(listed.shape[1]):
            if listed[b, c] >= 0:
                out[b, c] = _speaker(a, had, listed[b, c], scales)


@njit(cache=True, nogil=True)
def _speaker(a: ItemArrays, had: Ints, item: int, scales: Floats) -> int:
    for k in range(len(had)):
        if had[k] == item:
            return k
    speaker, loudest = -1, 0.0
    for k in range(min(HISTORY, len(had))):
        y = had[k]
        if y < 0:
            continue
        j = place_of(item, a.ids[y], a.filled[y])
        if j < 0:
            continue
        voice = 0.0
        for r in range(N_RELATIONS):
            voice += scales[k, r] * a.weights[y, j, r]
        if voice > loudest:
            speaker, loudest = k, voice
    return speaker
