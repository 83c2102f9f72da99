"""Speakers: which of a user's own interactions says most for a listed item.

Only what is listed needs a reason, so it is found afterwards, not for every candidate.

Letters: B tasks, F signals, H interactions, K list length, R relations.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from headrace.model.arrays import Floats, Ints, Longs
from headrace.model.counts.candidate_signals import (
    ALSO_MEAN,
    AROUND_LIFT,
    BACK,
    F_ALSO,
    F_AROUND,
    F_NEAR,
    F_NEXT,
    F_RECENT,
    F_SESSION,
    N_SIGNALS,
    NEAR_LIFT,
    NEXT_LIFT,
    NEXT_OF_LAST,
    NEXT_OF_LAST_LIFT,
    place_of,
)
from headrace.model.counts.signals import (
    ALL_TIME,
    ALSO,
    AROUND,
    N_RELATIONS,
    NEAR,
    NEXT,
    RECENT,
    SESSION,
    ItemArrays,
    ItemSignals,
)
from headrace.model.counts.walk import HISTORY, N_COLUMNS, session_length, write_scales
from headrace.model.histories import Histories

_SIGNALS_OF = {
    NEXT: [F_NEXT, NEXT_LIFT],
    NEAR: [F_NEAR, NEAR_LIFT],
    SESSION: [F_SESSION],
    RECENT: [F_RECENT],
    ALSO: [F_ALSO, ALSO_MEAN],
    AROUND: [F_AROUND, AROUND_LIFT],
}
_OF_LAST = [NEXT_OF_LAST, NEXT_OF_LAST_LIFT, BACK]  # signals that only the last item has a part in
_OTHER = N_SIGNALS  # stands for every input that is no counted signal
_HEARD = np.ones((N_SIGNALS + 1, N_RELATIONS), np.float32)  # 1 where the signal is of the relation
for _relation, _signals in _SIGNALS_OF.items():
    _HEARD[_signals] = np.arange(N_RELATIONS) == _relation
_IS_RELATED = _HEARD.min(1) == 0  # of one relation, not of any
_IS_OF_LAST = np.isin(np.arange(N_SIGNALS + 1), _OF_LAST)


def speakers(signals: ItemSignals, histories: Histories, listed: Ints, strongest: Ints) -> Ints:
    """Return the (B, K) position in the history of what speaks loudest for (B, K) items.

    It speaks by what the (B, K) ``strongest`` input of the item is made of: where that is a
    relation, by that relation alone. By all else an own item speaks for itself, and any relation
    for others. -1 where nothing speaks.
    """
    out = np.full(listed.shape, -1, np.int32)
    _find(
        signals.arrays,
        signals.recent_scale(),
        histories.items,
        histories.times_s,
        listed,
        np.minimum(strongest, _OTHER),
        np.zeros((HISTORY, N_COLUMNS), np.float32),
        out,
    )
    return out


@njit(cache=True, nogil=True)
def _find(
    a: ItemArrays,
    recent_scale: float,
    items: Ints,
    times_s: Longs,
    listed: Ints,
    strongest: Ints,
    scales: Floats,
    out: Ints,
) -> None:
    places = np.zeros(len(a.ids), np.uint8)  # of the listed items, from 1 on
    loudest = np.zeros(listed.shape[1], np.float32)
    hears = np.zeros((listed.shape[1], N_RELATIONS), np.float32)
    heard = np.zeros(a.ids.shape[1] + 1, np.int32)
    for b in range(len(items)):
        had, top = items[b], listed[b]
        n_session = session_length(times_s[b], had)
        write_scales(a, had[:HISTORY], n_session, recent_scale, scales)
        loudest[:] = 0
        for c in range(len(top)):
            if top[c] >= 0:
                places[top[c]] = c + 1
                hears[c] = _HEARD[strongest[b, c]]
                hears[c, ALSO] /= np.sqrt(a.popularity[top[c], ALL_TIME] + 2)  # cosine
        for k in range(min(HISTORY, len(had))):
            if had[k] >= 0:
                n = _heard(a.ids[had[k]], a.filled[had[k]], places, heard)
                for j in heard[:n]:
                    c = places[a.ids[had[k], j]] - 1
                    voice = np.float32(0.0)
                    for r in range(N_RELATIONS):
                        voice += hears[c, r] * scales[k, r] * a.weights[had[k], j, r]
                    if voice > loudest[c]:
                        loudest[c], out[b, c] = voice, k
        for k in range(len(had) - 1, -1, -1):
            if had[k] >= 0 and places[had[k]] > 0:
                c = places[had[k]] - 1
                if not _IS_RELATED[strongest[b, c]]:
                    out[b, c] = k  # the latest time, whoever else speaks
        for c in range(len(top)):
            if top[c] >= 0:
                places[top[c]] = 0
                if _IS_OF_LAST[strongest[b, c]]:
                    is_back = strongest[b, c] == BACK
                    one, other = (top[c], had[0]) if is_back else (had[0], top[c])
                    out[b, c] = 0 if had[0] >= 0 and _leads_to(a, one, other) else -1


@njit(cache=True, nogil=True)
def _heard(ids: Ints, n: int, places: npt.NDArray[np.uint8], heard: Ints) -> int:
    """Find which of the first ``n`` items have a place, without a branch to be guessed wrong."""
    n_heard = np.uint32(0)  # unsigned, as items: saves asking whether an index is negative
    for j in range(np.uint32(n)):
        heard[n_heard] = j
        n_heard += np.uint32(places[np.uint32(ids[j])] > 0)
    return int(n_heard)


@njit(cache=True, nogil=True)
def _leads_to(a: ItemArrays, item: int, other: int) -> bool:
    """Return whether anybody took the other right after the item."""
    j = place_of(other, a.ids[item], a.filled[item])
    return bool(j >= 0 and a.weights[item, j, NEXT] > 0)
